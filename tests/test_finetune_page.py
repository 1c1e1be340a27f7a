"""Every command of docs/finetune.md runs, on a small copy of Grocery Store's files."""

from __future__ import annotations

import contextlib
import csv
import json
import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

from ssia_zoo.cli.main import main
from tests.helpers.commands import FULL, logging_stays
from tests.helpers.documents import ROOT, blocks, python, unmarked_blocks
from tests.helpers.hub_server import HubServer

PAGE = (ROOT / "docs" / "finetune.md").read_text(encoding="utf-8")
BLOCKS = blocks(PAGE)
QUICK = ("--epochs", "1", "--batch-size", "6", "--workers", "0")
CLASSES = {"Golden-Delicious": ("Apple", 0), "Pink-Lady": ("Apple", 0), "Avocado": ("Avocado", 1)}
"""Name of a class: its group, and the number of that."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `dataset/` as in Grocery Store's repository, and `new/` with photos to classify."""
    folder = tmp_path_factory.mktemp("page")
    dataset = folder / "dataset"
    for split, count in {"train": 6, "val": 2, "test": 4}.items():
        lines = []
        for number, (name, (group, group_number)) in enumerate(CLASSES.items()):
            for photo in range(count):
                path = f"{split}/Fruit/{group}/{name}/{name}_{photo:03}.jpg"
                (dataset / path).parent.mkdir(parents=True, exist_ok=True)
                shade = 10 * photo + {"train": 0, "val": 3, "test": 6}[split]
                Image.new("RGB", (48, 40), (80 * number, shade, 200 - 80 * number)).save(dataset / path)
                lines.append(f"{path}, {number}, {group_number}\n")
        (dataset / f"{split}.txt").write_text("".join(lines))
    with (dataset / "classes.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["Class Name (str)", "Class ID (int)", "Coarse Class Name (str)", "Coarse Class ID (int)"])
        table.writerows([name, i, *group] for i, (name, group) in enumerate(CLASSES.items()))
    icon = dataset / "iconic-images-and-descriptions" / "Avocado_Iconic.jpg"  # a picture that is in no split
    icon.parent.mkdir()
    Image.new("RGB", (48, 40)).save(icon)
    (folder / "new").mkdir()
    Image.new("RGB", (48, 40), (160, 0, 40)).save(folder / "new" / "1.jpg")
    python(BLOCKS["labels"], folder)
    return folder


@pytest.fixture(scope="module")
def trained(folder: Path) -> Path:
    run(BLOCKS["finetune"], folder, *QUICK)
    return folder


def run(script: str, folder: Path, *more: str) -> None:
    """Run the lines of a block in this process, with a small model that needs no download."""
    for line in script.replace("tf_efficientnet_lite0.in1k", FULL).strip().splitlines():
        command, *words = shlex.split(line, comments=True)
        assert command == "ssia-zoo"
        with contextlib.chdir(folder), logging_stays():  # the fixtures of a module come before those of a test
            assert main([*words, *more]) == 0


def test_every_block_of_commands_is_tested() -> None:
    source = "https://github.com/marcusklasson/GroceryStoreDataset"  # needs the network
    assert [block.split()[2] for block in unmarked_blocks(PAGE)] == ["photos/", source]  # the summary, as in the README


def test_the_spreadsheet_has_a_line_for_each_photo(folder: Path) -> None:
    with (folder / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [sum(row["split"] == split for row in rows) for split in ("train", "val", "test")] == [18, 6, 12]
    assert {(row["label"], row["coarse"]) for row in rows} == {(name, group) for name, (group, _) in CLASSES.items()}


def test_both_models_are_trained_and_reported_on_the_test_split(trained: Path) -> None:
    for name, method in {"grocery": "ssia", "control": "vanilla"}.items():
        described = json.loads((trained / "runs" / name / "config.json").read_text())
        assert described["label_names"] == sorted(CLASSES)
        assert described["ssia"]["method"] == method
        report = json.loads((trained / "runs" / name / "report" / "report.json").read_text())
        assert report["images"] == 12


def test_compare_answers_from_reports_and_from_photos(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(BLOCKS["compare"], trained)
    assert capsys.readouterr().out.count("12 images") == 2
    assert (trained / "runs" / "compared" / "comparison.html").exists()


def test_new_photos_get_answers_and_features(trained: Path) -> None:
    run(BLOCKS["use"], trained)
    with (trained / "answers.csv").open(newline="") as file:
        assert set(CLASSES) & set(",".join(next(csv.DictReader(file)).values()).split(","))
    assert (trained / "features.npz").exists()


def test_the_model_is_published_and_exported(
    trained: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    run(BLOCKS["publish"].replace("your-name", "alice"), trained)
    assert "alice/grocery" in capsys.readouterr().out
    assert (trained / "grocery.onnx").exists()


def test_groups_and_a_probe(folder: Path) -> None:
    first = BLOCKS["finetune"].splitlines()[0].replace("runs/grocery", "runs/groups")
    run(f"{first} --label-column coarse", folder, *QUICK)
    assert json.loads((folder / "runs" / "groups" / "config.json").read_text())["label_names"] == ["Apple", "Avocado"]
    probe = re.search(r"`(ssia-zoo train [^`]*--probe[^`]*)`", PAGE)
    assert probe is not None
    run(probe[1].replace("\n", " "), folder, "--workers", "0")
    assert (folder / "runs" / "probe" / "model.safetensors").exists()
