"""Settings from defaults, files and flags, and the error for each fault."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import timm
import yaml

from ssia_zoo.errors import ConfigError
from ssia_zoo.training import train
from ssia_zoo.training.arguments import check_config, parse_config, read_config
from ssia_zoo.training.config import TrainConfig, read_pairs, with_defaults
from ssia_zoo.training.main import main
from tests.helpers.runs import ROOT

REQUIRED = ["--model", "resnet18", "--dataset", "digits", "--output-dir", "runs/x"]


def test_flags_override_the_file_and_the_file_overrides_defaults(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("lr: 0.5\nepochs: 7\nscale: [0.5, 1.0]\nssia: {temperature: 2.0, weight: 0.3}\n")
    config = parse_config(["--config", str(file), *REQUIRED, "--epochs", "9", "--ssia.weight", "0.7"])
    assert (config.lr, config.epochs, config.scale) == (0.5, 9, (0.5, 1.0))
    assert (config.ssia.temperature, config.ssia.weight) == (2.0, 0.7)
    assert config.batch_size == TrainConfig().batch_size


def test_json_is_read_and_yaml_written_is_read_back(tmp_path: Path) -> None:
    config = parse_config([*REQUIRED, "--clip-grad", "1.0", "--channels-last", "--ssia.pairs", "adjacent"])
    file = tmp_path / "settings.yaml"
    file.write_text(config.to_yaml())
    assert read_config(str(file)) == config
    file.with_suffix(".json").write_text(json.dumps({"lr": 0.25}))
    assert read_config(str(file.with_suffix(".json"))).lr == 0.25


def test_a_published_weight_is_a_config_by_name_and_by_file() -> None:
    name = "mobilenetv3_small_050_ssia.digits_r32"
    by_name = read_config(name)
    assert by_name.model == "mobilenetv3_small_050"
    assert by_name.method == "ssia"
    assert read_config(f"hub_configs/{name}.json") == by_name


@pytest.mark.covers("pixels")
def test_a_run_older_than_the_setting_keeps_its_path_of_the_images(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = json.loads(json.dumps(asdict(TrainConfig(model="resnet18", dataset="digits", output_dir="runs/x"))))
    file = tmp_path / "train_config.yaml"
    file.write_text(yaml.safe_dump(settings))
    assert read_config(str(file)).pixels == "tensor"
    del settings["pixels"]
    file.write_text(yaml.safe_dump(settings))
    with caplog.at_level(logging.INFO, "ssia_zoo"):
        assert read_config(str(file)).pixels == "pil"
    assert caplog.messages == [f"--config {file} is older than `pixels`, which is therefore pil"]
    file.write_text("lr: 0.1")
    assert read_config(str(file)).pixels == "tensor", "a file by hand states what differs from the defaults"
    entry = json.loads((ROOT / "hub_configs" / "resnet18_ssia.c10_r32.json").read_text())
    assert entry["training"].pop("pixels") == "pil"
    file.write_text(json.dumps(entry))
    assert read_config(str(file)).pixels == "pil"
    assert with_defaults({})["pixels"] == "pil", "as the manifests of its checkpoints"


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("lr: fast", "`lr` is 'fast'; expected a valid number"),
        ("learning_rate: 0.1", "'learning_rate' is not a setting; did you mean"),
        ("warmup_epoch: 0.1", "'warmup_epoch' is not a setting; did you mean warmup_epochs"),
        ("ssia: {lambda: 1}", "'ssia.lambda' is not a setting; leave it out"),
        ("ssia: {temperatur: 1}", "'ssia.temperatur' is not a setting; did you mean temperature?"),
        ("ssia: {temperature: -1}", "`ssia.temperature` is -1; expected a number greater than 0"),
        ("ssia: 1", "`ssia` is 1; expected a dictionary"),
        ("scale: [0.5]", "`scale` is [0.5]; expected"),
        ("batch_size: 0", "`batch_size` is 0; expected a number greater than 0"),
        ("mixed_precision: no", "`mixed_precision` is False; expected 'no', 'bf16' or 'fp16'"),
        ("1: 2", "'1' is not a setting"),
        ("- a list", "expected settings by name"),
        ("lr: [", "not valid YAML"),
    ],
)
def test_a_fault_in_a_file_names_file_and_field(tmp_path: Path, content: str, named: str) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(content)
    with pytest.raises(ConfigError, match=re.escape(named)) as caught:
        parse_config(["--config", str(file), *REQUIRED])
    assert "settings.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["lr: 1e-5", '{"lr": 1e-05}', "lr: 1.0e-5", "{lr: .1e-4}"])
def test_small_numbers_are_numbers_in_yaml_and_json(tmp_path: Path, text: str) -> None:
    file = tmp_path / "settings.json"
    file.write_text(text)
    assert read_config(str(file)).lr == pytest.approx(1e-5)


def test_a_small_number_among_the_arguments_of_a_model_is_a_number_in_json(tmp_path: Path) -> None:
    file = tmp_path / "settings.json"
    file.write_text(json.dumps({"model_kwargs": {"eps": 1e-5}}))
    assert read_config(str(file)).model_kwargs == {"eps": 1e-5}


def test_one_epoch_needs_no_warm_up_setting() -> None:
    assert parse_config([*REQUIRED, "--epochs", "1"]).warmup_epochs is None


@pytest.mark.parametrize("by", ["flags", "file"])
def test_arguments_of_the_architecture_come_as_pairs_or_from_a_file(tmp_path: Path, by: str) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("model_kwargs: {block_args: {attn_layer: cbam}, stem_width: 16, avg_down: true}")
    pairs = ["--model-kwargs", "block_args={'attn_layer':'cbam'}", "stem_width=16", "avg_down=True"]
    config = parse_config([*REQUIRED, *(pairs if by == "flags" else ["--config", str(file)])])
    assert config.model_kwargs == {"block_args": {"attn_layer": "cbam"}, "stem_width": 16, "avg_down": True}
    file.write_text(config.to_yaml())
    assert read_config(str(file)) == config


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("num_classes=10", "classes"),
        ("img_size=64", "use `image_size`"),
        ("norm_layer=b'x'", "cannot be saved in config.json"),
        ("scale=1e400", "cannot be saved in config.json"),
        ("checkpoint_path=x.pt", "not an argument of an architecture"),
        ("pretrained_cfg_overlay={'file':'x'}", "not an argument of an architecture"),
    ],
)
def test_an_argument_that_cannot_be_saved_or_has_its_own_setting_is_refused(word: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        parse_config([*REQUIRED, "--model-kwargs", word])
    assert word.split("=")[0] in str(caught.value)


def test_a_word_without_an_equals_sign_ends_with_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse_config([*REQUIRED, "--model-kwargs", "depths"])
    assert caught.value.code == 2
    assert "depths: expected key=value" in capsys.readouterr().err


def test_a_missing_file_is_named() -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        parse_config(["--config", "nowhere.yaml"])


@pytest.mark.parametrize("missing", ["model", "dataset", "output_dir"])
def test_a_missing_setting_is_named(missing: str) -> None:
    at = REQUIRED.index("--" + missing.replace("_", "-"))
    with pytest.raises(ConfigError, match=f"`{missing}` is missing"):
        parse_config(REQUIRED[:at] + REQUIRED[at + 2 :])


@pytest.mark.parametrize(
    "wrong",
    [
        ["--epochs", "0"],
        ["--lr", "-1"],
        ["--lr", "nan"],
        ["--ema", "1.5"],
        ["--clip-grad", "0"],
        ["--smoothing", "1"],
        ["--accumulation-steps", "0"],
        ["--max-steps", "0"],
        ["--val-interval", "-1"],
        ["--push-every", "1", "--val-interval", "0", "--push-to-hub", "--hub-model-id", "org/name"],
        ["--warmup-epochs", "30"],
        ["--min-lr", "1"],
        ["--warmup-lr", "1"],
        ["--min-lr", "1e-5", "--schedule", "step"],
        ["--decay-epochs", "30"],
        ["--decay-milestones", "30", "--schedule", "step"],
        ["--decay-rate", "0.5"],
        ["--seed", "-1"],
        ["--momentum", "nan"],
        ["--batch-size", "15", "--mixup", "0.2"],
        ["--hub-model-id", "org/name"],
        ["--push-to-hub"],
        ["--eval-split", "train"],
        ["--eval-split", "test", "--train-split", "test"],
        ["--workers", "-1"],
        ["--scale", "1", "0.5"],
        ["--holdout", "0.1", "--streaming"],
        ["--ssia.temperature", "0"],
        ["--rival.weight", "-1"],
    ],
)
def test_a_setting_out_of_range_is_one_line_that_names_it(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match=f"`{wrong[0].removeprefix('--').replace('-', '_')}`") as caught:
        parse_config([*REQUIRED, *wrong])
    assert "\n" not in str(caught.value)
    assert capsys.readouterr() == ("", "")


def test_the_command_line_names_flags_and_python_names_fields(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*REQUIRED, "--batch-size", "0"]) == 1
    assert capsys.readouterr().err == "error: --batch-size is 0; expected a number greater than 0\n"
    with pytest.raises(ConfigError, match=r"^`batch_size` is 0; expected a number greater than 0$"):
        TrainConfig(batch_size=0)


def test_an_unknown_flag_ends_with_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse_config([*REQUIRED, "--lerning-rate", "1"])
    assert caught.value.code == 2
    assert "lerning-rate" in capsys.readouterr().err


def test_help_names_config_and_every_group(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse_config(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for flag in ("--config", "--model", "--dataset", "--output-dir", "--ssia.weight", "--push-to-hub", "--resume"):
        assert flag in text


def test_a_home_folder_is_expanded_and_output_within_the_data_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert parse_config([*REQUIRED[:-2], "--output-dir=~/runs"]).output_dir == str(tmp_path / "runs")
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "photos")
    for data, out in ((".", "runs/x"), ("~/photos", str(tmp_path / "photos" / "x")), (str(tmp_path / "photos"), ".")):
        with pytest.raises(ConfigError, match=r"`output_dir` .*lies in the folder of the data"):
            parse_config(["--model", "resnet18", "--dataset", data, "--output-dir", out])
    assert parse_config(["--model", "resnet18", "--dataset", ".", "--output-dir", "../photos2"]).dataset == "."


def test_constants_of_pairs_may_be_written_in_any_case() -> None:
    words = ["a=false", "b=True", "c=null", "d=NONE", "e='false'", "f=falsehood"]
    assert read_pairs(words) == {"a": False, "b": True, "c": None, "d": None, "e": "false", "f": "falsehood"}


@pytest.mark.filterwarnings("error")
def test_sizes_of_a_file_are_accepted_without_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("image_size: 64\ntrain_image_size: [48, 64]\n")
    with pytest.raises(SystemExit):
        parse_config(["--config", str(file), "--help"])
    assert "(default: 48 64)" in " ".join(capsys.readouterr().out.split())


def test_decisive_settings_leave_out_those_of_output() -> None:
    one = parse_config(REQUIRED)
    other = parse_config([*REQUIRED[:-1], "elsewhere", "--checkpoint-every", "5"])
    assert one.decisive_settings() == other.decisive_settings()
    assert parse_config([*REQUIRED, "--seed", "1"]).decisive_settings() != one.decisive_settings()


@pytest.mark.parametrize(
    "recipe", sorted((ROOT / "hub_configs" / "recipes").glob("*.yaml")), ids=lambda path: path.stem
)
def test_every_recipe_has_valid_settings(recipe: Path) -> None:
    config = read_config(str(recipe))
    check_config(replace(config, output_dir="unused"))
    architecture = recipe.stem.split("_ssia.")[0]
    assert timm.is_model(architecture)
    if config.pretrained:
        assert config.model == "local-dir:runs/base/lite0", "a folder that benchmarks/imagenet_base.py makes"
    else:
        assert config.model == architecture
    published = (ROOT / "hub_configs" / f"{recipe.stem}.json").exists()
    assert published != recipe.read_text(encoding="utf-8").startswith(("# NOT YET RUN", "# NOT PUBLISHED")), (
        "its first line says whether it has been run and published"
    )


@pytest.mark.parametrize("missing", ["model", "dataset", "output_dir"])
def test_train_called_from_python_names_a_missing_setting(tmp_path: Path, missing: str) -> None:
    settings = {"model": "test_resnet", "dataset": "digits", "output_dir": str(tmp_path / "run")}
    with pytest.raises(ConfigError, match=f"`{missing}` is missing"):
        train(TrainConfig(**{name: value for name, value in settings.items() if name != missing}))
    assert not (tmp_path / "run").exists()
