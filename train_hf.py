"""Train or fine-tune any timm classifier with the SSIA loss, on one CPU, many GPUs or many nodes.

    accelerate launch train_hf.py --model resnet18 --dataset uoft-cs/cifar10 --image-size 32 --output-dir runs/r18

`--help` lists the flags; docs/training.md explains them.
"""

from __future__ import annotations

import sys

from ssia_zoo.training import main

if __name__ == "__main__":
    sys.exit(main())
