"""Commands on published weights: `list`, `info`, `fetch` and `publish`."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ssia_zoo.cli.console import DONE, FAILED, UsageError, complain, print_json
from ssia_zoo.errors import ConfigError

_Weight = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="WEIGHT")]


def list_weights(
    pattern: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="[PATTERN]")] = None,
    dataset: str | None = None,
    json: bool = False,
) -> int:
    """List the published weights and their controls, trained without SSIA.

    For example:
      ssia-zoo list
      ssia-zoo list '*resnet*' --dataset cifar
      ssia-zoo list --json | jq '.[].name'

    Args:
        pattern: Part of the name, or a pattern with * and ?.
        dataset: Part of the data set's name.
        json: Print one JSON document.
    """
    from ssia_zoo.cli.listing import table
    from ssia_zoo.models.listing import select_weights, summary
    from ssia_zoo.models.registry import skipped_weights, weights

    chosen = select_weights(pattern, dataset)
    if json:
        print_json([summary(config) for config in chosen])
    elif chosen:
        print(table(chosen))
    if not chosen:
        complain(f"no published weight matches; `ssia-zoo list` without arguments lists all {len(weights())}")
    for name, reason in skipped_weights().items():
        complain(f"skipped {name}: {reason}")
    return DONE if chosen and not skipped_weights() else FAILED


def info(name: _Weight, json: bool = False) -> None:
    """Show a published weight: data, licence, results of every seed, and how to reproduce it.

    For example:
      ssia-zoo info mobilenetv3_small_050_ssia
      ssia-zoo info mobilenetv3_small_050_ssia.digits_r32 --json

    Args:
        name: Name of a published weight, with or without tag.
        json: Print one JSON document.
    """
    from ssia_zoo.cli.listing import details, page
    from ssia_zoo.models.registry import find_weight

    config = find_weight(name)
    print_json(details(config)) if json else print(page(config))


def fetch(name: _Weight, out: Path | None = None) -> None:
    """Download a published weight and print its path, or save it as a folder that timm loads.

    For example:
      ssia-zoo fetch mobilenetv3_small_050_ssia --out weights/m3     # then timm: local-dir:weights/m3

    Args:
        name: Name of a published weight, with or without tag.
        out: Folder for config.json, model.safetensors (float32) and README.md.
    """
    from ssia_zoo.models.registry import find_weight, weight_path

    config = find_weight(name)
    if out is None:
        print(weight_path(config))
        return
    from ssia_zoo.models.release import holds_weight, write_weight_folder

    if out.is_dir() and any(out.iterdir()) and not holds_weight(out, config):
        raise ConfigError(f"`out` {out}: is not empty and holds something else than {config.name}; choose a new folder")

    print(write_weight_folder(config, out))


def publish(
    folder: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="[FOLDER")] = None,
    repo_id: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="ORG/NAME]")] = None,
    private: bool = False,
    all: bool = False,
    org: str | None = None,
    with_: Annotated[Literal["onnx"] | None, tyro.conf.arg(name="with")] = None,
    calibration_dataset: str | None = None,
    sign: Path | None = None,
    space: str | None = None,
    out: Path | None = None,
    replace: bool = False,
) -> None:
    """Publish a trained model, all published weights, or a page about them, to the Hugging Face Hub.

    For example:
      ssia-zoo publish runs/mine your-name/my-model         # after `hf auth login`
      ssia-zoo publish runs/mine your-name/my-model --with onnx --calibration-dataset digits
      ssia-zoo publish runs/mine your-name/my-model --sign key.pem   # readers: ssia-zoo verify hf-hub:… --check key.pub
      ssia-zoo publish --all --org your-org --private
      ssia-zoo publish runs/mine --space your-name/my-page --out page   # look at it first: python page/app.py
      ssia-zoo publish --space your-name/zoo

    Args:
        folder: Folder with config.json, model.safetensors and README.md; no other files are uploaded. With --space any
            model: published weight, timm name, folder or hf-hub:org/name.
        repo_id: Repository, org/name; created if it does not exist.
        private: Create the repository as private.
        all: Publish every weight of `ssia-zoo list`, each to its own repository, and a collection of them; needs --org.
        org: User or organisation that --all publishes to.
        with_: Export the model to FOLDER/onnx and publish that too, for transformers.js and Optimum.
        calibration_dataset: With --with onnx, add an int8 file calibrated on this data set.
        sign: Private key (PEM); verify each model, and publish a signed statement with it.
        space: Publish the page of `ssia-zoo app` as this Space, org/name: with one model, or all published weights.
        out: With --space, write the Space into this new folder, and upload nothing.
        replace: Replace what the repository holds, also if it is another kind of model, or another Space.
    """
    if space is not None:
        if all or org or repo_id or with_ or calibration_dataset or sign:
            raise UsageError("publish: --space goes with a MODEL, --private, --replace and --out only")
        _publish_space(space, folder, private, out, replace)
        return
    if out is not None:
        raise UsageError("publish: --out needs --space")
    if all != (org is not None) or all == (folder is not None) or (folder is None) != (repo_id is None):
        raise UsageError("publish: expected either FOLDER ORG/NAME or --all --org ORG")
    if (all and with_ is not None) or (with_ is None and calibration_dataset is not None):
        raise UsageError("publish: --with needs a FOLDER, and --calibration-dataset needs --with onnx")
    if folder is not None and repo_id is not None:
        _publish_folder(folder, repo_id, private, with_ == "onnx", calibration_dataset, sign, replace)
    elif org is not None:
        _publish_all(org, private, sign, replace)


def _publish_folder(
    folder: str,
    repo_id: str,
    private: bool,
    onnx: bool,
    calibration_dataset: str | None,
    key: Path | None,
    replace: bool,
) -> None:
    from ssia_zoo.commands import publish_command
    from ssia_zoo.hub import publish as upload
    from ssia_zoo.models.registry import published_weight

    if published_weight(folder) is not None:
        raise UsageError(f"publish: {folder} is a published weight; for a folder of this name write ./{folder}")
    path = Path(folder.removeprefix("local-dir:"))
    extra: Sequence[str] = ()
    repeat = publish_command(folder, repo_id, private) + (" --replace" if replace else "")
    if onnx:
        from ssia_zoo.export.onnx import add_onnx

        extra = add_onnx(path, calibration_dataset=calibration_dataset)
        repeat += " --with onnx"
        repeat += f" --calibration-dataset {shlex.quote(calibration_dataset)}" if calibration_dataset else ""
    if key is None:
        print(upload(path, repo_id, private=private, extra=extra, repeat=repeat, replace=replace))
        return
    from ssia_zoo.evaluation.attestation import sign_folder
    from ssia_zoo.hub import prepare_card, publish_to_folder
    from ssia_zoo.hub.folder import STATEMENT

    repeat += f" --sign {shlex.quote(str(key))}"
    with tempfile.TemporaryDirectory(prefix="ssia-zoo-") as temporary:  # the statement is about the published files
        copy = publish_to_folder(path, Path(temporary) / "repository", extra=extra)
        prepare_card(copy, repo_id, repeat=repeat)
        sign_folder(copy, key)
        signed = (*extra, STATEMENT)
        print(upload(copy, repo_id, private=private, extra=signed, repeat=repeat, replace=replace))


def _publish_all(org: str, private: bool, key: Path | None, replace: bool) -> None:
    from ssia_zoo.models.release import collect, publish_all

    flags = [*(["--private"] if private else []), *(["--sign", str(key)] if key else [])]
    flags += ["--replace"] if replace else []
    repeat = shlex.join(["ssia-zoo", "publish", "--all", "--org", org, *flags])
    sign = None if key is None else partial(_sign_weight, org=org, key=key, repeat=repeat)
    publish_all(org, private=private, sign=sign, repeat=repeat, replace=replace, done=partial(print, flush=True))
    print(f"collection: {collect(org, private=private, repeat=repeat)}")


def _sign_weight(folder: Path, *, org: str, key: Path, repeat: str) -> None:
    """Sign a published weight's folder, with the card as it will be in the organization's repository."""
    from ssia_zoo.evaluation.attestation import sign_folder
    from ssia_zoo.hub import prepare_card
    from ssia_zoo.hub.files import read_model_config

    name = read_model_config(folder / "config.json")["ssia"]["name"]
    prepare_card(folder, f"{org}/{name}", repeat=repeat)
    sign_folder(folder, key)


def _publish_space(repo_id: str, model: str | None, private: bool, out: Path | None, replace: bool) -> None:
    from ssia_zoo.app.space import write_space
    from ssia_zoo.hub import publish_space

    title = repo_id.split("/")[-1]
    if out is not None:
        print(write_space(out, title, model))
        return
    flags = ["--space", repo_id, *(["--private"] if private else []), *(["--replace"] if replace else [])]
    repeat = shlex.join(["ssia-zoo", "publish", *([model] if model else []), *flags])
    with tempfile.TemporaryDirectory(prefix="ssia-zoo-") as temporary:
        folder = write_space(Path(temporary) / "space", title, model)
        print(publish_space(folder, repo_id, private=private, repeat=repeat, replace=replace))
