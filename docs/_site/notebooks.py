"""Turn a notebook with its stored outputs into a page of the website."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any


def notebook_page(path: Path) -> tuple[str, dict[str, bytes]]:
    """Return the page as Markdown, and its pictures by file name.

    Outputs are text or PNG; pages of cells, text and pictures need no plugin.
    """
    pictures: dict[str, bytes] = {}
    parts: list[str] = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(_fenced("python", source))
        for output in cell["outputs"]:
            png = output.get("data", {}).get("image/png")
            if png is None:
                parts.append(_fenced("text", _text(output)))
            else:
                name = f"{path.stem}-{len(pictures)}.png"
                pictures[name] = base64.b64decode("".join(png))
                parts.append(f"![Output of the cell above]({name})")
    title, _, rest = parts[0].partition("\n")
    run_it = f'This page is a notebook: <a href="../{path.name}" download>download {path.name}</a> to run it.'
    return "\n\n".join([title, run_it, rest.strip(), *parts[1:]]), pictures


def _text(output: dict[str, Any]) -> str:
    return "".join(output["text"] if "text" in output else output["data"]["text/plain"])


def _fenced(language: str, text: str) -> str:
    return f"````{language}\n{text.rstrip()}\n````"
