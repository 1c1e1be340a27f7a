"""FSDP2 in real processes: the weights of one process, saved unsharded, resumed bit for bit; unsupported settings."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env

from ssia_zoo.data import DataConfig
from ssia_zoo.errors import ConfigError
from ssia_zoo.evaluation.validate import validate
from ssia_zoo.training import parse_config
from ssia_zoo.training.fsdp import sharding_plugin, unsharded_copy
from tests.helpers.runs import ROOT, flags, run, same_weights, small_run
from tests.helpers.sharded_runs import ShardingAccelerator
from tests.training.test_distributed import BEST, RUNS, SGD, assert_as_in_one_process, described, layouts
from tests.training.test_elastic import assert_same_up_to_rounding
from tests.training.test_memory_runs import FORM

SHARDED = ROOT / "tests" / "helpers" / "sharded_runs.py"
RUN = {"model": "test_vit", "ssia.channel": 0.5, "ssia.spatial": 0.5, "clip_grad": 1.0, **SGD}
NORMS = {"batch_size": 8, "max_train_images": 48, "max_eval_images": 41, "checkpoint_every": 4}  # for test_resnet
MEMORY = RUNS["memory"]
OPTIMIZERS: dict[str, dict[str, Any]] = {  # one changes weights where its state is loaded, one has no state
    "madgrad": {**NORMS, "model": "test_vit", "method": "vanilla", "optimizer": "madgrad", "lr": 1e-3},
    "stateless": {**NORMS, "model": "test_vit", "method": "vanilla", "optimizer": "momentum", "momentum": 0.0},
}

Runs = list[tuple[dict[str, str], dict[str, Any]]]


@pytest.fixture(scope="module")
def launched() -> dict[str, str]:
    """Return the variables that `accelerate launch --config_file docs/launch/fsdp2.yaml` sets."""
    before = dict(os.environ)
    words = ["--config_file", str(ROOT / "docs" / "launch" / "fsdp2.yaml"), "train_hf.py"]
    arguments, _, _ = _validate_launch_command(launch_command_parser().parse_args(words))
    variables: dict[str, str] = prepare_multi_gpu_env(arguments)
    assert variables["ACCELERATE_USE_FSDP"] == "true"
    return {name: value for name, value in variables.items() if before.get(name) != value and "FSDP" in name}


def in_processes(processes: int, folder: Path, runs: Runs) -> None:
    """Train all runs, each with its variables, in the same processes; how they are sharded goes to shards.json."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])))
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("SHARDS", str(folder / "shards.json"))
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        words = [json.dumps([variables, flags(**settings)]) for variables, settings in runs]
        done = run(*launcher, SHARDED, *words, timeout=580)
    assert done.returncode == 0, done.stderr[-3000:]


def in_layouts(folder: Path, processes: int, name: str, variables: dict[str, str], settings: dict[str, Any]) -> Runs:
    return [
        (variables, {"output_dir": folder / f"{name}_{layout}", **settings, **sizes})
        for layout, sizes in layouts(processes).items()
    ]


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory, launched: dict[str, str]) -> Path:
    folder = tmp_path_factory.mktemp("sharded")
    whole = {**launched, "FSDP_AUTO_WRAP_POLICY": "NO_WRAP"}
    middle = "checkpoints/step_00000004"
    checkpoint = folder / "norms" / middle  # in the second epoch, which reads the memory
    best = folder / "best" / "checkpoints" / "step_00000006"
    runs: Runs = [
        *in_layouts(folder, 2, "ssia", launched, RUN),
        *in_layouts(folder, 2, "memory", launched, MEMORY),
        *((launched, {"output_dir": folder / name, **settings}) for name, settings in OPTIMIZERS.items()),
        *(
            (launched, {"output_dir": folder / f"{name}_again", "resume": folder / name / middle, **settings})
            for name, settings in OPTIMIZERS.items()
        ),
        (whole, {"output_dir": folder / "norms", **NORMS, **FORM}),
        (whole, {"output_dir": folder / "resumed", "resume": checkpoint, **NORMS, **FORM}),
        (whole, {"output_dir": folder / "best", "balanced_sampling": True, **BEST}),
        (whole, {"output_dir": folder / "again", "balanced_sampling": True, "resume": best, **BEST}),
    ]
    in_processes(2, folder, runs)
    return folder


