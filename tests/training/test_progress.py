"""What a run reports while it trains and at its end: on the terminal, in its folder and to trackers."""

from __future__ import annotations

import fcntl
import gzip
import json
import logging
import os
import pty
import re
import shlex
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ssia_zoo.cli import main as command_line
from ssia_zoo.errors import TrainingError
from ssia_zoo.training.metrics import read_records
from tests.helpers.runs import ROOT, TRAIN, environment, flags, small_run


def test_one_line_on_the_terminal_shows_loss_parts_top_1_speed_and_time_left(tmp_path: Path) -> None:
    main, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 200, 0, 0))
    command = [sys.executable, TRAIN, *flags(output_dir=tmp_path / "run", max_steps=4)]
    with subprocess.Popen(command, cwd=ROOT, env=environment(), stderr=child, stdout=child) as process:
        os.close(child)
        text = b""
        while True:
            try:
                chunk = os.read(main, 4096)
            except OSError:  # the other end is closed
                break
            if not chunk:
                break
            text += chunk
    os.close(main)
    assert process.returncode == 0
    shown = text.decode()
    line = (
        r"epoch 1/2 +100% 4/4 steps \[\d\d:\d\d<\d\d:\d\d, \d+ images/s, top-1 [\d.]+ %, "
        r"loss \d\.\d+, task_loss \d\.\d+, .*ssia \d\.\d+"
    )
    assert re.search(line, shown), shown
    assert "\n" not in shown[shown.index("0/4") : shown.index("4/4")], "it stays one line"


def test_into_a_log_go_lines_now_and_then_and_no_bar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ssia_zoo.training.progress._SECONDS_BETWEEN_LINES", 0.0)
    caplog.set_level(logging.INFO)
    small_run(tmp_path / "run", max_steps=2)
    assert re.search(r"step 1/2, \d\d:\d\d left: \d+ images/s, top-1 .*loss ", caplog.text)
    assert "\r" not in capfd.readouterr().err


def test_the_end_says_score_time_place_and_what_to_do_next(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    result = small_run(tmp_path / "run", max_steps=1, holdout=0.1)
    text = caplog.text
    assert f"done: top-1 {result.metrics['top1']:.2f} %" in text
    assert re.search(r"1 steps in \d\d:\d\d, training at \d+ images/s", text)
    assert f"weights: {result.folder}" in text
    assert f"ssia-zoo validate {result.folder} --dataset digits --holdout 0.1" in text
    assert f"ssia-zoo publish {result.folder}" in text


def test_curves_are_drawn_before_the_first_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssia_zoo.training.metrics._CURVES_SECONDS", 0.0)
    with pytest.raises(TrainingError):
        small_run(tmp_path / "run", optimizer="sgd", lr=1e30, warmup_epochs=0, epochs=10, val_interval=0)
    assert Image.open(tmp_path / "run" / "curves.png").width > 100
    assert not [r for r in read_records(tmp_path / "run" / "metrics.jsonl") if r["kind"] == "eval"]


@pytest.mark.covers("with_tracking")
def test_tensorboard_gets_what_the_records_hold(tmp_path: Path) -> None:
    small_run(tmp_path / "run", with_tracking=True, max_steps=4, epochs=1)
    records = read_records(tmp_path / "run" / "metrics.jsonl")
    (file,) = (path for path in (tmp_path / "run").rglob("events.out.tfevents.*") if path.parent.name == "ssia_zoo")
    events = EventAccumulator(str(file))
    events.Reload()
    names = {(r["kind"], name) for r in records for name in r if name not in ("kind", "step")}
    assert {("train", "loss"), ("train", "task_loss"), ("train", "lr"), ("eval", "top1")} < names
    for kind, name in names:
        logged = [(event.step, event.value) for event in events.Scalars(f"{kind}/{name}")]
        assert logged == [(r["step"], pytest.approx(r[name])) for r in records if r["kind"] == kind]


def test_the_command_that_the_end_prints_measures_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "my cat's images"
    for split, count in (("train", 8), ("test", 4)):
        for name, level in (("cat", 60), ("dog", 180)):
            folder = data / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (32, 32), (level, 10 * number, 0)).save(folder / f"{number}.png")
    (data / "test" / "dog" / "broken.png").write_bytes(b"no image")
    caplog.set_level(logging.INFO)
    result = small_run(tmp_path / "my run", dataset=str(data), batch_size=8, max_steps=1, max_corrupt=0.2)
    (command,) = (message for message in caplog.messages if message.startswith("evaluate: "))
    words = shlex.split(command.removeprefix("evaluate: "))
    assert words[0] == "ssia-zoo"
    capsys.readouterr()
    assert command_line([*words[1:], "--workers", "0"]) == 0
    assert f"top-1 {result.metrics['top1']:.2f} %" in (output := capsys.readouterr().out)
    assert "8 images" in output


@pytest.mark.covers("profile")
def test_a_profile_is_a_trace_of_as_many_steps(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    result = small_run(tmp_path / "run", profile=2, max_steps=6, epochs=1)
    with gzip.open(result.folder / "trace.json.gz") as file:
        names = {event.get("name") for event in json.load(file)["traceEvents"]}
    assert {name for name in names if str(name).startswith("ProfilerStep")} == {"ProfilerStep#3", "ProfilerStep#4"}
    assert "aten::" in (result.folder / "trace.txt").read_text()
    assert "`profile`: a trace of 2 steps is in" in caplog.text


def test_a_run_too_short_for_its_profile_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    result = small_run(tmp_path / "run", profile=2, max_steps=1)
    assert not (result.folder / "trace.json.gz").exists()
    assert "`profile`: no trace, as training ended after 1 steps" in caplog.text
