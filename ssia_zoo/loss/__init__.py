"""Training-only losses on the feature maps of a network's stages: SSIA and its rivals, one file each."""

from __future__ import annotations

from ssia_zoo.loss.at import ATLoss
from ssia_zoo.loss.base import AuxiliaryLoss, LabelLoss, StageShape
from ssia_zoo.loss.byot import BYOTLoss
from ssia_zoo.loss.contract import ContractReport, check
from ssia_zoo.loss.dks import DKSLoss
from ssia_zoo.loss.dsn import DSNLoss
from ssia_zoo.loss.memory import PredictionMemory
from ssia_zoo.loss.rival import RivalConfig, RivalLoss
from ssia_zoo.loss.sad import SADLoss
from ssia_zoo.loss.ssia import SSIAConfig, SSIALoss, channel_signal, spatial_attention
from ssia_zoo.loss.weighted import ClassWeightedLoss

__all__ = [
    "ATLoss",
    "AuxiliaryLoss",
    "BYOTLoss",
    "ClassWeightedLoss",
    "ContractReport",
    "DKSLoss",
    "DSNLoss",
    "LabelLoss",
    "PredictionMemory",
    "RivalConfig",
    "RivalLoss",
    "SADLoss",
    "SSIAConfig",
    "SSIALoss",
    "StageShape",
    "channel_signal",
    "check",
    "spatial_attention",
]
