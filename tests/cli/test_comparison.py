"""The command compare."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ssia_zoo.cli.main import main
from tests.helpers.commands import WEIGHT, Captured, failed_in_one_line

DIGITS = ("--dataset", "digits", "--workers", "0", "--max-eval-images", "40", "--max-corrupt", "0")


def test_a_model_and_its_own_report_show_no_difference(tmp_path: Path, capsys: Captured) -> None:
    report = tmp_path / "report"
    assert main(["validate", WEIGHT, *DIGITS, "--report", str(report)]) == 0
    assert capsys.readouterr().out.endswith(f"40 images\n{report}/report.html\n")
    assert main(["compare", WEIGHT, str(report), *DIGITS, "--report", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert "no difference shown: the interval includes zero (bootstrap over images, 9999 resamples, seed 0)" in out
    assert out.endswith(f"{tmp_path}/out/comparison.html\n")
    assert main(["compare", str(report), str(report), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["difference"], document["p_value"], document["images"]) == (0, 1, 40)
    assert document["verdict"].startswith("no difference shown")
    for words in (DIGITS, ("--max-eval-images", "20"), ("--holdout", "0.5", "--report", str(tmp_path / "new"))):
        assert main(["compare", str(report), str(report), *words]) == 2
        assert f"so {words[0]} has no effect; leave it out" in failed_in_one_line(capsys)


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["here", WEIGHT], 2, "compare: here is not a report; to run it as a model, add --dataset"),
        ([WEIGHT, "nonesuch", *DIGITS], 1, "nonesuch"),
        ([WEIGHT, "./nowhere.parquet", *DIGITS], 1, "nowhere.parquet"),
        ([WEIGHT, WEIGHT, *DIGITS, "--report", __file__], 1, "--report"),
        ([WEIGHT, WEIGHT, "--dataset", "./nowhere"], 1, "nowhere"),
    ],
)
def test_compare_fails_in_one_line(words: list[str], status: int, message: str, capsys: Captured) -> None:
    assert main(["compare", *words]) == status
    assert message in failed_in_one_line(capsys)
