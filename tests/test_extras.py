from __future__ import annotations

import pytest

from ssia_zoo.errors import ConfigError
from ssia_zoo.extras import require_packages


def test_a_missing_package_is_named_with_the_command_that_installs_it() -> None:
    require_packages("onnx", ["torch"], "'ssia-zoo[export]'")
    with pytest.raises(ConfigError, match=r"^onnx needs nonesuch; run: pip install 'ssia-zoo\[export\]'$"):
        require_packages("onnx", ["torch", "nonesuch"], "'ssia-zoo[export]'")
