"""The page, made with Gradio."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from importlib.resources import files
from pathlib import Path

import gradio as gr

from ssia_zoo.app.answers import answer, open_picture, share
from ssia_zoo.app.catalog import Catalog
from ssia_zoo.app.config import AppConfig
from ssia_zoo.app.examples import Example
from ssia_zoo.app.zoo import dataset_names, draw_intervals, short_dataset, zoo_rows
from ssia_zoo.errors import SSIAZooError, one_line, with_flags
from ssia_zoo.report.page import render as render_template

_log = logging.getLogger(__name__)

_NONE = "none"
_INTRODUCTION = """# SSIA Zoo
timm models trained with Self-Supervised Implicit Attention: better weights, nothing added at inference."""

render = partial(render_template, package="ssia_zoo.app")


def css() -> str:
    """Return the style sheet of the page."""
    return files("ssia_zoo.app").joinpath("templates/page.css").read_text(encoding="utf-8")


def make_page(catalog: Catalog, examples: Sequence[Example], config: AppConfig) -> gr.Blocks:
    """Make the page.

    Args:
        catalog: The models and reports.
        examples: Pictures to try.
        config: Limits of pictures.
    """
    page = gr.Blocks(title="SSIA Zoo", analytics_enabled=False, delete_cache=(3600, 3600))
    with page:
        gr.Markdown(_INTRODUCTION)
        with gr.Tabs():
            with gr.Tab("Picture"):
                _picture_tab(page, catalog, examples, config)
            if config.zoo:
                with gr.Tab("Weights"):
                    _zoo_tab()
            for index, report in enumerate(catalog.reports):
                with gr.Tab(f"Report: {report.name}"):
                    gr.HTML(render("report.html", index=index, name=report.name))
    page.queue(api_open=False)
    return page


def _picture_tab(page: gr.Blocks, catalog: Catalog, examples: Sequence[Example], config: AppConfig) -> None:
    first = examples[0] if examples and not config.models else None
    with gr.Row(equal_height=False):
        with gr.Column(scale=1, min_width=300):
            picture = gr.Image(
                value=None if first is None else str(first.path),
                label=f"Picture (at most {config.max_megabytes:g} MB)",
                type="filepath",
                image_mode=None,
                sources=["upload", "clipboard"],
                height=260,
                alt_text="The picture to look at",
                buttons=[],
            )
            # Gradio would decode the file itself, without the limits and messages of `open_picture`.
            picture.preprocess = lambda payload: None if payload is None else payload.path
            info = "A published weight; or a timm name, a folder, hf-hub:org/name." if catalog.others else None
            model = gr.Dropdown(
                list(catalog.names),
                value=catalog.names[0] if first is None else first.model,
                label="Model",
                info=info,
                allow_custom_value=catalog.others,
            )
            second = gr.Dropdown(
                [_NONE, *catalog.names],
                value=_NONE,
                label="Compare with",
                info="A second model, such as a control trained without SSIA.",
                allow_custom_value=catalog.others,
            )
            if examples:
                gr.Markdown("Or try one of these:")
                with gr.Row():
                    buttons = [
                        gr.Button(example.name, icon=str(example.path), size="sm", min_width=90) for example in examples
                    ]
        with gr.Column(scale=3, min_width=300):
            shown = gr.HTML()
    inputs = [picture, model, second]
    look = partial(_look, catalog, config)
    gr.on(
        [page.load, picture.change, model.change, second.change],
        look,
        inputs,
        shown,
        trigger_mode="always_last",
        concurrency_limit=1,
        api_visibility="private",
    )
    for button, example in zip(buttons if examples else [], examples, strict=True):
        chosen = (str(example.path), example.model)
        button.click(partial(tuple, chosen), None, [picture, model], api_visibility="private")


def _look(catalog: Catalog, config: AppConfig, path: str | None, model: str | None, second: str | None) -> str:
    """Return the answers of the chosen models as HTML, or the reason why there are none."""
    if path is None:
        return _message("Drop a picture on the left, or take one of the examples.")
    try:
        picture = open_picture(Path(path), config)
        names = dict.fromkeys(name for name in (model, second) if name and name != _NONE)
        if not names:
            return _message("Choose a model.")
        answers = [answer(name, catalog.load(name), picture) for name in names]
        return str(render("answers.html", answers=answers, share=share))
    except SSIAZooError as error:
        return _message(with_flags(one_line(error)), error=True)
    except Exception as error:
        _log.exception("the page cannot show an answer")
        return _message(f"This failed: {type(error).__name__}; the terminal shows why.", error=True)


def _message(text: str, *, error: bool = False) -> str:
    return str(render("message.html", text=text[:1].upper() + text[1:], error=error))


def _zoo_tab() -> None:
    with gr.Row():
        pattern = gr.Textbox(label="Name contains", placeholder="resnet", max_lines=1)
        names = dataset_names()
        dataset = gr.Dropdown(["all", *names], value="all", label="Trained on")
        only_shown = gr.Checkbox(label="Only weights whose interval excludes zero")
    table = gr.HTML(_table("", "all", False))
    inputs = [pattern, dataset, only_shown]
    gr.on(
        [component.change for component in inputs],
        _table,
        inputs,
        table,
        trigger_mode="always_last",
        show_progress="hidden",
        api_visibility="private",
    )


def _table(pattern: str, dataset: str, only_shown: bool) -> str:
    rows = zoo_rows(pattern, None if dataset == "all" else dataset, only_shown)
    return str(render("zoo.html", rows=list(zip(rows, draw_intervals(rows), strict=True)), short_dataset=short_dataset))
