# /// script
# requires-python = ">=3.11"
# dependencies = ["ssia-zoo"]
# ///
"""Train on a data set of the Hub in a Hugging Face Job, and publish the model; the flags are those of `ssia-zoo train`.

hf jobs uv run --flavor t4-small --timeout 2h --secrets HF_TOKEN docs/launch/hf_job.py \
    --model resnet18 --dataset uoft-cs/cifar10 --image-size 32 --epochs 30 --hub-model-id your-name/my-model

`uv run docs/launch/hf_job.py …` is the same on your machine. Both install ssia-zoo from PyPI. A job's disk is lost when
it ends, so the model is pushed after every epoch. Not yet run as a job.
"""

from __future__ import annotations

import sys

from ssia_zoo.cli import main

if __name__ == "__main__":
    defaults = ["--output-dir", "run", "--push-to-hub", "--push-every", "1"]
    sys.exit(main(["train", *defaults, *sys.argv[1:]]))