@pytest.mark.slow
def test_each_process_holds_half_of_the_model(two_processes: Path) -> None:
    vit, *_, resnet, _, _, _ = json.loads((two_processes / "shards.json").read_text())
    for spread in (vit, resnet):
        assert spread["processes"] == 2
        assert spread["all_sharded"]
        assert spread["held"] == pytest.approx(spread["elements"] / 2, rel=0.01)
    assert vit["units"] == 1 + len(timm.create_model("test_vit").blocks)
    assert resnet["units"] == 1


@pytest.mark.slow
@pytest.mark.parametrize(("name", "settings"), [("ssia", RUN), ("memory", MEMORY)], ids=["ssia", "memory"])
def test_two_processes_train_the_weights_of_one(two_processes: Path, name: str, settings: dict[str, Any]) -> None:
    assert_as_in_one_process(two_processes, 2, name, settings)


@pytest.mark.slow
def test_one_process_with_a_memory_trains_the_weights_that_it_trains_unsharded(
    tmp_path: Path, launched: dict[str, str]
) -> None:
    in_processes(1, tmp_path, in_layouts(tmp_path, 1, "memory", launched, MEMORY))
    assert_as_in_one_process(tmp_path, 1, "memory", MEMORY)


@pytest.mark.slow
def test_the_metrics_are_of_the_weights_that_are_saved_and_timm_loads(two_processes: Path) -> None:
    folder = two_processes / "norms"  # BatchNorm statistics differ between processes
    model = timm.create_model(f"local-dir:{folder}", pretrained=True)
    measured = validate(model, DataConfig(dataset="digits", max_eval_images=41, workers=0))
    assert measured["loss"] == pytest.approx(described(folder)["metrics"]["loss"], abs=1e-6)


@pytest.mark.slow
def test_a_resumed_run_ends_with_the_same_bits(two_processes: Path) -> None:
    records = [json.loads(line) for line in (two_processes / "resumed" / "metrics.jsonl").read_text().splitlines()]
    assert min(record["step"] for record in records) > 4, "it must have resumed"
    assert same_weights(two_processes / "norms", two_processes / "resumed")


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_resumed_run_of_each_kind_of_optimizer_ends_with_the_same_bits(two_processes: Path, name: str) -> None:
    lines = (two_processes / f"{name}_again" / "metrics.jsonl").read_text().splitlines()
    assert min(json.loads(line)["step"] for line in lines) > 4, "it must have resumed"
    assert same_weights(two_processes / name, two_processes / f"{name}_again")


@pytest.mark.slow
def test_the_best_weights_are_saved_unsharded_and_a_resumed_run_chooses_the_same(two_processes: Path) -> None:
    folder, again = two_processes / "best", two_processes / "again"
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    found = [record["top1"] for record in records if record["kind"] == "eval"]
    chosen = described(folder)["selection"]
    assert found[chosen["best_epoch"] - 1] == max(found)
    assert chosen["best_epoch"] < chosen["evaluations"] == len(found), "or the test could not fail"
    model = timm.create_model(f"local-dir:{folder}", pretrained=True)
    data = DataConfig(dataset="digits", holdout=0.2, max_eval_images=41, workers=0)
    assert validate(model, data)["loss"] == pytest.approx(described(folder)["metrics"]["loss"], rel=1e-6)
    assert described(again)["selection"] == chosen
    assert same_weights(folder, again)


