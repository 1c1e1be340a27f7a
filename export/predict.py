"""Classify images with an exported ONNX or OpenVINO file; needs only numpy, Pillow, and onnxruntime or openvino.

python predict.py model.onnx image.jpg …
"""

import json
import sys

import numpy as np
from PIL import Image, ImageOps

with open(f"{sys.argv[1]}.json", encoding="utf-8") as file:
    manifest = json.load(file)
given, (channels, height, width) = manifest["input"], manifest["input"]["shape"][1:]
resize = given["resize"]
if resize is None and given["crop_mode"] != "center":
    sys.exit(f"{sys.argv[1]} needs a resize that this script does not implement")
if sys.argv[1].endswith(".xml"):
    import openvino

    run = openvino.Core().compile_model(sys.argv[1], "CPU")
else:
    import onnxruntime

    session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
    run = lambda pixels: session.run(["logits"], {"pixel_values": pixels})  # noqa: E731
for name in sys.argv[2:]:
    image = Image.open(name)
    if image.mode[0] in "IF":
        sys.exit(f"{name} has more than 8 bits a channel, which Pillow would clip; convert it to 8 bits")
    image = ImageOps.exif_transpose(image)
    if "transparency" in image.info:
        image = image.convert("RGBA")
    image = image.convert({1: "L", 3: "RGB", 4: "RGBA"}[channels])
    if resize is None:  # the smallest size that covers the input divided by crop_pct
        ratio = min(s / int(side / given["crop_pct"]) for s, side in zip(image.size, (width, height), strict=True))
        size = [round(side / ratio) for side in image.size]
    elif "shortest_edge" in resize:
        size = [int(resize["shortest_edge"] * side / min(image.size)) for side in image.size]
    else:
        size = resize["width"], resize["height"]
    image = image.resize(size, Image.Resampling[given["interpolation"].upper()])
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    pixels = np.asarray(image.crop((left, top, left + width, top + height)), dtype=np.float32) / 255
    pixels = pixels.reshape(height, width, channels)
    pixels = (pixels - np.float32(given["mean"])) / np.float32(given["std"])
    logits = run(pixels.transpose(2, 0, 1)[None])[0][0]
    labels, threshold = manifest["labels"] or range(len(logits)), manifest.get("threshold")
    if threshold is not None:  # a model of several labels an image
        probability = 1 / (1 + np.exp(-logits))
        found = [index for index in np.argsort(-probability) if probability[index] >= threshold]
    else:
        probability = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        found = [int(probability.argmax())]
    print(name, *(f"{labels[index]}\t{probability[index]:.4f}" for index in found), sep="\t")
