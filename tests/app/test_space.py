"""Write the page as a Space, start what was written, and read it."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from huggingface_hub import HfApi

from ssia_zoo.cli.main import main
from ssia_zoo.errors import ConfigError, WeightError
from ssia_zoo.hub import PUBLISHED_FILES
from tests.app.browser import Tab, chromium, served
from tests.helpers.commands import FULL, WEIGHT, Captured, failed_in_one_line
from tests.helpers.hub_server import HubServer

pytest.importorskip("gradio", reason="needs gradio: make app-test")

from ssia_zoo.app.space import write_space


def front_matter(folder: Path) -> dict:
    return yaml.safe_load((folder / "README.md").read_text().split("---")[1])


def test_a_space_of_a_weight_holds_all_it_needs(tmp_path: Path) -> None:
    space = write_space(tmp_path / "space", "My page", WEIGHT)
    card = front_matter(space)
    assert (card["title"], card["sdk"], card["app_file"]) == ("My page", "gradio", "app.py")
    assert card["sdk_version"] == version("gradio")
    requirements = (space / "requirements.txt").read_text().split()
    assert {"timm", "torch", "matplotlib"} <= {re.split("[>=]", line)[0] for line in requirements}
    assert not [line for line in requirements if line.startswith(("gradio", "ssia"))]
    assert [path.name for path in space.rglob("*.safetensors")] == [f"{FULL}.safetensors"]
    where = [sys.executable, "-c", "import ssia_zoo; print(ssia_zoo.__file__)"]
    assert subprocess.run(where, cwd=space, capture_output=True, text=True).stdout.startswith(str(space))


def test_a_space_of_all_weights_holds_the_embedded_ones(tmp_path: Path) -> None:
    import ssia_zoo

    space = write_space(tmp_path / "space", "Zoo")
    embedded = {weight.file for weight in ssia_zoo.weights().values() if weight.file}
    assert {path.name for path in space.rglob("*.safetensors")} == embedded


def test_a_space_of_a_folder_has_its_published_files_and_no_others(folder: Path, tmp_path: Path) -> None:
    (folder / "report").mkdir()
    (folder / "report" / "report.html").write_text("pictures of my family")
    space = write_space(tmp_path / "space", "Mine", str(folder))
    copied = space / "models" / "my-run"
    assert {path.name for path in copied.iterdir()} == set(PUBLISHED_FILES)
    assert "models=('models/my-run',)" in (space / "app.py").read_text()


def test_the_page_finds_its_models_from_any_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space, found = write_space(tmp_path / "space", "Mine", str(folder)), []
    app = SimpleNamespace(AppConfig=dict, serve=lambda config: found.append(Path(config["models"][0]).is_dir()))
    monkeypatch.setitem(sys.modules, "ssia_zoo.app", app)
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(space / "app.py"))
    assert found == [True]


def test_a_folder_that_cannot_be_published_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "README.md").unlink()
    with pytest.raises(WeightError, match="README"):
        write_space(tmp_path / "space", "Mine", str(folder))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(ConfigError, match="not an empty folder"):
        write_space(tmp_path / "full", "Mine", WEIGHT)


def test_what_was_uploaded_starts_and_answers(
    hub: HubServer, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    assert main(["publish", WEIGHT, "--space", "org/page"]) == 0
    assert capsys.readouterr().out.startswith(f"{hub.url}/spaces/org/page/commit/")
    space = Path(HfApi().snapshot_download("org/page", repo_type="space", local_dir=tmp_path / "space"))
    with chromium() as browser, served("app.py", folder=space) as address:
        tab = Tab(browser, address)
        tab.answers(FULL)
        assert tab.first() == "5"
        assert tab.page.get_by_role("tab", name="Weights").count() == 0
        assert (tab.elsewhere, tab.errors) == ([], [])


def test_a_second_upload_replaces_the_model(
    hub: HubServer, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    assert main(["publish", str(folder), "--space", "org/page", "--private"]) == 0
    assert hub.repos["spaces/org/page"].private
    assert main(["publish", WEIGHT, "--space", "org/page"]) == 0
    files = HfApi(token="hf_good").list_repo_files("org/page", repo_type="space")
    assert not [name for name in files if name.startswith("models/")]
    assert f"ssia_zoo/_hub_configs/{FULL}.safetensors" in files


def test_a_failed_upload_names_the_command_to_repeat(hub: HubServer, capsys: Captured) -> None:
    assert main(["publish", WEIGHT, "--space", "org/page", "--private"]) == 1
    message = failed_in_one_line(capsys)
    assert "no token found" in message
    assert message.endswith(f"repeat with: ssia-zoo publish {WEIGHT} --space org/page --private\n")


def test_out_writes_and_uploads_nothing(tmp_path: Path, capsys: Captured) -> None:
    assert main(["publish", WEIGHT, "--space", "org/page", "--out", str(tmp_path / "space")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'space'}\n"
    assert (tmp_path / "space" / "app.py").is_file()
