"""Write and read tables of answers to images as CSV, JSON lines, parquet or npz.

parquet and npz hold a description of how the answers were made; CSV and JSON lines have it in a second file, NAME.json.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ssia_zoo.errors import ConfigError, DataError, one_line
from ssia_zoo.files import atomic_write

About = dict[str, Any]
"""How answers were made: command, model, preprocessing and settings."""

KEY = b"ssia_zoo"
"""Key of the description in the metadata of a schema."""

PREDICTIONS = pa.schema(
    {
        "path": pa.string(),
        "predictions": pa.list_(pa.struct({"index": pa.int32(), "label": pa.string(), "probability": pa.float32()})),
    }
)
_GUESS = ("index", "label", "probability")


def embeddings(dimension: int) -> pa.Schema:
    """Return the columns of embeddings."""
    return pa.schema({"path": pa.string(), "features": pa.list_(pa.float32(), dimension)})


def schema_of(columns: pa.Schema, about: About) -> pa.Schema:
    """Add a description to columns."""
    return columns.with_metadata({KEY: json.dumps(about)})


def about_of(schema: pa.Schema) -> About:
    """Return the description of a schema.

    Raises:
        KeyError: If it has none.
    """
    about: About = json.loads((schema.metadata or {})[KEY])
    return about


@dataclass(frozen=True)
class Format:
    """One format of tables."""

    write: Callable[[pa.Table, Path], None]
    read: Callable[[Path, pa.Schema], pa.Table]
    """Takes the columns that are expected; the metadata of the returned schema hold the description."""
    describes_itself: bool
    """Whether the file holds the description."""


def read_table(path: Path, columns: pa.Schema) -> pa.Table:
    """Read a file that `write_table` wrote.

    Raises:
        DataError: If it cannot be read, or is another file.
    """
    form = FORMATS[path.suffix.lower()]
    try:
        table = form.read(path, columns)
        if not form.describes_itself:
            about = json.loads(beside(path).read_text(encoding="utf-8"))
            table = table.replace_schema_metadata(schema_of(columns, about).metadata)
        about_of(table.schema)
    except Exception as error:  # another file raises any kind
        reason = f" ({one_line(error, 150)})" if isinstance(error, OSError | pa.ArrowException) else ""
        raise DataError(
            f"`out` is {path}, which exists and is no result of this command{reason}; choose another file or delete it"
        ) from error
    return table


def write_table(table: pa.Table, path: Path) -> None:
    """Write a table whose schema has a description, and replace an existing file.

    Raises:
        OSError: If it cannot be written.
    """
    form = FORMATS[path.suffix.lower()]
    if not form.describes_itself:
        with atomic_write(beside(path)) as temporary:
            temporary.write_text(json.dumps(about_of(table.schema), indent=2) + "\n", encoding="utf-8")
    with atomic_write(path) as temporary:
        form.write(table, temporary)


def beside(path: Path) -> Path:
    """Return the path of the description of a CSV file or JSON lines."""
    return path.with_name(f"{path.name}.json")


def check_format(path: Path, suffixes: tuple[str, ...]) -> None:
    """Check that a path has one of these suffixes.

    Raises:
        ConfigError: If it has another one.
    """
    if path.suffix.lower() not in suffixes:
        raise ConfigError(f"`out` is {path}; expected a name that ends in {', '.join(suffixes[:-1])} or {suffixes[-1]}")


def _write_csv(table: pa.Table, path: Path) -> None:
    lists = table["predictions"].to_pylist()
    names = [f"{name}{place + 1}" for place in range(max(map(len, lists), default=0)) for name in _GUESS]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["path", *names], restval="")
        writer.writeheader()
        for image, guesses in zip(table["path"].to_pylist(), lists, strict=True):
            cells = {f"{key}{place}": _cell(guess[key]) for place, guess in enumerate(guesses, 1) for key in _GUESS}
            writer.writerow({"path": image, **cells})


def _cell(value: Any) -> Any:
    return str(np.float32(value)) if isinstance(value, float) else value  # as many digits as float32 needs


def _read_csv(path: Path, columns: pa.Schema) -> pa.Table:
    with path.open(encoding="utf-8", newline="") as file:
        rows = [{"path": row["path"], "predictions": _guesses(row)} for row in csv.DictReader(file)]
    return pa.Table.from_pylist(rows, columns)


def _guesses(row: dict[str, str]) -> list[dict[str, Any]]:
    guesses = []
    for place in count(1):
        if not row.get(f"index{place}"):
            break
        index, label, probability = (row[f"{name}{place}"] for name in _GUESS)
        guesses.append({"index": int(index), "label": label, "probability": float(probability)})
    return guesses


def _write_jsonl(table: pa.Table, path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for row in table.to_pylist():
            file.write(json.dumps(row, allow_nan=False) + "\n")


def _read_jsonl(path: Path, columns: pa.Schema) -> pa.Table:
    with path.open(encoding="utf-8") as file:
        return pa.Table.from_pylist([json.loads(line) for line in file], columns)


def _read_parquet(path: Path, columns: pa.Schema) -> pa.Table:
    table = pq.read_table(path)
    return table.cast(columns.with_metadata(table.schema.metadata))


def _write_npz(table: pa.Table, path: Path) -> None:
    features = table["features"].combine_chunks()
    array = features.flatten().to_numpy().reshape(len(table), features.type.list_size)
    with path.open("wb") as file:  # np.savez would append .npz to a name
        np.savez(
            file,
            images=np.array(table["path"].to_pylist(), dtype=np.str_),
            features=array,
            about=json.dumps(about_of(table.schema)),
        )


def _read_npz(path: Path, columns: pa.Schema) -> pa.Table:
    with np.load(path, allow_pickle=False) as arrays:
        features = np.ascontiguousarray(arrays["features"], dtype=np.float32)
        lists = pa.FixedSizeListArray.from_arrays(pa.array(features.reshape(-1)), features.shape[1])
        schema = schema_of(columns, json.loads(str(arrays["about"])))
        return pa.table([pa.array(arrays["images"].tolist(), pa.string()), lists], schema=schema)


FORMATS = {
    ".csv": Format(_write_csv, _read_csv, describes_itself=False),
    ".jsonl": Format(_write_jsonl, _read_jsonl, describes_itself=False),
    ".parquet": Format(pq.write_table, _read_parquet, describes_itself=True),
    ".npz": Format(_write_npz, _read_npz, describes_itself=True),
}
