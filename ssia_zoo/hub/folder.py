"""Check that a folder holds a complete model before it is published or loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import parse_eval_result_entries

from ssia_zoo.errors import WeightError, one_line
from ssia_zoo.hub.files import (
    CONFIG,
    WEIGHTS,
    check_tensors,
    pickles_only,
    read_model_config,
    vanilla_tensors,
)

CARD = "README.md"

PUBLISHED_FILES = (CONFIG, WEIGHTS, CARD)
"""The files of a publishable folder: the only ones that are uploaded, unless EXTRA_FILES are requested."""

ONNX_FILES = (
    "onnx/model.onnx",
    "onnx/model.onnx.json",
    "onnx/model_quantized.onnx",
    "onnx/model_quantized.onnx.json",
    "onnx/config.json",
    "onnx/preprocessor_config.json",
)
"""The files that `ssia_zoo.export.onnx.add_onnx` adds."""

EVAL_RESULTS = ".eval_results/ssia-zoo.yaml"
"""A result in the Hub's newer format, which leaderboards read."""

STATEMENT = "ssia-zoo.intoto.jsonl"
"""The signed statement about the other files, written by `ssia_zoo.evaluation.attestation.sign_model`."""

EXTRA_FILES = (*ONNX_FILES, EVAL_RESULTS, STATEMENT)
"""The files that are uploaded on request."""

UNSIGNED_FILES = (".gitattributes",)
"""What the Hub itself adds to a repository."""

_PLACEHOLDERS = (
    ("hf-hub:ORG/NAME", "hf-hub:{}"),
    ('create_model("local-dir:FOLDER"', 'create_model("hf-hub:{}"'),
    ('model="FOLDER"', 'model="{}"'),
)
"""How generated cards load a model whose repository is not known yet, and how they do where it is."""

_SOURCES = ("file", "url", "state_dict", "hf_hub_id", "hf_hub_filename", "custom_load")


def addressed_card(card: str, repo_id: str) -> str:
    """Return a generated card with the repository it is published to in its examples."""
    for placeholder, known in _PLACEHOLDERS:
        card = card.replace(placeholder, known.format(repo_id))
    return card


def check_extra(folder: Path, extra: Sequence[str]) -> None:
    """Check that further files to publish are among EXTRA_FILES, exist and are valid.

    Raises:
        WeightError: If not.
    """
    for name in extra:
        path = folder / name
        if name not in EXTRA_FILES:
            raise WeightError(f"{name} cannot be published; expected one of {', '.join(EXTRA_FILES)}")
        if not path.is_file() or not path.resolve().is_relative_to(folder.resolve()):
            raise WeightError(f"{path} is missing, or a link out of the folder; write it again")
        if name == EVAL_RESULTS:
            _check_eval_results(path)


def _check_eval_results(path: Path) -> None:
    try:
        parse_eval_result_entries(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError) as error:
        reason = f"{type(error).__name__}: {one_line(error, 200)}"
        raise WeightError(
            f"{path} holds no evaluation results in the Hub's format ({reason}); write it again"
        ) from error


def check_folder(folder: Path) -> None:
    """Check that a folder is publishable: a complete model that vanilla timm loads.

    Raises:
        WeightError: If a file is missing, damaged or outside the folder, config.json does not name a vanilla timm
            architecture or is not one that transformers loads, or the tensors are not finite float32 of exactly that
            architecture's names and shapes.
    """
    folder = Path(folder)
    for name in PUBLISHED_FILES:
        path = folder / name
        if not path.is_file():
            raise WeightError(
                f"{path} is missing; a publishable folder holds {', '.join(PUBLISHED_FILES)}: "
                "name the output folder of a training run"
            )
        if not path.resolve().is_relative_to(folder.resolve()):  # a link could publish any file of the user's
            raise WeightError(f"{path} is a link to {path.resolve()}, outside the folder; copy that file here instead")
    config = read_model_config(folder / CONFIG)
    if elsewhere := [key for key in _SOURCES if config["pretrained_cfg"].get(key)]:
        raise WeightError(
            f"{folder / CONFIG} names another source of weights (pretrained_cfg: {', '.join(elsewhere)}); expected "
            f"only {WEIGHTS} beside it: remove these keys"
        )
    if "num_classes" in (config.get("model_args") or {}):  # as timm writes it
        raise WeightError(
            f"{folder / CONFIG} has num_classes in model_args as well, which transformers would pass to timm twice and "
            "fail: remove it from model_args, and keep the one outside"
        )
    weights = folder / WEIGHTS
    check_tensors(weights, vanilla_tensors(folder, config["architecture"], weights), float32=True)


def check_loadable(folder: Path, *, weights: bool = True) -> dict[str, Any]:
    """Check that a folder from any source holds a model that timm loads, without pickles.

    Args:
        folder: Folder with config.json and model.safetensors.
        weights: Whether the weights are needed; else config.json is enough.

    Returns:
        The content of config.json.

    Raises:
        WeightError: As `check_folder`, but README.md is optional and half-precision weights are accepted.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise WeightError(f"{folder} is not a folder; expected one with {CONFIG} and {WEIGHTS}")
    path = folder / WEIGHTS
    if weights and not path.is_file():
        if refusal := pickles_only(str(folder), (entry.name for entry in folder.iterdir())):
            raise WeightError(refusal)
        raise WeightError(f"{path} is missing; expected a folder with {CONFIG} and {WEIGHTS}")
    config = read_model_config(folder / CONFIG)
    vanilla = vanilla_tensors(folder, config["architecture"], path if weights else None)
    if weights:
        check_tensors(path, vanilla, float32=False)
    return config
