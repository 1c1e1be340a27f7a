"""The page, made with Gradio."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import gradio as gr

from ssia_zoo.app.catalog import Catalog
from ssia_zoo.app.config import LIFETIME, AppConfig
from ssia_zoo.app.content import ALL, NONE, show_answers, show_report, show_weights
from ssia_zoo.app.examples import Example
from ssia_zoo.app.zoo import dataset_names

_INTERVAL = 600
"""Seconds between removals of pictures."""

_INTRODUCTION = """# SSIA Zoo
timm models trained with Self-Supervised Implicit Attention: guided in training, unchanged at inference."""


def make_page(catalog: Catalog, examples: Sequence[Example], config: AppConfig) -> gr.Blocks:
    """Make the page.

    Args:
        catalog: The models and reports.
        examples: Pictures to try.
        config: Limits of pictures.
    """
    page = gr.Blocks(title="SSIA Zoo", analytics_enabled=False, delete_cache=(_INTERVAL, LIFETIME))
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
                    gr.HTML(show_report(index, report.name))
    page.queue(api_open=False)
    return page


def _picture_tab(page: gr.Blocks, catalog: Catalog, examples: Sequence[Example], config: AppConfig) -> None:
    fitting = [example for example in examples if not config.models or example.model == catalog.names[0]]
    first = fitting[0] if fitting else None
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
                [NONE, *catalog.names],
                value=NONE,
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
    look = partial(show_answers, catalog, config)
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


def _zoo_tab() -> None:
    with gr.Row():
        pattern = gr.Textbox(label="Name contains", placeholder="resnet", max_lines=1)
        dataset = gr.Dropdown([ALL, *dataset_names()], value=ALL, label="Trained on")
        only_shown = gr.Checkbox(label="Only weights whose interval excludes zero")
    table = gr.HTML(show_weights("", ALL, False))
    inputs = [pattern, dataset, only_shown]
    gr.on(
        [component.change for component in inputs],
        show_weights,
        inputs,
        table,
        trigger_mode="always_last",
        show_progress="hidden",
        api_visibility="private",
    )
