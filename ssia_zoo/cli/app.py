"""The command `app`."""

from __future__ import annotations

from typing import Annotated

import tyro


def app(
    models: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="MODEL|FOLDER ...")] = (),
    port: int = 7860,
    host: str = "127.0.0.1",
    max_megabytes: float = 20.0,
    max_pixels: int = 50_000_000,
) -> None:
    """Open a page in the browser: drop a picture, see a model's answer and where it looks.

    The page needs no network and sends nothing: it listens on this machine only, unless --host is given.

    For example:
      ssia-zoo app                       # pip install 'ssia-zoo[app]'; then open http://127.0.0.1:7860
      ssia-zoo app runs/photos           # a fine-tuned model, with its report

    Args:
        models: Models to offer first, and folders with a report: of finetune, or of validate --report.
        port: Port to listen on; 0 for any free one.
        host: Address to listen on. On another one than this machine's own, the page offers only the published weights
            and the given models, and anyone who reaches it can use it.
        max_megabytes: Largest file that the page takes.
        max_pixels: Largest picture, pixels; larger JPEGs are decoded at a lower resolution, others are refused.
    """
    settings = dict(locals())
    from ssia_zoo.app import AppConfig, serve

    serve(AppConfig(**settings))
