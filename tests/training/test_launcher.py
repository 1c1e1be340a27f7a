"""`accelerate launch` and its configuration file decide where the run's own settings do not."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from ssia_zoo.errors import ConfigError, TrainingError
from ssia_zoo.training.arguments import parse_config, read_config
from ssia_zoo.training.checkpoint import list_checkpoints, read_manifest
from ssia_zoo.training.config import TrainConfig, with_defaults
from ssia_zoo.training.launcher import resolve_launcher
from tests.helpers.runs import ROOT, TRAIN, environment, flags, small_run

BASE = {"model": "resnet18", "dataset": "digits", "output_dir": "runs/x"}
WORDS = ["--model", "resnet18", "--dataset", "digits", "--output-dir", "runs/x"]
PRECISION = "ACCELERATE_MIXED_PRECISION"
ACCUMULATION = "ACCELERATE_GRADIENT_ACCUMULATION_STEPS"
BACKEND, MODE = "ACCELERATE_DYNAMO_BACKEND", "ACCELERATE_DYNAMO_MODE"
DEFAULT = {
    "mixed_precision": "no",
    "accumulation_steps": 1,
    "compile": False,
    "compile_backend": None,
    "compile_mode": None,
}


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in (PRECISION, ACCUMULATION, BACKEND, MODE):
        monkeypatch.delenv(variable, raising=False)


def chosen(config: TrainConfig) -> dict[str, Any]:
    return {name: getattr(config, name) for name in DEFAULT}


def run_launched(folder: Path, *launcher: str, variables: dict[str, str] | None = None, **settings: object) -> str:
    """Run train_hf.py by `accelerate launch`; return its stderr."""
    words = [sys.executable, "-m", "accelerate.commands.launch", *launcher, TRAIN]
    words += flags(output_dir=folder, **{"max_steps": 2, "method": "vanilla", **settings})
    variables = {**environment(), **(variables or {})}
    done = subprocess.run(
        list(map(str, words)), cwd=ROOT, env=variables, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


def recorded(folder: Path) -> dict[str, Any]:
    """Return the settings in question, as all files of a run record them."""
    written = yaml.safe_load((folder / "train_config.yaml").read_text())
    config = json.loads((folder / "config.json").read_text())["ssia"]["training"]
    (*_, newest) = list_checkpoints(folder / "checkpoints")
    manifest = read_manifest(newest)["experiment"]
    found = [{name: source[name] for name in DEFAULT} for source in (written, config, manifest)]
    assert found[0] == found[1] == found[2]
    return found[0]


@pytest.mark.parametrize(
    ("variables", "settings", "expected"),
    [
        ({}, {}, {}),
        ({PRECISION: "no", BACKEND: "NO", MODE: "default"}, {}, {}),
        ({PRECISION: "bf16"}, {}, {"mixed_precision": "bf16"}),
        ({PRECISION: "fp16"}, {"mixed_precision": "no"}, {"mixed_precision": "no"}),
        ({PRECISION: "no"}, {"mixed_precision": "bf16"}, {"mixed_precision": "bf16"}),
        ({ACCUMULATION: "4"}, {}, {"accumulation_steps": 4}),
        ({ACCUMULATION: "4"}, {"accumulation_steps": 1}, {"accumulation_steps": 1}),
        (
            {BACKEND: "AOT_EAGER", MODE: "reduce-overhead"},
            {},
            {"compile": True, "compile_backend": "aot_eager", "compile_mode": "reduce-overhead"},
        ),
        ({BACKEND: "INDUCTOR", MODE: "default"}, {"compile": False}, {"compile": False}),
        ({}, {"compile": True}, {"compile": True, "compile_backend": "inductor", "compile_mode": "default"}),
        (
            {BACKEND: "EAGER", MODE: "default"},
            {"compile": True, "compile_mode": "max-autotune"},
            {"compile": True, "compile_backend": "eager", "compile_mode": "max-autotune"},
        ),
        (
            {BACKEND: "EAGER"},
            {"compile_backend": "aot_eager"},
            {"compile": True, "compile_backend": "aot_eager", "compile_mode": "default"},
        ),
    ],
    ids=str,
)
def test_settings_override_the_launcher_and_the_launcher_the_defaults(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    variables: dict[str, str],
    settings: dict[str, Any],
    expected: dict[str, Any],
) -> None:
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    with caplog.at_level(logging.INFO):
        resolved = resolve_launcher(TrainConfig(**BASE, **settings))
    assert chosen(resolved) == {**DEFAULT, **expected}
    assert chosen(resolve_launcher(resolved)) == chosen(resolved)
    other = {"no", "NO", "default", *map(str, {**DEFAULT, **expected}.values())}
    differing = [
        value for value in variables.values() if settings and value not in other and value.lower() not in other
    ]
    logged = [record.getMessage() for record in caplog.records if "overrides the launcher's" in record.getMessage()]
    assert bool(logged) or not differing


@pytest.mark.parametrize(
    ("flags_given", "in_file", "name", "launchers", "value"),
    [
        (["--mixed-precision", "no"], "mixed_precision: 'no'", "mixed_precision", {PRECISION: "bf16"}, "no"),
        (["--accumulation-steps", "1"], "accumulation_steps: 1", "accumulation_steps", {ACCUMULATION: "2"}, 1),
        (["--no-compile"], "compile: false", "compile", {BACKEND: "INDUCTOR"}, False),
    ],
    ids=["precision", "accumulation", "compile"],
)
@pytest.mark.parametrize("by", ["flag", "file"])
def test_a_default_that_a_flag_or_a_file_sets_overrides_the_launcher(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    by: str,
    flags_given: list[str],
    in_file: str,
    name: str,
    launchers: dict[str, str],
    value: object,
) -> None:
    (tmp_path / "settings.yaml").write_text(in_file)
    words = flags_given if by == "flag" else ["--config", str(tmp_path / "settings.yaml")]
    for variable, chosen_there in launchers.items():
        monkeypatch.setenv(variable, chosen_there)
    with caplog.at_level(logging.INFO):
        assert getattr(resolve_launcher(parse_config([*WORDS, *words])), name) == value
    (line,) = [record.getMessage() for record in caplog.records]
    assert "overrides the launcher's" in line
    assert getattr(resolve_launcher(parse_config(WORDS)), name) != value


@pytest.mark.parametrize(
    ("variable", "value"),
    [(PRECISION, "fp8"), (ACCUMULATION, "auto"), (ACCUMULATION, "0"), (BACKEND, "nonesuch")],
)
def test_an_unsupported_value_of_the_launcher_is_one_line_with_its_variable(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError, match=f"{variable}.*{value}") as caught:
        resolve_launcher(TrainConfig(**BASE))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"compile_backend": "nonesuch", "compile": True}, "nonesuch"),
        ({"compile_backend": "fx2trt", "compile": True}, r"'fx2trt', which is not installed; expected .*aot_eager"),
        ({"compile_mode": "default"}, "require `compile`"),
    ],
)
def test_a_compile_mode_alone_and_an_unknown_backend_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve_launcher(TrainConfig(**BASE, **settings))


def test_half_precision_of_the_launcher_is_refused_on_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PRECISION, "fp16")
    with pytest.raises(ConfigError, match="fp16"):
        small_run(tmp_path / "run")


def test_settings_that_an_older_version_lacks_get_their_defaults() -> None:
    older = {"compile": True, "accumulation_steps": 2}
    settings = with_defaults(older)
    assert {name: settings[name] for name in DEFAULT} == {
        **DEFAULT,
        **older,
        "compile_backend": "inductor",
        "compile_mode": "default",
    }
    assert {name: with_defaults({})[name] for name in DEFAULT} == DEFAULT


@pytest.fixture(scope="module")
def overriding(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Future[str]]]:
    """Folder and stderr of a run whose flags override the launcher's; the test before the one that reads it starts it.

    The machine thus has two processes to run while each takes seconds to import torch.
    """
    folder = tmp_path_factory.mktemp("overriding") / "run"
    words = ("--cpu", "--mixed_precision", "bf16", "--dynamo_backend", "eager")
    settings = {"mixed_precision": "no", "accumulation_steps": 3, "compile": False}
    with ThreadPoolExecutor() as pool:
        yield folder, pool.submit(run_launched, folder, *words, variables={ACCUMULATION: "2"}, **settings)


@pytest.mark.slow
@pytest.mark.usefixtures("overriding")
def test_a_configuration_file_of_accelerate_decides_and_a_flag_overrides_it(tmp_path: Path) -> None:
    file = tmp_path / "accelerate.yaml"
    file.write_text(
        (ROOT / "docs" / "launch" / "one_node_cpu.yaml")
        .read_text()
        .replace('mixed_precision: "no"', "mixed_precision: bf16")
        + "dynamo_config:\n  dynamo_backend: EAGER\n  dynamo_mode: default\n"
    )
    launcher, expected = ("--config_file", str(file)), {"mixed_precision": "bf16", "compile": True}
    expected |= {"compile_backend": "eager", "compile_mode": "default"}
    variables = {ACCUMULATION: "2"}  # accelerate's launcher sets this only for DeepSpeed
    stderr = run_launched(tmp_path / "run", *launcher, variables=variables)
    assert recorded(tmp_path / "run") == {**DEFAULT, **expected, "accumulation_steps": 2}
    assert "from accelerate's launcher: --mixed-precision bf16" in stderr
    run_launched(tmp_path / "run", *launcher, variables=variables, resume="auto")  # the same settings
    again = read_config(str(tmp_path / "run" / "train_config.yaml"))
    assert chosen(again) == recorded(tmp_path / "run")
    with pytest.raises(TrainingError, match=r"mixed_precision \(bf16 -> no\)"):
        small_run(tmp_path / "run", resume="auto", max_steps=2, method="vanilla")


def test_a_flag_overrides_accelerate_launch_and_the_log_says_so(overriding: tuple[Path, Future[str]]) -> None:
    folder, stderr = overriding[0], overriding[1].result()
    assert recorded(folder) == {**DEFAULT, "accumulation_steps": 3}
    lines = [line for line in stderr.splitlines() if "overrides the launcher's" in line]
    assert lines == [
        "--mixed-precision no overrides the launcher's bf16",
        "--accumulation-steps 3 overrides the launcher's 2",
        "--compile False overrides the launcher's True",
    ]
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records if record["kind"] == "train"] == [0.5, 1.0], "96 = 2 x 3 x 16"
