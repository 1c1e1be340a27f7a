"""Report how a data set's images are converted to a model's channels."""

from __future__ import annotations

import logging
from collections import Counter

import datasets
import numpy as np

from ssia_zoo.data.decode import stored_mode
from ssia_zoo.data.messages import is_main_process
from ssia_zoo.data.preprocessing import ConvertMode

_log = logging.getLogger(__name__)

_SAMPLED = 50  # images


def report_conversions(rows: datasets.Dataset, column: str, channels: int) -> None:
    """Log in one line each what the conversion to a model's channels changes in a sample of the images.

    Args:
        rows: A split.
        column: Its images.
        channels: The model's: 1, 3 or 4.

    Raises:
        ConfigError: The number of channels is another one.
    """
    convert = ConvertMode(channels)
    if not is_main_process():
        return
    sample = np.unique(np.linspace(0, len(rows) - 1, num=min(_SAMPLED, len(rows))).astype(int))
    values = rows.select(sample).cast_column(column, datasets.Image(decode=False))[column]
    modes = [mode for value in values if value and (mode := stored_mode(value)) is not None]
    for loss, count in Counter(map(convert.loss, modes)).items():
        if loss is not None:
            _log.warning("images are %s: %d of %d sampled", loss, count, len(sample))
