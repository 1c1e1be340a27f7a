"""Time the way of training images from encoded bytes to batches on one core: by tensors, by Pillow, and in timm.

    OMP_NUM_THREADS=1 python benchmarks/decode.py FOLDER

FOLDER contains parquet files with a column "image" of 64x64 images. The photographs are mosaics of them, JPEG quality
90: 8x6 for 512x384 pixels; for 4000x3000, 32x24 at twice the size (3.8 MB, sharp) and 8x6 at eight times (1.7 MB).
All functions are timed in turns, in CPU time, which depends less on other load, and compared by the median of the
ratios within a turn. TorchCodec is measured if it is installed. The result is appended to results/decode.jsonl; without
FOLDER, the latest one is printed.
"""

from __future__ import annotations

import io
import json
import os
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import PIL.features
import PIL.Image
import simplejpeg
import torch
import tyro
from recording import RESULTS, Seconds, append_record, environment, in_turns, quartiles, read_results, timed
from timm.data import ImageDataset, create_loader
from timm.data.readers.reader import Reader
from torchvision.io import ImageReadMode
from torchvision.io import decode_jpeg as torchvision_jpeg

from ssia_zoo.data import DataConfig, DeviceTransform, eval_transform, load_image_data, train_loader
from ssia_zoo.data.decode import decode_image

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Pixels = np.ndarray[Any, Any]
Functions = dict[str, Callable[[], Any]]


@dataclass(frozen=True)
class Case:
    """A kind of images, and the settings to train on them."""

    images: list[bytes]
    settings: dict[str, Any]
    rounds: int


def cases(folder: Path) -> dict[str, Case]:
    """Return the kinds of images to measure."""
    rows = datasets.load_dataset("parquet", data_files=f"{folder}/train-00000*.parquet", split="train[:4000]")
    small = [image.convert("RGB") for image in rows.shuffle(seed=0).select(range(1024))["image"]]
    photos = [encoded(mosaic(small, (512, 384), n), "JPEG", quality=90) for n in range(64)]
    sharp, soft = ([encoded(enlarged(small, size, n), "JPEG", quality=90) for n in range(6)] for size in (2000, 500))
    cifar = [encoded(image.resize((32, 32)), "PNG") for image in small[:256]]
    return {
        "JPEG 512x384, 224": Case(photos, {"image_size": 224}, 15),
        "JPEG 4000x3000 sharp, 224": Case(sharp, {"image_size": 224}, 7),
        "JPEG 4000x3000 soft, 224": Case(soft, {"image_size": 224}, 7),
        "PNG 64x64, 64": Case([encoded(image, "PNG") for image in small[:256]], {"image_size": 64}, 15),
        "PNG 32x32, 32, padded crop": Case(cifar, {"image_size": 32, "crop_padding": 4}, 15),
    }


def mosaic(tiles: Sequence[PIL.Image.Image], size: tuple[int, int], seed: int) -> PIL.Image.Image:
    """Return a mosaic of 64x64 images drawn at random, which has as much detail as a photograph of its size."""
    result, numbers = PIL.Image.new("RGB", size), np.random.default_rng(seed)
    for top in range(0, size[1], 64):
        for left in range(0, size[0], 64):
            result.paste(tiles[numbers.integers(len(tiles))], (left, top))
    return result


