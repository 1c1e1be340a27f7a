"""The page in a real browser; `make app-test` installs what this needs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from ssia_zoo.app.examples import digit
from tests.app.browser import Tab, chromium, served
from tests.helpers.commands import FULL

RESNET18, RESNET50 = "resnet18_ssia.c10_r32", "resnet50_ssia.c10_r32"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def url(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("app")
    command = ("-m", "ssia_zoo.cli", "app", "--port", "0", "--max-megabytes", "1", "--max-pixels", "1000000")
    with served(*command, folder=folder) as address:
        yield address
    assert list(folder.iterdir()) == []


@pytest.fixture
def tab(browser: Any, url: str) -> Iterator[Tab]:
    opened = Tab(browser, url)
    yield opened
    assert opened.elsewhere == []
    assert opened.errors == []
    opened.page.close()


def test_the_page_opens_with_an_answer(tab: Tab) -> None:
    tab.answers(RESNET18)
    assert tab.first() == "ship"
    assert tab.unlabelled() == []


def test_a_picture_is_uploaded_answered_and_given_to_another_model(tab: Tab, tmp_path: Path) -> None:
    digit(5).save(tmp_path / "five.png")
    tab.answers(RESNET18)
    tab.upload(tmp_path / "five.png")
    tab.answers(RESNET18)
    tab.choose("Model", FULL)
    tab.answers(FULL)
    assert tab.first() == "5"
    tab.choose("Compare with", RESNET50)
    texts = tab.answers(FULL, RESNET50)
    assert all("Where it looks" in text and "mirrored" in text for text in texts)


def test_an_example_sets_picture_and_model(tab: Tab) -> None:
    tab.answers(RESNET18)
    tab.page.get_by_role("button", name="digit 8").click()
    tab.answers(FULL)
    tab.page.wait_for_function("document.querySelector('.zoo-label').innerText === '8'")


def test_a_file_that_cannot_be_shown_gives_a_sentence(tab: Tab, tmp_path: Path) -> None:
    for name, size in {"broken.png": 1000, "large.png": 2_000_000, "notes.txt": 1000}.items():
        (tmp_path / name).write_bytes(bytes(size))
    PIL.Image.new("RGB", (1200, 1000)).save(tmp_path / "huge.png")
    tab.answers(RESNET18)
    for name, sentence in {
        "broken.png": "The picture cannot be read: not an image, or damaged",
        "huge.png": "1200x1000 pixels, but --max-pixels is 1000000",
        "large.png": "exceed the maximum allowed size of 1",
        "notes.txt": "Invalid file type: notes.txt",
    }.items():
        tab.upload(tmp_path / name)
        tab.page.get_by_text(sentence).first.wait_for()


def test_a_wrong_model_gives_a_sentence(tab: Tab) -> None:
    tab.answers(RESNET18)
    tab.choose("Model", "nonesuch")
    tab.page.get_by_role("alert").get_by_text("There is no model 'nonesuch'").wait_for()


def test_the_table_of_weights_is_filtered(tab: Tab) -> None:
    tab.page.get_by_role("tab", name="Weights").click()
    tab.page.get_by_role("rowheader", name=FULL).wait_for()
    tab.page.get_by_label("Name contains").fill("resnet50")
    tab.page.get_by_text("1 published weight.").wait_for()
    tab.page.get_by_label("Name contains").fill("")
    tab.page.get_by_role("rowheader", name=FULL).wait_for()
    tab.page.get_by_label("Only weights whose interval excludes zero").check()
    tab.page.get_by_role("rowheader", name=FULL).wait_for(state="detached")
    assert tab.page.get_by_role("rowheader", name=RESNET18).count() == 1
    assert tab.unlabelled() == []


@pytest.mark.parametrize("width", [375, 1280])
def test_nothing_is_wider_than_the_screen(width: int, browser: Any, url: str, tmp_path: Path) -> None:
    tab = Tab(browser, url, width)
    tab.answers(RESNET18)
    for name in ("Picture", "Weights"):
        tab.page.get_by_role("tab", name=name).click()
        assert tab.page.evaluate("document.documentElement.scrollWidth") <= width
        tab.page.screenshot(path=tmp_path / f"{name}.png", full_page=True)
        assert (tmp_path / f"{name}.png").stat().st_size > 10_000
    assert tab.elsewhere == []
    tab.page.close()


def test_a_fine_tuned_model_is_offered_first_with_its_report(browser: Any, folder: Path) -> None:
    (folder / "report").mkdir()
    (folder / "report" / "report.html").write_text("<h1>Report of photos</h1>")
    with served("-m", "ssia_zoo.cli", "app", str(folder), "--port", "0", folder=folder.parent) as address:
        tab = Tab(browser, address)
        assert tab.page.get_by_label("Model", exact=True).input_value() == str(folder)
        tab.page.get_by_role("button", name="ship").wait_for()
        tab.page.get_by_role("tab", name=f"Report: {folder.name}").click()
        frame = tab.page.frame_locator(f"iframe[title='Report of {folder.name}']")
        frame.get_by_role("heading", name="Report of photos").wait_for()
        assert (tab.elsewhere, tab.errors) == ([], [])
