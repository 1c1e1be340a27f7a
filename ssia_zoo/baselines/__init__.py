"""Rival objectives, each in one short file with its source: what SSIA is measured against under one recipe."""

from ssia_zoo.baselines.dsn import DSNLoss
from ssia_zoo.baselines.rival import RivalConfig

__all__ = ["DSNLoss", "RivalConfig"]
