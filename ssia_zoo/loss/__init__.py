"""Training-only losses on the stages of a network: SSIA, and the rivals it is measured against, one file each."""

from ssia_zoo.loss.at import ATLoss
from ssia_zoo.loss.base import AuxiliaryLoss
from ssia_zoo.loss.byot import BYOTLoss, BYOTSettings
from ssia_zoo.loss.dks import DKSLoss, DKSSettings
from ssia_zoo.loss.dsn import DSNLoss, DSNSettings
from ssia_zoo.loss.memory import PredictionMemory
from ssia_zoo.loss.rival import RivalConfig, RivalLoss
from ssia_zoo.loss.sad import SADLoss
from ssia_zoo.loss.ssia import SSIAConfig, SSIALoss

__all__ = [
    "ATLoss",
    "AuxiliaryLoss",
    "BYOTLoss",
    "BYOTSettings",
    "DKSLoss",
    "DKSSettings",
    "DSNLoss",
    "DSNSettings",
    "PredictionMemory",
    "RivalConfig",
    "RivalLoss",
    "SADLoss",
    "SSIAConfig",
    "SSIALoss",
]
