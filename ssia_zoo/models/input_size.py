"""Check that a model takes images of a given size."""

from __future__ import annotations

import torch

from ssia_zoo.errors import ConfigError, one_line
from ssia_zoo.models.features import TimmModel, evaluating


def check_input_size(model: TimmModel, input_size: tuple[int, int, int], setting: str | None = None) -> None:
    """Run one blank image through a model.

    Args:
        model: A timm classifier; it is not changed.
        input_size: Channels, height, width.
        setting: Start of the error's message, which names what sets the size; the model's `input_size` if None.

    Raises:
        ConfigError: If the model does not take images of this size.
    """
    parameter = next(model.parameters())
    blank = torch.zeros(1, *input_size, device=parameter.device, dtype=parameter.dtype)
    try:
        with evaluating(model), torch.inference_mode():
            model(blank)
    except (RuntimeError, AssertionError, ValueError) as error:  # timm asserts image sizes
        setting = setting or f"input_size is {'x'.join(map(str, input_size))}"
        raise ConfigError(f"{setting}, which {type(model).__name__} does not take: {one_line(error, 150)}") from error
