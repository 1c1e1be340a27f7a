"""The command `ssia-zoo`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from ssia_zoo.errors import ConfigError, SSIAZooError


def demo(output_dir: Path = Path("runs"), epochs: int | None = None) -> None:
    """Train with SSIA and without on scikit-learn's digits, publish into a folder, load from there: about 2 minutes.

    Args:
        output_dir: a new numbered folder is made in it.
        epochs: passes over the data; 12 if not given.
    """
    from ssia_zoo.demo import run_demo

    if epochs is not None and epochs < 1:
        raise ConfigError(f"--epochs is {epochs}; expected at least 1")
    run_demo(output_dir, epochs)


def publish(
    folder: Annotated[Path, tyro.conf.Positional], repo_id: Annotated[str, tyro.conf.Positional], private: bool = False
) -> None:
    """Publish a folder that train_hf.py wrote: config.json, model.safetensors and README.md.

    Args:
        folder: the folder.
        repo_id: repository on the Hugging Face Hub, org/name; created if it does not exist.
        private: create it as a private one.
    """
    from ssia_zoo.hub import publish as publish_folder

    print(publish_folder(folder, repo_id, private=private))


def validate(
    model: Annotated[str, tyro.conf.Positional],
    dataset: str,
    eval_split: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    batch_size: int = 128,
    workers: int = 2,
) -> None:
    """Measure a published weight on a data set: top-1, top-5 and loss.

    Args:
        model: name such as mobilenetv3_small_050_ssia, any timm name, local-dir:FOLDER or hf-hub:org/name.
        dataset: Hub id, folder of parquet files, image folder, or digits.
        eval_split: split to measure on; the first of validation, valid, val, dev, test if not given.
        image_column: column with the images.
        label_column: column with the classes.
        batch_size: images per step.
        workers: processes that load images.
    """
    import timm

    from ssia_zoo.data import DataConfig
    from ssia_zoo.validation import validate as measure

    data = DataConfig(
        dataset=dataset,
        eval_split=eval_split,
        image_column=image_column,
        label_column=label_column,
        batch_size=batch_size,
        workers=workers,
    )
    try:
        created = timm.create_model(model, pretrained=True)
    except SSIAZooError:
        raise
    except Exception as error:  # timm raises every kind
        raise ConfigError(f"{model}: cannot be loaded: {' '.join(str(error).split())}") from error
    result = measure(created, data)
    print(
        f"{model} on {dataset}: top-1 {result['top1']:.2f} %, top-5 {result['top5']:.2f} %, loss {result['loss']:.4f}, "
        f"{result['images']:.0f} images"
    )


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        Exit status: 0 done, 1 failed with a message, 130 stopped by the user (2, a wrong flag, exits at once).
    """
    try:
        tyro.extras.subcommand_cli_from_dict(
            {"demo": demo, "publish": publish, "validate": validate},
            prog="ssia-zoo",
            description="timm models trained with Self-Supervised Implicit Attention.",
            args=args,
        )
    except SSIAZooError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
