"""The command `embed`, and what it shares with `predict --out`: answers to many images, written to a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import tyro

from ssia_zoo.cli.console import DONE, FAILED, UsageError, complain
from ssia_zoo.version import __version__

Answer = tuple[Path, dict[str, Any]]
"""An image, and the values of its columns."""


def embed(
    images: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE|FOLDER ...")],
    model: str,
    out: Path,
    batch_size: int = 32,
    workers: int | None = None,
) -> int:
    """Write the pooled features of images: what the model's classifier takes.

    The preprocessing is the model's own. Images that cannot be read are reported on stderr and skipped, and the exit
    status is then 1. The same command continues an interrupted run.

    For example:
      ssia-zoo embed photos/ --model resnet18 --out features.npz
      ssia-zoo embed photos/ --model runs/mine --out features.parquet

    Args:
        images: Image files, and folders, which are searched recursively.
        model: Published weight, timm name, folder or hf-hub:org/name.
        out: File to write, .npz or .parquet.
        batch_size: Images per batch.
        workers: Number of processes that read images; the machine's cores, at most 8, if not given.
    """
    if not images:
        raise UsageError("embed: no images given; expected files or folders: ssia-zoo embed photos/ --model NAME …")
    from ssia_zoo.inference.embedding import Embedder
    from ssia_zoo.inference.images import default_workers, find_images
    from ssia_zoo.inference.output import check_output
    from ssia_zoo.inference.tables import embeddings
    from ssia_zoo.models.loading import load_model

    skipped: list[Path] = []

    def skip(path: Path, reason: str) -> None:
        skipped.append(path)
        complain(f"skipped {path}: {reason}")

    check_output(out, (".npz", ".parquet"))
    files = find_images(images, skip)
    if files:
        embedder = Embedder(load_model(model))
        workers = default_workers() if workers is None else workers

        def answers(paths: list[Path]) -> Iterator[Answer]:
            for done in embedder.embed(paths, skip, batch_size=batch_size, workers=workers):
                yield done.path, {"features": done.features}

        about = {"command": "embed", "model": model, **embedder.describe()}
        written = write_answers(out, files, embeddings(embedder.dimension), about, answers)
        print(summary(out, written, len(skipped)))
    return FAILED if skipped else DONE


def write_answers(
    out: Path,
    files: list[Path],
    columns: Any,
    about: dict[str, Any],
    answers: Callable[[list[Path]], Iterator[Answer]],
) -> int:
    """Write the answers to images, continue an earlier run, and report both on stderr.

    Args:
        out: File to write.
        files: Images.
        columns: Columns of the file.
        about: How the answers are made.
        answers: Returns the answers to images.

    Returns:
        The number of answers in the file.

    Raises:
        ConfigError: If the file belongs to other answers.
        DataError: If no image can be read.
    """
    from tqdm import tqdm

    from ssia_zoo.inference.output import Output

    output = Output(out, columns, {**about, "version": __version__})
    try:
        with output:
            remaining = output.remaining(files)
            if len(remaining) < len(files):
                complain(f"{out}: {len(files) - len(remaining)} of {len(files)} images have an answer already")
            # disable=None: a progress bar only if stderr is a terminal
            progress = tqdm(
                answers(remaining), about["command"], len(remaining), unit=" images", disable=None, leave=False
            )
            for path, values in progress:
                output.add(path, **values)
            return output.finish()
    except KeyboardInterrupt:
        if output.answered:
            complain(f"{out}: {len(output.answered)} images have an answer; the same command continues")
        raise


def summary(out: Path, written: int, skipped: int) -> str:
    """Describe a file of answers."""
    return f"{out}: {written} images" + (f", {skipped} skipped" if skipped else "")
