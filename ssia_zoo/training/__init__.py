"""Train and fine-tune timm classifiers: settings, the loop, checkpoints, output."""

from __future__ import annotations

from ssia_zoo.training.arguments import parse_config
from ssia_zoo.training.config import TrainConfig
from ssia_zoo.training.loop import TrainResult, train
from ssia_zoo.training.main import main, main_finetune
from ssia_zoo.training.signals import TrainingStopped

__all__ = ["TrainConfig", "TrainResult", "TrainingStopped", "main", "main_finetune", "parse_config", "train"]
