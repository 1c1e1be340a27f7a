"""What the benchmarks share, and that the tables in the documentation are those of the recorded results."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.scripts import BENCHMARKS, load_script

SCRIPTS = sorted(
    path.stem for path in BENCHMARKS.glob("*.py") if '__name__ == "__main__"' in path.read_text(encoding="utf-8")
)
REPORTS = {
    "allocator": {"report": True},
    "checkpointing": {"report": True},
    "export_breadth": {"report": True},
    "growth": {"report": True},
    "hub_throughput": {"report": True},
    "inference": {"report": True},
    "scaling": {"report": True},
    "side_by_side": {"report": True},
    "throughput": {"report": True},
}

recording = load_script("recording")


def test_functions_take_turns_and_each_has_one_in_every_round() -> None:
    calls: list[str] = []
    functions = {name: lambda name=name: calls.append(name) or len(calls) for name in "abc"}
    results = recording.in_turns(functions, rounds=4)
    assert [sorted(calls[i : i + 3]) for i in range(0, 15, 3)] == [["a", "b", "c"]] * 5, "one round is warm-up"
    assert sorted(value for values in results.values() for value in values) == list(range(4, 16))
    assert all(len(values) == 4 for values in results.values())
    assert len({tuple(calls[i : i + 3]) for i in range(3, 15, 3)}) > 1, "the order changes"


def test_without_warm_up_every_call_is_recorded() -> None:
    calls: list[int] = []
    assert recording.in_turns({"a": lambda: calls.append(0)}, rounds=2, warm_up=False) == {"a": [None, None]}
    assert len(calls) == 2


def test_a_call_is_timed_by_the_clock_and_by_the_processor() -> None:
    wall, cpu = recording.timed(lambda: sum(range(100_000)))()
    assert cpu > 0
    assert wall > 0


def test_records_are_read_as_they_were_appended(tmp_path: Path) -> None:
    path = tmp_path / "new" / "records.jsonl"
    assert recording.read_results(path) == []
    records: list[dict[str, Any]] = [{"a": 1, **recording.environment(0.5, ("timm",))}, {"b": [1.5]}]
    for record in records:
        recording.append_record(path, record)
    assert recording.read_results(path) == records
    assert records[0]["versions"].keys() == {"python", "timm"}
    assert records[0]["machine"]["load"][0] == 0.5


@pytest.mark.parametrize(
    ("machine", "text"),
    [
        ({"cpu": "x", "cores": 2, "load": [1.25, 3]}, "2 x cores, load 1.2 to 3.0"),
        ({"cpu": "x", "cores": 2, "load": 1.0}, "2 x cores, load 1.0"),
        ("x, 2 cores", "x, 2 cores"),
    ],
)
def test_machines_of_new_and_old_records_can_be_described(machine: Any, text: str) -> None:
    assert recording.machine_text(machine) == text


def test_a_table_is_replaced_between_its_marks_and_nowhere_else(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- t: begin -->\nold\n<!-- t: end -->\nafter\n", encoding="utf-8")
    recording.replace_table(page, "t", ["| new |", "|---|"])
    assert page.read_text(encoding="utf-8") == "before\n<!-- t: begin -->\n| new |\n|---|\n<!-- t: end -->\nafter\n"


@pytest.mark.parametrize(
    "name", [*REPORTS, "finetune", "gpu", "stages", pytest.param("accuracy_report", marks=pytest.mark.slow)]
)
def test_tables_in_the_documentation_are_those_of_the_results(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = load_script(name)
    original = script.REPORT
    monkeypatch.setattr(script, "REPORT", Path(shutil.copy(original, tmp_path)))
    if hasattr(script, "IMAGES"):
        monkeypatch.setattr(script, "IMAGES", tmp_path)
    if name in REPORTS:
        settings = getattr(script, "Settings", None) or script.Arguments
        script.main(settings(report=True))
    elif name == "accuracy_report":
        accuracy = load_script("accuracy")
        arena = accuracy.ARENA
        monkeypatch.setattr(accuracy, "ARENA", Path(shutil.copy(arena, tmp_path)))
        accuracy.main(accuracy.Report())
        assert accuracy.ARENA.read_text(encoding="utf-8") == arena.read_text(encoding="utf-8")
    else:
        script.report()
    assert script.REPORT.read_text(encoding="utf-8") == original.read_text(encoding="utf-8")


def test_every_script_is_in_the_readme() -> None:
    text = (BENCHMARKS / "README.md").read_text(encoding="utf-8")
    assert [name for name in SCRIPTS if f"| `{name}.py` |" not in text] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_explains_itself(name: str) -> None:
    command = [sys.executable, str(BENCHMARKS / f"{name}.py"), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"benchmarks/{name}.py" in done.stdout.replace("\n", " ")
