"""Plans are run in processes: checked before, paired, resumed, and a run that dies stops no other."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from filelock import FileLock

from ssia_zoo.arena.checks import check_plan
from ssia_zoo.arena.devices import environment, find_devices
from ssia_zoo.arena.plan import read_plan
from ssia_zoo.arena.records import answers_path, read_failures, read_records
from ssia_zoo.arena.results import read_results
from ssia_zoo.arena.runner import Options, _add_seconds, _signals_interrupt, run_plan
from ssia_zoo.cli import main
from ssia_zoo.errors import ConfigError
from ssia_zoo.evaluation.answers import read_answers
from ssia_zoo.models.loading import load_model
from ssia_zoo.training.metrics import read_records as read_metrics
from tests.arena.plans import CONTENT, plan, write_plan
from tests.helpers.runs import ROOT

SMOKE = ROOT / "benchmarks" / "plans" / "smoke.yaml"


@pytest.fixture(autouse=True)
def _cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def command(*words: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "ssia_zoo.cli", "arena", *map(str, words)],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.mark.slow
def test_the_smoke_plan_tunes_runs_and_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = tmp_path / "results" / "records.jsonl"
    models = tmp_path / "models"
    where = ("--records", str(records), "--work", str(tmp_path / "work"), "--models", str(models))
    assert main(["arena", "run", str(SMOKE), "--jobs", "2", *where]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"6 runs recorded in {records}, 0 failed, 0 of the plan left"
    found = read_records(records)
    described = sorted((r["method"], r["seed"], r["evaluated_on"]) for r in found.values())
    tries = [("DSN", 100, "validation")] * 2
    assert described == [("DSN", 0, "test"), ("DSN", 1, "test"), *tries, ("vanilla", 0, "test"), ("vanilla", 1, "test")]
    results = read_results(read_plan(SMOKE), records)
    (choice,) = results.choices
    best = max(range(2), key=lambda place: choice.scores[place])
    tuned = [run for run in results.runs if run["method"] == "DSN"]
    assert [run["tuned"]["chosen"] for run in tuned] == [choice.tries[best][0].tried] * 2
    for key, record in found.items():
        answers = read_answers(answers_path(records, key))
        assert len(answers) == record["images"]
        assert 100 * answers.correct.mean() == pytest.approx(record["top1"], abs=1e-3) == record["answers_top1"]
        assert record["memory_mb"] > 100
        assert str(tmp_path) not in json.dumps(record), "records say nothing of the machine's folders"
        assert json.loads((models / key / "config.json").read_text())["ssia"]["fingerprint"] == record["fingerprint"]
        assert load_model(f"local-dir:{models / key}").num_classes == 5
        assert not (models / key / "checkpoints").exists()
    assert not list((tmp_path / "work").glob("*.lock")), "locks are removed"

    assert main(["arena", "check", str(SMOKE), "--records", str(records)]) == 0
    assert "asserted in 2 of 2 groups" in capsys.readouterr().out
    output = tmp_path / "report"
    assert main(["arena", "report", str(SMOKE), "--records", str(records), "--output", str(output)]) == 0
    assert "| over images |" in (output / "report.md").read_text(encoding="utf-8")
    capsys.readouterr()
    assert main(["arena", "power", str(SMOKE), "--records", str(records), "--difference", "1"]) == 0
    assert "test_resnet on digits" in capsys.readouterr().out

    lines = records.read_text(encoding="utf-8").splitlines()
    dropped = json.loads(lines[-1])
    records.write_text("\n".join(lines[:-1]) + "\n", encoding="utf-8")
    assert main(["arena", "run", str(SMOKE), *where]) == 0
    out = capsys.readouterr().out
    assert "1 runs recorded" in out, "only the missing run is made"
    assert f"{models / dropped['key']} exists, with the model of these settings; the new one is not kept" in out
    again = read_records(records)[dropped["key"]]
    free = ("seconds", "memory_mb")
    assert {k: v for k, v in again.items() if k not in free} == {k: v for k, v in dropped.items() if k not in free}


@pytest.mark.slow
def test_a_run_that_dies_is_reported_and_the_rest_goes_on(tmp_path: Path) -> None:
    methods = {"bad": {"method": "vanilla", "batch_size": 64}, "vanilla": {"method": "vanilla"}}
    found = plan(tmp_path, seeds=[0], methods=methods)
    options = Options(records=tmp_path / "records.jsonl", work=tmp_path / "work", jobs=2)
    lines: list[str] = []
    outcome = run_plan(found, options, lines.append)
    bad, vanilla = found.all_cells()
    reason = "40 training images do not fill a batch of 64; lower --batch-size"
    assert outcome.failed == [f"{bad.title}: {reason}"]
    assert (outcome.done, outcome.left) == (1, 1)
    assert f"failed: {bad.title}: {reason}" in lines
    assert list(read_records(options.records)) == [vanilla.key]
    assert read_failures(options.records) == {bad.key: reason}
    assert read_results(found, options.records).missing == ((bad.title, f"failed: {reason}"),)


@pytest.mark.slow
def test_a_stopped_plan_goes_on_at_the_checkpoint_and_ends_as_if_it_had_not_been_stopped(tmp_path: Path) -> None:
    path = write_plan(
        tmp_path, seeds=[0], methods={"vanilla": {"method": "vanilla"}}, common={**CONTENT["common"], "epochs": 60}
    )
    (cell,) = read_plan(path).all_cells()

    def words(name: str) -> Sequence[object]:
        return "run", path, "--records", tmp_path / name / "records.jsonl", "--work", tmp_path / name / "work"

    assert command(*words("through")).wait() == 0
    process = command(*words("stopped"))
    metrics = tmp_path / "stopped" / "work" / cell.key / "run" / "metrics.jsonl"
    while not (metrics.exists() and read_metrics(metrics)):
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert process.returncode == 130, err
    assert "stopping 1 runs at a checkpoint; the same command continues them" in out
    assert err.splitlines()[-1] == "stopped"
    begun = read_metrics(metrics)[-1]["step"]
    assert 0 < begun < 120
    assert command(*words("stopped")).wait() == 0
    through, stopped = (read_records(tmp_path / name / "records.jsonl")[cell.key] for name in ("through", "stopped"))
    for name in ("top1", "loss", "train_task_loss", "steps", "fingerprint"):
        assert through[name] == stopped[name]


@pytest.mark.slow
@pytest.mark.parametrize("minutes", [0.1, 0.5])  # while a run is still importing, and later
def test_a_plan_stops_when_its_time_is_up(tmp_path: Path, minutes: float) -> None:
    path = write_plan(tmp_path, common={**CONTENT["common"], "epochs": 100000})
    where = ("--records", tmp_path / "r.jsonl", "--work", tmp_path / "work")
    process = command("run", path, *where, "--minutes", minutes)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert out.splitlines()[-1] == f"0 runs recorded in {tmp_path / 'r.jsonl'}, 0 failed, 4 of the plan left"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"archs": {"a": {"model": "test_resnt"}}}, "a, vanilla, seed 0: 'model' test_resnt: "),
        ({"common": {**CONTENT["common"], "epoch": 1}}, "'epoch' is not a setting; did you mean epochs?"),
        ({"common": {**CONTENT["common"], "epochs": 0}}, "'epochs' is 0; expected a number greater than 0"),
        ({"common": {**CONTENT["common"], "dataset": "x"}}, "dataset is not a setting of a plan; leave it out"),
        ({"methods": {"m": {"method": "sia"}}}, "m, seed 0: 'method' is 'sia'; expected one of "),
        ({"methods": {"m": {"method": "ssia", "ssia": {"wieght": 1}}}}, "did you mean weight?"),
        ({"methods": {"m": {"method": "ssia", "ssia": {"temperature": -1}}}}, "'ssia.temperature' is -1; expected"),
        ({"data": {"d": {"dataset": "cifar"}}}, "data: dataset 'cifar' is neither digits nor a Hub id"),
        ({"methods": {"m": {"method": "vanilla", "probe": True}}}, "m, seed 0: probe is true, which a plan cannot run"),
        ({"evaluate": "test", "common": {"image_size": 32}}, "val_interval is 1; expected 0 with evaluate: test"),
    ],
)
def test_a_plan_that_cannot_run_is_refused_before_anything_runs(
    changes: dict[str, object], message: str, tmp_path: Path
) -> None:
    wrong = plan(tmp_path, **changes)
    with pytest.raises(ConfigError) as caught:
        run_plan(wrong, Options(records=tmp_path / "r.jsonl", work=tmp_path / "work"))
    assert message in str(caught.value)
    assert str(caught.value).startswith("plan: ")
    assert not (tmp_path / "work").exists()


def test_tries_are_checked_too(tmp_path: Path) -> None:
    tune = {"tries": {"ssia": [{"ssia": {"weight": 1.0}}, {"ssia": {"weihgt": 1.0}}]}}
    with pytest.raises(ConfigError, match=r"seed 1000, try .*did you mean weight"):
        check_plan(plan(tmp_path, evaluate="test", tune=tune), None)


@pytest.mark.parametrize(("options", "message"), [({"jobs": 0}, "`jobs` is 0"), ({"minutes": 0.0}, "`minutes` is 0")])
def test_wrong_options_are_refused(options: dict[str, float], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        run_plan(plan(tmp_path), Options(records=tmp_path / "r", work=tmp_path, **options))  # type: ignore[arg-type]


def test_a_damaged_file_of_records_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = tmp_path / "records.jsonl"
    for text, message in (("{", "line 1: is not JSON"), ('{"key": "a"}', "line 1: has no data")):
        records.write_text(text + "\n", encoding="utf-8")
        assert main(["arena", "report", str(write_plan(tmp_path)), "--records", str(records)]) == 1
        err = capsys.readouterr().err
        assert message in err
        assert err.count("\n") == 1


def test_a_run_that_another_process_still_trains_is_left_to_it(tmp_path: Path) -> None:
    """As after a call that was killed: its runs go on, and are no failures."""
    found = plan(tmp_path, seeds=[0], methods={"vanilla": {"method": "vanilla"}})
    options, lines = Options(records=tmp_path / "r.jsonl", work=tmp_path / "work"), []
    run = options.work / next(iter(found.all_cells())).key / "run"
    run.mkdir(parents=True)
    with FileLock(run / ".lock"):
        outcome = run_plan(found, options, lines.append)
    assert (outcome.done, outcome.failed, outcome.left) == (0, [], 1)
    assert lines[-1] == "skipped, as another process runs it: digits5, test_resnet, vanilla, seed 0"
    assert not list(options.work.glob(".*.lock")), "the call's own lock is released"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signals_that_would_end_the_call_stop_its_runs_first(number: signal.Signals) -> None:
    before = signal.signal(number, signal.SIG_DFL)  # under nohup, SIGHUP is ignored

    def killed() -> None:
        with _signals_interrupt():
            os.kill(os.getpid(), number)
            time.sleep(1)

    try:
        with pytest.raises(KeyboardInterrupt):
            killed()
    finally:
        assert signal.signal(number, before) is signal.SIG_DFL


def test_the_time_of_a_run_survives_a_damaged_file(tmp_path: Path) -> None:
    path = tmp_path / "seconds.txt"
    assert (_add_seconds(path, 2.0), _add_seconds(path, 3.0)) == (2.0, 5.0)
    path.write_text("")
    assert _add_seconds(path, 4.0) == 4.0


def test_each_run_has_one_device_and_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_devices() == ["cpu"]
    assert environment("cpu")["OMP_NUM_THREADS"] == "1"
    monkeypatch.delenv("ACCELERATE_USE_CPU")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert find_devices() == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert find_devices() == ["3", "5"]
    assert environment("5") == {**os.environ, "CUDA_VISIBLE_DEVICES": "5", "OMP_NUM_THREADS": "1"}
