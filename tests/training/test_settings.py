"""Every setting has a test that fails if the setting is ignored; benchmarks/mutate_flags.py runs these tests."""

from __future__ import annotations

import ast
import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from types import ModuleType

import pytest

from ssia_zoo.errors import ConfigError
from ssia_zoo.training.config import TrainConfig
from ssia_zoo.training.optimization import with_scaled_lr
from tests.helpers.runs import ROOT


@pytest.fixture
def mutation(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    spec = importlib.util.spec_from_file_location("mutate_flags", ROOT / "benchmarks" / "mutate_flags.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "mutate_flags", module)
    spec.loader.exec_module(module)
    return module


def claims() -> Iterator[str]:
    """Yield the settings that the `covers` markers of all tests name."""
    for path in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.covers":
                yield from map(ast.literal_eval, node.args)


def test_every_setting_is_covered_and_every_covers_marker_names_a_setting(mutation: ModuleType) -> None:
    settings, claimed = set(mutation.settings()), set(claims())
    missing = sorted(settings - claimed)
    names = ", ".join(f'"{name}"' for name in missing)
    assert not missing, (
        f"no test covers {', '.join(missing)}: write tests that fail when these settings are ignored, mark each of "
        f"them with @pytest.mark.covers({names}), and run: python benchmarks/mutate_flags.py {' '.join(missing)}"
    )
    assert not claimed - settings, "@pytest.mark.covers names settings that do not exist"


def test_an_ignored_setting_is_still_recorded_and_checked(
    mutation: ModuleType,
) -> None:
    config = TrainConfig(lr_base=0.1, lr_base_size=64, batch_size=64, momentum=0.5)
    with mutation.ignoring("lr_base_size"):
        ignored = replace(config, lr_base_size=32)
        assert (ignored.lr_base_size, asdict(ignored)["lr_base_size"]) == (32, 32)
        assert with_scaled_lr(ignored, 1).lr == pytest.approx(0.1 / 2), "64 of 256, by its square root"
    with mutation.ignoring("batch_size"), pytest.raises(ConfigError, match="`batch_size` is 0"):
        replace(config, batch_size=0)
    assert with_scaled_lr(config, 1).lr == pytest.approx(0.1)


def test_a_value_that_the_package_sets_is_used_even_if_the_setting_is_ignored(mutation: ModuleType) -> None:
    reader = compile("config.lr", str(mutation.PACKAGE / "reader.py"), "eval")
    with mutation.ignoring("lr"):
        assert eval(reader, {"config": TrainConfig(lr=0.5)}) == TrainConfig().lr
        computed = with_scaled_lr(TrainConfig(lr_base=0.5, lr_base_size=128), 1)
        assert eval(reader, {"config": computed}) == 0.5


def test_a_setting_of_a_group_is_ignored_too(mutation: ModuleType) -> None:
    config = TrainConfig(ssia=replace(TrainConfig().ssia, weight=3.0))
    assert config.ssia.lambda_at(0.5) == 3.0
    with mutation.ignoring("ssia.weight"):
        with pytest.raises(ConfigError, match=r"`ssia\.weight` is None"):
            config.ssia.lambda_at(0.5)
        assert config.ssia.weight == 3.0
