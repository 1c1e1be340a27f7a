"""The command `ssia-zoo`: what can be said on the command line; the work is done by the modules that commands import.

Exit status: 0 done, 1 failed or not all could be done, 2 wrong command line, 130 stopped (Ctrl-C), 141 the reader of
the output has gone (as `| head` does), 143 stopped by SIGTERM. What is not 0 or 141 comes with a line on stderr.
"""

from __future__ import annotations

import logging
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ssia_zoo.cli.console import (
    DESCRIPTION,
    DONE,
    FAILED,
    UsageError,
    complain,
    only_described,
    print_json,
    run,
)
from ssia_zoo.errors import DataError
from ssia_zoo.log import show_log

# Modules that take seconds to import are imported by the commands that need them.

_Name = Annotated[str, tyro.conf.Positional]


def list_weights(
    pattern: Annotated[str | None, tyro.conf.Positional] = None, dataset: str | None = None, json: bool = False
) -> int:
    """List the published weights, each beside its control without SSIA.

    For example:
      ssia-zoo list
      ssia-zoo list '*resnet*' --dataset cifar
      ssia-zoo list --json | jq '.[].name'

    Args:
        pattern: part of the name, or a pattern with * and ?.
        dataset: part of the data set's name.
        json: print one JSON document.
    """
    from ssia_zoo.cli.listing import select_weights, summary, table
    from ssia_zoo.models.registry import skipped_weights, weights

    chosen = select_weights(pattern, dataset)
    if json:
        print_json([summary(config) for config in chosen])
    elif chosen:
        print(table(chosen))
    if not chosen:
        complain(f"no published weight fits; `ssia-zoo list` without arguments shows all {len(weights())}")
    for name, reason in skipped_weights().items():
        complain(f"skipped {name}: {reason}")
    return DONE if chosen and not skipped_weights() else FAILED


def info(name: _Name, json: bool = False) -> None:
    """Say all that is published of a weight: data and their terms, preprocessing, every seed, how to repeat it.

    For example:
      ssia-zoo info mobilenetv3_small_050_ssia
      ssia-zoo info mobilenetv3_small_050_ssia.digits_r32 --json

    Args:
        name: a published weight's name, with or without tag.
        json: print one JSON document.
    """
    from ssia_zoo.cli.listing import details, page
    from ssia_zoo.models.registry import find_weight

    config = find_weight(name)
    print_json(details(config)) if json else print(page(config))


def predict(
    images: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE|FOLDER ...")],
    model: str,
    top: int = 5,
    batch_size: int = 32,
    json: bool = False,
) -> int:
    """Say what images show: the most probable classes, with the model's own preprocessing.

    An image that cannot be read is named on stderr and left out; the exit status is then 1.

    For example:
      ssia-zoo predict cat.jpg --model resnet18
      ssia-zoo predict photos/ more.png --model hf-hub:org/name --top 1
      ssia-zoo predict photos/ --model runs/mine --json

    Args:
        images: image files, and folders whose images are taken at all levels.
        model: weight's name, timm name, folder or hf-hub:org/name.
        top: classes an image.
        batch_size: images per step.
        json: print one JSON document.
    """
    if not images:
        raise UsageError("predict: no image is named; expected files or folders: ssia-zoo predict cat.jpg --model NAME")
    from tqdm import tqdm

    from ssia_zoo.inference.classifier import Classifier, find_images
    from ssia_zoo.models.loading import load_model

    skipped: list[dict[str, str]] = []

    def skip(path: Path, reason: str) -> None:
        skipped.append({"path": str(path), "reason": reason})
        complain(f"skipped {path}: {reason}")

    files = find_images(images, skip)
    predicted = []
    if files:
        predictions = Classifier(load_model(model)).predict(files, skip, top=top, batch_size=batch_size)
        # None: only where stderr is a terminal
        for done in tqdm(predictions, "predict", len(files), unit=" images", disable=None, leave=False):
            if json:
                predicted.append({"path": str(done.path), "predictions": [asdict(guess) for guess in done.guesses]})
            elif top == 1:
                print(f"{done.path}  {done.guesses[0].probability:.2%}  {done.guesses[0].label}")
            else:
                print(done.path, *(f"{guess.probability:>9.2%}  {guess.label}" for guess in done.guesses), sep="\n")
    if json:
        print_json({"model": model, "images": predicted, "skipped": skipped})
    return FAILED if skipped else DONE


