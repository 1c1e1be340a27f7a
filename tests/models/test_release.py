"""Publishing all weights: what is uploaded, what is recorded in the JSON files, and how a repetition behaves."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import CommitOperationAdd, HfApi, ModelCard
from safetensors.torch import load_file

from ssia_zoo.cli import main
from ssia_zoo.errors import ConfigError, HubError, WeightError
from ssia_zoo.evaluation.attestation import check_model, sign_folder
from ssia_zoo.evaluation.verify import verify
from ssia_zoo.hub import PUBLISHED_FILES, check_folder, fetch
from ssia_zoo.hub.folder import EVAL_RESULTS
from ssia_zoo.models.registry import weights
from ssia_zoo.models.release import COLLECTION, Published, collect, publish_all, write_weight_folder
from ssia_zoo.models.weight import read_published_weight, read_published_weights
from ssia_zoo.resources import resource_dir
from tests.helpers.hub_server import HubServer
from tests.helpers.keys import write_key_pair
from tests.helpers.publishable_folder import contents
from tests.helpers.toy_weight import CLASSES, write_toy_weight

SECRET = "hf_good"
SMALL, LARGE = "test_resnet_ssia.toys_r64", "test_vit_ssia.toys_r64"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "hub_configs"
    write_toy_weight(folder, "test_resnet")
    write_toy_weight(folder, "test_vit")
    return folder


@pytest.fixture
def hub_configs(made: Path, tmp_path: Path) -> Path:
    """Two weights in a new folder."""
    folder = tmp_path / "hub_configs"
    folder.mkdir()
    for path in made.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def commits(repo_id: str) -> list[str]:
    return [commit.commit_id for commit in HfApi().list_repo_commits(repo_id)]


# --- A weight as a folder ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [SMALL, LARGE])
def test_a_weight_becomes_a_folder_that_plain_timm_loads(hub_configs: Path, tmp_path: Path, name: str) -> None:
    config = read_published_weight(hub_configs / f"{name}.json")
    half = hub_configs / str(config.file)
    folder = write_weight_folder(replace(config, file=str(half)), tmp_path / "new" / "out")
    check_folder(folder)
    assert set(contents(folder)) == {*PUBLISHED_FILES, EVAL_RESULTS}

    model = timm.create_model(f"local-dir:{folder}", pretrained=True)
    stored = load_file(half)
    assert all(tensor.dtype == torch.float32 for tensor in model.parameters())
    assert all(torch.equal(tensor, stored[key].to(tensor.dtype)) for key, tensor in model.state_dict().items())
    assert model.pretrained_cfg["input_size"] == (3, 64, 64)
    assert model.pretrained_cfg["interpolation"] == "bicubic"

    described = json.loads((folder / "config.json").read_text())
    assert described["architecture"] == config.architecture
    assert described["label_names"] == list(CLASSES)
    assert described["ssia"]["name"] == name
    assert described["ssia"]["training"] == config.training
    assert described["ssia"]["runs"][1] == {"seed": 1, "ssia": 70.0, "vanilla": 70.75}
    assert ModelCard.load(folder / "README.md").data.model_name == name


def test_every_shipped_weight_becomes_a_publishable_folder(tmp_path: Path) -> None:
    for name, config in weights().items():
        check_folder(write_weight_folder(config, tmp_path / name))


def test_the_same_weight_gives_the_same_bytes(hub_configs: Path, tmp_path: Path) -> None:
    config = read_published_weight(hub_configs / f"{SMALL}.json")
    config = replace(config, file=str(hub_configs / str(config.file)))
    published = replace(config, repo_id="org/x", revision="a" * 40, repo_sha256="b" * 64)
    first = contents(write_weight_folder(config, tmp_path / "first", repo_id="org/x"))
    torch.manual_seed(99)
    assert contents(write_weight_folder(published, tmp_path / "second", repo_id="org/x")) == first


def test_a_file_that_is_not_the_described_weight_is_refused(hub_configs: Path, tmp_path: Path) -> None:
    config = read_published_weight(hub_configs / f"{SMALL}.json")
    path = hub_configs / str(config.file)
    config = replace(config, file=str(path))
    with pytest.raises(WeightError, match="does not hold a test_resnet of 4 classes") as refused:
        write_weight_folder(replace(config, num_classes=4, label_names=CLASSES[:4]), tmp_path / "out")
    assert "\n" not in str(refused.value)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(WeightError, match="sha256"):
        write_weight_folder(config, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_created_is_reported_in_one_line(made: Path, tmp_path: Path) -> None:
    config = read_published_weight(made / f"{SMALL}.json")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot create the folder"):
        write_weight_folder(replace(config, file=str(made / str(config.file))), tmp_path / "file")


# --- Publishing -------------------------------------------------------------------------------------------------------


def test_every_weight_is_published_and_recorded_in_its_json(hub: HubServer, hub_configs: Path) -> None:
    before = {path.name: path.read_text() for path in hub_configs.glob("*.json")}
    published = publish_all("org", token=SECRET, endpoint=hub.url, hub_configs=hub_configs)
    assert [item.name for item in published] == [SMALL, LARGE]
    for item in published:
        assert item.repo_id == f"org/{item.name}"
        commit = hub.repos[item.repo_id].resolve(item.revision)
        assert {"config.json", "model.safetensors", "README.md"} <= set(commit.files)
        assert f"hf-hub:{item.repo_id}" in commit.files["README.md"].content.decode()
        assert commit.files["model.safetensors"].sha256 == item.repo_sha256
        assert item.url in str(item)
        fetch(item.repo_id, "model.safetensors", revision=item.revision, sha256=item.repo_sha256)

        # Only the three fields of the JSON differ.
        path = hub_configs / f"{item.name}.json"
        expected = before[path.name]
        for field, value in (
            ("repo_id", item.repo_id),
            ("revision", item.revision),
            ("repo_sha256", item.repo_sha256),
        ):
            expected = expected.replace(f'"{field}": null', f'"{field}": "{value}"')
        assert path.read_text() == expected
    assert not [path for path in hub_configs.iterdir() if path.name.startswith(".")]
    read_published_weights(hub_configs)


def test_the_hub_reads_card_and_results(hub: HubServer, hub_configs: Path) -> None:
    (item,) = publish_all("org", token=SECRET, names=[SMALL], hub_configs=hub_configs)
    ModelCard(hub.file(item.repo_id, "README.md").decode()).validate()  # by the client, which asks the Hub
    info = HfApi(endpoint=hub.url).model_info(item.repo_id, expand=["evalResults", "cardData"])
    (result,) = info.eval_results
    assert (result.dataset_id, result.value) == ("makers/toys", 71.0)
    assert info.card_data is not None
    assert info.card_data.eval_results[0].metric_value == 71.0


def test_every_weight_is_signed_on_request_and_publishing_again_changes_nothing(
    hub: HubServer, hub_configs: Path, tmp_path: Path
) -> None:
    private, public = write_key_pair(tmp_path / "keys")
    sign = partial(sign_folder, key=private)
    (item,) = publish_all("org", token=SECRET, names=[SMALL], hub_configs=hub_configs, sign=sign)
    report = check_model(f"hf-hub:{item.repo_id}", public)
    assert report.ok, report
    assert publish_all("org", token=SECRET, names=[SMALL], hub_configs=hub_configs, sign=sign) == [item]


def test_a_weight_whose_data_is_not_on_the_hub_has_no_results_there(hub: HubServer, tmp_path: Path) -> None:
    folder = tmp_path / "hub_configs"
    weight = write_toy_weight(folder, training={"model": "test_resnet", "dataset": "digits"})
    (item,) = publish_all("org", token=SECRET, hub_configs=folder)
    assert set(hub.repos[item.repo_id].resolve("main").files) == set(PUBLISHED_FILES)
    written = write_weight_folder(replace(weight, file=str(folder / str(weight.file))), tmp_path / "out")
    (written / EVAL_RESULTS).parent.mkdir()
    (written / EVAL_RESULTS).write_text("- of another weight")
    write_weight_folder(replace(weight, file=str(folder / str(weight.file))), written)
    assert not (written / EVAL_RESULTS).exists()


def test_all_weights_of_the_organization_are_collected(hub: HubServer, hub_configs: Path) -> None:
    publish_all("org", token=SECRET, hub_configs=hub_configs)
    url = collect("org", token=SECRET, hub_configs=hub_configs)
    (collection,) = hub.collections.values()
    assert url == f"{hub.url}/collections/{collection['slug']}"
    assert collection["title"] == COLLECTION
    notes = {item["id"]: item["note"]["text"] for item in collection["items"]}
    assert set(notes) == {f"org/{SMALL}", f"org/{LARGE}"}
    assert notes[f"org/{SMALL}"].startswith("Toys, 64x64: top-1 71.00 %, without SSIA 70.50 % (seed 0 of 3;")
    assert collect("org", token=SECRET, hub_configs=hub_configs) == url
    assert len(hub.collections) == 1


def test_publishing_again_changes_nothing(hub: HubServer, hub_configs: Path) -> None:
    first = publish_all("org", token=SECRET, hub_configs=hub_configs)
    history = {item.repo_id: commits(item.repo_id) for item in first}
    files = contents(hub_configs)
    times = {path: path.stat().st_mtime_ns for path in hub_configs.iterdir()}
    assert publish_all("org", token=SECRET, hub_configs=hub_configs) == first
    assert {item.repo_id: commits(item.repo_id) for item in first} == history
    assert contents(hub_configs) == files
    assert {path: path.stat().st_mtime_ns for path in hub_configs.iterdir()} == times


def test_a_changed_description_gives_a_new_commit_and_the_json_follows(hub: HubServer, hub_configs: Path) -> None:
    (before,) = publish_all("org", token=SECRET, names=[SMALL], hub_configs=hub_configs)
    path = hub_configs / f"{SMALL}.json"
    path.write_text(path.read_text().replace("a toy of random values", "a toy, described again"))
    (after,) = publish_all("org", token=SECRET, names=[SMALL], hub_configs=hub_configs)
    assert after.revision != before.revision
    assert after.repo_sha256 == before.repo_sha256
    assert read_published_weight(path).revision == after.revision
    assert "described again" in hub.file(after.repo_id, "README.md", after.revision).decode()


@pytest.mark.usefixtures("impatient_client")
def test_a_second_call_continues_after_a_failure(hub: HubServer, hub_configs: Path) -> None:
    sizes = {name: (hub_configs / f"{name}.safetensors").stat().st_size for name in (SMALL, LARGE)}
    order = sorted(sizes, key=lambda name: sizes[name])
    hub.die_after_bytes = sum(sizes.values())  # float32 doubles the size, so only the smaller weight passes
    with pytest.raises(HubError) as failed:
        publish_all("org", token=SECRET, names=order, hub_configs=hub_configs)
    assert "\n" not in str(failed.value)
    assert str(failed.value).endswith("repeat with: the same call of publish_all")
    recorded = read_published_weight(hub_configs / f"{order[0]}.json")
    assert recorded.revision is not None
    assert read_published_weight(hub_configs / f"{order[1]}.json").revision is None

    with HubServer(tokens=hub.tokens, orgs=hub.orgs) as revived:
        revived.repos, revived.lfs = hub.repos, hub.lfs
        published = publish_all("org", token=SECRET, endpoint=revived.url, names=order, hub_configs=hub_configs)
        assert [item.name for item in published] == order
        assert published[0].revision == recorded.revision
        assert len(revived.repos[published[0].repo_id].commits) == 2  # the initial one and the upload
        assert read_published_weight(hub_configs / f"{order[1]}.json").revision == published[1].revision


def test_a_damaged_weight_is_not_uploaded_and_the_others_were_reported(hub: HubServer, hub_configs: Path) -> None:
    path = hub_configs / f"{LARGE}.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    done: list[Published] = []
    with pytest.raises(WeightError, match="sha256"):
        publish_all("org", token=SECRET, hub_configs=hub_configs, done=done.append)
    assert list(hub.repos) == [f"org/{SMALL}"]
    assert [item.name for item in done] == [SMALL]


def test_another_model_is_replaced_on_request_only(hub: HubServer, hub_configs: Path) -> None:
    api = HfApi(token=SECRET)
    api.create_repo(f"org/{SMALL}")
    other = CommitOperationAdd(path_in_repo="config.json", path_or_fileobj=b'{"model_type": "bert"}')
    api.create_commit(f"org/{SMALL}", [other], commit_message="bert")
    with pytest.raises(HubError, match="holds another model"):
        publish_all("org", token=SECRET, names=[SMALL], hub_configs=hub_configs)
    (item,) = publish_all("org", token=SECRET, names=[SMALL], hub_configs=hub_configs, replace=True)
    assert b"test_resnet" in hub.file(item.repo_id, "config.json")


def test_it_is_said_which_json_refers_to_which_repository_and_to_which_before(
    hub: HubServer, hub_configs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "ssia_zoo.models.release")
    path = hub_configs / f"{SMALL}.json"
    (first,) = publish_all("org", token=SECRET, names=[SMALL], hub_configs=hub_configs)
    publish_all("org", token=SECRET, names=[SMALL], hub_configs=hub_configs)
    (second,) = publish_all("alice", token=SECRET, names=[SMALL], hub_configs=hub_configs)
    assert [r.message for r in caplog.records if r.name == "ssia_zoo.models.release"] == [
        f"{path} now refers to org/{SMALL}@{first.revision}",
        f"{path} now refers to alice/{SMALL}@{second.revision}, before to org/{SMALL}@{first.revision}",
    ]


def test_what_a_killed_publication_left_is_no_weight(hub: HubServer, hub_configs: Path) -> None:
    (hub_configs / f".unfinished.{SMALL}.json").write_text('{"name": ')
    assert [weight.name for weight in read_published_weights(hub_configs)] == [SMALL, LARGE]


def test_private_repositories_are_made_private(hub: HubServer, hub_configs: Path) -> None:
    (item,) = publish_all("alice", private=True, token=SECRET, names=[SMALL], hub_configs=hub_configs)
    assert hub.repos[item.repo_id].private


@pytest.mark.parametrize(
    ("token", "org", "reason"), [(None, "org", "no token"), ("hf_other", "org", "cannot write to")]
)
def test_without_access_nothing_is_written(
    hub: HubServer, hub_configs: Path, token: str | None, org: str, reason: str
) -> None:
    before = contents(hub_configs)
    with pytest.raises(HubError, match=reason):
        publish_all(org, token=token, hub_configs=hub_configs)
    assert contents(hub_configs) == before


def test_the_command_to_repeat_is_named_after_a_failure(hub: HubServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["publish", "--all", "--org", "org", "--private"]) == 1
    error = capsys.readouterr().err
    assert "no token" in error
    assert error.endswith("repeat with: ssia-zoo publish --all --org org --private\n")


def test_an_unknown_name_is_refused_before_anything_is_uploaded(hub: HubServer, hub_configs: Path) -> None:
    with pytest.raises(ConfigError, match=f"no weight 'nonesuch'; it has: {SMALL}, {LARGE}"):
        publish_all("org", token=SECRET, names=[SMALL, "nonesuch"], hub_configs=hub_configs)
    assert publish_all("org", token=SECRET, names=[], hub_configs=hub_configs) == []
    assert hub.requests == []


def test_a_json_keeps_its_mode_and_fields_of_the_same_name_further_inside(hub: HubServer, tmp_path: Path) -> None:
    folder = tmp_path / "hub_configs"
    environment = {"revision": "null", "repo_id": 'a "quoted" \\ ä'}
    write_toy_weight(folder, environment=environment)
    path = folder / f"{SMALL}.json"
    path.chmod(0o640)
    (item,) = publish_all("org", token=SECRET, hub_configs=folder)
    written = read_published_weight(path)
    assert written.revision == item.revision
    assert written.environment == environment
    assert path.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("name", sorted(weights()))
def test_the_shipped_jsons_are_formatted_as_publishing_writes_them(name: str) -> None:
    text = (resource_dir("hub_configs") / f"{name}.json").read_text(encoding="utf-8")
    assert json.dumps(json.loads(text), indent=2) + "\n" == text


def test_a_json_that_cannot_be_written_is_reported_with_the_weights_address(
    hub: HubServer, hub_configs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("read-only file system")

    before = contents(hub_configs)
    monkeypatch.setattr("ssia_zoo.models.release.shutil.copymode", refuse)
    with pytest.raises(ConfigError, match=r"is published at .* but .* cannot be written \(read-only") as failed:
        publish_all("org", token=SECRET, names=[SMALL], hub_configs=hub_configs)
    assert "\n" not in str(failed.value)
    assert contents(hub_configs) == before


def test_the_command_publishes_all_and_prints_their_addresses(
    hub: HubServer, hub_configs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    monkeypatch.setattr("ssia_zoo.models.release.resource_dir", lambda _: hub_configs)
    assert main(["publish", "--all", "--org", "org"]) == 0
    printed = capsys.readouterr().out
    for name in (SMALL, LARGE):
        revision = read_published_weight(hub_configs / f"{name}.json").revision
        assert f"{name}: {hub.url}/org/{name}/commit/{revision}" in printed
    assert f"collection: {hub.url}/collections/org/ssia-zoo-" in printed


@pytest.mark.parametrize("name", [SMALL, LARGE])
def test_a_published_weight_passes_verification(hub: HubServer, hub_configs: Path, name: str) -> None:
    publish_all("org", token=SECRET, names=[name], hub_configs=hub_configs)
    report = verify(f"hf-hub:org/{name}")
    assert report.ok, report
    assert {check.name for check in report.checks if check.status == "passed"} >= {"loads", "state_dict", "graph"}
