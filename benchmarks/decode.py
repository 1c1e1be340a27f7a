"""How fast a core decodes photographs: Pillow alone, other libraries, and the whole path from parquet to tensors.

    OMP_NUM_THREADS=1 python benchmarks/decode.py FOLDER    # of parquet files with a column "image" of 64x64 images

The photographs are mosaics of 8x6 images of the folder, 512x384 pixels, JPEG of quality 90. All ways take turns, some
rounds; times are of the process (CPU), so that other programs on the machine matter less. simplejpeg is measured where
it is installed. One JSON line goes to benchmarks/results/decode.jsonl.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import io
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import PIL.features
import PIL.Image
import torch
from torchvision.io import ImageReadMode, decode_jpeg

from ssia_zoo.data import DataConfig, eval_transform, load_image_data, train_loader, train_transform
from ssia_zoo.data.decode import decode_rgb
from ssia_zoo.data.samples import RowReader

RESULTS = Path(__file__).resolve().parent / "results" / "decode.jsonl"
PHOTOS, ROUNDS, SIZE = 64, 15, 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Pixels = np.ndarray[Any, Any]


def photographs(folder: str) -> list[bytes]:
    """Mosaics of small photographs, with as much detail as photographs of that size have."""
    rows = datasets.load_dataset("parquet", data_files=f"{folder}/train-00000*.parquet", split="train[:4000]")
    numbers, made = np.random.default_rng(0), []
    for _ in range(PHOTOS):
        whole = PIL.Image.new("RGB", (512, 384))
        for place, index in enumerate(numbers.integers(0, len(rows), 48)):
            whole.paste(rows[int(index)]["image"].convert("RGB"), (place % 8 * 64, place // 8 * 64))
        file = io.BytesIO()
        whole.save(file, "JPEG", quality=90)
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
    """The whole path, and each part of it, over all photographs."""
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    photos = photographs(parser.parse_args().folder)
    torch.set_num_threads(1)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    columns = {"image": photos, "label": [n % 2 for n in range(PHOTOS)]}
    with tempfile.TemporaryDirectory() as folder:
        for split in ("train", "test"):
            datasets.Dataset.from_dict(columns, features=features).to_parquet(f"{folder}/{split}.parquet")
        config = DataConfig(folder, image_size=SIZE, batch_size=PHOTOS, workers=0)
        ways: dict[str, Callable[[], Any]] = parts(photos, config)
        for name, decode in decoders().items():
            ways[f"bare: {name}"] = lambda decode=decode: [decode(photo) for photo in photos]
        times: dict[str, list[float]] = {name: [] for name in ways}
        for round_ in range(ROUNDS + 1):
            for name, way in ways.items():
                start = time.process_time()
                way()
                if round_:  # the first round fills caches
                    times[name].append(1000 * (time.process_time() - start) / PHOTOS)
    differences = {
        name: np.stack([np.abs(decode(p).astype(int) - pillow(p)) for p in photos])
        for name, decode in decoders().items()
        if name not in ("pillow", "pillow, half size")
    }
    medians = {name: round(statistics.median(values), 3) for name, values in times.items()}
    result = {
        "benchmark": "decode",
        "photos": {"number": PHOTOS, "pixels": [512, 384], "mean_bytes": round(sum(map(len, photos)) / PHOTOS)},
        "image_size": SIZE,
        "rounds": ROUNDS,
        "seed": 0,
        "cpu_ms_an_image": medians,
        "whole_over_pillow": round(medians["whole"] / medians["bare: pillow"], 2),
        "images_a_second_and_core": round(1000 / medians["whole"]),
        "pixels_beside_pillow": {
            name: {"equal": round(float((d == 0).mean()), 5), "largest_difference": int(d.max())}
            for name, d in differences.items()
        },
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in ("pillow", "torchvision", "datasets", "timm")},
            "libjpeg-turbo of Pillow": PIL.features.version_feature("libjpeg_turbo"),
        },
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "load": round(os.getloadavg()[0], 1),
    }
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(json.dumps(result) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