def explain(image: Annotated[Path, tyro.conf.Positional], model: str, out: Path, vs: str | None = None) -> None:
    """Draw what a model sees in an image: where each stage is active, and what speaks for the predicted class.

    For example:
      ssia-zoo explain cat.jpg --model mobilenetv3_small_050_ssia --out cat.png
      ssia-zoo explain cat.jpg --model runs/ssia --vs runs/vanilla --out both.png

    Args:
        image: image file.
        model: weight's name, timm name, folder or hf-hub:org/name.
        out: PNG to write; an existing one is replaced.
        vs: another model, drawn below the first.
    """
    from ssia_zoo.inference.classifier import Classifier, read_image
    from ssia_zoo.inference.explain import check_writable, draw
    from ssia_zoo.inference.explain import explain as look
    from ssia_zoo.models.loading import load_model

    check_writable(out)
    try:
        picture = read_image(image)
    except DataError as error:
        raise DataError(f"{image}: {error}") from error
    rows = [look(name, Classifier(load_model(name)), picture) for name in (model, vs) if name is not None]
    draw(rows, image.name, out)
    for row in rows:
        print(f"{row.name}: {row.guess.label} {row.guess.probability:.2%}")
    print(out)


def fetch(name: _Name, out: Path | None = None) -> None:
    """Print where a published weight's verified file lies, fetching it if need be; or copy it as a loadable folder.

    For example:
      ssia-zoo fetch mobilenetv3_small_050_ssia --out weights/m3     # then timm: local-dir:weights/m3

    Args:
        name: a published weight's name, with or without tag.
        out: write config.json, model.safetensors (float32) and README.md into this folder.
    """
    from ssia_zoo.models.registry import find_weight, weight_path

    config = find_weight(name)
    if out is None:
        print(weight_path(config))
        return
    from ssia_zoo.models.release import write_weight_folder

    print(write_weight_folder(config, out))


def verify(target: _Name, dataset: str | None = None, json: bool = False) -> int:
    """Check a weight, a folder or a Hub repository: files, hashes, tensors, and its top-1 where data is named.

    For example:
      ssia-zoo verify mobilenetv3_small_050_ssia --dataset digits
      ssia-zoo verify hf-hub:org/name --json

    Args:
        target: weight's name, folder or hf-hub:org/name.
        dataset: recompute the published top-1 on it: Hub id, folder, or digits.
        json: print one JSON document.
    """
    from ssia_zoo.data import DataConfig
    from ssia_zoo.evaluation.verify import verify as check

    report = check(target, data=DataConfig(dataset=dataset) if dataset is not None else None)
    if json:
        print_json(report.to_dict())
    else:
        print(report)
    return DONE if report.ok else FAILED


def validate(
    model: _Name,
    dataset: str,
    dataset_config: str | None = None,
    train_split: str | None = None,
    eval_split: str | None = None,
    holdout: float = 0.0,
    image_column: str | None = None,
    label_column: str | None = None,
    num_classes: int | None = None,
    image_size: int | None = None,
    max_eval_images: int | None = None,
    max_corrupt: float = 0.001,
    max_pixels: int = 178_956_970,
    batch_size: int = 128,
    workers: int = 2,
    json: bool = False,
) -> None:
    """Measure a model on a data set: top-1, top-5 and loss, with the model's own preprocessing.

    For example:
      ssia-zoo validate mobilenetv3_small_050_ssia --dataset digits
      ssia-zoo validate runs/mine --dataset uoft-cs/cifar10 --batch-size 512 --json

    Args:
        model: weight's name, timm name, folder or hf-hub:org/name.
        dataset: Hub id, folder of parquet files, image folder, or digits.
        dataset_config: configuration, of a data set that has several.
        train_split: split that names the classes, and of which --holdout is a part; train if not given.
        eval_split: split to measure on; the first of validation, valid, val, dev, test if not given.
        holdout: measure on this fraction of the training split, the same that training with this flag left out.
        image_column: column with the images.
        label_column: column with the classes.
        num_classes: number of classes, where labels are numbers without names.
        image_size: height and width of the input; the model's own if not given, as its whole preprocessing is.
        max_eval_images: measure on this many images, chosen at random once and for all.
        max_corrupt: fraction of the images that may be unreadable; they are left out.
        max_pixels: most pixels of an image; a larger JPEG is decoded smaller, another large image is left out.
        batch_size: images per step.
        workers: processes that load images.
        json: print one JSON document.
    """
    flags = {name: value for name, value in locals().items() if name not in ("model", "json")}  # as DataConfig's
    from ssia_zoo.data import DataConfig
    from ssia_zoo.evaluation.validate import validate as measure
    from ssia_zoo.models.loading import load_model

    data = DataConfig(**flags)
    result = measure(load_model(model), data)
    if json:
        print_json({"model": model, "dataset": dataset, **result, "images": round(result["images"])})
        return
    print(
        f"{model} on {dataset}: top-1 {result['top1']:.2f} %, top-5 {result['top5']:.2f} %, loss {result['loss']:.4f}, "
        f"{result['images']:.0f} images"
    )


