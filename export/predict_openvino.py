"""Classify images with an exported OpenVINO file; needs numpy, Pillow and openvino, and no PyTorch.

python predict_openvino.py model.xml image.jpg …
"""

import json
import sys

import numpy as np
import openvino
from PIL import Image


def preprocess(path: str, contract: dict) -> np.ndarray:
    """Resize, crop and normalize as the manifest says: 1 x 3 x height x width."""
    image = Image.open(path).convert("RGB")
    (height, width), (up, across) = contract["shape"][2:], contract["resize"]
    if contract["resize_mode"] == "shortest-side" and up == across:
        short = min(image.size)
        across, up = (int(up * side / short) for side in image.size)
    elif contract["resize_mode"] != "squash":
        sys.exit(f"resize mode {contract['resize_mode']} to {up} x {across} is not written here")
    image = image.resize((across, up), Image.Resampling[contract["interpolation"].upper()])
    left, top = round((across - width) / 2), round((up - height) / 2)
    pixels = np.asarray(image.crop((left, top, left + width, top + height)), dtype=np.float32) / 255
    pixels = (pixels - np.float32(contract["mean"])) / np.float32(contract["std"])
    return pixels.transpose(2, 0, 1)[None]


if __name__ == "__main__":
    with open(f"{sys.argv[1]}.json", encoding="utf-8") as file:
        manifest = json.load(file)
    compiled = openvino.Core().compile_model(sys.argv[1], "CPU")
    for name in sys.argv[2:]:
        logits = compiled(preprocess(name, manifest["input"]))[0][0]
        probability = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        best = int(probability.argmax())
        print(f"{name}\t{manifest['labels'][best] if manifest['labels'] else best}\t{probability[best]:.4f}")
