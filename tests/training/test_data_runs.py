"""Runs on data from a Hub, streamed, resumed, in two processes, and with damaged images."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import datasets
import pytest

from ssia_zoo.data import digits
from ssia_zoo.training.metrics import read_records
from tests.helpers.data_folders import IMAGE, labelled, parquet, pictures, plain, rows
from tests.helpers.hub_server import HubServer
from tests.helpers.runs import ROOT, TRAIN, environment, flags, run, same_weights, small_run, train_in_a_process

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.fixture
def pushed(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> HubServer:
    """A Hub with the data set org/pets."""
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", hub.url)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    splits = {"train": labelled([n % 2 for n in range(24)]), "test": labelled([0, 1, 1, 0])}
    datasets.DatasetDict(splits).push_to_hub("org/pets", token="hf_good", num_shards={"train": 2, "test": 1})
    return hub


@pytest.mark.usefixtures("datasets_cache")
@pytest.mark.parametrize("streaming", [False, True])
def test_a_data_set_of_the_hub_is_trained_on(pushed: HubServer, tmp_path: Path, streaming: bool) -> None:
    result = small_run(tmp_path / "run", dataset="org/pets", streaming=streaming, epochs=1, batch_size=8)
    described = json.loads((result.folder / "config.json").read_text())
    assert described["label_names"] == ["a", "b"]
    assert described["ssia"]["evaluated_images"] == 4
    assert len([r for r in read_records(result.folder / "metrics.jsonl") if r["kind"] == "train"]) == 3
    assert any("/datasets/org/pets/resolve/" in path for _, path in pushed.requests), "or it came from elsewhere"


@pytest.fixture
def digit_files(tmp_path: Path) -> Path:
    """Digits in three files of 32."""
    train = digits()["train"]
    parts = [train.select(range(start, start + 32)) for start in (0, 32, 64)]
    parquet(tmp_path / "digits3", train=parts, test=digits()["test"].select(range(40)))
    return tmp_path / "digits3"


@pytest.mark.slow
@pytest.mark.usefixtures("datasets_cache")
def test_a_stream_with_a_shuffle_buffer_that_is_killed_resumes_to_the_same_bits(
    digit_files: Path, tmp_path: Path
) -> None:
    settings = {"dataset": digit_files, "streaming": True, "shuffle_buffer": 40, "checkpoint_every": 4, "epochs": 3}
    whole = train_in_a_process(output_dir=tmp_path / "whole", workers=1, **settings)
    assert whole.returncode == 0, whole.stderr
    killed = tmp_path / "killed"
    command = [sys.executable, str(TRAIN), *flags(output_dir=killed, workers=1, **settings)]
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment(), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, process_group=0
    )
    for _ in range(4800):
        if any((killed / "checkpoints").glob("step_*")):
            break
        assert process.poll() is None, "the run ended early"
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (killed / "model.safetensors").exists(), "it was to be killed in the middle"
    resumed = train_in_a_process(output_dir=killed, resume="auto", workers=0, **settings)
    assert resumed.returncode == 0, resumed.stderr
    assert re.search(r"resumed .* at step (4|8|12|16)\b", resumed.stderr)
    assert same_weights(tmp_path / "whole", killed), "with another number of workers, too"


@pytest.mark.slow
@pytest.mark.usefixtures("datasets_cache")
def test_two_processes_stream_three_files_in_as_many_steps(digit_files: Path, tmp_path: Path) -> None:
    settings = {"dataset": digit_files, "streaming": True, "batch_size": 8, "epochs": 1}
    done = run(*TORCHRUN, TRAIN, *flags(output_dir=tmp_path / "run", **settings))
    assert done.returncode == 0, done.stderr
    described = json.loads((tmp_path / "run" / "config.json").read_text())["ssia"]
    assert described["environment"]["processes"] == "2", "or the test would pass vacuously"
    assert read_records(tmp_path / "run" / "metrics.jsonl")[-1]["step"] == 6
    assert described["evaluated_images"] == 40


@pytest.mark.usefixtures("datasets_cache")
def test_classes_that_a_stream_does_not_yield_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    split = labelled([n // 16 for n in range(48)], datasets.ClassLabel(names=["a", "b", "c"]))  # sorted by class
    settings = {"streaming": True, "shuffle_buffer": 4, "max_train_images": 24, "epochs": 2, "batch_size": 8}
    parquet(tmp_path / "d", train=split, test=split)
    small_run(tmp_path / "run", dataset=tmp_path / "d", **settings)
    (line,) = [message for message in caplog.messages if "no training image" in message]
    assert line.startswith("1 of 3 evaluated classes had no training image in the first epoch of the stream: c;")


@pytest.mark.usefixtures("datasets_cache")
def test_two_processes_count_damaged_images_once(tmp_path: Path) -> None:
    train = labelled([n % 2 for n in range(30)])
    spoiled = rows({"image": [b"no image", b"nor this"], "label": [0, 1]}, image=IMAGE, label=train.features["label"])
    test = rows({"image": [plain(0), b"damaged", plain(2)], "label": [0, 1, 0]}, **train.features)
    parquet(tmp_path / "d", train=datasets.concatenate_datasets([train, spoiled]), test=test)
    settings = {"dataset": tmp_path / "d", "batch_size": 8, "epochs": 3, "max_corrupt": 0.4, "workers": 1}
    done = run(*TORCHRUN, TRAIN, *flags(output_dir=tmp_path / "run", **settings))
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stderr.splitlines() if line.endswith("; skipped")]
    assert sorted(re.findall(r"row \d+ of '\w+'", " ".join(said))) == [
        "row 1 of 'test'",
        "row 30 of 'train'",
        "row 31 of 'train'",
    ]
    described = json.loads((tmp_path / "run" / "config.json").read_text())["ssia"]
    assert described["environment"]["processes"] == "2"
    assert (described["evaluated_images"], described["unreadable_images"]) == (2, {"train": 2, "eval": 1})
    last = read_records(tmp_path / "run" / "metrics.jsonl")[-1]
    assert (last["images"], last["unreadable_train"], last["unreadable_eval"]) == (2, 2, 1)
    card = (tmp_path / "run" / "README.md").read_text()
    assert "Unreadable images that were skipped: 2 in training, 1 in evaluation." in card


@pytest.mark.usefixtures("datasets_cache")
def test_too_many_damaged_images_end_the_run_in_one_line(tmp_path: Path) -> None:
    test = labelled([0, 1])
    images = [*pictures(15), b"no image"]
    train = rows({"image": images, "label": [n % 2 for n in range(16)]}, **test.features)
    parquet(tmp_path / "d", train=train, test=test)
    done = train_in_a_process(dataset=tmp_path / "d", output_dir=tmp_path / "run", workers=1, batch_size=8)
    assert done.returncode == 1
    says = "error: 1 of 16 images of the training images cannot be read, first row 15 of 'train' ("
    assert any(line.strip().startswith(says) for line in done.stderr.splitlines()), done.stderr
    assert "Traceback" not in done.stderr


def test_cached_images_train_the_same_network_and_resume_within_an_epoch(tmp_path: Path) -> None:
    settings = {"crop_padding": 2, "epochs": 2, "batch_size": 8, "max_train_images": 40}
    ordinary = small_run(tmp_path / "ordinary", **settings)
    settings |= {"cache_images": True, "checkpoint_every": 3, "keep_checkpoints": 9}
    cached = small_run(tmp_path / "cached", **settings)
    assert same_weights(ordinary.folder, cached.folder)
    checkpoints = sorted((tmp_path / "cached" / "checkpoints").iterdir())
    assert len(checkpoints) > 2, "the third step ends no epoch"
    resumed = small_run(tmp_path / "resumed", **settings, resume=str(checkpoints[0]))
    assert same_weights(resumed.folder, ordinary.folder)
