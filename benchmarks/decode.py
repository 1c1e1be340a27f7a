"""Time JPEG decoding on one core: Pillow, other libraries, and the complete path from parquet file to tensors.

    OMP_NUM_THREADS=1 python benchmarks/decode.py FOLDER

FOLDER contains parquet files with a column "image" of 64x64 images. The photographs are mosaics of 8x6 of them, 512x384
pixels, JPEG quality 90. All functions are timed in turns, in CPU time, which depends less on other load. simplejpeg is
measured if it is installed. The result is appended to results/decode.jsonl.
"""

from __future__ import annotations

import io
import json
import os
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import PIL.features
import PIL.Image
import torch
import tyro
from recording import RESULTS, append_record, environment, in_turns, timed
from torchvision.io import ImageReadMode, decode_jpeg

from ssia_zoo.data import DataConfig, eval_transform, load_image_data, train_loader, train_transform
from ssia_zoo.data.decode import decode_rgb
from ssia_zoo.data.samples import RowReader

PHOTOS, ROUNDS, SIZE = 64, 15, 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Pixels = np.ndarray[Any, Any]


def photographs(folder: Path) -> list[bytes]:
    """Return JPEG files of mosaics of small images, which have as much detail as photographs of that size."""
    rows = datasets.load_dataset("parquet", data_files=f"{folder}/train-00000*.parquet", split="train[:4000]")
    numbers, made = np.random.default_rng(0), []
    for _ in range(PHOTOS):
        mosaic = PIL.Image.new("RGB", (512, 384))
        for place, index in enumerate(numbers.integers(0, len(rows), 48)):
            mosaic.paste(rows[int(index)]["image"].convert("RGB"), (place % 8 * 64, place // 8 * 64))
        file = io.BytesIO()
        mosaic.save(file, "JPEG", quality=90)
        made.append(file.getvalue())
    return made


def pillow(content: bytes) -> Pixels:
    return np.asarray(PIL.Image.open(io.BytesIO(content)).convert("RGB"))


def pillow_half(content: bytes) -> Pixels:
    image = PIL.Image.open(io.BytesIO(content))
    image.draft("RGB", (image.width // 2, image.height // 2))
    return np.asarray(image.convert("RGB"))


def torchvision(content: bytes) -> Pixels:
    tensor = decode_jpeg(torch.frombuffer(bytearray(content), dtype=torch.uint8), ImageReadMode.RGB)
    return tensor.permute(1, 2, 0).contiguous().numpy()


def decoders() -> dict[str, Callable[[bytes], Pixels]]:
    found = {"pillow": pillow, "pillow, half size": pillow_half, "torchvision": torchvision}
    try:
        import simplejpeg
    except ImportError:
        return found
    return {**found, "simplejpeg": lambda content: simplejpeg.decode_jpeg(content, "RGB")}


def parts(photos: list[bytes], config: DataConfig) -> dict[str, Callable[[], Any]]:
    """Return functions that process all photographs: the complete path ("whole") and each of its parts."""
    data = load_image_data(config)
    loader = train_loader(data, config, mean=MEAN, std=STD, seed=0)
    source = RowReader(data.train, "image", "label")
    keys = [(0, index) for index in range(PHOTOS)]
    images = [PIL.Image.fromarray(pillow(photo)) for photo in photos]
    train, evaluation = train_transform(config, MEAN, STD), eval_transform(config, MEAN, STD)
    return {
        "read": lambda: source.read(keys),
        "decode": lambda: [decode_rgb({"bytes": photo, "path": None}) for photo in photos],
        "augment": lambda: [train(image) for image in images],
        "resize and crop (evaluation)": lambda: [evaluation(image) for image in images],
        "whole": lambda: list(loader),
    }


def decode_all(decode: Callable[[bytes], Pixels], photos: list[bytes]) -> list[Pixels]:
    return [decode(photo) for photo in photos]


def differences(photos: list[bytes]) -> dict[str, dict[str, float]]:
    """Compare the pixels of the full-size decoders with Pillow's."""
    expected = np.stack(decode_all(pillow, photos)).astype(int)
    result = {}
    for name, decode in decoders().items():
        if not name.startswith("pillow"):
            difference = np.abs(np.stack(decode_all(decode, photos)) - expected)
            equal = round(float((difference == 0).mean()), 5)
            result[name] = {"equal": equal, "largest_difference": int(difference.max())}
    return result


def main(folder: tyro.conf.Positional[Path]) -> None:
    """Time JPEG decoding on one core.

    Args:
        folder: parquet files with a column "image" of 64x64 images
    """
    load = os.getloadavg()[0]
    photos = photographs(folder)
    torch.set_num_threads(1)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    columns = {"image": photos, "label": [n % 2 for n in range(PHOTOS)]}
    with tempfile.TemporaryDirectory() as made:
        for split in ("train", "test"):
            datasets.Dataset.from_dict(columns, features=features).to_parquet(f"{made}/{split}.parquet")
        functions = parts(photos, DataConfig(made, image_size=SIZE, batch_size=PHOTOS, workers=0))
        for name, decode in decoders().items():
            functions[f"bare: {name}"] = partial(decode_all, decode, photos)
        times = in_turns({name: timed(function) for name, function in functions.items()}, ROUNDS)
    medians = {
        name: round(1000 / PHOTOS * statistics.median(turn.cpu for turn in turns), 3) for name, turns in times.items()
    }
    result = {
        "benchmark": "decode",
        "photos": {"number": PHOTOS, "pixels": [512, 384], "mean_bytes": round(sum(map(len, photos)) / PHOTOS)},
        "image_size": SIZE,
        "rounds": ROUNDS,
        "seed": 0,
        "cpu_ms_an_image": medians,
        "whole_over_pillow": round(medians["whole"] / medians["bare: pillow"], 2),
        "images_a_second_and_core": round(1000 / medians["whole"]),
        "pixels_beside_pillow": differences(photos),
        **environment(load, ("pillow", "torchvision", "datasets", "timm", "simplejpeg")),
        "libjpeg-turbo of Pillow": PIL.features.version_feature("libjpeg_turbo"),
    }
    append_record(RESULTS / "decode.jsonl", result)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