@pytest.mark.slow
def test_a_run_goes_on_with_ddp_and_with_fsdp2_and_with_other_processes(
    tmp_path: Path, launched: dict[str, str]
) -> None:
    settings = {**RUN, "batch_size": 8, "checkpoint_every": 2, "keep_checkpoints": 9, "optimizer": "adamw", "lr": 1e-3}
    sharded, ddp = launched, {"ACCELERATE_USE_FSDP": "false"}
    middle = "checkpoints/step_00000002"
    runs: Runs = [
        (sharded, {"output_dir": tmp_path / "sharded", **settings}),
        (ddp, {"output_dir": tmp_path / "sharded_then_ddp", "resume": tmp_path / "sharded" / middle, **settings}),
        (ddp, {"output_dir": tmp_path / "ddp", **settings}),
        (sharded, {"output_dir": tmp_path / "ddp_then_sharded", "resume": tmp_path / "ddp" / middle, **settings}),
    ]
    in_processes(2, tmp_path, runs)
    assert len(json.loads((tmp_path / "shards.json").read_text())) == 2, "two runs are sharded, two are not"
    small_run(tmp_path / "sharded_then_one", resume=tmp_path / "sharded" / middle, **settings)
    again = {"output_dir": tmp_path / "one_then_sharded", "resume": tmp_path / "one" / middle, **settings}
    small_run(tmp_path / "one", **{**settings, "batch_size": 8, "accumulation_steps": 2})
    in_processes(2, tmp_path, [(sharded, {**again, "accumulation_steps": 2})])
    small_run(tmp_path / "start", **{**settings, "lr": 1e-30, "max_steps": 1})
    for name in ("sharded_then_ddp", "ddp_then_sharded", "sharded_then_one", "one_then_sharded"):
        records = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        assert min(record["step"] for record in records) > 2, "it must have resumed"
        # AdamW amplifies the rounding of gradients that are nearly zero, as of a bias of keys.
        assert_same_up_to_rounding(tmp_path / name, tmp_path / "ddp", tmp_path / "start", share=1e-2)


REFUSED: dict[str, tuple[dict[str, str], dict[str, Any]]] = {
    "ACCELERATE_USE_DEEPSPEED": ({"ACCELERATE_USE_DEEPSPEED": "true"}, {}),
    "ACCELERATE_USE_MEGATRON_LM": ({"ACCELERATE_USE_MEGATRON_LM": "true"}, {}),
    "ACCELERATE_USE_PARALLELISM_CONFIG": ({"ACCELERATE_USE_PARALLELISM_CONFIG": "true"}, {}),
    "version 1": ({"FSDP_VERSION": "1"}, {}),
    "SIZE_BASED_WRAP": ({"FSDP_AUTO_WRAP_POLICY": "SIZE_BASED_WRAP"}, {}),
    "FSDP_OFFLOAD_PARAMS": ({"FSDP_OFFLOAD_PARAMS": "true"}, {}),
    "`grad_checkpointing`": ({"FSDP_ACTIVATION_CHECKPOINTING": "true"}, {}),
    "`ema`, `channels_last`": ({}, {"ema": 0.9, "channels_last": True}),
    "`ema`, `ssia.supervisor` average": ({}, {"ema": 0.9, "ssia.supervisor": "average"}),
    "`compile`": ({}, {"compile": True}),
    "`clip_mode` agc": ({}, {"clip_mode": "agc", "clip_grad": 1.0}),
    "`batch_size` auto": ({}, {"batch_size": "auto"}),
    "needs GPUs": ({}, {}),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_is_not_supported_is_refused_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, launched: dict[str, str], message: str
) -> None:
    variables, settings = REFUSED[message]
    for name, value in {**launched, **variables}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=f"^[^\n]*{message}[^\n]*docs/launch/[^\n]*$"):
        small_run(tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()


def test_blocks_that_the_model_lacks_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, launched: dict[str, str]
) -> None:
    for name, value in launched.items():
        monkeypatch.setenv(name, value)
    plugin = sharding_plugin(parse_config(flags(output_dir=tmp_path)))
    accelerator = ShardingAccelerator(cpu=True, fsdp_plugin=plugin)
    with pytest.raises(ConfigError, match="fsdp_transformer_layer_cls_to_wrap is Block, which the model does not have"):
        unsharded_copy(accelerator, timm.create_model("test_resnet"))
    assert unsharded_copy(accelerator, timm.create_model("test_vit")) is not None
