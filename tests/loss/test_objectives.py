"""Find objectives of other packages: by path and entry point, and one line for each that cannot be used."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ssia_zoo.errors import ConfigError
from ssia_zoo.loss import DSNLoss
from ssia_zoo.loss.objectives import RESERVED, check_keywords, check_method_name, find_objective
from ssia_zoo.version import __version__

FILES = {
    "mine.py": """
        from ssia_zoo.loss import AuxiliaryLoss

        class Mine(AuxiliaryLoss):
            name = "mine"
            source = "A Paper (arXiv 0000.00000)"

        class Nameless(AuxiliaryLoss):
            pass

        class Reserved(AuxiliaryLoss):
            name = "loss"

        class Elsewhere(AuxiliaryLoss):
            name = "elsewhere"
            gradient_to = ("lower", "stem")

        class Other:
            pass
    """,
    "fails.py": "import a_package_that_is_not_there",
    "exits.py": "raise SystemExit('bye')",
    "broken.py": "def f(:",
}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Modules in the current folder, which is not on sys.path, and an installed package with an entry point."""
    for name, text in FILES.items():
        lines = text.splitlines()
        indent = 8 if text.startswith("\n") else 0
        (tmp_path / name).write_text("\n".join(line[indent:] for line in lines) + "\n")
    installed = tmp_path / "site" / "their_losses-1.2.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: their-losses\nVersion: 1.2\n")
    (installed / "entry_points.txt").write_text(
        "[ssia_zoo.objectives]\ntheirs = their_losses:Theirs\nvanilla = their_losses:Theirs\n"
    )
    (installed / "top_level.txt").write_text("their_losses\n")
    (tmp_path / "site" / "their_losses.py").write_text((tmp_path / "mine.py").read_text().replace("Mine", "Theirs"))
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "site")])
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in ("mine", "fails", "exits", "broken", "their_losses"):
        sys.modules.pop(name, None)


def test_a_class_in_the_current_folder_is_found_with_the_hash_of_its_file(here: Path) -> None:
    found = find_objective("mine:Mine")
    assert (found.loss.name, found.path) == ("mine", "mine:Mine")
    assert found.version == f"sha256 {hashlib.sha256((here / 'mine.py').read_bytes()).hexdigest()[:12]}"
    assert str(found) == f"A Paper (arXiv 0000.00000): mine:Mine ({found.version})"


def test_an_entry_point_is_found_by_name_with_the_version_of_its_package() -> None:
    assert check_method_name("theirs") == "theirs"
    found = find_objective("theirs")
    assert found.path == "their_losses:Theirs"
    assert found.version.startswith("their-losses 1.2, sha256 ")


def test_a_class_of_this_package_is_found_by_its_path() -> None:
    found = find_objective("ssia_zoo.loss:DSNLoss")
    assert found.loss is DSNLoss
    assert found.version.startswith(f"ssia-zoo {__version__}, sha256 ")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("their", "expected one of ssia, vanilla, .*, theirs, or package.module:Class; did you mean theirs?"),
        ("dsm", "did you mean dsn?"),
        ("nothing.like.it", "`method` is 'nothing.like.it'; .*; choose one of them"),
        ("a:b:c", "`method` is 'a:b:c'"),
        ("os.path", "`method` is 'os.path'"),
    ],
)
def test_an_unknown_name_gets_the_nearest(name: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        check_method_name(name)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("nowhere:Loss", "`method` nowhere:Loss: no module nowhere; expected package.module:Class, with the package"),
        ("mine.inner:Loss", "`method` mine.inner:Loss: "),
        ("mine:Mime", "`method` mine:Mime: mine has no Mime; did you mean Mine?"),
        ("mine:Mine.Inner", "mine has no Mine.Inner; it defines no class"),
        ("mine:Other", "`method` mine:Other: is not a subclass of ssia_zoo.loss.AuxiliaryLoss"),
        ("mine:Nameless", "its class attribute name is None; expected the key of its result"),
        ("mine:Reserved", "its class attribute name is 'loss'"),
        ("mine:Elsewhere", "gradient_to has 'stem'; expected lower, deepest, logits"),
        ("fails:Loss", r"cannot be imported: ModuleNotFoundError: No module named 'a_package.*' \(fails.py, line 1\)"),
        ("exits:Loss", "cannot be imported: SystemExit: bye"),
        ("broken:Loss", r"cannot be imported: SyntaxError: invalid syntax \(broken.py, line 1\)"),
    ],
)
def test_what_cannot_be_used_gets_one_line(name: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected) as caught:
        find_objective(name)
    assert "\n" not in str(caught.value)


def test_keywords_are_those_of_the_constructor() -> None:
    check_keywords(DSNLoss, {"hidden": 3}, "dsn")
    with pytest.raises(ConfigError, match="`method_kwargs` widht: is not a setting of dsn; it takes hidden"):
        check_keywords(DSNLoss, {"widht": 3}, "dsn")

    class Needs(DSNLoss):
        def __init__(self, shapes: object, num_classes: int, factor: float) -> None: ...

    class TakesAny(DSNLoss):
        def __init__(self, shapes: object, num_classes: int, **others: float) -> None: ...

    with pytest.raises(ConfigError, match="`method_kwargs` factor: is missing; needs requires it"):
        check_keywords(Needs, {}, "needs")
    check_keywords(TakesAny, {"anything": 1}, "any")


def test_reserved_names_are_those_of_a_training_record() -> None:
    assert {"loss", "task_loss", "output", "lambda", "lr"} <= set(RESERVED)
