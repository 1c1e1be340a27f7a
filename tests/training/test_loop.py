"""Small real training runs: what they write, which settings they refuse, and that they resume exactly."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from filelock import FileLock
from PIL import Image
from safetensors.torch import load_file

from ssia_zoo.data import DataConfig
from ssia_zoo.errors import ConfigError, SSIAZooError, TrainingError
from ssia_zoo.evaluation.validate import validate
from ssia_zoo.training import main
from ssia_zoo.training.checkpoint import list_checkpoints
from ssia_zoo.training.machine import BF16_IS_SLOW
from ssia_zoo.training.metrics import read_records
from tests.helpers.runs import ROOT, flags, run, same_weights, small_run, train_in_a_process, weights


@pytest.mark.covers("epochs", "image_size")
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
    result = small_run(tmp_path / "run")
    model = timm.create_model(f"local-dir:{result.folder}", pretrained=True)
    vanilla = timm.create_model("test_resnet", num_classes=10).state_dict()
    saved = weights(result.folder)
    assert {k: (v.shape, v.dtype) for k, v in saved.items()} == {k: (v.shape, v.dtype) for k, v in vanilla.items()}
    data = DataConfig(dataset="digits", max_eval_images=40, workers=0)
    assert validate(model, data)["top1"] == pytest.approx(result.metrics["top1"])


@pytest.mark.covers("image_size", "interpolation", "crop_pct")
def test_config_json_holds_the_preprocessing_of_the_evaluation(tmp_path: Path) -> None:
    settings = {"image_size": 40, "interpolation": "nearest", "crop_pct": 0.7}
    result = small_run(tmp_path / "run", max_steps=1, **settings)
    held = json.loads((result.folder / "config.json").read_text())["pretrained_cfg"]
    assert (held["input_size"], held["interpolation"], held["crop_pct"]) == ([3, 40, 40], "nearest", 0.7)
    model = timm.create_model(f"local-dir:{result.folder}", pretrained=True)
    measured = validate(model, DataConfig(dataset="digits", max_eval_images=40, workers=0))
    assert measured["loss"] == pytest.approx(result.metrics["loss"], rel=1e-5)


@pytest.mark.covers("mixed_precision")
@pytest.mark.parametrize("method", ["ssia", "vanilla"])
def test_what_is_stated_is_measured_in_float32_whatever_the_training(tmp_path: Path, method: str) -> None:
    result = small_run(tmp_path / "run", method=method, mixed_precision="bf16", channels_last=True)
    model = timm.create_model(f"local-dir:{result.folder}", pretrained=True)
    measured = validate(model, DataConfig(dataset="digits", max_eval_images=40, workers=0))
    assert measured["loss"] == pytest.approx(result.metrics["loss"], rel=1e-5)
    in_training = read_records(result.folder / "metrics.jsonl")[-1]
    assert in_training["kind"] == "eval"
    assert in_training["loss"] != pytest.approx(result.metrics["loss"], rel=1e-5), "or the test could not fail"


@pytest.mark.covers("seed")
def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tmp_path: Path) -> None:
    for name, settings in {"a": {}, "b": {"workers": 2}, "c": {"seed": 1}}.items():
        small_run(tmp_path / name, **settings)
    assert same_weights(tmp_path / "a", tmp_path / "b")
    assert not same_weights(tmp_path / "a", tmp_path / "c")


@pytest.mark.covers("method", "ssia.weight")
@pytest.mark.parametrize("more", [{}, {"clip_grad": 0.05}], ids=["plain", "clipped"])
def test_lambda_zero_is_vanilla_to_the_bit_through_the_whole_loop(tmp_path: Path, more: dict[str, object]) -> None:
    small_run(tmp_path / "zero", **{"ssia.weight": 0.0}, **more)
    small_run(tmp_path / "vanilla", method="vanilla", **more)
    small_run(tmp_path / "one", **more)
    assert same_weights(tmp_path / "zero", tmp_path / "vanilla")
    assert not same_weights(tmp_path / "one", tmp_path / "vanilla")


@pytest.mark.parametrize(
    "settings",
    [
        {"model": "test_vit", "mixed_precision": "bf16", "channels_last": True, "max_steps": 3},
        {"ema": 0.9, "mixup": 0.2, "cutmix": 1.0, "smoothing": 0.1},
        {"accumulation_steps": 2, "clip_grad": 1.0, "optimizer": "sgd", "schedule": "constant"},
        {"drop_path_rate": 0.1, "drop_rate": 0.1, "auto_augment": "rand-m3", "random_erase": 0.3},
        {"aug_repeats": 4, "random_erase": 1.0, "random_erase_mode": "pixel", "random_erase_count": 3},
        {"bce_loss": True, "bce_target_thresh": 0.2, "mixup": 0.2, "mixup_off_epoch": 1, "mixup_mode": "elem"},
        {"lr_base": 0.1, "layer_decay": 0.8, "schedule": "multistep", "decay_milestones": 1, "ema_warmup": False},
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


@pytest.mark.covers("max_steps")
def test_max_steps_ends_a_run_and_leaves_its_schedule_as_it_was(tmp_path: Path) -> None:
    seen = []
    for name, settings in {"all": {}, "three": {"max_steps": 3}}.items():
        method = {"method": "ssia", "ssia.schedule": "cosine"}
        result = small_run(tmp_path / name, val_interval=0, **method, **settings)
        records = [r for r in read_records(result.folder / "metrics.jsonl") if r["kind"] == "train"]
        seen.append([(r["lr"], r["lambda"], r["loss"]) for r in records])  # the loss depends on the hand-over
    assert (len(seen[0]), len(seen[1])) == (12, 3)
    assert seen[1] == seen[0][:3]


@pytest.mark.covers("accumulation_steps")
def test_accumulation_of_two_halves_is_the_step_of_the_whole(tmp_path: Path) -> None:
    exact = {"model": "test_vit", "optimizer": "sgd", "lr": 0.1, "warmup_epochs": 0, "max_steps": 3, "epochs": 1}
    small_run(tmp_path / "whole", **exact)
    small_run(tmp_path / "halves", **exact, batch_size=8, accumulation_steps=2)
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "halves")
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor, rtol=1e-4, atol=1e-6)


@pytest.mark.covers("accumulation_steps")
@pytest.mark.parametrize(("accumulated", "epochs"), [(2, [1 / 3, 2 / 3, 1, 4 / 3, 5 / 3, 2]), (4, [1, 2])])
def test_an_epoch_has_as_many_steps_as_its_six_batches_fill(
    tmp_path: Path, accumulated: int, epochs: list[float]
) -> None:
    result = small_run(tmp_path / "run", accumulation_steps=accumulated)
    records = read_records(result.folder / "metrics.jsonl")
    assert [r["epoch"] for r in records if r["kind"] == "train"] == pytest.approx(epochs)
    assert [r["epoch"] for r in records if r["kind"] == "eval"] == [1, 2]


def test_a_run_with_all_kinds_of_randomness_resumes_to_the_same_bits(tmp_path: Path) -> None:
    settings = {
        **{"model": "test_vit", "drop_path_rate": 0.2, "aug_repeats": 2, "random_erase": 0.5, "cutmix": 1.0},
        **{"random_erase_mode": "pixel", "mixup_off_epoch": 1, "layer_decay": 0.8, "ema": 0.9, "workers": 2},
        **{"clip_grad": 0.02, "clip_mode": "agc", "checkpoint_every": 4, "keep_checkpoints": 9},
    }
    small_run(tmp_path / "whole", **settings)
    small_run(tmp_path / "resumed", **settings)
    middle = tmp_path / "resumed" / "checkpoints" / "step_00000004"
    small_run(tmp_path / "resumed", **settings, resume=middle)
    assert same_weights(tmp_path / "whole", tmp_path / "resumed")
    steps = [r["step"] for r in read_records(tmp_path / "resumed" / "metrics.jsonl") if r["kind"] == "train"]
    assert steps == list(range(1, 13)), "steps after the checkpoint were trained again"


@pytest.mark.covers("ema", "ema_warmup")
@pytest.mark.parametrize("warmup", [True, False])
def test_the_saved_weights_are_the_moving_average(tmp_path: Path, warmup: bool) -> None:
    steps = {"checkpoint_every": 1, "keep_checkpoints": 9, "max_steps": 3, "epochs": 1}
    result = small_run(tmp_path / "run", ema=0.5, ema_warmup=warmup, optimizer="sgd", lr=0.5, warmup_epochs=0, **steps)
    average = None
    for step, checkpoint in enumerate(list_checkpoints(result.folder / "checkpoints"), start=1):
        now = load_file(checkpoint / "model.safetensors")["student.conv1.0.weight"]
        decay = min(0.5, 1 - step ** (-2 / 3)) if warmup or step == 1 else 0.5
        average = now if average is None else decay * average + (1 - decay) * now
    assert average is not None
    torch.testing.assert_close(weights(result.folder)["conv1.0.weight"], average)
    assert not torch.allclose(average, now, atol=1e-4), "or the test could not fail"
    model = timm.create_model(f"local-dir:{result.folder}", pretrained=True)
    measured = validate(model, DataConfig(dataset="digits", max_eval_images=40, workers=0))
    assert measured["loss"] == pytest.approx(result.metrics["loss"], rel=1e-5), "it is what was evaluated, too"


@pytest.mark.covers("pretrained")
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


@pytest.mark.covers("model_kwargs")
def test_arguments_of_the_architecture_reach_whoever_builds_the_published_model(tmp_path: Path) -> None:
    result = small_run(tmp_path / "run", model_kwargs="block_args={'attn_layer':'cbam'}", max_steps=1)
    assert json.loads((result.folder / "config.json").read_text())["model_args"]["block_args"] == {"attn_layer": "cbam"}
    model = timm.create_model(f"local-dir:{result.folder}", pretrained=True)
    assert type(model.layer1[0].se).__name__ == "CbamModule"
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in weights(result.folder).items())
    small_run(tmp_path / "again", model=f"local-dir:{result.folder}", pretrained=True, max_steps=1)
    again = json.loads((tmp_path / "again" / "config.json").read_text())
    assert again["model_args"]["block_args"] == {"attn_layer": "cbam"}, "who fine-tunes it need not repeat them"


@pytest.mark.covers("val_interval")
@pytest.mark.parametrize(("interval", "epochs"), [(2, [2, 3]), (0, [3])])
def test_evaluation_comes_at_the_interval_and_at_the_end(tmp_path: Path, interval: int, epochs: list[int]) -> None:
    result = small_run(tmp_path / "run", val_interval=interval, epochs=3, keep_checkpoints=3)
    records = read_records(result.folder / "metrics.jsonl")
    assert [r["epoch"] for r in records if r["kind"] == "eval"] == epochs
    assert len(list_checkpoints(result.folder / "checkpoints")) == 3, "a checkpoint is saved each epoch"
    assert set(result.metrics) == {"loss", "top1", "top5"}
    small_run(tmp_path / "each", epochs=3)
    assert same_weights(tmp_path / "run", tmp_path / "each")


@pytest.mark.parametrize(("native", "warnings"), [(False, 1), (True, 0)])
def test_bf16_on_a_cpu_without_it_gives_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, native: bool, warnings: int
) -> None:
    machine = {"architecture": "x86_64", "avx2": True, "avx512_bf16": native}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: machine)
    small_run(tmp_path / "run", mixed_precision="bf16", max_steps=1)
    assert [record.getMessage() for record in caplog.records].count(BF16_IS_SLOW) == warnings


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
        ({"model": "test_convnext", "image_size": 8, "method": "vanilla"}, "size 3x8x8"),
        ({"schedule": "wsd", "max_train_images": 32, "epochs": 2}, "`schedule` wsd"),
        ({"model": "resnet18/x"}, "resnet18/x"),
        ({"model": "vit_tiny_patch16_224.nowhere", "pretrained": True}, "nowhere"),
        ({"method": "sssia"}, "did you mean ssia"),
        ({"optimizer": "adamww"}, "adamw"),
        ({"optimizer": "sgd", "momentum": 0.0}, "momentum"),
        ({"batch_size": 1000}, "batch.size"),
        ({"accumulation_steps": 100}, "`accumulation_steps`"),
        ({"mixed_precision": "fp16"}, "GPU"),
        ({"model_kwargs": "no_such=1"}, "no_such"),
        ({"resume": "nowhere"}, "nowhere"),
        ({"dataset": "./nowhere"}, "nowhere"),
        pytest.param({"with_tracking": True, "tracker": "nonesuch"}, "nonesuch", marks=pytest.mark.covers("tracker")),
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
    for checkpoint in list_checkpoints(tmp_path / "run" / "checkpoints"):
        assert all(torch.isfinite(tensor).all() for tensor in load_file(checkpoint / "model.safetensors").values())


def test_a_bad_batch_that_spoils_running_statistics_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoiling(config: object, num_classes: int, process: int, **kind: bool) -> Callable[..., object]:
        def spoil(
            batch: tuple[torch.Tensor, torch.Tensor], epoch: int, index: int
        ) -> tuple[torch.Tensor, torch.Tensor]:
            images, labels = batch
            return (images * float("inf") if index == 8 else images), labels

        return spoil

    monkeypatch.setattr("ssia_zoo.training.run.build_mixing", spoiling)
    with pytest.raises(TrainingError, match=r"step 8 .*running statistics"):
        small_run(tmp_path / "run")
    assert [path.name for path in list_checkpoints(tmp_path / "run" / "checkpoints")] == ["step_00000006"]


def test_a_run_that_never_began_leaves_the_folder_free(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        small_run(tmp_path / "run", model="resnet_18")
    small_run(tmp_path / "run", max_steps=1)
    assert (tmp_path / "run" / "model.safetensors").exists()


def test_two_runs_cannot_write_one_folder(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with FileLock(tmp_path / "run" / ".lock"), pytest.raises(TrainingError, match="another run"):
        small_run(tmp_path / "run", resume="auto")


@pytest.mark.parametrize("where", ["file/run", "file"])
def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, where: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TrainingError, match="`output_dir`"):
        small_run(tmp_path / where)


def test_no_path_of_this_machine_reaches_what_is_published(tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        for part, count in (("train", 8), ("test", 4)):
            (tmp_path / "private" / "pets" / part / label).mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (32, 32), (i, 0, 0)).save(tmp_path / "private" / "pets" / part / label / f"{i}.png")
    small_run(tmp_path / "run", dataset=tmp_path / "private" / "pets", batch_size=8, max_steps=1)
    for name in ("README.md", "config.json"):
        text = (tmp_path / "run" / name).read_text()
        assert "pets" in text
        assert "private" not in text


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


@pytest.mark.covers("image_size")
@pytest.mark.parametrize("name", ["test_vit3", "test_maxvit"])
def test_a_model_of_one_fixed_size_is_made_for_the_size_asked_for(tmp_path: Path, name: str) -> None:
    with pytest.raises((AssertionError, RuntimeError)):
        timm.create_model(name)(torch.randn(1, 3, 32, 32))  # the size must matter
    result = small_run(tmp_path / "run", model=name, method="vanilla", max_steps=1)
    model = timm.create_model(f"local-dir:{result.folder}", pretrained=True)
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 10)


def test_an_input_size_that_a_model_cannot_take_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="size"):
        small_run(tmp_path / "run", model="test_vit", image_size=24)


def test_training_from_python_leaves_logging_to_the_caller(tmp_path: Path) -> None:
    """In a child process, as pytest has installed handlers already."""
    script = (
        "import logging, sys; from ssia_zoo.training import parse_config, train\n"
        "before = (logging.root.handlers[:], logging.root.level, logging.getLogger('ssia_zoo').level)\n"
        "train(parse_config(sys.argv[1:]))\n"
        "assert before == (logging.root.handlers, logging.root.level, logging.getLogger('ssia_zoo').level)\n"
    )
    done = run(sys.executable, "-c", script, *flags(output_dir=tmp_path / "run", max_steps=1))
    assert done.returncode == 0, done.stderr
    assert "done: top-1" not in done.stderr
    assert "done: top-1" in train_in_a_process(output_dir=tmp_path / "other", max_steps=1).stderr
