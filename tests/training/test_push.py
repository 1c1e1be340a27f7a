"""Runs that publish: what is uploaded and when; failures of the Hub never fail a run."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from huggingface_hub import constants

from ssia_zoo.training import parse_config, train
from ssia_zoo.training.loop import TrainResult
from tests.helpers.hub_server import HubServer
from tests.helpers.runs import flags

PUBLISHED = {"config.json", "model.safetensors", "README.md", ".gitattributes"}


def pushed_run(folder: Path, repo: str = "org/name", **settings: object) -> TrainResult:
    return train(parse_config(flags(output_dir=folder, push_to_hub=True, hub_model_id=repo, **settings)))


@pytest.mark.covers("push_to_hub", "hub_model_id", "hub_private")
def test_the_result_goes_up_and_nothing_else_does(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    result = pushed_run(tmp_path / "run", hub_private=True)
    assert hub.file("org/name", "model.safetensors") == (result.folder / "model.safetensors").read_bytes()
    card = (result.folder / "README.md").read_text()
    assert "hf-hub:ORG/NAME" in card, "it may be published elsewhere, too"
    assert hub.file("org/name", "README.md").decode() == card.replace("ORG/NAME", "org/name")
    uploaded = {file for revision in hub.repos["org/name"].commits.values() for file in revision.files}
    assert uploaded <= PUBLISHED
    assert hub.repos["org/name"].private


@pytest.mark.covers("push_every")
def test_push_every_publishes_during_training(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    result = pushed_run(tmp_path / "run", push_every=1, epochs=3)
    titles = [commit.title for commit in hub.repos["org/name"].commits.values()]
    assert any("epoch" in title for title in titles)
    commits = hub.repos["org/name"].commits.values()
    during, after = ([c for c in commits if c.title.startswith(how)][-1] for how in ("epoch", "Upload"))
    assert "; the training had not ended" in during.files["README.md"].content.decode()
    assert "weights after the last step" in after.files["README.md"].content.decode()
    assert "hf-hub:org/name" in after.files["README.md"].content.decode()
    assert hub.file("org/name", "model.safetensors") == (result.folder / "model.safetensors").read_bytes()
    assert not list(result.folder.glob(".push-*"))


@pytest.mark.usefixtures("impatient_client")
@pytest.mark.parametrize("trouble", ["bad token", "no token", "not my namespace", "dead", "dies while uploading"])
def test_a_run_never_fails_because_of_the_hub(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, trouble: str
) -> None:
    if trouble != "no token":
        monkeypatch.setenv("HF_TOKEN", "hf_bad" if trouble == "bad token" else "hf_good")
    if trouble == "dead":
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    if trouble == "dies while uploading":
        hub.die_after_bytes = 1000
    repo = "bob/name" if trouble == "not my namespace" else "org/name"
    with caplog.at_level(logging.INFO, logger="ssia_zoo"):
        result = pushed_run(tmp_path / "run", repo, push_every=1)
    assert (result.folder / "model.safetensors").exists()
    warnings = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    assert f"ssia-zoo publish {result.folder} {repo}" in warnings[-1]
    if trouble != "dies while uploading":  # which passes the check at the start
        assert "training can go on" in warnings[0]
    assert "hf_" not in caplog.text.replace("train_hf", "").replace("hf_home", ""), "no token in a log"


@pytest.mark.slow
def test_a_hub_that_never_answers_does_not_hold_the_run(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    monkeypatch.setattr("ssia_zoo.hub.upload.ACCESS_TIMEOUT", 0.2)
    monkeypatch.setattr("ssia_zoo.training.folder._PUSH_SECONDS", 0.5)
    hub.delay = 3600.0
    try:
        with caplog.at_level(logging.INFO, logger="ssia_zoo"):
            result = pushed_run(tmp_path / "run")
    finally:
        hub.delay = 0.0
    assert (result.folder / "model.safetensors").exists()
    assert f"repeat with: ssia-zoo publish {result.folder} org/name" in caplog.text
