"""Check that each setting of train_hf.py has a test that fails when the package ignores the setting.

    python benchmarks/mutate_flags.py                     # all settings; rewrites results/mutate_flags.jsonl
    python benchmarks/mutate_flags.py vflip ssia.weight   # only these; nothing is written

A test declares the settings it covers by a marker, as in `@pytest.mark.covers("vflip", "ssia.weight")`. It must pass
without changes, and fail in another process in which the setting is ignored: code of ssia_zoo that reads the setting
gets its default. Range checks, records (asdict, to_yaml) and the tests still get the given value, so that a test cannot
fail for those alone. Values that the package itself sets, such as the learning rate computed from --lr-base, are used.
Of a test's parameter sets, one must fail. The exit status is 1 if a setting has no test, or if a test fails without
changes or passes although the setting is ignored.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import multiprocessing
import os
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import pytest
import tyro
from recording import RESULTS, ROOT, append_record

RECORDS = RESULTS / "mutate_flags.jsonl"
PACKAGE = ROOT / "ssia_zoo"
RECORDS_OR_CHECKS = (PACKAGE / "training" / "config.py", PACKAGE / "training" / "arguments.py")
SET_BY_THE_PACKAGE = "_set_by_the_package"
SECONDS = 200  # time limit of a test; exceeding it because a setting is ignored counts as a failure

_replace = dataclasses.replace


@dataclass(frozen=True)
class Arguments:
    """Check that each setting of train_hf.py has a test that fails when the setting is ignored."""

    settings: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """settings to check, such as vflip or ssia.weight; all by default"""


def settings() -> dict[str, Any]:
    """Return all settings and their defaults; those in groups as ssia.weight."""
    from ssia_zoo.training.config import TrainConfig

    found: dict[str, Any] = {}
    for field in dataclasses.fields(TrainConfig):
        default = _default(field)
        if dataclasses.is_dataclass(default):
            found |= {f"{field.name}.{inner.name}": _default(inner) for inner in dataclasses.fields(default)}
        else:
            found[field.name] = default
    return found


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default


# -- ignoring a setting


class Ignored:
    """Descriptor that replaces a setting and returns its default to the package's code."""

    def __init__(self, name: str, default: Any) -> None:
        self.name = name
        self.default = default

    def __set__(self, config: Any, value: Any) -> None:
        vars(config)[self.name] = value

    def __get__(self, config: Any, owner: type) -> Any:
        if config is None:
            return self.default
        used = _is_use(sys._getframe(1)) and self.name not in vars(config).get(SET_BY_THE_PACKAGE, ())
        return self.default if used else vars(config)[self.name]


def _is_use(reader: FrameType) -> bool:
    if reader.f_code.co_name == "batches_per_step" and reader.f_back:
        reader = reader.f_back  # the caller of this property uses the setting
    file = Path(reader.f_code.co_filename)
    checks = file in RECORDS_OR_CHECKS or "__post_init__" in reader.f_code.co_qualname
    return file.is_relative_to(PACKAGE) and not checks


def replace_and_remember(config: Any, /, **changes: Any) -> Any:
    """Call `dataclasses.replace`, remembering which settings the package itself sets."""
    changed = _replace(config, **changes)
    if hasattr(changed, "__dict__"):
        own = changes if Path(sys._getframe(1).f_code.co_filename).is_relative_to(PACKAGE) else ()
        vars(changed)[SET_BY_THE_PACKAGE] = {*vars(config).get(SET_BY_THE_PACKAGE, ()), *own}
    return changed


@contextlib.contextmanager
def ignoring(setting: str) -> Iterator[None]:
    """Make the package ignore a setting."""
    from ssia_zoo.data import DataConfig
    from ssia_zoo.training.config import TrainConfig

    group, _, name = setting.rpartition(".")
    owners: list[type] = [type(getattr(TrainConfig(), group))] if group else [TrainConfig, DataConfig]
    with pytest.MonkeyPatch.context() as patch:
        for module in [dataclasses, *(module for key, module in sys.modules.items() if key.startswith("ssia_zoo"))]:
            if getattr(module, "replace", None) is _replace:
                patch.setattr(module, "replace", replace_and_remember)
        for owner in owners:
            if name in {field.name for field in dataclasses.fields(owner)}:
                patch.setattr(owner, name, Ignored(name, settings()[setting]), raising=False)
        yield


# -- running tests


