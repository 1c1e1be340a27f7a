"""Sign what `verify` finds about a folder or repository, and check such a statement later, elsewhere."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from ssia_zoo.data import DataConfig
from ssia_zoo.errors import ConfigError, WeightError
from ssia_zoo.evaluation.identity import Check
from ssia_zoo.evaluation.signature import (
    SignatureError,
    is_envelope,
    is_private_key,
    open_envelope,
    read_private_key,
    read_public_key,
    short_id,
    write_envelope,
)
from ssia_zoo.evaluation.statement import (
    compare_files,
    compare_statement,
    hash_files,
    make_statement,
    read_statement,
)
from ssia_zoo.evaluation.verify import CHECKS, VerificationReport, verify
from ssia_zoo.hub import fetch_repository
from ssia_zoo.hub.folder import STATEMENT
from ssia_zoo.models.registry import published_weight

_REPOSITORY = re.compile(r"hf[-_]hub:(?P<repo_id>[^@]+)(?:@(?P<revision>.+))?")
_LARGEST_KEY = 2**16  # bytes; bigger files are not searched for keys


def sign_model(
    target: str, key: Path, *, data: DataConfig | None = None, statement: Path | None = None
) -> tuple[VerificationReport, Path | None]:
    """Verify a model, and sign a statement of its files and of what was found.

    Args:
        target: A folder, or "hf-hub:org/name" with all its files.
        key: Private key, PEM.
        data: Data to measure the top-1 on; without, the statement has none.
        statement: File to write; `STATEMENT` in the folder if None.

    Returns:
        The report, and the file that was written; None if a check failed, and nothing was signed.

    Raises:
        ConfigError: If a setting, the key or the folder is not valid.
        WeightError: If a private key is among the files, or a file changed meanwhile.
        DataError: If the data cannot be read.
        HubError: If the repository cannot be downloaded.
    """
    signer = read_private_key(key)
    if statement is None and _REPOSITORY.fullmatch(target):
        raise ConfigError(f"`statement` is needed to sign {target}: a file to write, which you then upload to it")
    if statement is not None and not statement.parent.is_dir():
        raise ConfigError(f"`statement` {statement}: there is no folder {statement.parent}")
    folder = _folder(target)
    path = statement or folder / STATEMENT
    if path.exists() and not is_envelope(path):
        raise ConfigError(f"{path} exists and is no signed statement; choose another `statement`")
    leave_out = _inside(folder, path)
    _refuse_private_keys(folder, key)
    files = hash_files(folder, leave_out)
    report = replace(verify(f"local-dir:{folder}", data=data), target=target)
    if not report.ok:
        return report, None
    if hash_files(folder, leave_out) != files:
        raise WeightError(f"the files of {folder} changed while they were verified; nothing is signed: repeat it")
    write_envelope(make_statement(files, report).to_bytes(), signer, path)
    return report, path


def sign_folder(folder: Path, key: Path) -> None:
    """Write `STATEMENT` into a folder that is to be published; arguments and errors are those of `sign_model`.

    Raises:
        WeightError: If a check of `verify` fails, too.
    """
    report, path = sign_model(f"local-dir:{folder}", key)
    if path is None:
        reasons = "; ".join(f"{check.name}: {check.detail}" for check in report.checks if check.status == "failed")
        raise WeightError(f"the model is not signed, since it fails verification ({reasons}); nothing is published")


def check_model(
    target: str, key: Path, *, data: DataConfig | None = None, statement: Path | None = None
) -> VerificationReport:
    """Check a signed statement, that the files are exactly the signed ones, and that it says what `verify` finds.

    Args:
        target: As in `sign_model`.
        key: Public key of the expected signer, PEM.
        data: Data to measure the top-1 on again; without, only the signature is checked for it.
        statement: The statement's file; `STATEMENT` in the folder if None.

    Returns:
        The report of `verify` with the checks "signature", "files" and "statement". If the signature or the files do
        not pass, the model is not loaded.

    Raises:
        ConfigError: If a setting, the key or the folder is not valid, or there is no statement.
        WeightError: If the folder holds what is not a file.
        DataError: If the data cannot be read.
        HubError: If the repository cannot be downloaded.
    """
    public = read_public_key(key)
    folder = _folder(target)
    path = statement or folder / STATEMENT
    if not path.is_file():
        raise ConfigError(f"there is no signed statement {path}; name it with `statement`, or write it with `sign`")
    try:
        signed = read_statement(open_envelope(path, public), path)
    except SignatureError as error:
        return _refused(target, [Check("signature", "failed", str(error))])
    by_key = Check("signature", "passed", f"by {short_id(public)}, in {path}")
    files = compare_files(signed, hash_files(folder, _inside(folder, path)))
    if files.status == "failed":
        return _refused(target, [by_key, files])
    report = verify(f"local-dir:{folder}", data=data)
    return VerificationReport(target, (by_key, files, *report.checks, compare_statement(signed, report)))


def _refused(target: str, found: list[Check]) -> VerificationReport:
    others = [name for name in ("files", *CHECKS, "statement") if name not in {check.name for check in found}]
    reason = f"the {found[-1].name} did not pass"
    return VerificationReport(target, (*found, *(Check(name, "skipped", reason) for name in others)))


def _folder(target: str) -> Path:
    """Return the folder with all files of a target; for a repository, of one commit in the Hub client's cache."""
    if (parts := _REPOSITORY.fullmatch(target)) is not None:
        return fetch_repository(parts["repo_id"], revision=parts["revision"])
    folder = Path(target.removeprefix("local-dir:")).expanduser()
    if published_weight(target) is not None:
        raise ConfigError(f"{target} is a published weight, not a folder; write it into one by ssia-zoo fetch")
    if target in ("", "local-dir:") or not folder.is_dir():
        raise ConfigError(f"there is no folder {target!r}; expected a model's folder, or hf-hub:org/name")
    return folder


def _inside(folder: Path, path: Path) -> tuple[str, ...]:
    """Return the name of a file relative to a folder, if it is inside."""
    inside = path.resolve()
    return (inside.relative_to(folder.resolve()).as_posix(),) if inside.is_relative_to(folder.resolve()) else ()


def _refuse_private_keys(folder: Path, key: Path) -> None:
    """Refuse a folder with a private key in it, which would be published with the model."""
    if key.resolve().is_relative_to(folder.resolve()):
        raise WeightError(f"the private key {key} is inside {folder}; move it out, so that it is never published")
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.stat().st_size <= _LARGEST_KEY and is_private_key(path.read_bytes()):
            raise WeightError(f"{path} holds a private key; move it out of {folder}, so that it is never published")
