"""What is signed about a model: an in-toto statement of its files, its identity with vanilla timm, and its top-1.

The format is in-toto's Statement v1 with the predicate test-result v0.1, extended by "model" and "top1".
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import quote

import timm
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ssia_zoo.errors import WeightError, one_line
from ssia_zoo.evaluation.identity import Check
from ssia_zoo.evaluation.signature import SignatureError
from ssia_zoo.evaluation.verify import VerificationReport, allowed_difference
from ssia_zoo.hub.files import some
from ssia_zoo.hub.folder import STATEMENT
from ssia_zoo.hub.hashes import file_sha256
from ssia_zoo.version import __version__

_LEFT_OUT = (".git", ".gitattributes", ".cache/huggingface", STATEMENT)
"""Not part of a model: written by git, by the Hub and by its client, or the statement itself."""


class _Part(BaseModel):
    """Part of a statement; fields that this version does not know are ignored, as in-toto asks."""

    model_config = ConfigDict(frozen=True, strict=True, populate_by_name=True)


class Digest(_Part):
    """A file's hash."""

    sha256: Annotated[str, Field(pattern=r"\A[0-9a-f]{64}\z")]


class Subject(_Part):
    """A file."""

    name: str
    digest: Digest


class Software(_Part):
    """A package and its version, as a package URL."""

    name: str
    uri: str


class ModelFacts(_Part):
    """What `verify` found; numbers are of one image in eval mode."""

    architecture: str
    num_classes: int
    input_size: tuple[int, int, int]
    model_args: dict[str, object]
    tensors: int
    tensors_sha256: str
    """of the list of names, shapes and dtypes"""
    parameters: int
    flops: int
    graph_nodes: int | None


class Top1(_Part):
    """A measured accuracy."""

    dataset: str
    images: Annotated[int, Field(ge=1)]
    top1: float


class Predicate(_Part):
    """The results; test-result v0.1 with two more fields."""

    result: Literal["PASSED"] = "PASSED"
    configuration: tuple[Software, ...]
    passed_tests: Annotated[tuple[str, ...], Field(alias="passedTests")]
    model: ModelFacts
    top1: Top1 | None = None


class Statement(_Part):
    """An in-toto statement."""

    type_: Annotated[Literal["https://in-toto.io/Statement/v1"], Field(alias="_type")] = (
        "https://in-toto.io/Statement/v1"
    )
    subject: tuple[Subject, ...]
    predicate_type: Annotated[
        Literal["https://in-toto.io/attestation/test-result/v0.1"], Field(alias="predicateType")
    ] = "https://in-toto.io/attestation/test-result/v0.1"
    predicate: Predicate

    def to_bytes(self) -> bytes:
        """Return the JSON to sign; the same for the same content."""
        return self.model_dump_json(by_alias=True).encode()


def make_statement(files: dict[str, str], report: VerificationReport) -> Statement:
    """Describe a verified model.

    Args:
        files: sha256 by name, from `hash_files`.
        report: A report without failures.
    """
    found = {check.name: check for check in report.checks}
    state = found["state_dict"].value
    return Statement(
        subject=tuple(Subject(name=name, digest=Digest(sha256=digest)) for name, digest in sorted(files.items())),
        predicate=Predicate(
            configuration=_software(),
            passed_tests=tuple(check.name for check in report.checks if check.status == "passed"),
            model=ModelFacts(
                **found["loads"].value,
                tensors=state["tensors"],
                tensors_sha256=state["sha256"],
                parameters=found["parameters"].value,
                flops=found["flops"].value,
                graph_nodes=found["graph"].value,
            ),
            top1=Top1(**found["top1"].value) if found["top1"].value else None,
        ),
    )


def read_statement(content: bytes, path: Path) -> Statement:
    """Read a statement whose signature was checked.

    Raises:
        SignatureError: If it is of another kind, such as a signature of another tool.
    """
    try:
        return Statement.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "content"
        raise SignatureError(
            f"{path} is signed, but is not a statement of ssia-zoo ({field}: {one_line(ValueError(first['msg']), 100)})"
        ) from error