class Claims:
    """Pytest plugin that collects which tests cover which settings: (setting, test) -> ids of its parameter sets."""

    def __init__(self) -> None:
        self.ids: dict[tuple[str, str], list[str]] = {}

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Collect the markers of all tests that would run."""
        for item in session.items:
            for marker in item.iter_markers("covers"):
                for setting in marker.args:
                    self.ids.setdefault((setting, item.nodeid.split("[")[0]), []).append(item.nodeid)


class Failures:
    """Pytest plugin that collects why tests failed, by id."""

    def __init__(self) -> None:
        self.reasons: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Collect the error of a test, its setup or its teardown."""
        if report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            self.reasons[report.nodeid] = without_paths(str(crash.message if crash else report.longrepr))[:120]


def without_paths(text: str) -> str:
    """Return the text as one line without paths, so that it is the same on every machine."""
    return re.sub(r"(?<![\w.])/[\w.-]+/[^\s'\"),]*", "PATH", " ".join(text.split()))


def collect_claims() -> dict[tuple[str, str], list[str]]:
    """Return which quick tests cover which settings, after importing their modules."""
    files = [path for path in (ROOT / "tests").rglob("test_*.py") if "mark.covers(" in path.read_text(encoding="utf-8")]
    claims, output = Claims(), io.StringIO()
    with contextlib.redirect_stdout(output):
        status = pytest.main(["--collect-only", "-q", "-p", "no:cacheprovider", *map(str, files)], plugins=[claims])
    if status:
        raise SystemExit(output.getvalue())
    return claims.ids


def failures(ids: Iterable[str], setting: str | None = None) -> dict[str, str]:
    """Run tests in a forked process (with a setting ignored, until the first failure); return the failures' reasons."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(list(ids), setting, sender))
    process.start()
    sender.close()
    try:
        reasons: dict[str, str] = receiver.recv()
    except EOFError:
        reasons = dict.fromkeys(ids, "the process died")
    process.join()
    return reasons


def _run(ids: list[str], setting: str | None, sender: Any) -> None:
    noted = Failures()
    limit = [f"--override-ini=timeout={SECONDS}", "--override-ini=timeout_method=signal"]
    options = ["-q", "-p", "no:cacheprovider", f"--config-file={ROOT / 'pyproject.toml'}", *limit]
    if setting:
        options.append("--exitfirst")
    with (
        tempfile.TemporaryDirectory() as elsewhere,  # for runs that ignore --output-dir
        tempfile.TemporaryFile() as log,
        contextlib.chdir(elsewhere),
        ignoring(setting) if setting else contextlib.nullcontext(),
    ):
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        status = pytest.main([*options, *(f"{ROOT}/{name}" for name in ids)], plugins=[noted])
    if not setting and status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        noted.reasons |= dict.fromkeys(ids, f"pytest ended with {status!r}")
    sender.send(noted.reasons)


def main(arguments: Arguments) -> int:
    """Print one line per setting and test, and return the exit status."""
    os.chdir(ROOT)
    claims = collect_claims()
    wanted = [name for name in settings() if not arguments.settings or name in arguments.settings]
    if unknown := {*arguments.settings, *(setting for setting, _ in claims)} - settings().keys():
        raise SystemExit(f"no such settings: {', '.join(sorted(unknown))}")
    claims = {claim: ids for claim, ids in claims.items() if claim[0] in wanted}
    uncovered = [name for name in wanted if name not in {setting for setting, _ in claims}]
    broken = failures(sorted({test for ids in claims.values() for test in ids}))
    if not arguments.settings:
        RECORDS.unlink(missing_ok=True)
    counts = {"killed": 0, "SURVIVED": 0, "fails as it is": 0}
    for (setting, test), ids in sorted(claims.items(), key=lambda claim: (wanted.index(claim[0][0]), claim[0][1])):
        fails = next((reason for name, reason in broken.items() if name in ids), None)
        reason = fails or next(iter(failures(ids, setting).values()), "")
        result = "fails as it is" if fails else "killed" if reason else "SURVIVED"
        counts[result] += 1
        print(f"{result:<9} {setting:<22} {test}{f'  {reason[:100]}' if reason else ''}", flush=True)
        if not arguments.settings:
            append_record(RECORDS, {"setting": setting, "test": test, "result": result, "reason": reason})
    for name in uncovered:
        print(f"NO TEST   {name}")
    print(
        f"{len(wanted)} settings, {len(uncovered)} without a test; " + ", ".join(f"{n} {w}" for w, n in counts.items())
    )
    return int(bool(uncovered) or counts["killed"] < len(claims))


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Arguments, description=__doc__)))
