"""From the name of a data set to reproducible loaders, with the library datasets, timm's transforms and DataLoader."""

from __future__ import annotations

from ssia_zoo.data.config import DataConfig
from ssia_zoo.data.images import (
    EvalData,
    ImageData,
    data_identity,
    load_eval_data,
    load_image_data,
    split_names,
    warn_of_classes_not_streamed,
)
from ssia_zoo.data.loader import eval_loader, train_loader
from ssia_zoo.data.on_device import DeviceTransform
from ssia_zoo.data.samples import NOT_COUNTED, UnreadableImageError
from ssia_zoo.data.sampling import BalancedSampler, EpochSampler
from ssia_zoo.data.sources import digits
from ssia_zoo.data.streaming import ImageStream, share_loader
from ssia_zoo.data.transforms import eval_transform, train_transform
from ssia_zoo.data.unreadable import UnreadableImages

__all__ = [
    "NOT_COUNTED",
    "BalancedSampler",
    "DataConfig",
    "DeviceTransform",
    "EpochSampler",
    "EvalData",
    "ImageData",
    "ImageStream",
    "UnreadableImageError",
    "UnreadableImages",
    "data_identity",
    "digits",
    "eval_loader",
    "eval_transform",
    "load_eval_data",
    "load_image_data",
    "share_loader",
    "split_names",
    "train_loader",
    "train_transform",
    "warn_of_classes_not_streamed",
]
