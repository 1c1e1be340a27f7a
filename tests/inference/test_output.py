"""Files of answers: formats, interruption at any moment, and what is refused."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ssia_zoo.errors import ConfigError, DataError
from ssia_zoo.inference.output import Output, check_output
from ssia_zoo.inference.tables import PREDICTIONS, embeddings, read_table

ABOUT = {"command": "predict", "model": "m", "sha256": "0", "preprocessing": "p", "top": 1, "version": "1"}
FORMATS = (".csv", ".jsonl", ".parquet", ".npz")


def values(suffix: str, number: int) -> dict[str, Any]:
    if suffix == ".npz":
        return {"features": np.array([number, 0.1], dtype=np.float32)}
    return {"predictions": [{"index": 0, "label": 'a, "b"\n', "probability": 0.1}] * (number % 3)}


def opened(path: Path, **changes: Any) -> Output:
    return Output(path, embeddings(2) if path.suffix == ".npz" else PREDICTIONS, {**ABOUT, **changes})


def write(path: Path, numbers: range, finish: bool = True) -> None:
    with opened(path) as output:
        for number in numbers:
            output.add(Path(f"{number}.jpg"), **values(path.suffix, number))
        if finish:
            output.finish()


def read(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = read_table(path, embeddings(2) if path.suffix == ".npz" else PREDICTIONS).to_pylist()
    return rows


def expected(path: Path, numbers: range) -> list[dict[str, Any]]:
    columns = embeddings(2) if path.suffix == ".npz" else PREDICTIONS
    rows = [{"path": f"{number}.jpg", **values(path.suffix, number)} for number in numbers]
    as_stored: list[dict[str, Any]] = pa.Table.from_pylist(rows, columns).to_pylist()
    return as_stored


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_finished_file_has_every_answer_and_is_extended(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"x{suffix}"
    write(path, range(70))
    assert read(path) == expected(path, range(70))
    with opened(path) as output:
        assert output.remaining([Path(f"{number}.jpg") for number in range(72)]) == [Path("70.jpg"), Path("71.jpg")]
    write(path, range(70, 72))
    assert read(path) == expected(path, range(72))
    assert names(tmp_path) == {path.name, f"{path.name}.json"} - ({f"{path.name}.json"} if suffix[1] in "np" else set())


@pytest.mark.parametrize("suffix", FORMATS)
def test_without_new_answers_a_finished_file_stays(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"x{suffix}"
    write(path, range(3))
    before, content = names(tmp_path), path.read_bytes()
    with opened(path) as output:
        assert output.finish() == 3
    with pytest.raises(KeyboardInterrupt), opened(path):
        raise KeyboardInterrupt
    assert (names(tmp_path), path.read_bytes()) == (before, content)


def test_a_stopped_run_keeps_all_answers_and_a_killed_one_all_complete_records(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    write(path, range(40), finish=False)
    assert names(tmp_path) == {"x.csv.partial"}
    child = os.fork()
    if child == 0:
        output = opened(path)
        for number in range(40, 100):
            output.add(Path(f"{number}.jpg"), **values(".csv", number))
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    with opened(path) as output:
        assert sorted(output.answered) == sorted(f"{number}.jpg" for number in range(40 + 32))
        for number in range(72, 100):
            output.add(Path(f"{number}.jpg"), **values(".csv", number))
        assert output.finish() == 100
    assert read(path) == expected(path, range(100))


def test_an_incomplete_record_is_dropped_wherever_it_was_cut(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    partial = tmp_path / "x.jsonl.partial"
    with opened(path):
        pass
    assert not partial.exists()
    write(path, range(32), finish=False)
    one = partial.stat().st_size
    write(path, range(32, 64), finish=False)
    content = partial.read_bytes()
    for size in range(one, len(content), 7):
        partial.write_bytes(content[:size])
        with opened(path) as output:
            assert len(output.answered) == 32
    partial.write_bytes(content)
    with opened(path) as output:
        assert len(output.answered) == 64


def test_a_run_killed_between_writing_the_file_and_removing_the_partial_one_repeats_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    write(path, range(40), finish=False)
    partial = tmp_path / "x.parquet.partial"
    content = partial.read_bytes()
    write(path, range(0))
    partial.write_bytes(content)
    write(path, range(40, 41))
    assert read(path) == expected(path, range(41))


@pytest.mark.parametrize("finish", [True, False])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"command": "embed"}, "results of predict, not of embed"),
        ({"model": "n", "sha256": "1"}, "has answers of m;"),
        ({"sha256": "1"}, "other weights of m;"),
        ({"top": 2}, "made with top 1, not 2"),
        ({"preprocessing": "q"}, "made with preprocessing p, not q"),
    ],
)
def test_answers_made_in_another_way_are_refused(
    finish: bool, change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "x.csv"
    write(path, range(2), finish)
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(ConfigError, match=message):
        opened(path, **change)
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before
    opened(path, version="2").__exit__(None, None, None)  # and the model's name does not matter, its weights do
    opened(path, model="./m").__exit__(None, None, None)


@pytest.mark.parametrize("suffix", FORMATS)
def test_other_files_are_refused_and_stay(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"x{suffix}"
    for content in (b"", b"path,label\n1.jpg,cat\n"):
        path.write_bytes(content)
        with pytest.raises(DataError, match="no result of this command"):
            opened(path)
        assert path.read_bytes() == content
    path.unlink()
    partial = tmp_path / f"x{suffix}.partial"
    partial.write_bytes(b"mine")
    with pytest.raises(DataError, match="is not the unfinished result"):
        opened(path)
    assert partial.read_bytes() == b"mine"


def test_another_parquet_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"path": ["a"], "predictions": [[]]}), path)
    with pytest.raises(DataError, match="no result of this command"):
        opened(path)


def test_two_processes_cannot_write_to_one_file(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    with opened(path):
        child = os.fork()
        if child == 0:
            try:
                opened(path)
            except ConfigError as error:
                os._exit(0 if "another process" in str(error) else 1)
            os._exit(2)
        assert os.waitpid(child, 0)[1] == 0


def test_without_any_answer_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no image can be read"), opened(tmp_path / "x.csv") as output:
        output.finish()
    assert not names(tmp_path)


def test_the_description_is_in_the_file_or_beside_it(tmp_path: Path) -> None:
    for suffix in FORMATS:
        write(tmp_path / f"x{suffix}", range(1))
    assert json.loads((tmp_path / "x.csv.json").read_text()) == ABOUT
    assert json.loads((tmp_path / "x.jsonl.json").read_text()) == ABOUT
    assert json.loads(pq.read_schema(tmp_path / "x.parquet").metadata[b"ssia_zoo"]) == ABOUT
    with np.load(tmp_path / "x.npz") as arrays:
        assert json.loads(str(arrays["about"])) == ABOUT
        assert arrays["images"].tolist() == ["0.jpg"]
        assert arrays["features"].dtype == np.float32


def test_a_path_that_is_not_utf8_is_written(tmp_path: Path) -> None:
    odd = Path(os.fsdecode(b"\xff.jpg"))
    with opened(tmp_path / "x.csv") as output:
        output.add(odd, **values(".csv", 1))
        output.finish()
    with opened(tmp_path / "x.csv") as output:
        assert output.remaining([odd]) == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("x.txt", r"ends in \.csv or \.npz"),
        ("x", "ends in"),
        ("folder.csv", "is a folder"),
        ("no/x.csv", "no folder"),
    ],
)
def test_a_path_that_cannot_be_written_is_refused(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(ConfigError, match=message):
        check_output(tmp_path / name, (".csv", ".npz"))
    check_output(tmp_path / "X.CSV", (".csv", ".npz"))


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_strangers_file_of_the_descriptions_name_is_not_replaced(suffix: str, tmp_path: Path) -> None:
    path, description = tmp_path / f"x{suffix}", tmp_path / f"x{suffix}.json"
    description.write_text("mine")
    with pytest.raises(ConfigError, match="whose description would replace"):
        check_output(path, FORMATS)
    check_output(tmp_path / "x.parquet", FORMATS)  # has none
    description.unlink()
    write(path, range(2))
    check_output(path, FORMATS)


def test_a_hidden_file_of_the_same_name_stays(tmp_path: Path) -> None:
    (tmp_path / ".x.csv").write_text("mine")
    write(tmp_path / "x.csv", range(2))
    assert (tmp_path / ".x.csv").read_text() == "mine"


def test_names_that_are_no_utf8_stay_different(tmp_path: Path) -> None:
    paths = [Path(os.fsdecode(name)) for name in (b"a\xff.png", b"a\xfe.png")]
    with opened(tmp_path / "x.csv") as output:
        output.add(paths[0], **values(".csv", 1))
        output.finish()
    with opened(tmp_path / "x.csv") as output:
        assert output.remaining(paths) == paths[1:]
