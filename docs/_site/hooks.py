"""Pages of the website that are no Markdown files of docs/: measurements, notebooks, models, the reference of the API.

mkdocs calls `on_files` and `on_page_markdown`. Links to files that are not part of the website become plain text.
"""

from __future__ import annotations

import io
import re
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from notebooks import notebook_page

import ssia_zoo
from ssia_zoo.figures import new_figure
from ssia_zoo.models.card import weight_card
from ssia_zoo.models.comparison import compare
from ssia_zoo.models.weight import PublishedWeight

ROOT = Path(__file__).resolve().parent.parent.parent
_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s#]+)(#[^)]*)?\)")
_NAMES = re.compile(r"`(ssia_zoo[\w.]*)`")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of benchmarks/, of notebooks and of published weights, and the reference."""
    for path in sorted((ROOT / "benchmarks").glob("*.md")) + sorted((ROOT / "benchmarks" / "images").glob("*.png")):
        source = path.relative_to(ROOT).as_posix()
        files.append(File.generated(config, source, abs_src_path=str(path)))
    for path in sorted((ROOT / "docs" / "notebooks").glob("*.ipynb")):
        text, pictures = notebook_page(path)
        for name, content in {f"{path.stem}.md": text, **pictures}.items():
            files.append(File.generated(config, f"notebooks/{name}", content=content))
    weights = ssia_zoo.weights()
    for name, weight in weights.items():
        files.append(File.generated(config, f"models/{name}.md", content=_model_page(weight)))
        files.append(File.generated(config, f"models/{name}.png", content=_seeds(weight)))
    files.append(File.generated(config, "models.md", content=_models(weights)))
    files.append(File.generated(config, "reference.md", content=_reference()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links within the repository into links within the website."""
    place = PurePosixPath(page.file.src_uri)
    repository = PurePosixPath("." if place.parts[0] in ("benchmarks", "models") else "docs") / place

    def replace(match: re.Match[str]) -> str:
        text, target, anchor = match[1], match[2], match[3] or ""
        if re.match(r"[a-z]+:", target):
            return match[0]
        page_of = re.sub(r"(notebooks/\w+)\.ipynb$", r"\1.md", str(repository.parent / target))
        inside = _within_website(PurePosixPath(page_of))
        if inside is None or files.get_file_from_path(inside) is None:
            return text
        return f"[{text}]({'../' * (len(place.parts) - 1)}{inside}{anchor})"

    return _LINK.sub(replace, markdown)


def _within_website(path: PurePosixPath) -> str | None:
    """Return the place in the website of a file of the repository; None if it has none."""
    parts: list[str] = []
    for part in path.parts:
        if part == "..":
            if not parts:
                return None
            parts.pop()
        else:
            parts.append(part)
    if parts[:1] == ["docs"]:
        parts = parts[1:]
    elif parts == ["README.md"] or parts[:1] not in (["benchmarks"], ["models"]):
        return None
    return "/".join(parts)


def _model_page(weight: PublishedWeight) -> str:
    card = weight_card(weight, None)
    text = card.split("---\n", 2)[2] if card.startswith("---") else card
    title, _, rest = text.strip().partition("\n")
    return f"{title}\n\n![Top-1 of every seed, SSIA and vanilla]({weight.name}.png)\n{rest}"


def _models(weights: dict[str, PublishedWeight]) -> str:
    lines = ["# Models", "", "| weight | data | top-1, % | minus vanilla (95 % interval) |", "|---|---|---|---|"]
    for name, weight in sorted(weights.items()):
        paired = compare(weight.metrics.runs)
        interval = "{:+.2f} to {:+.2f}".format(*paired.interval) if paired.interval else "one seed"
        lines.append(
            f"| [{name}](models/{name}.md) | {weight.dataset.name} | {weight.metrics.top1:.2f} | "
            f"{paired.difference:+.2f} ({interval}) |"
        )
    return "\n".join(lines)


def _seeds(weight: PublishedWeight) -> bytes:
    """Draw the top-1 of every seed."""
    figure = new_figure(5, 1.6)
    axes = figure.subplots()
    for row, method in enumerate(("vanilla", "ssia")):
        scores = [getattr(run, method) for run in weight.metrics.runs]
        axes.plot(scores, [row] * len(scores), "o", color=("grey", "teal")[row])
    axes.set_yticks([0, 1], ["vanilla", "SSIA"])
    axes.set_ylim(-0.6, 1.6)
    axes.set_xlabel("top-1 of every seed, %")
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=150)
    return file.getvalue()


def _reference() -> str:
    """List the names of docs/api.md with their docstrings, in its sections."""
    lines = ["# Reference", ""]
    for section in (ROOT / "docs" / "api.md").read_text(encoding="utf-8").split("\n## ")[1:]:
        names = list(dict.fromkeys(_NAMES.findall(section)))
        if names:
            lines += [f"## {section.splitlines()[0]}", "", *(f"::: {name}\n" for name in names)]
    return "\n".join(lines)