def publish(
    folder: Annotated[str | None, tyro.conf.Positional] = None,
    repo_id: Annotated[str | None, tyro.conf.Positional] = None,
    private: bool = False,
    all: bool = False,
    org: str | None = None,
    with_: Annotated[Literal["onnx"] | None, tyro.conf.arg(name="with")] = None,
    calibration_dataset: str | None = None,
) -> None:
    """Publish a folder that train_hf.py wrote, or all published weights, to the Hugging Face Hub.

    For example:
      ssia-zoo publish runs/mine your-name/my-model         # after `hf auth login`
      ssia-zoo publish runs/mine your-name/my-model --with onnx --calibration-dataset digits
      ssia-zoo publish --all --org your-org --private

    Args:
        folder: folder with config.json, model.safetensors and README.md, which alone are sent; not a weight's name.
        repo_id: repository, org/name; created if it does not exist.
        private: create it as a private one.
        all: publish each weight of `ssia-zoo list` into a repository of its own; needs --org.
        org: user or organisation that --all publishes to.
        with_: onnx exports the model into FOLDER/onnx, checks it, and publishes it too (for transformers.js, optimum).
        calibration_dataset: for --with onnx: add an int8 file too, calibrated on this data set.
    """
    if all != (org is not None) or all == (folder is not None) or (folder is None) != (repo_id is None):
        raise UsageError("publish: expected either FOLDER ORG/NAME or --all --org ORG")
    if (all and with_ is not None) or (with_ is None and calibration_dataset is not None):
        raise UsageError("publish: --with goes with a FOLDER, and --calibration-dataset with --with onnx")
    if folder is not None and repo_id is not None:
        from ssia_zoo.commands import publish_command
        from ssia_zoo.hub import publish as publish_folder
        from ssia_zoo.models.registry import published_weight

        if published_weight(folder) is not None:
            raise UsageError(f"publish: {folder} is a published weight's name; write ./{folder} for a folder called so")
        path = Path(folder.removeprefix("local-dir:"))

        extra: Sequence[str] = ()
        repeat = publish_command(folder, repo_id, private)
        if with_ == "onnx":
            from ssia_zoo.export.onnx import add_onnx

            extra = add_onnx(path, calibration_dataset=calibration_dataset)
            repeat += " --with onnx"
            repeat += f" --calibration-dataset {shlex.quote(calibration_dataset)}" if calibration_dataset else ""
        print(publish_folder(path, repo_id, private=private, extra=extra, repeat=repeat))
    elif org is not None:
        from ssia_zoo.models.release import publish_all

        repeat = shlex.join(["ssia-zoo", "publish", "--all", "--org", org, *(["--private"] if private else [])])
        for done in publish_all(org, private=private, repeat=repeat):
            print(done)


def export() -> None:
    """Export a model to another runtime, and check that it gives there what PyTorch gives."""
    # Its flags and its work are `exporting.command`, which _parse_and_run takes in its place.


def demo(output_dir: Path = Path("runs"), epochs: int | None = None) -> None:
    """Train with SSIA and without on scikit-learn's digits, publish into a folder, load from there: about 2 minutes.

    For example:
      ssia-zoo demo --epochs 1

    Args:
        output_dir: a new numbered folder is made in it.
        epochs: passes over the data; 12 if not given.
    """
    from ssia_zoo.cli.demo import run_demo

    show_log(logging.INFO)
    run_demo(output_dir, epochs)


_COMMANDS: dict[str, Callable[..., int | None]] = {
    "list": list_weights,
    "info": info,
    "predict": predict,
    "explain": explain,
    "fetch": fetch,
    "verify": verify,
    "validate": validate,
    "publish": publish,
    "export": export,
    "demo": demo,
}


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        args: Words after `ssia-zoo`; those of the process if None.

    Returns:
        Exit status, as this module's docstring lists them.

    Raises:
        SystemExit: With 0 after --help, with 2 at a wrong flag.
    """
    words = list(sys.argv[1:] if args is None else args)
    show_log()
    return run(lambda: _parse_and_run(words))


def _parse_and_run(words: list[str]) -> int | None:
    if words and words[0] in _COMMANDS:
        command: Callable[..., int | None] = _COMMANDS[words[0]]
        if command is export:
            from ssia_zoo.export.exporter import command
        config = (tyro.conf.FlagCreatePairsOff,)
        status: int | None = tyro.cli(command, prog=f"ssia-zoo {words[0]}", args=words[1:], config=config)
        return status
    # No such command: tyro prints the help, or what was meant, and exits. A line a command is enough there.
    described = {name: only_described(each) for name, each in _COMMANDS.items()}
    tyro.extras.subcommand_cli_from_dict(described, prog="ssia-zoo", description=DESCRIPTION, args=words)
    return None
