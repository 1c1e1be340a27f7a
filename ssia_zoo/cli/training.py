"""Commands that train: `train`, `finetune` and `demo`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from ssia_zoo.log import show_log


def train(args: Sequence[str]) -> int:
    """Train or fine-tune a timm classifier with the SSIA loss.

    This is train_hf.py.

    Args:
        args: Flags of train_hf.py.

    Returns:
        The exit status of `ssia_zoo.training.main`.
    """
    from ssia_zoo.training import main

    return main(args, prog="ssia-zoo train")


def finetune(args: Sequence[str]) -> int:
    """Fine-tune a pretrained model on your photos, and write a report.

    Args:
        args: The data set, then flags of train_hf.py, and --budget.

    Returns:
        The exit status of `ssia_zoo.training.main`.
    """
    from ssia_zoo.training import main_finetune

    return main_finetune(args, prog="ssia-zoo finetune")


def demo(output_dir: Path = Path("runs"), epochs: int | None = None) -> None:
    """Train a small model with and without SSIA, publish it to a folder and load it: 2 to 4 minutes.

    The data are scikit-learn's digits; a third of the training labels are wrong.

    For example:
      ssia-zoo demo --epochs 1

    Args:
        output_dir: Folder in which a new numbered folder is created.
        epochs: Passes over the data; 16 if not given.
    """
    from ssia_zoo.cli.demo import run_demo

    show_log(logging.INFO)
    run_demo(output_dir, epochs)
