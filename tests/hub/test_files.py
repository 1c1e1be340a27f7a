"""Untrusted files: any content is accepted or refused with this package's errors, within limits of time and memory."""

from __future__ import annotations

import copy
import json
import os
import re
import resource
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ssia_zoo.errors import ConfigError, SSIAZooError, WeightError
from ssia_zoo.hub import check_folder
from ssia_zoo.hub.files import vanilla_tensors
from ssia_zoo.models.loading import load_model
from ssia_zoo.models.weight import PublishedWeight, read_published_weight
from tests.helpers.publishable_folder import edit_config
from tests.helpers.toy_weight import write_toy_weight

MEMORY = 700 * 2**20  # bytes by which reading a file of about 1 MB may raise this process's peak

JSON: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([0, -1, 2**31, 2**63, 10**12, 10**30, 10**400])
    | st.floats()
    | st.text(st.characters(), max_size=8)
    | st.sampled_from(["../../etc/passwd", "a\nb", "\x1b[31m", "\ud800", "resnet50", "hf-hub:a/b", "local-dir:/"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
some_examples = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@pytest.fixture(autouse=True)
def modest() -> Iterator[None]:
    """Limit the rise of peak memory to what the models of these tests need."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown < MEMORY


def refusal_of(read: Callable[[], object]) -> str | None:
    """Return the error's text, or None; an error that is not this package's fails the test."""
    try:
        read()
    except SSIAZooError as error:
        return str(error)
    return None


def load_or_refuse(folder: Path) -> str | None:
    """Load a folder, and check whether it can be published; return the error of loading, or None."""
    loaded: list[torch.nn.Module] = []
    refusal = refusal_of(lambda: loaded.append(load_model(str(folder))))
    for text in (refusal, refusal_of(lambda: check_folder(folder))):
        if text is not None:
            assert text.isprintable(), "one line without control characters"
            assert len(text) < 2000
    for model in loaded:
        assert all(torch.isfinite(t).all() for t in model.state_dict().values() if t.is_floating_point())
    return refusal


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return every path in a JSON document."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(p for key, item in inner for p in paths(item, (*path, key)))]


def replaced(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    document = copy.deepcopy(document)
    target = document
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    return document


# --- config.json ------------------------------------------------------------------------------------------------------


@some_examples
@given(data=st.data())
def test_any_value_in_config_json_is_accepted_or_refused(folder: Path, pristine: Path, data: st.DataObject) -> None:
    config = json.loads((pristine / "config.json").read_text())
    config["label_names"] = list("abcdefg")
    config["ssia"] = {"metrics": {"top1": 50.0}}
    path = data.draw(st.sampled_from(paths(config)))
    config = replaced(config, path, data.draw(JSON))
    (folder / "config.json").write_text(json.dumps(config))
    load_or_refuse(folder)


ARGUMENTS = [
    "img_size",
    "in_chans",
    "layers",
    "channels",
    "block",
    "norm_layer",
    "act_layer",
    "global_pool",
    "stem_type",
]
ARGUMENTS += ["pretrained", "checkpoint_path", "output_stride", "replace_stem_pool", "drop_path_rate", "avg_down", "x"]


@some_examples
@given(arguments=st.dictionaries(st.sampled_from(ARGUMENTS), JSON, min_size=1, max_size=2))
@example(arguments={"layers": [100_000] * 4})
@example(arguments={"layers": [10**9] * 4})
@example(arguments={"channels": [100_000] * 4})
@example(arguments={"stem_width": 10**12})
def test_any_model_arguments_are_accepted_or_refused(folder: Path, arguments: dict[str, Any]) -> None:
    edit_config(folder, lambda config: config.update(model_args=arguments))
    load_or_refuse(folder)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "not valid JSON"),
        (b"\xff\xfe{}", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"a":' * 100_000, "not valid JSON"),
        (b"[]", "no valid 'architecture'"),
        (b'{"architecture": "test_resnet", "num_classes": true, "pretrained_cfg": {}}', "no valid 'num_classes'"),
        (b'{"architecture": "test_resnet", "num_classes": 1' + b"0" * 5000 + b"}", "not valid JSON"),
        (b" " * (16 * 2**20 + 1), "expected a few thousand"),
    ],
    ids=["empty", "no-utf8", "deep-list", "deep-object", "list", "boolean", "long-number", "huge"],
)
def test_an_invalid_configuration_is_refused(folder: Path, content: bytes, expected: str) -> None:
    (folder / "config.json").write_bytes(content)
    assert expected in str(load_or_refuse(folder))


@pytest.mark.parametrize(
    "arguments",
    [
        {"model_args": {"img_size": 16_000, "patch_size": 2}, "architecture": "test_vit"},
        {"model_args": {"depth": 100_000}, "architecture": "test_vit"},
        {"model_args": {"embed_dim": 100_000}, "architecture": "test_vit"},
        {"num_classes": 10_000_000},
    ],
    ids=str,
)
def test_a_model_far_bigger_than_its_weights_is_never_built(folder: Path, arguments: dict[str, Any]) -> None:
    edit_config(folder, lambda config: config.update(arguments))
    assert re.search(r"far bigger than its weights|more than 10,000 modules", str(load_or_refuse(folder)))
    with torch.device("meta"):
        torch.nn.Linear(10**6, 10**6)  # the limit holds only while a file is checked


def test_the_limit_does_not_affect_other_threads(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[int] = []

    def build_something_large(*args: object, **kwargs: object) -> torch.nn.Module:
        def large() -> None:
            with torch.device("meta"):
                built.append(torch.nn.Linear(10**5, 10**5).weight.numel())

        thread = threading.Thread(target=large)
        thread.start()
        thread.join()
        return torch.nn.Linear(1, 1)

    monkeypatch.setattr(timm, "create_model", build_something_large)
    vanilla_tensors(folder, "test_resnet", folder / "model.safetensors")
    assert built == [10**10]


# --- model.safetensors ------------------------------------------------------------------------------------------------


def split(path: Path) -> tuple[dict[str, Any], bytes]:
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), content[end:]


def join(header: bytes, values: bytes, length: int | None = None) -> bytes:
    return (len(header) if length is None else length).to_bytes(8, "little") + header + values


DTYPES = ["F64", "F32", "F16", "BF16", "I64", "I32", "BOOL", "F8_E4M3", "F8_E8M0", "F4", "F6_E2M3", "C64", "X", ""]


@some_examples
@given(data=st.data())
def test_any_value_in_a_header_is_accepted_or_refused(folder: Path, pristine: Path, data: st.DataObject) -> None:
    header, values = split(pristine / "model.safetensors")
    name = data.draw(st.sampled_from(["fc.weight", "conv1.0.weight", "bn1.num_batches_tracked"]))
    assert name in header
    change: st.SearchStrategy[Any] = st.one_of(
        st.tuples(st.just((name, "dtype")), st.sampled_from(DTYPES) | JSON),
        st.tuples(st.sampled_from([(name, "shape"), (name, "shape", 0)]), st.lists(st.integers(0, 2**64)) | JSON),
        st.tuples(st.just((name, "data_offsets")), st.lists(st.integers(0, 10**6), min_size=2, max_size=2) | JSON),
        st.tuples(st.just(("__metadata__",)), JSON),
        st.tuples(st.sampled_from([(name,), (), ("new",)]), JSON),
    )
    path, value = data.draw(change)
    if path == (name, "shape", 0) and not header[name]["shape"]:
        path = (name, "shape")
    (folder / "model.safetensors").write_bytes(join(json.dumps(replaced(header, path, value)).encode(), values))
    load_or_refuse(folder)


@some_examples
@given(header=st.binary(max_size=40) | st.text().map(str.encode), length=st.none() | st.integers(0, 2**64 - 1))
@example(header=b"{}", length=None)
@example(header=b"{}", length=2**64 - 1)
@example(header=b"{}", length=10**8)
@example(header=b"\xff", length=None)
@example(header=b'{"a":' * 100_000, length=None)
@example(header=b"[" * 100_000, length=None)
def test_any_bytes_are_refused(folder: Path, header: bytes, length: int | None) -> None:
    (folder / "model.safetensors").write_bytes(join(header, b"\0" * 16, length))
    assert "model.safetensors" in str(load_or_refuse(folder))


def test_overlapping_tensors_are_refused(folder: Path) -> None:
    header, values = split(folder / "model.safetensors")
    one = next(name for name in header if name.startswith("layer1") and name.endswith("bn1.weight"))
    other = one.replace("bn1", "bn2")
    assert header[one]["shape"] == header[other]["shape"]
    header[one]["data_offsets"] = header[other]["data_offsets"]
    (folder / "model.safetensors").write_bytes(join(json.dumps(header).encode(), values))
    assert "not a readable safetensors file" in str(load_or_refuse(folder))


def test_a_duplicate_key_is_refused(folder: Path) -> None:
    header, values = split(folder / "model.safetensors")
    text = json.dumps(header)
    other = json.dumps({"fc.bias": {**header["fc.bias"], "data_offsets": header["fc.weight"]["data_offsets"]}})
    (folder / "model.safetensors").write_bytes(join((text[:-1] + ", " + other[1:]).encode(), values))
    assert "not a readable safetensors file" in str(load_or_refuse(folder))


def test_a_huge_sparse_file_is_refused_without_reading_it(folder: Path) -> None:
    header, values = split(folder / "model.safetensors")
    end = max(entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")
    size = 2**33
    header["zzz"] = {"dtype": "U8", "shape": [size], "data_offsets": [end, end + size]}
    content = join(json.dumps(header).encode(), values)
    (folder / "model.safetensors").write_bytes(content)
    os.truncate(folder / "model.safetensors", len(content) + size)
    assert "does not have: zzz" in str(load_or_refuse(folder))


def test_a_huge_header_is_refused_before_it_is_read(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes((64 * 2**20).to_bytes(8, "little"))
    os.truncate(folder / "model.safetensors", 65 * 2**20)
    assert "header of 67,108,864 bytes" in str(load_or_refuse(folder))


def test_names_of_tensors_cannot_write_to_the_terminal(folder: Path) -> None:
    header, values = split(folder / "model.safetensors")
    header["a\n\x1b[2Jb" + "c" * 5000] = header.pop("fc.bias")
    (folder / "model.safetensors").write_bytes(join(json.dumps(header).encode(), values))
    assert "a??[2Jb" in str(load_or_refuse(folder))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_folder_or_a_dangling_link_instead_of_a_file_is_refused(folder: Path, name: str) -> None:
    (folder / name).unlink()
    (folder / name).mkdir()
    assert name in str(load_or_refuse(folder))
    (folder / name).rmdir()
    (folder / name).symlink_to("nowhere")
    assert name in str(load_or_refuse(folder))


# --- hub_configs/ -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def entry(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("entry")
    name = write_toy_weight(folder).name
    return name, json.loads((folder / f"{name}.json").read_text())


@settings(some_examples, max_examples=200)
@given(data=st.data())
def test_any_value_in_a_description_is_accepted_or_refused(
    tmp_path: Path, entry: tuple[str, dict[str, Any]], data: st.DataObject
) -> None:
    name, described = entry
    path = data.draw(st.sampled_from(paths(described)))
    file = tmp_path / f"{name}.json"
    file.write_text(json.dumps(replaced(described, path, data.draw(JSON))))
    read: list[PublishedWeight] = []
    refusal = refusal_of(lambda: read.append(read_published_weight(file)))
    assert refusal is None or "\n" not in refusal
    for config in read:
        assert config.name == name
        assert config.file is None or Path(config.file).name == config.file


@pytest.mark.parametrize(
    "file",
    ["../w.safetensors", "/etc/w.safetensors", "a/b.safetensors", "a\\b.safetensors", ".safetensors", "w.bin", ""],
)
def test_a_description_cannot_name_a_file_elsewhere(tmp_path: Path, file: str) -> None:
    with pytest.raises(ConfigError, match="file"):
        write_toy_weight(tmp_path, file=file)


def test_a_refused_folder_does_not_change(folder: Path, pristine: Path) -> None:
    edit_config(folder, lambda config: config.update(num_classes=9))
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    with pytest.raises(WeightError):
        load_model(str(folder))
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    shutil.copy(pristine / "config.json", folder / "config.json")
    load_model(str(folder))