def _software() -> tuple[Software, ...]:
    versions = {"ssia-zoo": __version__, "timm": timm.__version__, "torch": torch.__version__}
    return tuple(Software(name=name, uri=f"pkg:pypi/{name}@{quote(version)}") for name, version in versions.items())


# --- Files ------------------------------------------------------------------------------------------------------------


def hash_files(folder: Path, leave_out: Iterable[str] = ()) -> dict[str, str]:
    """Return the sha256 of every file of a folder by its name relative to it, but for git's files and the statement.

    Raises:
        WeightError: If there is something that is neither a file nor a folder, or a link to a folder; names it.
    """
    try:
        return {name: file_sha256(folder / name) for name in sorted(_names(folder)) if name not in {*leave_out}}
    except OSError as error:
        raise WeightError(f"cannot read the files of {folder} ({one_line(error)})") from error


def _names(folder: Path) -> Iterator[str]:
    for parent, folders, files in os.walk(folder, onerror=_raise):
        inside = Path(parent).relative_to(folder)
        folders[:] = [name for name in folders if (inside / name).as_posix() not in _LEFT_OUT]
        for name in folders:
            if (Path(parent) / name).is_symlink():
                raise WeightError(f"{some([str(inside / name)])} in {folder} is a link to a folder; copy the folder")
        for name in files:
            path = (inside / name).as_posix()
            if path in _LEFT_OUT:
                continue
            if not (folder / path).is_file() or not path.isprintable():
                raise WeightError(f"{some([path])} in {folder} is not a file with a printable name; remove it")
            yield path


def _raise(error: OSError) -> None:
    raise error


# --- Comparison -------------------------------------------------------------------------------------------------------


def compare_files(statement: Statement, files: dict[str, str]) -> Check:
    """Check that files are exactly the signed ones; names those that are missing, changed or additional."""
    signed = {subject.name: subject.digest.sha256 for subject in statement.subject}
    faults = {
        "missing": signed.keys() - files.keys(),
        "not in the statement": files.keys() - signed.keys(),
        "changed": {name for name in signed.keys() & files.keys() if signed[name] != files[name]},
    }
    if any(faults.values()):
        detail = "; ".join(f"{fault}: {some(names)}" for fault, names in faults.items() if names)
        return Check("files", "failed", detail)
    return Check("files", "passed", f"{len(files)} files, each with its signed sha256", files)


def compare_statement(statement: Statement, report: VerificationReport) -> Check:
    """Check that what a statement says about a model is what was found now."""
    signed, found = statement.predicate, {check.name: check for check in report.checks}
    if not report.ok:
        return Check("statement", "skipped", "another check failed")
    now = make_statement({}, report).predicate
    same_software = signed.configuration == now.configuration
    facts = [name for name in ModelFacts.model_fields if same_software or name not in ("flops", "graph_nodes")]
    for name in facts:
        ours, theirs = getattr(now.model, name), getattr(signed.model, name)
        if ours != theirs:
            return Check("statement", "failed", f"{name} is {ours}, the statement says {theirs}"[:300])
    text = f"{len(facts)} facts about the model are as signed"
    if not same_software:
        versions = ", ".join(item.uri.removeprefix("pkg:pypi/") for item in signed.configuration)
        text += f" (FLOPs and graph size not compared: signed with {versions})"
    if signed.top1 is None:
        return Check("statement", "passed", f"{text}; no top-1 is signed")
    stated = f"signed {signed.top1.top1:.2f} % of {signed.top1.images} images of {signed.top1.dataset}"
    if found["top1"].value is None:
        return Check("statement", "passed", f"{text}; {stated}, not measured again: no data was given")
    assert now.top1 is not None
    close = abs(now.top1.top1 - signed.top1.top1) <= allowed_difference(now.top1.images)
    if now.top1.images != signed.top1.images or not close:
        return Check("statement", "failed", f"top-1 is {now.top1.top1:.2f} % of {now.top1.images} images; {stated}")
    return Check("statement", "passed", f"{text}; {stated}, measured {now.top1.top1:.2f} %")