def enlarged(tiles: Sequence[PIL.Image.Image], width: int, seed: int) -> PIL.Image.Image:
    """Return a mosaic of this width and three quarters of it, enlarged to 4000x3000 pixels."""
    return mosaic(tiles, (width, width * 3 // 4), seed).resize((4000, 3000), PIL.Image.Resampling.BICUBIC)


def encoded(image: PIL.Image.Image, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


# -- from bytes to batches


class _Images(Reader):  # type: ignore[misc]  # timm has no types
    def __init__(self, images: Sequence[bytes]) -> None:
        super().__init__()
        self.images = images

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return io.BytesIO(self.images[index]), index % 2

    def __len__(self) -> int:
        return len(self.images)


def loaders(case: Case, folder: str) -> Functions:
    """Return functions that load all images as one batch; "input" also normalizes it on the CPU."""
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    columns = {"image": case.images, "label": [n % 2 for n in range(len(case.images))]}
    for split in ("train", "test"):
        datasets.Dataset.from_dict(columns, features=features).to_parquet(f"{folder}/{split}.parquet")
    config = DataConfig(folder, batch_size=len(case.images), workers=0, **case.settings)
    functions: Functions = {}
    on_device = DeviceTransform(config, MEAN, STD)
    for path in ("pil", "tensor"):
        given = replace(config, pixels=path)
        loader = train_loader(load_image_data(given), given, mean=MEAN, std=STD, seed=0)
        functions[path] = partial(list, loader)
        if path == "tensor":
            functions["tensor, input"] = partial(lambda batches: [on_device(batch) for batch in batches], loader)
    if not config.crop_padding:
        size = case.settings["image_size"]
        timms = create_loader(
            ImageDataset("", reader=_Images(case.images)),
            input_size=(3, size, size),
            batch_size=len(case.images),
            is_training=True,
            color_jitter=0.0,
            interpolation="bicubic",
            mean=MEAN,
            std=STD,
            num_workers=0,
            device=torch.device("cpu"),
            persistent_workers=False,
        )
        functions["timm"] = partial(list, timms.loader)
        functions["timm, input"] = partial(list, timms)
    return functions


# -- from bytes to pixels


def pillow(content: bytes) -> Pixels:
    return np.asarray(decode_image({"bytes": content}))


def torchvision(content: bytes) -> Pixels:
    tensor = torchvision_jpeg(torch.frombuffer(bytearray(content), dtype=torch.uint8), ImageReadMode.RGB)
    return np.asarray(tensor.permute(1, 2, 0))


def decoders() -> dict[str, Callable[[bytes], Pixels]]:
    """Return the decoders that are installed."""
    found: dict[str, Callable[[bytes], Pixels]] = {
        "Pillow": pillow,
        "Pillow, an eighth": lambda content: np.asarray(decode_image({"bytes": content}, divisor=8)),
        "simplejpeg": lambda content: simplejpeg.decode_jpeg(content, "RGB"),
        "simplejpeg, an eighth": _simplejpeg_eighth,
        "torchvision": torchvision,
    }
    try:
        from torchcodec.decoders import decode_jpeg
    except ImportError:
        return found
    return {**found, "TorchCodec": lambda content: np.asarray(decode_jpeg(content).permute(1, 2, 0))}


def _simplejpeg_eighth(content: bytes) -> Pixels:
    height, width, *_ = simplejpeg.decode_jpeg_header(content)
    pixels: Pixels = simplejpeg.decode_jpeg(content, "RGB", min_height=-(-height // 8), min_width=-(-width // 8))
    return pixels


def decode_all(decode: Callable[[bytes], Pixels], images: Sequence[bytes]) -> list[Pixels]:
    return [decode(image) for image in images]


def differences(images: Sequence[bytes]) -> dict[str, int]:
    """Return the largest difference of each decoder's pixels from Pillow's at the same size."""
    expected = {suffix: decode_all(decoders()[f"Pillow{suffix}"], images) for suffix in ("", ", an eighth")}
    result = {}
    for name, decode in decoders().items():
        theirs = expected[", an eighth" if name.endswith("eighth") else ""]
        pairs = zip(decode_all(decode, images), theirs, strict=True)
        result[name] = max(int(np.abs(one.astype(int) - other).max()) for one, other in pairs)
    return result


# -- measure and report


def measure(functions: Functions, images: int, rounds: int) -> dict[str, list[float]]:
    """Return the CPU milliseconds per image of each function in each round."""
    times: dict[str, list[Seconds]] = in_turns({name: timed(call) for name, call in functions.items()}, rounds)
    return {name: [1000 * turn.cpu / images for turn in turns] for name, turns in times.items()}


def compare(times: dict[str, list[float]]) -> dict[str, Any]:
    """Return medians, and quartiles of the ratio to the path of tensors within a round."""
    ratios = {}
    for name, base in (
        ("pil", "tensor"),
        ("timm", "tensor"),
        ("pil", "tensor, input"),
        ("timm, input", "tensor, input"),
    ):
        if name in times:
            pairs = zip(times[name], times[base], strict=True)
            ratios[f"{name} / {base}"] = quartiles([one / other for one, other in pairs], 2)
    return {"cpu_ms_an_image": medians(times), "ratios": ratios}


def medians(times: dict[str, list[float]]) -> dict[str, float]:
    return {name: round(statistics.median(values), 3) for name, values in times.items()}


def report() -> None:
    """Print the latest result as Markdown tables."""
    latest = read_results(RESULTS / "decode.jsonl")[-1]
    for name, case in latest["batches"].items():
        print(name, "|", " | ".join(f"{key} {value:.3g}" for key, value in case["cpu_ms_an_image"].items()))
        print("   ", " | ".join(f"{key}: {value[1]} ({value[0]}-{value[2]})" for key, value in case["ratios"].items()))
    for name, times in latest["decoders"].items():
        print(name, "|", " | ".join(f"{key} {value:.3g}" for key, value in times.items()))


def main(folder: tyro.conf.Positional[Path | None] = None) -> None:
    """Time the way of training images to batches on one core.

    Args:
        folder: parquet files with a column "image" of 64x64 images; without it, print the latest result
    """
    if folder is None:
        report()
        return
    load = os.getloadavg()[0]
    torch.set_num_threads(1)
    batches, bare, resize = {}, {}, {}
    found = cases(folder)
    for name, case in found.items():
        with tempfile.TemporaryDirectory() as made:
            batches[name] = compare(measure(loaders(case, made), len(case.images), case.rounds))
        print(name, batches[name])
        if name.startswith("JPEG"):
            decode = {key: partial(decode_all, function, case.images) for key, function in decoders().items()}
            bare[name] = medians(measure(decode, len(case.images), case.rounds))
            transform = eval_transform(DataConfig("digits", **case.settings), MEAN, STD)
            opened = [PIL.Image.fromarray(pillow(content)) for content in case.images]
            evaluate = {"evaluation": partial(lambda images, apply: [apply(i) for i in images], opened, transform)}
            resize[name] = medians(measure(evaluate, len(case.images), case.rounds))["evaluation"]
    result = {
        "benchmark": "decode",
        "images": {
            name: {"number": len(case.images), "mean_bytes": round(statistics.mean(map(len, case.images)))}
            for name, case in found.items()
        },
        "seed": 0,
        "batches": batches,
        "decoders": bare,
        "evaluation_resize": resize,
        "largest_difference_from_pillow": differences(found["JPEG 512x384, 224"].images),
        **environment(load, ("pillow", "simplejpeg", "torchcodec", "torchvision", "torch", "datasets", "timm")),
        "libjpeg-turbo of Pillow": PIL.features.version_feature("libjpeg_turbo"),
    }
    append_record(RESULTS / "decode.jsonl", result)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
