"""timm's private modules are imported in one place, and have what is imported from them."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import timm

PACKAGE = Path(__file__).resolve().parents[1] / "ssia_zoo"


def private_imports(path: Path) -> Iterator[tuple[str, str]]:
    """Find what a file imports from timm's private modules: module and name."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "timm":
            for alias in node.names:
                if any(part.startswith("_") for part in (*str(node.module).split("."), alias.name)):
                    yield str(node.module), alias.name


@pytest.mark.parametrize(("module", "name"), list(private_imports(PACKAGE / "timm_names.py")))
def test_timm_still_has_what_is_imported_from_its_private_modules(module: str, name: str) -> None:
    try:
        found = hasattr(importlib.import_module(module), name)
    except ImportError:
        found = False
    assert found, (
        f"timm {timm.__version__} has no {module}.{name}. Look for it in timm's source: if it has moved, change its "
        "import in ssia_zoo/timm_names.py and raise the lowest timm in setup.cfg; if it is gone, write its few lines "
        f"there; until then set timm<{timm.__version__} in setup.cfg."
    )


def test_no_other_module_imports_from_timms_private_modules() -> None:
    others = [path for path in PACKAGE.rglob("*.py") if path.name != "timm_names.py"]
    found = {str(path.relative_to(PACKAGE)): list(private_imports(path)) for path in others}
    assert not {path: names for path, names in found.items() if names}, "import them in ssia_zoo/timm_names.py"
