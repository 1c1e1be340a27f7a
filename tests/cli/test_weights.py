"""The commands about published weights: list, info, fetch, publish."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
from huggingface_hub import CommitOperationAdd, HfApi

import ssia_zoo
from ssia_zoo.cli.main import main
from ssia_zoo.evaluation.identity import Check
from ssia_zoo.evaluation.verify import VerificationReport
from ssia_zoo.hub.folder import PUBLISHED_FILES, STATEMENT
from tests.helpers.commands import FULL, WEIGHT, Captured, failed_in_one_line
from tests.helpers.hub_server import HubServer
from tests.helpers.keys import write_key_pair
from tests.helpers.publishable_folder import contents, make_folder


def test_list_shows_a_weight_with_its_control(capsys: Captured) -> None:
    assert main(["list", "mobilenet*", "--dataset", "digits"]) == 0
    metrics = ssia_zoo.weights()[FULL].metrics
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith(FULL))
    for text in (f"{metrics.top1:.2f}", f"{metrics.control_top1:.2f}", "32×32", "embedded", "MB"):
        assert text in line


@pytest.mark.parametrize(("flags", "printed"), [([], ""), (["--json"], "[]\n")])
def test_list_reports_that_nothing_matches(flags: list[str], printed: str, capsys: Captured) -> None:
    assert main(["list", "nonesuch", *flags]) == 1
    out, err = capsys.readouterr()
    assert out == printed
    assert "no published weight matches" in err


def test_info_prints_what_json_prints(capsys: Captured) -> None:
    assert main(["info", WEIGHT, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["name"] == FULL
    assert main(["info", FULL]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    for text in (
        document["description"],
        document["dataset"]["terms"],
        document["reproduce"],
        document["sha256"],
        "reconstruction",
    ):
        assert text in printed


@pytest.mark.parametrize("command", ["info", "fetch"])
def test_an_unknown_weight_suggests_the_nearest(command: str, capsys: Captured) -> None:
    assert main([command, "mobilenetv3_smal_050_ssia"]) == 1
    assert WEIGHT in failed_in_one_line(capsys)


def test_fetch_prints_the_file_or_writes_a_folder_that_timm_loads(tmp_path: Path, capsys: Captured) -> None:
    assert main(["fetch", WEIGHT]) == 0
    assert Path(capsys.readouterr().out.strip()).name == f"{FULL}.safetensors"
    folder = tmp_path / "new" / "folder"
    assert main(["fetch", WEIGHT, "--out", str(folder)]) == 0
    assert Path(capsys.readouterr().out.strip()) == folder
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors", "README.md"}
    assert timm.create_model(f"local-dir:{folder}", pretrained=True).num_classes == 10


def test_fetch_into_a_file_fails(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "file").touch()
    assert main(["fetch", WEIGHT, "--out", str(tmp_path / "file")]) == 1
    assert str(tmp_path / "file") in failed_in_one_line(capsys)


def test_publish_all_prints_the_address_of_each_weight(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    asked = []

    def publish_all(
        org: str, *, private: bool, sign: object, repeat: str, replace: bool, done: Callable[[object], object]
    ) -> None:
        assert sign is None
        asked.append((org, private, replace, repeat))
        done("x: https://hub/org/x")

    def collect(org: str, *, private: bool, repeat: str) -> str:
        assert (org, private) == ("org", True)
        return "https://hub/collections/org/zoo"

    monkeypatch.setattr("ssia_zoo.models.release.publish_all", publish_all)
    monkeypatch.setattr("ssia_zoo.models.release.collect", collect)
    assert main(["publish", "--all", "--org", "org", "--private", "--replace"]) == 0
    assert asked == [("org", True, True, "ssia-zoo publish --all --org org --private --replace")]
    assert capsys.readouterr().out == "x: https://hub/org/x\ncollection: https://hub/collections/org/zoo\n"


def test_publish_prints_the_address(
    hub: HubServer, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    assert main(["publish", str(folder), "org/name"]) == 0
    assert hub.url in capsys.readouterr().out


def test_publish_without_a_token_fails_in_one_line_with_the_command_to_repeat(
    hub: HubServer, folder: Path, capsys: Captured
) -> None:
    assert main(["publish", str(folder), "org/name"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("error: ")
    assert "ssia-zoo publish" in err


def test_fetch_replaces_a_fetched_weight_and_no_other_folder(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "README.md").write_text("my notes")
    assert main(["fetch", WEIGHT, "--out", str(tmp_path / "mine")]) == 1
    assert "--out" in (message := failed_in_one_line(capsys))
    assert f"is not empty and holds something else than {FULL}" in message
    assert (tmp_path / "mine" / "README.md").read_text() == "my notes"
    assert main(["fetch", WEIGHT, "--out", str(tmp_path / "weight")]) == 0
    assert main(["fetch", WEIGHT, "--out", str(tmp_path / "weight")]) == 0
    before = contents(make_folder(tmp_path / "run"))  # a training run, whose weights would be lost
    assert main(["fetch", WEIGHT, "--out", str(tmp_path / "run")]) == 1
    assert contents(tmp_path / "run") == before


def test_a_signed_publication_passes_the_check_of_its_readers(
    hub: HubServer, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    private, public = write_key_pair(tmp_path / "keys")
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    before = contents(folder)
    assert main(["publish", str(folder), "org/name", "--sign", str(private)]) == 0
    assert hub.url in capsys.readouterr().out
    assert contents(folder) == before
    assert set(hub.repos["org/name"].resolve("main").files) == {*PUBLISHED_FILES, STATEMENT}
    assert main(["verify", "hf-hub:org/name", "--check", str(public)]) == 0
    assert "passed   signature" in capsys.readouterr().out
    secret = "".join(private.read_text().splitlines()[1:-1])
    assert not [
        blob for blob in hub.repos["org/name"].resolve("main").files.values() if secret.encode() in blob.content
    ]


def test_nothing_is_published_if_it_cannot_be_signed(
    hub: HubServer, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    private, public = write_key_pair(tmp_path / "keys")
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    assert main(["publish", str(folder), "org/name", "--sign", str(public)]) == 1
    assert "is not a private key" in failed_in_one_line(capsys)
    failing = Check("graph", "failed", "node 7 is relu")
    monkeypatch.setattr(
        "ssia_zoo.evaluation.attestation.verify", lambda target, data: VerificationReport(target, (failing,))
    )
    assert main(["publish", str(folder), "org/name", "--sign", str(private)]) == 1
    assert "fails verification (graph: node 7 is relu); nothing is published" in failed_in_one_line(capsys)
    assert hub.repos == {}


def test_a_model_is_not_signed_into_a_repository_with_other_files(
    hub: HubServer, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    private, public = write_key_pair(tmp_path / "keys")
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    assert main(["publish", str(folder), "org/name"]) == 0
    add = CommitOperationAdd(path_in_repo="notes.txt", path_or_fileobj=b"mine")
    HfApi(token="hf_good").create_commit("org/name", [add], commit_message="notes")
    assert main(["publish", str(folder), "org/name", "--sign", str(private)]) == 1
    assert "also holds notes.txt, which the signed statement does not cover" in capsys.readouterr().err
    assert STATEMENT not in hub.repos["org/name"].resolve("main").files
    assert main(["publish", str(folder), "org/other", "--sign", str(private)]) == 0
    assert main(["verify", "hf-hub:org/other", "--check", str(public)]) == 0


def test_another_model_is_replaced_by_a_flag_only(
    hub: HubServer, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    api = HfApi(token="hf_good")
    api.create_repo("org/bert")
    bert = CommitOperationAdd(path_in_repo="config.json", path_or_fileobj=b'{"model_type": "bert"}')
    api.create_commit("org/bert", [bert], commit_message="bert")
    assert main(["publish", str(folder), "org/bert"]) == 1
    assert "org/bert holds another model (model_type bert); choose another name, or publish with --replace" in (
        failed_in_one_line(capsys)
    )
    assert main(["publish", str(folder), "org/bert", "--replace"]) == 0
    assert hub.file("org/bert", "config.json") == (folder / "config.json").read_bytes()


def test_a_signed_publication_keeps_the_metadata_of_the_repository(
    hub: HubServer, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    private, public = write_key_pair(tmp_path / "keys")
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    assert main(["publish", str(folder), "org/name", "--sign", str(private)]) == 0
    card = hub.file("org/name", "README.md").replace(b"---\n", b"---\nextra_gated_prompt: Be kind.\n", 1)
    change = CommitOperationAdd(path_in_repo="README.md", path_or_fileobj=card)
    HfApi(token="hf_good").create_commit("org/name", [change], commit_message="gated")
    capsys.readouterr()
    assert main(["publish", str(folder), "org/name", "--sign", str(private)]) == 0
    assert b"extra_gated_prompt: Be kind." in hub.file("org/name", "README.md")
    assert main(["verify", "hf-hub:org/name", "--check", str(public)]) == 0
