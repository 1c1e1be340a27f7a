"""Rival objectives, each in one short file with its source: what SSIA is measured against under one recipe."""

from ssia_zoo.baselines.at import ATLoss
from ssia_zoo.baselines.byot import BYOTLoss, BYOTSettings
from ssia_zoo.baselines.dks import DKSLoss, DKSSettings
from ssia_zoo.baselines.dsn import DSNLoss, DSNSettings
from ssia_zoo.baselines.rival import RivalConfig, RivalLoss
from ssia_zoo.baselines.sad import SADLoss

__all__ = [
    "ATLoss",
    "BYOTLoss",
    "BYOTSettings",
    "DKSLoss",
    "DKSSettings",
    "DSNLoss",
    "DSNSettings",
    "RivalConfig",
    "RivalLoss",
    "SADLoss",
]
