"""Training runs, small but real: what they write, what they refuse, that they resume and distribute exactly."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
import yaml
from conftest import ROOT, TRAIN, environment, flags, run, train_in_a_process
from PIL import Image
from safetensors.torch import load_file

from ssia_zoo.errors import ConfigError, SSIAZooError, TrainingError
from ssia_zoo.training import main, parse_config, train
from ssia_zoo.training.checkpoint import list_checkpoints
from ssia_zoo.training.loop import TrainResult
from ssia_zoo.training.records import read_records


def small_run(folder: Path, **settings: object) -> TrainResult:
    return train(parse_config(flags(output_dir=folder, **settings)))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same_weights(one: Path, other: Path) -> bool:
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_run_leaves_everything_it_promises(tmp_path: Path) -> None:
    result = small_run(tmp_path / "run")
    names = {path.name for path in result.folder.iterdir()}
    files = {"model.safetensors", "config.json", "README.md", "train_config.yaml", "metrics.jsonl", "curves.png"}
    assert names == {*files, "checkpoints"}
    assert set(result.metrics) == {"loss", "top1", "top5"}

    config = json.loads((result.folder / "config.json").read_text())
    assert config["architecture"] == "test_resnet"
    assert config["label_names"] == [str(i) for i in range(10)]
    assert config["pretrained_cfg"]["input_size"] == [3, 32, 32]
    assert config["ssia"]["training"]["lr"] == 1e-3
    assert "num_classes" not in config.get("model_args", {})
    assert "model_args" not in config or "drop_rate" not in config["model_args"]

    records = read_records(result.folder / "metrics.jsonl")
    assert [r["step"] for r in records if r["kind"] == "eval"] == [6, 12]
    assert {"task_loss", "ssia", "semantic", "lr", "lambda"} <= set(records[0])
    assert Image.open(result.folder / "curves.png").width > 100
    card = (result.folder / "README.md").read_text()
    assert "reconstruction from the abstract" in card
    assert f"{result.metrics['top1']:.2f}" in card


def test_the_folder_is_a_vanilla_model_that_scores_what_the_run_reported(tmp_path: Path) -> None:
    from ssia_zoo.data import DataConfig
    from ssia_zoo.validation import validate

    result = small_run(tmp_path / "run")
    model = timm.create_model(f"local-dir:{result.folder}", pretrained=True)
    vanilla = timm.create_model("test_resnet", num_classes=10).state_dict()
    saved = weights(result.folder)
    assert {k: (v.shape, v.dtype) for k, v in saved.items()} == {k: (v.shape, v.dtype) for k, v in vanilla.items()}
    data = DataConfig(dataset="digits", max_eval_images=40, workers=0)
    assert validate(model, data)["top1"] == pytest.approx(result.metrics["top1"])


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tmp_path: Path) -> None:
    for name, settings in {"a": {}, "b": {"workers": 2}, "c": {"seed": 1}}.items():
        small_run(tmp_path / name, **settings)
    assert same_weights(tmp_path / "a", tmp_path / "b")
    assert not same_weights(tmp_path / "a", tmp_path / "c")


def test_lambda_zero_is_vanilla_to_the_bit_through_the_whole_loop(tmp_path: Path) -> None:
    small_run(tmp_path / "zero", **{"ssia.weight": 0.0})
    small_run(tmp_path / "vanilla", method="vanilla")
    small_run(tmp_path / "one")
    assert same_weights(tmp_path / "zero", tmp_path / "vanilla")
    assert not same_weights(tmp_path / "one", tmp_path / "vanilla")


@pytest.mark.parametrize(
    "settings",
    [
        {"model": "test_vit", "mixed_precision": "bf16", "channels_last": True},
        {"ema": 0.9, "mixup": 0.2, "cutmix": 1.0, "smoothing": 0.1, "batch_size": 15},
        {"accumulation_steps": 2, "clip_grad": 1.0, "optimizer": "sgd", "schedule": "constant"},
        {"drop_path_rate": 0.1, "drop_rate": 0.1, "auto_augment": "rand-m3", "random_erase": 0.3},
        {"method": "vanilla", "max_steps": 3},
        {"ssia.spatial": 1.0, "ssia.channel": 0.5, "ssia.pairs": "adjacent", "ssia.schedule": "cosine"},
    ],
    ids=lambda settings: "-".join(settings),
)
def test_what_can_be_asked_for_runs(tmp_path: Path, settings: dict[str, object]) -> None:
    result = small_run(tmp_path / "run", **settings)
    assert torch.isfinite(torch.tensor(result.metrics["loss"]))
    if "max_steps" in settings:
        assert read_records(result.folder / "metrics.jsonl")[-1]["step"] == 3


def test_accumulation_of_two_halves_is_the_step_of_the_whole(tmp_path: Path) -> None:
    exact = {"model": "test_vit", "optimizer": "sgd", "lr": 0.1, "warmup_epochs": 0, "max_steps": 3, "epochs": 1}
    small_run(tmp_path / "whole", **exact)
    small_run(tmp_path / "halves", **exact, batch_size=8, accumulation_steps=2)
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "halves")
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor, rtol=1e-4, atol=1e-6)


def test_fine_tuning_starts_from_the_weights_asked_for(tmp_path: Path) -> None:
    tiny = {"lr": 1e-9, "max_steps": 1, "warmup_epochs": 0, "weight_decay": 0.0, "optimizer": "sgd"}
    small_run(tmp_path / "run", model="mobilenetv3_small_050_ssia.digits_r32", pretrained=True, **tiny)
    shipped = load_file(ROOT / "hub_configs" / "mobilenetv3_small_050_ssia.digits_r32.safetensors")
    tuned = weights(tmp_path / "run")
    torch.testing.assert_close(tuned["conv_stem.weight"], shipped["conv_stem.weight"].float(), rtol=0, atol=1e-6)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["architecture"] == "mobilenetv3_small_050", "vanilla timm must know it"
    small_run(tmp_path / "again", model=f"local-dir:{tmp_path / 'run'}", pretrained=True, **tiny)
    torch.testing.assert_close(weights(tmp_path / "again")["conv_stem.weight"], tuned["conv_stem.weight"])


def test_a_folder_with_a_run_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    small_run(tmp_path / "run")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")}
    with pytest.raises(TrainingError, match="--resume auto"):
        small_run(tmp_path / "run")
    with pytest.raises(TrainingError, match="lr"):
        small_run(tmp_path / "run", resume="auto", lr=0.5)
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")}


def test_a_folder_with_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(TrainingError, match="not empty"):
        small_run(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "resnet_18"}, "resnet18"),
        ({"model": "resnet18/x"}, "resnet18/x"),
        ({"model": "vit_tiny_patch16_224.nowhere", "pretrained": True}, "nowhere"),
        ({"method": "sssia"}, "did you mean ssia"),
        ({"optimizer": "adamww"}, "adamw"),
        ({"optimizer": "sgd", "momentum": 0.0}, "momentum"),
        ({"batch_size": 1000}, "--batch-size"),
        ({"accumulation_steps": 100}, "--accumulation-steps"),
        ({"mixed_precision": "fp16"}, "GPU"),
        ({"resume": "nowhere"}, "nowhere"),
        ({"dataset": "./nowhere"}, "nowhere"),
        ({"with_tracking": True, "tracker": "nonesuch"}, "nonesuch"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_bad_settings_get_one_clear_line(tmp_path: Path, settings: dict[str, object], message: str) -> None:
    with pytest.raises(SSIAZooError, match=message) as caught:
        small_run(tmp_path / "run", **settings)
    assert "\n" not in str(caught.value)


def test_main_prints_one_line_and_no_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(flags(output_dir=tmp_path / "run", model="resnet_18")) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("error: --model resnet_18")


def test_divergence_is_counted_stopped_and_never_saved(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="not finite"):
        small_run(tmp_path / "run", optimizer="sgd", lr=1e30, warmup_epochs=0, epochs=10)
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_resume_auto_starts_afresh_where_nothing_was_saved(tmp_path: Path) -> None:
    small_run(tmp_path / "run", resume="auto")
    assert (tmp_path / "run" / "model.safetensors").exists()


def test_a_finished_run_resumes_to_the_same_result(tmp_path: Path) -> None:
    first = small_run(tmp_path / "run")
    before = weights(tmp_path / "run")
    again = small_run(tmp_path / "run", resume="auto")
    assert again.metrics == first.metrics
    assert all(torch.equal(before[name], tensor) for name, tensor in weights(tmp_path / "run").items())


def test_a_run_killed_with_sigkill_resumes_to_the_same_bits(tmp_path: Path) -> None:
    settings = {"epochs": 3, "checkpoint_every": 4, "ema": 0.9, "mixup": 0.2, "drop_rate": 0.2, "workers": 1}
    whole = train_in_a_process(output_dir=tmp_path / "whole", **settings)
    assert whole.returncode == 0, whole.stderr
    killed = tmp_path / "killed"
    command = [sys.executable, str(TRAIN), *flags(output_dir=killed, **settings)]
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment(), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, process_group=0
    )
    wait_until(lambda: any((killed / "checkpoints").glob("step_*")), process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (killed / "model.safetensors").exists(), "it was to be killed in the middle"
    resumed = train_in_a_process(output_dir=killed, resume="auto", **settings)
    assert resumed.returncode == 0, resumed.stderr
    assert "resumed" in resumed.stderr
    assert same_weights(tmp_path / "whole", killed)
    evaluated = [r["step"] for r in read_records(killed / "metrics.jsonl") if r["kind"] == "eval"]
    assert evaluated == [6, 12, 18], "no step is recorded twice"


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    for _ in range(2400):
        if condition():
            return
        assert process.poll() is None, "the run ended early"
        time.sleep(0.05)
    raise AssertionError("waited two minutes")


def test_an_unfinished_checkpoint_is_not_taken(tmp_path: Path) -> None:
    small_run(tmp_path / "run")
    checkpoints = tmp_path / "run" / "checkpoints"
    (checkpoints / ".unfinished_99").mkdir()
    assert [path.name for path in list_checkpoints(checkpoints)] == ["step_00000006", "step_00000012"]


def test_two_real_processes_give_one_processs_gradients(tmp_path: Path) -> None:
    exact = {
        "model": "test_vit",  # no batch statistics
        "optimizer": "momentum",  # SGD, without Nesterov's step
        "momentum": 0.0,
        "lr": 1.0,
        "weight_decay": 0.0,
        "warmup_epochs": 0,
        "schedule": "constant",
        "epochs": 1,
        "ssia.channel": 0.5,
        "ssia.spatial": 0.5,
    }
    small_run(tmp_path / "start", **{**exact, "lr": 1e-30}, max_steps=1)
    single = train_in_a_process(output_dir=tmp_path / "one", batch_size=16, max_steps=1, **exact)
    assert single.returncode == 0, single.stderr
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    double = run(*torchrun, TRAIN, *flags(output_dir=tmp_path / "two", batch_size=8, max_steps=1, **exact))
    assert double.returncode == 0, double.stderr
    described = json.loads((tmp_path / "two" / "config.json").read_text())
    assert described["ssia"]["environment"]["processes"] == "2", "or the test would pass vacuously"

    start, one, two = (weights(tmp_path / name) for name in ("start", "one", "two"))
    gradients = {name: (start[name] - one[name], start[name] - two[name]) for name in start}
    assert sum(bool(single.abs().max() > 1e-4) for single, _ in gradients.values()) > len(gradients) / 2
    for name, (expected, actual) in gradients.items():
        torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}")
    assert json.loads((tmp_path / "one" / "config.json").read_text())["ssia"]["metrics"]["top1"] == pytest.approx(
        described["ssia"]["metrics"]["top1"]
    ), "evaluation counts each image once"


def test_accelerate_launch_runs_the_script(tmp_path: Path) -> None:
    done = run(
        sys.executable, "-m", "accelerate.commands.launch", TRAIN, *flags(output_dir=tmp_path / "run", max_steps=2)
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "model.safetensors").exists()


def test_tracking_writes_into_the_run_folder(tmp_path: Path) -> None:
    small_run(tmp_path / "run", with_tracking=True, max_steps=2)
    assert list((tmp_path / "run").rglob("events.out.tfevents.*"))


@pytest.mark.slow
def test_a_compiled_run_ends_like_an_eager_one(tmp_path: Path) -> None:
    eager = small_run(tmp_path / "eager", epochs=1)
    compiled = train_in_a_process(output_dir=tmp_path / "compiled", epochs=1, compile=True)
    assert compiled.returncode == 0, compiled.stderr
    one, other = weights(eager.folder), weights(tmp_path / "compiled")
    assert one.keys() == other.keys(), "no _orig_mod in the names"
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor, rtol=1e-2, atol=1e-2)


def test_the_resolved_settings_repeat_the_run(tmp_path: Path) -> None:
    small_run(tmp_path / "run", lr=2e-3)
    settings = yaml.safe_load((tmp_path / "run" / "train_config.yaml").read_text())
    assert settings["lr"] == 2e-3
    again = ["--config", str(tmp_path / "run" / "train_config.yaml"), "--output-dir", str(tmp_path / "again")]
    train(parse_config(again))
    assert same_weights(tmp_path / "run", tmp_path / "again")


def test_a_model_of_one_fixed_size_is_made_for_the_size_asked_for(tmp_path: Path) -> None:
    result = small_run(tmp_path / "run", model="test_vit", max_steps=1)
    model = timm.create_model(f"local-dir:{result.folder}", pretrained=True)
    assert model(torch.randn(1, 3, 32, 32)).shape == (1, 10)


def test_an_input_size_that_a_model_cannot_take_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="size"):
        small_run(tmp_path / "run", model="test_vit", image_size=24)
