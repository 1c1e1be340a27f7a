"""Signed statements: an untouched model passes, and each change of files, statement or key is refused by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import HfApi

from ssia_zoo import hub as zoo_hub
from ssia_zoo.cli.main import main
from ssia_zoo.errors import ConfigError, HubError, WeightError
from ssia_zoo.evaluation.attestation import check_model, sign_model
from ssia_zoo.evaluation.signature import open_envelope, read_private_key, read_public_key, write_envelope
from ssia_zoo.evaluation.verify import CHECKS, VerificationReport
from ssia_zoo.hub.folder import STATEMENT
from tests.helpers.colours import NAMES, stored
from tests.helpers.commands import Captured, failed_in_one_line
from tests.helpers.hub_server import HubServer
from tests.helpers.keys import write_key_pair
from tests.helpers.publishable_folder import contents, edit_config, edit_weights, make_folder

Keys = tuple[Path, Path]


def statuses(report: VerificationReport) -> dict[str, str]:
    return {check.name: check.status for check in report.checks}


def detail(report: VerificationReport, name: str) -> str:
    return next(check.detail for check in report.checks if check.name == name)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return write_key_pair(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def signed_once(tmp_path_factory: pytest.TempPathFactory, keys: Keys) -> Path:
    folder = make_folder(tmp_path_factory.mktemp("signed") / "model")
    report, path = sign_model(str(folder), keys[0])
    assert report.ok
    assert path == folder / STATEMENT
    return folder


@pytest.fixture
def signed(signed_once: Path, tmp_path: Path) -> Path:
    """A signed folder that a test may change."""
    return Path(shutil.copytree(signed_once, tmp_path / "copy"))


def payload(folder: Path, keys: Keys) -> dict:
    return json.loads(open_envelope(folder / STATEMENT, read_public_key(keys[1])))


# --- Untouched --------------------------------------------------------------------------------------------------------


def test_a_copied_model_passes_with_the_signers_key(signed: Path, keys: Keys) -> None:
    report = check_model(str(signed), keys[1])
    assert report.ok
    names = ("signature", "files", *CHECKS, "statement")
    skipped = {"sha256": "skipped", "top1": "skipped"}
    assert statuses(report) == {name: "passed" for name in names} | skipped


def test_a_statement_is_in_totos_and_names_every_file(signed: Path, keys: Keys) -> None:
    statement = payload(signed, keys)
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "https://in-toto.io/attestation/test-result/v0.1"
    files = {subject["name"]: subject["digest"]["sha256"] for subject in statement["subject"]}
    expected = contents(signed).keys() - {STATEMENT}
    assert files == {name: zoo_hub.file_sha256(signed / name) for name in expected}
    assert statement["predicate"]["passedTests"] == ["loads", "state_dict", "parameters", "flops", "graph"]
    model = statement["predicate"]["model"]
    assert (model["architecture"], model["num_classes"]) == ("test_resnet", 7)
    assert str(signed.parent) not in json.dumps(statement)


def test_signing_again_writes_the_same_statement(signed: Path, keys: Keys) -> None:
    before = (signed / STATEMENT).read_bytes()
    sign_model(str(signed), keys[0])
    assert (signed / STATEMENT).read_bytes() == before


def test_files_of_git_and_of_the_client_are_no_part_of_a_model(signed: Path, keys: Keys) -> None:
    (signed / ".git").mkdir()
    (signed / ".git" / "HEAD").write_text("ref: refs/heads/main")
    (signed / ".gitattributes").write_text("*.safetensors filter=lfs")
    assert check_model(str(signed), keys[1]).ok


def test_a_repository_is_signed_and_checked_with_all_its_files(
    hub: HubServer, folder: Path, keys: Keys, tmp_path: Path
) -> None:
    zoo_hub.publish(folder, "org/model", token="hf_good")
    with pytest.raises(ConfigError, match="`statement` is needed to sign hf-hub:org/model"):
        sign_model("hf-hub:org/model", keys[0])
    report, path = sign_model("hf-hub:org/model", keys[0], statement=tmp_path / "statement")
    assert report.ok
    assert report.target == "hf-hub:org/model"
    api = HfApi(token="hf_good")
    api.upload_file(path_or_fileobj=path, path_in_repo=STATEMENT, repo_id="org/model")
    assert check_model("hf-hub:org/model", keys[1]).ok
    api.upload_file(path_or_fileobj=b"x", path_in_repo="more/tensors.bin", repo_id="org/model")
    assert detail(check_model("hf-hub:org/model", keys[1]), "files") == "not in the statement: more/tensors.bin"


def test_a_repository_that_cannot_be_fetched_is_an_error(hub: HubServer, keys: Keys) -> None:
    with pytest.raises(HubError, match="cannot fetch org/absent: org/absent does not exist"):
        check_model("hf-hub:org/absent", keys[1])
    with pytest.raises(HubError, match="is not a revision"):
        check_model("hf-hub:org/absent@../x", keys[1])


# --- Changed ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda f: edit_weights(f, lambda t: t["fc.bias"].add_(1)), "changed: model.safetensors"),
        (lambda f: (f / "README.md").write_text("better"), "changed: README.md"),
        (lambda f: (f / "README.md").unlink(), "missing: README.md"),
        (lambda f: (f / "checkpoints" / "last.bin").unlink(), "missing: checkpoints/last.bin"),
        (lambda f: (f / "code.py").write_text("import os"), "not in the statement: code.py"),
        (lambda f: (f / "log.jsonl").rename(f / "moved.jsonl"), "missing: log.jsonl; not in the statement: moved"),
    ],
)
def test_changed_missing_and_additional_files_are_named_and_nothing_is_loaded(
    signed: Path, keys: Keys, damage: Callable[[Path], object], expected: str
) -> None:
    damage(signed)
    report = check_model(str(signed), keys[1])
    assert not report.ok
    names = ("signature", "files", *CHECKS, "statement")
    assert statuses(report) == {name: "skipped" for name in names} | {"signature": "passed", "files": "failed"}
    assert detail(report, "files").startswith(expected)


def test_another_key_is_refused(signed: Path, tmp_path: Path) -> None:
    _, other = write_key_pair(tmp_path / "other")
    report = check_model(str(signed), other)
    assert report.failed == "signature"
    assert "not by this key" in detail(report, "signature")
    assert set(statuses(report).values()) == {"failed", "skipped"}


def test_a_changed_statement_is_refused(signed: Path, keys: Keys) -> None:
    path = signed / STATEMENT
    envelope = json.loads(path.read_text())
    envelope["payload"] = ("A" if envelope["payload"][0] != "A" else "B") + envelope["payload"][1:]
    path.write_text(json.dumps(envelope))
    assert "has changed since" in detail(check_model(str(signed), keys[1]), "signature")


def resign(folder: Path, keys: Keys, change: Callable[[dict], object]) -> None:
    statement = payload(folder, keys)
    change(statement)
    write_envelope(json.dumps(statement).encode(), read_private_key(keys[0]), folder / STATEMENT)


@pytest.mark.parametrize(
    ("fact", "value"), [("parameters", 1), ("flops", 1), ("tensors_sha256", "0" * 64), ("architecture", "resnet18")]
)
def test_a_signed_fact_that_is_not_found_again_fails(signed: Path, keys: Keys, fact: str, value: object) -> None:
    resign(signed, keys, lambda statement: statement["predicate"]["model"].update({fact: value}))
    report = check_model(str(signed), keys[1])
    assert report.failed == "statement"
    assert f"{fact} is " in detail(report, "statement")
    assert f"the statement says {value}" in detail(report, "statement")


def test_flops_of_other_versions_are_not_compared_and_that_is_reported(signed: Path, keys: Keys) -> None:
    def change(statement: dict) -> None:
        statement["predicate"]["configuration"][2]["uri"] = "pkg:pypi/torch@1.0"
        statement["predicate"]["model"]["flops"] = 1

    resign(signed, keys, change)
    report = check_model(str(signed), keys[1])
    assert report.ok
    assert "FLOPs and graph size not compared: signed with" in detail(report, "statement")
    assert "torch@1.0" in detail(report, "statement")


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s.update(predicateType="https://model_signing/signature/v1.0"),
        lambda s: s.pop("subject"),
        lambda s: s["subject"].append({"name": "x", "digest": {"sha256": "short"}}),
        lambda s: s["predicate"].update(result="FAILED"),
        lambda s: s["predicate"]["model"].update(parameters="many"),
    ],
)
def test_a_signed_statement_of_another_kind_is_refused(
    signed: Path, keys: Keys, change: Callable[[dict], object]
) -> None:
    resign(signed, keys, change)
    report = check_model(str(signed), keys[1])
    assert report.failed == "signature"
    assert "is signed, but is not a statement of ssia-zoo" in detail(report, "signature")


def test_links_to_folders_and_odd_names_are_refused(signed: Path, keys: Keys, tmp_path: Path) -> None:
    (signed / "linked").symlink_to(tmp_path)
    with pytest.raises(WeightError, match=r"linked in .* is a link to a folder"):
        check_model(str(signed), keys[1])
    (signed / "linked").unlink()
    (signed / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(WeightError, match=r"dangling in .* is not a file"):
        sign_model(str(signed), keys[0])


# --- What is not signed -----------------------------------------------------------------------------------------------


def test_a_model_that_fails_is_not_signed(folder: Path, keys: Keys, capsys: Captured) -> None:
    edit_config(folder, lambda config: config.update(num_classes=9))
    assert main(["verify", str(folder), "--sign", str(keys[0])]) == 1
    out, err = capsys.readouterr()
    assert "FAILED: loads" in out
    assert err == "not signed: loads failed\n"
    assert not (folder / STATEMENT).exists()


def test_a_private_key_in_the_folder_is_refused_whichever_key_signs(folder: Path, keys: Keys) -> None:
    inside, _ = write_key_pair(folder / "checkpoints")
    for key in (inside, keys[0]):
        with pytest.raises(WeightError, match="so that it is never published") as refused:
            sign_model(str(folder), key)
        assert "checkpoints/key.pem" in str(refused.value)
    assert not (folder / STATEMENT).exists()


def test_only_a_statement_is_overwritten(folder: Path, keys: Keys) -> None:
    before = contents(folder)
    for path in (folder / "config.json", folder / "model.safetensors", folder, keys[0]):
        with pytest.raises(ConfigError, match="exists and is no signed statement"):
            sign_model(str(folder), keys[0], statement=path)
    assert contents(folder) == before
    assert keys[0].is_file()


def test_no_output_holds_the_private_key(signed: Path, keys: Keys, caplog: pytest.LogCaptureFixture) -> None:
    secret = "".join(keys[0].read_text().splitlines()[1:-1])
    report, path = sign_model(str(signed), keys[0])
    assert path is not None
    for text in (str(report), json.dumps(report.to_dict()), path.read_text(), caplog.text):
        assert secret[10:40] not in text


# --- Top-1 ------------------------------------------------------------------------------------------------------------


def test_a_measured_top1_is_signed_and_measured_again(tmp_path: Path, keys: Keys) -> None:
    data = stored(tmp_path / "colours", NAMES, NAMES)
    folder = make_folder(tmp_path / "model")
    edit_config(folder, lambda config: config.update(num_classes=3))
    edit_weights(folder, lambda t: t.update({k: t[k][:3].clone() for k in ("fc.weight", "fc.bias")}))
    sign_model(str(folder), keys[0], data=data)
    top1 = payload(folder, keys)["predicate"]["top1"]
    assert top1["dataset"] == "colours"  # not the path
    again = check_model(str(folder), keys[1], data=data)
    assert again.ok
    assert f"signed {top1['top1']:.2f} % of {top1['images']} images of colours, measured" in detail(again, "statement")
    assert "not measured again" in detail(check_model(str(folder), keys[1]), "statement")
    resign(folder, keys, lambda s: s["predicate"]["top1"].update(top1=200.0))
    assert check_model(str(folder), keys[1], data=data).failed == "statement"
    resign(folder, keys, lambda s: s["predicate"]["top1"].update(top1=top1["top1"], images=top1["images"] + 1))
    assert check_model(str(folder), keys[1], data=data).failed == "statement"


# --- The command ------------------------------------------------------------------------------------------------------


def test_the_command_signs_and_checks(folder: Path, keys: Keys, tmp_path: Path, capsys: Captured) -> None:
    where = ["--statement", str(tmp_path / "statement")]
    assert main(["verify", str(folder), "--sign", str(keys[0]), *where]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"signed: {tmp_path / 'statement'}"
    assert not (folder / STATEMENT).exists()
    assert main(["verify", str(folder), "--check", str(keys[1]), *where, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ok"] is True


@pytest.mark.parametrize(
    ("flags", "status", "expected"),
    [
        (["--sign", "{pem}", "--check", "{pub}"], 2, "--sign and --check exclude each other"),
        (["--statement", "x"], 2, "--statement needs --sign or --check"),
        (["--check", "{pub}"], 1, "there is no signed statement"),
        (["--check", "{pem}"], 1, "is a private key"),
        (["--sign", "{pub}"], 1, "--sign {pub}: is not a private key"),
        (["--sign", "{pem}", "--statement", "/no/such/folder/x"], 1, "there is no folder /no/such/folder"),
    ],
)
def test_bad_input_fails_in_one_line(
    folder: Path, keys: Keys, flags: list[str], status: int, expected: str, capsys: Captured
) -> None:
    names = {"pem": keys[0], "pub": keys[1]}
    assert main(["verify", str(folder), *(flag.format(**names) for flag in flags)]) == status
    assert expected.format(**names) in failed_in_one_line(capsys)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("mobilenetv3_small_050_ssia", "is a published weight, not a folder; write it into one by ssia-zoo fetch"),
        ("./nowhere", "there is no folder './nowhere'"),
        ("", "there is no folder ''"),
    ],
)
def test_only_folders_and_repositories_are_signed(target: str, expected: str, keys: Keys) -> None:
    with pytest.raises(ConfigError, match=expected):
        sign_model(target, keys[0])
