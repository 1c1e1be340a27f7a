"""Write answers to images so that an interrupted run loses none and continues.

New answers are appended to NAME.partial, an Arrow stream, as they come. A process that is killed leaves at most one
incomplete record at its end, which the next run drops. At the end, NAME is written at once and NAME.partial removed.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import pyarrow as pa
from filelock import FileLock, Timeout

from ssia_zoo.data.messages import printable
from ssia_zoo.errors import ConfigError, DataError, one_line
from ssia_zoo.files import atomic_write
from ssia_zoo.inference.tables import FORMATS, About, about_of, beside, check_format, read_table, schema_of, write_table

_FLUSHED = 32
"""Answers a record; those of an incomplete record are lost if the process is killed."""


def check_output(path: Path, suffixes: tuple[str, ...]) -> None:
    """Check, before any work, that a file can be written.

    Args:
        path: The file.
        suffixes: Those of the formats that are possible.

    Raises:
        ConfigError: If it cannot.
    """
    check_format(path, suffixes)
    if path.is_dir():
        raise ConfigError(f"`out` is {path}, which is a folder; choose a file")
    if not path.parent.is_dir():
        raise ConfigError(f"`out` is {path}, but there is no folder {path.parent}; create it")
    if not FORMATS[path.suffix.lower()].describes_itself:
        description, earlier = beside(path), (path, partial_path(path))
        if description.exists() and not any(file.exists() for file in earlier):
            raise ConfigError(f"`out` is {path}, whose description would replace {description}; choose another name")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise ConfigError(f"`out` is {path}, but {path.parent} cannot be written; choose another folder")


def partial_path(path: Path) -> Path:
    """Return the path of the answers of an unfinished run."""
    return path.with_name(f"{path.name}.partial")


class Output:
    """A file of answers, a context manager; only `finish` writes the file itself.

    Args:
        path: The file, checked by `check_output`.
        columns: Its columns; the first is "path".
        about: How the answers are made; those of an earlier run must have been made in the same way.

    Raises:
        ConfigError: If another process writes to it, or its answers were made in another way.
        DataError: If an existing file is no result of an earlier run.
    """

    def __init__(self, path: Path, columns: pa.Schema, about: About) -> None:
        self.path = path
        self.partial = partial_path(path)
        self._schema = schema_of(columns, about)
        self._rows: list[dict[str, Any]] = []
        self._lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=0)
        try:
            self._lock.acquire()
        except Timeout as error:
            raise ConfigError(f"`out` is {path}, to which another process writes now; choose another file") from error
        try:
            self._finished = self._read_finished()
            self._stream = self._continue(self._read_partial())
        except BaseException:
            self._release()
            raise

    def __enter__(self) -> Output:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if not self._file.closed:
                self._flush()
                self._file.close()
                if not self._added:
                    self.partial.unlink()
        finally:
            self._release()

    def remaining(self, paths: Sequence[Path]) -> list[Path]:
        """Return the images without an answer."""
        return [path for path in paths if printable(str(path)) not in self.answered]

    def add(self, path: Path, **values: Any) -> None:
        """Add the answer to an image."""
        self._rows.append({"path": printable(str(path)), **values})
        if len(self._rows) >= _FLUSHED:
            self._flush()

    def finish(self) -> int:
        """Write the file, with the answers of all runs.

        Returns:
            The number of answers.

        Raises:
            DataError: If there is none.
        """
        self._flush()
        if not self.answered:
            raise DataError(f"no image can be read; {self.path} is not written")
        self._file.close()
        if self._added:
            with pa.memory_map(str(self.partial)) as source:
                new = pa.Table.from_batches(_complete_records(pa.ipc.open_stream(source)), self._schema)
                write_table(new if self._finished is None else pa.concat_tables([self._finished, new]), self.path)
        self.partial.unlink()
        return len(self.answered)

    def _flush(self) -> None:
        if self._rows:
            self._stream.write_batch(pa.RecordBatch.from_pylist(self._rows, self._schema))
            self._file.flush()
            self.answered.update(row["path"] for row in self._rows)
            self._added = True
            self._rows = []

    def _read_finished(self) -> pa.Table | None:
        if not self.path.exists():
            return None
        table = read_table(self.path, self._schema.remove_metadata())
        self._check_same(about_of(table.schema), self.path)
        return table.replace_schema_metadata(self._schema.metadata)

    def _read_partial(self) -> list[pa.RecordBatch]:
        if not self.partial.exists():
            return []
        try:
            with pa.OSFile(str(self.partial)) as source:
                reader = pa.ipc.open_stream(source)
                about = about_of(reader.schema)
                records = _complete_records(reader)
        except (OSError, pa.ArrowException, KeyError, ValueError) as error:
            raise DataError(
                f"{self.partial} is not the unfinished result of a run ({one_line(error, 150)}); delete it"
            ) from error
        self._check_same(about, self.partial)
        return records

    def _continue(self, records: list[pa.RecordBatch]) -> pa.ipc.RecordBatchStreamWriter:
        """Start NAME.partial anew with the complete records of the earlier one, and keep it open."""
        finished = set() if self._finished is None else set(self._finished["path"].to_pylist())
        self.answered = finished.copy()
        """Images with an answer, as printable text."""
        self._added = False
        with atomic_write(self.partial) as temporary:
            self._file: IO[bytes] = temporary.open("wb")
            stream = pa.ipc.new_stream(self._file, self._schema)
            stream.write_batch(pa.RecordBatch.from_pylist([], self._schema))  # the schema is written with the first
            for record in records:
                names = record["path"].to_pylist()
                if not names or not finished.isdisjoint(names):  # empty, or in NAME already when the process was killed
                    continue
                stream.write_batch(record)
                self.answered.update(names)
                self._added = True
            self._file.flush()
        return stream

    def _check_same(self, about: About, path: Path) -> None:
        difference = _difference(about, about_of(self._schema))
        if difference is not None:
            which = "which" if path == self.path else f"but {path.name}"
            raise ConfigError(f"`out` is {self.path}, {which} has {difference}; choose another file or delete it")

    def _release(self) -> None:
        self._lock.release()
        Path(self._lock.lock_file).unlink(missing_ok=True)


def _complete_records(reader: Any) -> list[pa.RecordBatch]:
    """Read a stream to its end, or to the record that a killed process left incomplete."""
    records = []
    while True:
        try:
            records.append(reader.read_next_batch())
        except (StopIteration, OSError, pa.ArrowException):
            return records


def _difference(about: About, wanted: About) -> str | None:
    """Describe how earlier answers were made in another way; None if in the same way."""
    if about.get("command") != wanted["command"]:
        return f"the results of {about.get('command')}, not of {wanted['command']}"
    if about.get("sha256") != wanted["sha256"]:  # a folder's name stays when its model changes
        model = about.get("model")
        return f"answers of {'other weights of ' if model == wanted['model'] else ''}{model}"
    for name, value in wanted.items():
        if name not in ("model", "version") and about.get(name) != value:
            return f"answers made with {name} {about.get(name)}, not {value}"
    return None
