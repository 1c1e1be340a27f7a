"""The wheel holds what a checkout holds, and works from any folder."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from configparser import ConfigParser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LEFT_OUT = (".venv", ".git", "runs", "build", "dist", "*.egg-info", "__pycache__", ".*_cache", ".hypothesis", "tests")


DISTRIBUTIONS = {"PIL": "pillow", "sklearn": "scikit-learn", "yaml": "pyyaml"}


def test_every_package_that_is_imported_is_declared() -> None:
    declared = ConfigParser()
    declared.read(ROOT / "setup.cfg")
    sections = {
        "ssia_zoo": declared["options"]["install_requires"],
        "export": declared["options"]["install_requires"]
        + declared["options.extras_require"]["export"]
        + "\nexecutorch",
    }
    for folder, requirements in sections.items():
        names = {re.split(r"[<>=~! ]", line)[0] for line in requirements.split("\n")}
        imported = set()
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    imported |= {alias.name.split(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    imported.add(node.module.split(".")[0])
        others = imported - set(sys.stdlib_module_names) - {"ssia_zoo"}
        assert others, "or the test could not fail"
        assert {DISTRIBUTIONS.get(name, name) for name in others} <= names


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of a clean environment that holds the built wheel; dependencies are lent from this one."""
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT, folder / "source", ignore=shutil.ignore_patterns(*LEFT_OUT))
    build = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(folder),
        str(folder / "source"),
    ]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    shutil.rmtree(folder / "source")
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    site = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    # A plain path in a .pth file: what is installed there can be imported, an editable install's hook is not run.
    (Path(site) / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    wheel = next(folder.glob("*.whl"))
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", wheel], check=True)
    return python


def run(python: Path | str, *arguments: str, cwd: Path) -> str:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}
    command = [str(python), *arguments]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_brings_weights_configs_and_export(installed: Path, tmp_path: Path) -> None:
    script = """
import pathlib, ssia_zoo, timm
from ssia_zoo.resources import resource_dir
assert "site-packages" in ssia_zoo.__file__, ssia_zoo.__file__
model = timm.create_model("mobilenetv3_small_050_ssia", pretrained=True)
assert model.pretrained_cfg["tag"] == "digits_r32"
for name in ("hub_configs", "export"):
    folder = resource_dir(name)
    assert "site-packages" in str(folder), folder
    print(name, sorted(p.name for p in folder.iterdir() if p.is_file()))
assert (pathlib.Path(ssia_zoo.__file__).parent / "py.typed").exists()
"""
    printed = run(installed, "-c", script, cwd=tmp_path)
    assert "mobilenetv3_small_050_ssia.digits_r32.safetensors" in printed
    assert "README.md" in printed


def test_the_wheel_works_from_inside_a_clone_too(installed: Path) -> None:
    script = "import sys; sys.path.pop(0); import ssia_zoo; print(ssia_zoo.__file__, list(ssia_zoo.weights()))"
    printed = run(installed, "-c", script, cwd=ROOT)
    assert "site-packages" in printed
    assert "digits_r32" in printed


def test_the_commands_of_the_wheel_start(installed: Path, tmp_path: Path) -> None:
    command = installed.parent / "ssia-zoo"
    assert "demo" in run(str(command), "--help", cwd=tmp_path)
    assert "--dataset" in run(installed, "-m", "train_hf", "--help", cwd=tmp_path)


def test_the_wheel_exports(installed: Path, tmp_path: Path) -> None:
    command = str(installed.parent / "ssia-zoo")
    run(command, "export", "torch-export", "mobilenetv3_small_050_ssia", "--out", "m.pt2", cwd=tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"m.pt2", "m.pt2.json"}


def test_a_checkout_finds_the_same_folders() -> None:
    from ssia_zoo.resources import resource_dir

    for name in ("hub_configs", "export"):
        assert any(resource_dir(name).iterdir())


def test_one_version_in_one_place(installed: Path, tmp_path: Path) -> None:
    script = "import importlib.metadata as m, ssia_zoo; print(m.version('ssia-zoo') == ssia_zoo.__version__)"
    assert run(installed, "-c", script, cwd=tmp_path).strip() == "True"
