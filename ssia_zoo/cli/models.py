"""Commands that run any model: `predict`, `explain`, `verify` and `validate`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from ssia_zoo.cli.answers import Answer, summary, write_answers
from ssia_zoo.cli.console import DONE, FAILED, UsageError, complain, print_json
from ssia_zoo.errors import DataError

if TYPE_CHECKING:
    from ssia_zoo.inference.classifier import Prediction

_Model = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]


def predict(
    images: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE|FOLDER ...")],
    model: str,
    top: int | None = None,
    threshold: float | None = None,
    batch_size: int = 32,
    workers: int | None = None,
    out: Path | None = None,
    json: bool = False,
) -> int:
    """Classify images.

    The preprocessing is the model's own. Images that cannot be read are reported on stderr and skipped, and the exit
    status is then 1.

    For example:
      ssia-zoo predict cat.jpg --model resnet18
      ssia-zoo predict photos/ more.png --model hf-hub:org/name --top 1
      ssia-zoo predict photos/ --model runs/mine --json
      ssia-zoo predict photos/ --model runs/mine --out answers.csv

    Args:
        images: Image files, and folders, which are searched recursively.
        model: Published weight, timm name, folder or hf-hub:org/name.
        top: Maximum number of classes per image; 5 if not given, or all for a model of several labels an image.
        threshold: Leave out classes of a lower probability; if not given, that of a model of several labels an image.
        batch_size: Images per batch.
        workers: Number of processes that read images; the machine's cores, at most 8, if not given.
        out: Write to this .csv, .jsonl or .parquet file instead of stdout; the same command continues an interrupted
            run.
        json: Print one JSON document.
    """
    if not images:
        raise UsageError("predict: no images given; expected files or folders: ssia-zoo predict cat.jpg --model NAME")
    if json and out is not None:
        raise UsageError(
            "predict: --json prints on stdout, --out writes a file; leave one out (JSON lines: --out x.jsonl)"
        )
    from tqdm import tqdm

    from ssia_zoo.inference.classifier import Classifier
    from ssia_zoo.inference.images import default_workers, find_images
    from ssia_zoo.inference.output import check_output
    from ssia_zoo.inference.tables import PREDICTIONS
    from ssia_zoo.models.loading import load_model

    skipped: list[dict[str, str]] = []

    def skip(path: Path, reason: str) -> None:
        skipped.append({"path": str(path), "reason": reason})
        complain(f"skipped {path}: {reason}")

    if out is not None:
        check_output(out, (".csv", ".jsonl", ".parquet"))
    files = find_images(images, skip)
    predicted = []
    if files:
        classifier = Classifier(load_model(model))
        workers = default_workers() if workers is None else workers
        limits = classifier.limits(top, threshold)
        predict_files = partial(classifier.predict, skip=skip, batch_size=batch_size, workers=workers, **limits)
        if out is not None:
            about = {"command": "predict", "model": model, **classifier.describe(), **limits}
            written = write_answers(out, files, PREDICTIONS, about, lambda paths: _rows(predict_files(paths)))
            print(summary(out, written, len(skipped)))
            return FAILED if skipped else DONE
        predictions = predict_files(files)
        # disable=None: a progress bar only if stderr is a terminal
        for done in tqdm(predictions, "predict", len(files), unit=" images", disable=None, leave=False):
            if json:
                predicted.append({"path": str(done.path), "predictions": [asdict(guess) for guess in done.guesses]})
            elif not done.guesses:
                print(f"{done.path}  no class reaches the threshold")
            elif top == 1:
                print(f"{done.path}  {done.guesses[0].probability:.2%}  {done.guesses[0].label}")
            else:
                print(done.path, *(f"{guess.probability:>9.2%}  {guess.label}" for guess in done.guesses), sep="\n")
    if json:
        print_json({"model": model, "images": predicted, "skipped": skipped})
    return FAILED if skipped else DONE


def _rows(predictions: Iterator[Prediction]) -> Iterator[Answer]:
    return ((done.path, {"predictions": [asdict(guess) for guess in done.guesses]}) for done in predictions)


def explain(
    image: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE")],
    model: str,
    out: Path,
    vs: str | None = None,
) -> None:
    """Draw the attention of a model's stages and its Grad-CAM map for an image.

    For example:
      ssia-zoo explain cat.jpg --model mobilenetv3_small_050_ssia --out cat.png
      ssia-zoo explain cat.jpg --model runs/ssia --vs runs/vanilla --out both.png

    Args:
        image: Image file.
        model: Published weight, timm name, folder or hf-hub:org/name.
        out: PNG to write; an existing file is replaced.
        vs: Second model, drawn below the first.
    """
    from ssia_zoo.figures import require_matplotlib
    from ssia_zoo.inference.classifier import Classifier
    from ssia_zoo.inference.explain import check_writable, draw
    from ssia_zoo.inference.explain import explain as explain_image
    from ssia_zoo.inference.images import read_image
    from ssia_zoo.models.loading import load_model

    require_matplotlib()
    check_writable(out, image)
    try:
        picture = read_image(image)
        rows = [explain_image(name, Classifier(load_model(name)), picture) for name in (model, vs) if name is not None]
    except DataError as error:
        raise DataError(f"{image}: {error}") from error
    draw(rows, image.name, out)
    for row in rows:
        print(f"{row.name}: {row.guess.label} {row.guess.probability:.2%}")
    print(out)


def verify(
    target: _Model,
    dataset: str | None = None,
    eval_split: str | None = None,
    labels: str | None = None,
    sign: Path | None = None,
    check: Path | None = None,
    statement: Path | None = None,
    json: bool = False,
) -> int:
    """Check a model's files, hashes, tensors and top-1; sign the result, or check a signed one.

    For example:
      ssia-zoo verify mobilenetv3_small_050_ssia --dataset digits
      ssia-zoo verify hf-hub:org/name --json
      ssia-zoo verify runs/mine --dataset photos/ --sign key.pem    # pip install 'ssia-zoo[sign]'
      ssia-zoo verify hf-hub:org/name --check key.pub

    Args:
        target: Published weight, folder or hf-hub:org/name.
        dataset: Data set to recompute the published top-1 on: Hub id, folder, or digits.
        eval_split: Split of the data set; that of the model's training if not given.
        labels: CSV or TSV file of the images' paths and labels, for a folder of images.
        sign: Private key (PEM); write a signed statement of all files and of what was found.
        check: Public key (PEM); check the signed statement, and that the files are exactly the signed ones.
        statement: The signed statement; ssia-zoo.intoto.jsonl in the folder if not given.
        json: Print one JSON document.
    """
    if sign is not None and check is not None:
        raise UsageError("verify: --sign and --check exclude each other")
    if statement is not None and sign is None and check is None:
        raise UsageError("verify: --statement needs --sign or --check")
    from ssia_zoo.data import DataConfig

    if dataset is None and (eval_split is not None or labels is not None):
        raise UsageError("verify: --eval-split and --labels need --dataset")
    data = DataConfig(dataset=dataset, eval_split=eval_split, labels=labels) if dataset is not None else None
    written = None
    if sign is not None:
        from ssia_zoo.evaluation.attestation import sign_model

        report, written = sign_model(target, sign, data=data, statement=statement)
    elif check is not None:
        from ssia_zoo.evaluation.attestation import check_model

        report = check_model(target, check, data=data, statement=statement)
    else:
        from ssia_zoo.evaluation.verify import verify as verify_model

        report = verify_model(target, data=data)
    signed = {"statement": str(written) if written else None} if sign is not None else {}
    print_json({**report.to_dict(), **signed}) if json else print(report)
    if written is not None and not json:
        print(f"signed: {written}")
    elif sign is not None and written is None:
        complain(f"not signed: {report.failed} failed")
    return DONE if report.ok else FAILED


def validate(
    model: _Model,
    dataset: str,
    dataset_config: str | None = None,
    train_split: str | None = None,
    eval_split: str | None = None,
    holdout: float = 0.0,
    image_column: str | None = None,
    label_column: str | None = None,
    labels: str | None = None,
    label_separator: str | None = None,
    num_classes: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    max_eval_images: int | None = None,
    max_corrupt: float = 0.001,
    max_pixels: int = 178_956_970,
    batch_size: int = 128,
    workers: int = 2,
    report: Path | None = None,
    json: bool = False,
) -> None:
    """Measure top-1, top-5 and loss of a model on a data set; write a report of its answers.

    For example:
      ssia-zoo validate mobilenetv3_small_050_ssia --dataset digits
      ssia-zoo validate runs/mine --dataset uoft-cs/cifar10 --batch-size 512 --json
      ssia-zoo validate runs/mine --dataset photos/ --report report

    Args:
        model: Published weight, timm name, folder or hf-hub:org/name.
        dataset: Hub id, folder of parquet files, image folder, or digits.
        dataset_config: Configuration of a data set that has several.
        train_split: Split that defines the classes and that --holdout divides; train if not given.
        eval_split: Split to evaluate; if not given, the first of validation, valid, val, dev, test, or all images of a
            folder without splits.
        holdout: Evaluate this fraction of the training split, the one that training with this flag leaves out.
        image_column: Column of the images.
        label_column: Column of the classes.
        labels: CSV or TSV file of the images' paths and labels, for a folder of images.
        label_separator: Separator of several labels in one cell; found in a CSV or TSV file if not given.
        num_classes: Number of classes, if labels are numbers without names.
        image_size: Of the input, pixels: one number for a square, or height and width; the model's own if not given.
        max_eval_images: Evaluate this many images, a fixed random subset.
        max_corrupt: Largest fraction of unreadable images, which are skipped.
        max_pixels: Largest image, pixels; larger JPEGs are decoded at a lower resolution, other formats are skipped.
        batch_size: Images per batch.
        workers: Number of data loading processes.
        report: Folder for report.html, with scores, figures and the worst mistakes, and the answer to every image; new,
            empty, or with an earlier report, which is replaced.
        json: Print one JSON document.
    """
    settings = {name: value for name, value in locals().items() if name not in ("model", "report", "json")}
    from ssia_zoo.data import DataConfig
    from ssia_zoo.evaluation.validate import validate as measure
    from ssia_zoo.models.loading import load_model
    from ssia_zoo.models.metric_names import describe

    data = DataConfig(**settings)
    if report is None:
        result = measure(load_model(model), data)
    else:
        from ssia_zoo.report import check_report, report_model

        check_report(report)
        scores = report_model(load_model(model), data, report, title=f"{model} on {dataset}")
        result = {"top1": scores.top1, "top5": scores.top5, "loss": scores.loss, "images": float(scores.images)}
    if json:
        written = {} if report is None else {"report": str(report)}
        print_json({"model": model, "dataset": dataset, **result, "images": round(result["images"]), **written})
        return
    print(f"{model} on {dataset}: {describe(result)}, {result['images']:.0f} images")
    if report is not None:
        print(report / "report.html")
