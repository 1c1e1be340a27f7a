from __future__ import annotations

import pytest
import timm

from ssia_zoo.errors import ConfigError
from ssia_zoo.models.input_size import check_input_size


def test_an_image_size_that_a_model_does_not_take_is_an_error() -> None:
    check_input_size(timm.create_model("test_resnet"), (3, 48, 48))
    model = timm.create_model("vit_tiny_patch16_224", embed_dim=24, depth=1)
    with pytest.raises(ConfigError, match="`image_size` is 48, which VisionTransformer does not take"):
        check_input_size(model, (3, 48, 48), "`image_size` is 48")
    with pytest.raises(ConfigError, match="input_size is 3x48x48, which"):
        check_input_size(model, (3, 48, 48))
