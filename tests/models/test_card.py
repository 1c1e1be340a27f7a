"""Model cards: their metadata on the Hub, and that they claim no more than was measured."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries
from PIL import Image

from ssia_zoo.models.card import training_card, weight_card
from ssia_zoo.models.card_metadata import eval_results
from ssia_zoo.models.release import write_weight_folder
from ssia_zoo.models.stats import model_stats
from ssia_zoo.models.weight import PairedRun, PublishedWeight
from tests.helpers.toy_weight import CLASSES, write_toy_weight

REPO = "org/test_resnet_ssia.toys_r64"


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> PublishedWeight:
    return write_toy_weight(tmp_path_factory.mktemp("hub_configs"))


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a card was made with the network")

    monkeypatch.setattr("socket.socket.connect", refuse)


def paired(*scores: tuple[float, float]) -> tuple[PairedRun, ...]:
    return tuple(PairedRun(seed=seed, ssia=ssia, vanilla=vanilla) for seed, (ssia, vanilla) in enumerate(scores))


def with_runs(config: PublishedWeight, *scores: tuple[float, float]) -> PublishedWeight:
    return replace(config, metrics=replace(config.metrics, runs=paired(*scores)))


# --- Published weights ------------------------------------------------------------------------------------------------


def test_the_hub_reads_the_metadata_of_a_weight(config: PublishedWeight, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(weight_card(config, REPO), encoding="utf-8")
    data = ModelCard.load(tmp_path / "README.md").data
    assert data.library_name == "timm"
    assert data.pipeline_tag == "image-classification"
    assert data.license == "apache-2.0"
    assert data.datasets == ["makers/toys"]
    assert data.base_model is None
    assert {"timm", "transformers", "ssia", "image-classification"} <= set(data.tags)
    assert data.model_name == config.name
    (result,) = data.eval_results
    assert (result.metric_type, result.metric_value) == ("accuracy", 71.0)
    assert (result.dataset_type, result.dataset_name, result.dataset_split) == ("makers/toys", "Toys", "test")


def test_a_card_contains_what_users_need(config: PublishedWeight) -> None:
    text = weight_card(config, REPO)
    for run in config.metrics.runs:
        assert f"| {run.ssia:.2f} | {run.vanilla:.2f} | {run.ssia - run.vanilla:+.2f} |" in text
    for expected in (
        f'"hf-hub:{REPO}"',
        f'model="{REPO}"',
        f"--config {config.name} ",
        "--method $method",
        "for seed in 0 1 2;",
        "arXiv 2206.07434",
        "reconstruction",
        "@article{wu2022ssia",
        "cc-by-4.0",
        "credit the toymaker",
        "https://example.org/toys",
        "0.5, 0.45, 0.4",
        "0.875",
        "bicubic",
        "3, 64, 64",
        "torch 2.15",
        "Out of scope",
        "Limitations",
        "As frozen features for other data, networks trained with this loss were mostly worse",
        *(f"`{name}`" for name in CLASSES),
    ):
        assert expected in text, expected
    assert "ORG" not in text
    assert "local-dir:FOLDER" in weight_card(config, None)


def test_a_card_does_not_depend_on_where_the_weight_was_published_before(config: PublishedWeight) -> None:
    published = replace(config, repo_id=REPO, revision="a" * 40, repo_sha256="b" * 64)
    assert weight_card(published, REPO) == weight_card(config, REPO)


def test_a_card_has_the_parts_of_timms_cards(config: PublishedWeight) -> None:
    text = weight_card(config, REPO)
    stats = model_stats("test_resnet", len(CLASSES), (3, 64, 64))
    for row in stats.rows():
        assert f"  {row}\n" in text
    for heading in ("Image classification", "Feature map extraction", "Image embeddings"):
        assert f"### {heading}" in text


def test_the_examples_of_a_card_run(config: PublishedWeight, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub_configs = tmp_path / "hub_configs"
    weight = write_toy_weight(hub_configs)
    folder = write_weight_folder(replace(weight, file=str(hub_configs / str(weight.file))), tmp_path / "FOLDER")
    Image.new("RGB", (80, 70)).save(tmp_path / "image.png")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 4
    results: dict[str, Any] = {}
    for block in blocks[:3]:  # the fourth is for transformers, which test_everyone_loads runs
        exec(block, results)
    assert results["probabilities"].shape == (1, len(CLASSES))
    assert results["embedding"].shape == (1, results["model"].num_features)


def test_data_and_base_model_are_links(config: PublishedWeight) -> None:
    dataset = replace(config.dataset, source="makers/toys")
    training = {**config.training, "pretrained": True, "model": "resnet18.a1_in1k"}
    text = weight_card(replace(config, dataset=dataset, training=training), REPO)
    assert "[makers/toys](https://huggingface.co/datasets/makers/toys)" in text
    assert "[timm/resnet18.a1_in1k](https://huggingface.co/timm/resnet18.a1_in1k)" in text
    assert ModelCard(text).data.to_dict()["base_model_relation"] == "finetune"
    assert "base_model_relation" not in ModelCard(weight_card(config, REPO)).data.to_dict()
    assert "huggingface.co/datasets" not in weight_card(config, REPO)


def test_the_client_reads_a_result_in_the_newer_format(config: PublishedWeight) -> None:
    written = eval_results(config)
    assert written is not None
    (entry,) = parse_eval_result_entries(yaml.safe_load(written))
    assert (entry.dataset_id, entry.task_id, entry.value) == ("makers/toys", "default", 71.0)
    about = "top-1, percent of 400 images of test at 64x64; seed 0 of 3 that were run; "
    assert entry.notes == f"{about}the control without SSIA reaches 70.50"
    other = replace(config, training={**config.training, "dataset_config": "small"})
    (entry,) = parse_eval_result_entries(yaml.safe_load(str(eval_results(other))))
    assert entry.task_id == "small"
    assert eval_results(replace(config, training={**config.training, "dataset": "digits"})) is None
    assert eval_results(replace(config, dataset=replace(config.dataset, unchanged=False))) is None


@pytest.mark.parametrize(
    ("model", "base"),
    [
        ("resnet18.a1_in1k", "timm/resnet18.a1_in1k"),
        ("resnet18", "timm/resnet18.a1_in1k"),
        ("hf-hub:org/name@main", "org/name"),
        ("local-dir:resnet18", None),
        ("test_resnet_ssia.toys_r64", None),
        ("resnet18.tag_of_ones_own", None),
    ],
)
def test_a_fine_tuned_weight_names_its_base_model(config: PublishedWeight, model: str, base: str | None) -> None:
    text = weight_card(replace(config, training={**config.training, "pretrained": True, "model": model}), REPO)
    assert ModelCard(text).data.base_model == base
    started = "the weights of a local folder, `resnet18`" if model.startswith("local-dir:") else f"`{model}`"
    assert f"Fine-tuned from {started}" in text
    assert "from scratch" not in text


def test_a_data_set_outside_the_hub_is_not_in_the_metadata(config: PublishedWeight) -> None:
    digits = replace(config, training={**config.training, "dataset": "digits"})
    data = ModelCard(weight_card(digits, REPO)).data
    assert data.datasets is None
    assert data.eval_results[0].dataset_type == "digits"


def test_many_classes_are_counted_not_listed(config: PublishedWeight) -> None:
    names = tuple(f"class {number}" for number in range(200))
    text = weight_card(replace(config, num_classes=200, label_names=names), REPO)
    assert "200 classes" in text
    assert "class 7" not in text


# --- What may be concluded --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scores", "expected", "absent"),
    [
        ([(71, 70)], ["at least three seeds, not 1", "No gain is claimed"], ["standard deviation", "t-interval"]),
        ([(71, 70), (72, 70)], ["at least three seeds, not 2", "standard deviation"], ["t-interval", "excludes"]),
        ([(71, 70), (70, 71), (72, 70)], ["interval spans zero", "show no difference"], ["scored higher"]),
        ([(73, 70), (73.2, 70.1), (72.9, 70)], ["excludes zero", "scored higher"], ["spans zero", "little room"]),
        ([(70, 73), (70.1, 73.2), (70, 72.9)], ["excludes zero", "scored **lower**"], ["spans zero"]),
        ([(70.3, 70.2), (70.4, 70.3), (70.5, 70.4)], ["All 3 differences are equal", "No gain"], ["t-interval"]),
        ([(99, 98), (98, 98.5), (99, 98)], ["spans zero", "little room for a gain"], ["scored higher"]),
        ([(99.2, 98), (99.2, 98.1), (99.1, 98)], ["scored higher", "little room for a gain"], ["spans zero"]),
    ],
)
def test_a_card_claims_no_more_than_the_runs_show(
    config: PublishedWeight, scores: list[tuple[float, float]], expected: list[str], absent: list[str]
) -> None:
    text = weight_card(with_runs(config, *scores), REPO)
    for words in expected:
        assert words in text, words
    for words in absent:
        assert words not in text, words


# --- A user's own run -------------------------------------------------------------------------------------------------


def run_card(**changes: Any) -> str:
    settings = {"model": "test_resnet", "dataset": "makers/toys", "seed": 3, "ssia": {"lambda_max": 1.0}}
    arguments: dict[str, Any] = {
        "architecture": "test_resnet",
        "method": "ssia",
        "settings": settings,
        "metrics": {"top1": 50.123, "top5": 90.0, "loss": 1.5},
        "eval_name": "test",
        "counts": {"images": 100, "unreadable_train": 0, "unreadable_eval": 0},
        "environment": {"torch": "2.15"},
        "base_model": None,
    }
    return training_card(**arguments | changes)


def test_the_hub_reads_the_metadata_of_a_run() -> None:
    data = ModelCard(run_card()).data
    assert data.library_name == "timm"
    assert data.datasets == ["makers/toys"]
    assert data.license is None  # only the owner of the run can grant one
    assert data.eval_results[0].metric_value == 50.12
    assert "ssia" in data.tags


def test_a_run_names_the_arguments_and_the_images_of_its_network() -> None:
    assert "A timm `test_resnet` trained with" in run_card()
    assert "convert(" not in run_card()
    assert "transformers" in ModelCard(run_card()).data.tags
    settings = {"model": "test_vit", "dataset": "makers/toys", "seed": 3, "in_chans": 1, "model_kwargs": {"depth": 2}}
    for method in ("ssia", "vanilla"):
        card = run_card(settings=settings, method=method, architecture="test_vit")
        assert "A timm `test_vit` with `depth=2` trained" in card
        assert 'takes images of mode L: use `image.convert("L")`' in card
        assert "transformers" not in ModelCard(card).data.tags, "its pipeline converts to RGB"


def test_a_card_of_a_training_that_goes_on_says_so() -> None:
    selection = {"best_epoch": 1, "evaluations": 1, "saved": "last", "stopped_early": False}
    assert "weights after the last step" in run_card(selection=selection)
    card = run_card(unfinished="step 3 of 9 (epoch 1 of 3)")
    assert "weights after step 3 of 9 (epoch 1 of 3); the training had not ended" in card
    assert "last step" not in card


def test_a_run_claims_no_gain_and_a_control_does_not_mention_ssia() -> None:
    assert "A single seed does not show a gain" in run_card()
    control = run_card(method="vanilla")
    assert "ssia" not in ModelCard(control).data.tags
    assert "reconstruction" not in control


def test_a_run_with_labels_at_its_heads_is_called_ssia_and_dsn() -> None:
    settings = {"model": "test_resnet", "dataset": "makers/toys", "seed": 3, "ssia": {"labels": 0.5}}
    card = run_card(settings=settings)
    assert "# test_resnet, SSIA + DSN-trained on makers/toys" in card
    assert "trained with SSIA + DSN (labels train the lower layers as well" in card
    assert "# test_resnet, label-free SSIA-trained on makers/toys" in run_card()
    assert "trained with the label-free SSIA loss" in run_card()
    settings["ssia"] = {"labels": 0.5, "handover": True}
    assert "labels train the lower layers with a decreasing share" in run_card(settings=settings)
    assert "earlier predictions" not in run_card(settings=settings)
    settings["ssia"] |= {"supervisor": "memory", "top": True}
    learners = "the lower layers and the final one learn from the average of the network's earlier predictions"
    assert learners in run_card(settings=settings)
    settings["ssia"] |= {"supervisor": "average", "top": False}
    learners = "the lower layers learn from the predictions of the moving average of the network's weights"
    assert learners in run_card(settings=settings)


@pytest.mark.parametrize(
    ("model", "base_model", "expected"),
    [
        ("resnet18.a1_in1k", "resnet18.a1_in1k", "timm/resnet18.a1_in1k"),
        ("hf-hub:org/name", "org/name", "org/name"),
        ("local-dir:resnet18", "resnet18", None),
    ],
)
def test_a_fine_tuned_run_names_its_base_model(model: str, base_model: str, expected: str | None) -> None:
    text = run_card(settings={"model": model, "dataset": "digits", "seed": 0}, base_model=base_model)
    assert ModelCard(text).data.base_model == expected
    assert f"Fine-tuned from `{base_model}`" in text


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        (
            {},
            "seed 3, weights of epoch 7, the best of 12 evaluations by top-1. These evaluations were on the images of",
        ),
        ({"stopped_early": True}, "seed 3, stopped early, weights of epoch 7, the best of 12 evaluations by top-1."),
        (
            {"stopped_early": True, "saved": "last"},
            "stopped early, weights after the last step; the best was epoch 7 of 12 evaluations by top-1.",
        ),
    ],
)
def test_a_score_by_which_weights_were_chosen_is_marked(changed: dict[str, Any], expected: str) -> None:
    selection = {"best_epoch": 7, "evaluations": 12, "saved": "best", "stopped_early": False, **changed}
    card = run_card(eval_name="validation", selection=selection)
    assert expected in card
    several = run_card(
        eval_name="validation",
        selection={**selection, "metric": "map"},
        metrics={"map": 61.0, "micro_f1": 50.0, "threshold": 0.5},
    )
    assert "of 12 evaluations by mAP." in several
    assert "| validation (chosen on it) | 100 | 50.12 |" in card
    assert "biased upwards" in card
    (result,) = ModelCard(card).data.eval_results
    assert (result.dataset_split, result.metric_name) == ("validation", "top-1 (chosen on these images)")


def test_a_score_that_chose_nothing_is_not_marked() -> None:
    assert "chosen" not in run_card()
    assert "weights after the last step." in run_card()


def test_the_commands_to_reproduce_name_folders_that_the_reader_must_have(config: PublishedWeight) -> None:
    local = {**config.training, "dataset": "shop", "model": "local-dir:bases/lite0", "eval_split": "test"}
    text = weight_card(replace(config, training=local), REPO)
    assert f"--config {config.name} --dataset DATA --model local-dir:BASE --method $method" in text
    assert f"ssia-zoo validate {config.name} --dataset DATA --eval-split test\n" in text
    assert f"- DATA: {config.dataset.name} from {config.dataset.source}, as in docs/finetune.md" in text
    assert "- BASE: the pretrained weights" in text
    assert "DATA" not in weight_card(config, REPO)
