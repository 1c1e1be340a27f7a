"""The command `compare`."""

from __future__ import annotations

import inspect
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from ssia_zoo.cli.console import UsageError, print_json
from ssia_zoo.cli.listing import align

if TYPE_CHECKING:
    from ssia_zoo.evaluation.paired import ClassChange

_MOST = 5
_Compared = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL|REPORT")]


def compare(
    first: _Compared,
    second: _Compared,
    dataset: str | None = None,
    dataset_config: str | None = None,
    train_split: str | None = None,
    eval_split: str | None = None,
    holdout: float = 0.0,
    image_column: str | None = None,
    label_column: str | None = None,
    labels: str | None = None,
    num_classes: int | None = None,
    max_eval_images: int | None = None,
    max_corrupt: float = 0.001,
    batch_size: int = 128,
    workers: int = 2,
    report: Path | None = None,
    json: bool = False,
) -> None:
    """Compare two models on the same images: difference, interval, exact test, changes by class.

    For example:
      ssia-zoo compare resnet18_ssia resnet50_ssia --dataset uoft-cs/cifar10
      ssia-zoo compare runs/a runs/b --dataset photos/ --report report
      ssia-zoo compare reports/a reports/b

    Args:
        first: Model A: published weight, timm name, folder or hf-hub:org/name; or the report that validate --report
            wrote for it.
        second: Model B, likewise.
        dataset: Hub id, folder of parquet files, image folder, or digits; for two reports, needed for pictures only.
        dataset_config: Configuration of a data set that has several.
        train_split: Split that defines the classes and that --holdout divides; train if not given.
        eval_split: Split to compare on; the first of validation, valid, val, dev, test if not given.
        holdout: Compare on this fraction of the training split, the one that training with this flag leaves out.
        image_column: Column of the images.
        label_column: Column of the classes.
        labels: CSV or TSV file of the images' paths and labels, for a folder of images.
        num_classes: Number of classes, if labels are numbers without names.
        max_eval_images: Compare on this many images, a fixed random subset.
        max_corrupt: Largest fraction of unreadable images, which are skipped.
        batch_size: Images per batch.
        workers: Number of data loading processes.
        report: Folder for comparison.html, with pictures where the models differ; new, empty, or with an earlier
            comparison, which is replaced.
        json: Print one JSON document.
    """
    settings = {name: value for name, value in locals().items() if name not in ("first", "second", "report", "json")}
    from ssia_zoo.data import DataConfig
    from ssia_zoo.evaluation.paired import RESAMPLES, SEED
    from ssia_zoo.report.comparison import are_answers, verdict
    from ssia_zoo.report.comparison import compare as compare_models
    from ssia_zoo.report.page import p_value

    models = [name for name in (first, second) if not are_answers(name)]
    if dataset is None and models:
        raise UsageError(f"compare: {models[0]} is not a report; to run it as a model, add --dataset")
    given = [f"--{name.replace('_', '-')}" for name, value in settings.items() if value != _DEFAULTS[name]]
    if given and not models and (dataset is None or report is None):
        raise UsageError(
            f"compare: two reports are compared on all of their images, so {given[0]} has no effect; leave it out, or "
            "give --dataset and --report for pictures"
        )
    data = None if dataset is None else DataConfig(**settings)
    result = compare_models(first, second, data, report)
    if json:
        written = {} if report is None else {"report": str(report)}
        print_json({"a": first, "b": second, **asdict(result), "verdict": verdict(result), **written})
        return
    low, high = result.interval
    rows = [
        ("A", f"{result.a_top1:.2f} %", first),
        ("B", f"{result.b_top1:.2f} %", second),
        ("B - A", f"{result.difference:+.2f}", f"points, 95 % interval {low:+.2f} to {high:+.2f}"),
    ]
    print(align(rows, right=(1,)))
    print(
        f"McNemar's exact test: {p_value(result.p_value)}; of {result.images} images, right in A only: "
        f"{result.only_a}, in B only: {result.only_b}, in both: {result.both}, in neither: {result.neither}"
    )
    print(f"{verdict(result)} (bootstrap over images, {RESAMPLES} resamples, seed {SEED})")
    up, down = result.largest_changes(_MOST)
    if up or down:
        print()
        print(_table([*up, *down[::-1]]))
    if report is not None:
        print(report / "comparison.html")


_DEFAULTS = {name: parameter.default for name, parameter in inspect.signature(compare).parameters.items()}


def _table(classes: list[ClassChange]) -> str:
    rows = [("LARGEST CHANGES", "IMAGES", "A", "B", "CHANGE")]
    for row in classes:
        rows.append((row.name, str(row.images), f"{row.a:.1%}", f"{row.b:.1%}", f"{100 * row.change:+.1f}"))
    return align(rows, right=(1, 2, 3, 4))
