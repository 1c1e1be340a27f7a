"""What the page shows, as HTML."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

import ssia_zoo
from ssia_zoo.app.catalog import Catalog, make_catalog
from ssia_zoo.app.config import AppConfig
from ssia_zoo.app.content import ALL, NONE, css, show_answers, show_report, show_weights
from ssia_zoo.app.examples import write_examples
from ssia_zoo.models import registry
from tests.helpers.commands import FULL, WEIGHT
from tests.helpers.published_weights import weight_entry

CONFIG = AppConfig()


class Elements(HTMLParser):
    """Collects the elements of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return make_catalog(CONFIG)


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(
        next(e for e in write_examples(tmp_path_factory.mktemp("examples"), (FULL,)) if e.name == "digit 5").path
    )


def test_the_answers_of_two_models_are_shown(catalog: Catalog, picture: str) -> None:
    page = show_answers(catalog, CONFIG, picture, WEIGHT, FULL)
    assert f"{WEIGHT}: 5, " in page
    assert f"{FULL}: 5, " in page
    images = [attributes for tag, attributes in Elements(page).found if tag == "img"]
    assert len(images) == 2 * (6 + 4)
    assert all(image["alt"] and str(image["src"]).startswith("data:image/jpeg;") for image in images)


def test_one_model_is_shown_once(catalog: Catalog, picture: str) -> None:
    for second in (NONE, None, WEIGHT):
        assert show_answers(catalog, CONFIG, picture, WEIGHT, second).count("zoo-answer") == 1


@pytest.mark.parametrize(
    ("path", "model", "expected"),
    [
        (None, WEIGHT, "Drop a picture"),
        ("picture", None, "Choose a model"),
        ("picture", "nonesuch", "There is no model"),
        (__file__, WEIGHT, "The picture cannot be read: not an image, or damaged"),
    ],
)
def test_what_is_missing_or_wrong_is_one_sentence(
    path: str | None, model: str | None, expected: str, catalog: Catalog, picture: str
) -> None:
    page = show_answers(catalog, CONFIG, picture if path == "picture" else path, model, NONE)
    assert expected in page
    assert "zoo-answer" not in page


def test_names_are_escaped(catalog: Catalog, picture: str) -> None:
    page = show_answers(catalog, CONFIG, picture, "<script>", NONE) + show_report(0, '"><script>')
    assert "<script>" not in page
    assert "sandbox" in page


def test_an_unexpected_error_names_its_kind_only(
    catalog: Catalog, picture: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(self: Catalog, name: str) -> None:
        raise ValueError("a secret of this machine")

    monkeypatch.setattr(Catalog, "load", fail)
    page = show_answers(catalog, CONFIG, picture, WEIGHT, NONE)
    assert "ValueError" in page
    assert "secret" not in page
    assert "a secret of this machine" in caplog.text


def test_the_table_shows_each_weight_with_its_control_and_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = {entry.name: entry for entry in (weight_entry(), weight_entry("test_vit", license="<mit>"))}
    monkeypatch.setattr(registry, "_weights", entries)
    page = show_weights("", ALL, False)
    text = " ".join(re.sub(r"<[^>]*>", " ", page).split())
    assert "2 published weights" in text
    row = "CIFAR-10 3 classes 32×48 71.25 70.00 +0.92 [-2.27, +4.10] 3 seeds, includes zero apache-2.0"
    assert f"test_ resnet_ ssia.c10_ r32 default of its architecture {row}" in text
    assert "<mit>" not in page


def test_the_table_can_be_filtered() -> None:
    assert f"{len(ssia_zoo.weights())} published weights" in show_weights("", ALL, False)
    only = show_weights("mobilenet", ALL, False)
    assert "1 published weight." in only
    assert "resnet18" not in only
    assert "resnet18" in show_weights("", "CIFAR-10", False)
    assert "No published weight matches" in show_weights("nonesuch", ALL, False)
    shown = show_weights("", ALL, True)
    assert "includes zero" not in shown
    assert "no interval" not in shown


def test_neither_style_sheet_nor_templates_name_another_machine() -> None:
    import ssia_zoo.app

    folder = Path(str(ssia_zoo.app.__file__)).parent / "templates"
    assert len(list(folder.iterdir())) >= 5
    assert "//" not in css()
    assert not [path for path in folder.iterdir() if "://" in path.read_text(encoding="utf-8")]
