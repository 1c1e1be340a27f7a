"""Linear probe: a classifier fitted to features, in a folder like any run's, without a look at the evaluation split."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression

from ssia_zoo.data import DataConfig
from ssia_zoo.errors import ConfigError
from ssia_zoo.evaluation.validate import validate
from ssia_zoo.training.probe import _fit
from tests.helpers.publishable_folder import make_folder
from tests.helpers.runs import small_run, weights

CLASSIFIER = ("fc.weight", "fc.bias")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("base") / "resnet")


def probe(base: Path, folder: Path, **settings: object) -> dict[str, torch.Tensor]:
    result = small_run(folder, model=f"local-dir:{base}", pretrained=True, probe=True, **{"epochs": 30, **settings})
    return weights(result.folder)


@pytest.mark.covers("probe")
def test_a_probe_changes_the_classifier_alone_and_writes_the_folder_of_a_run(base: Path, tmp_path: Path) -> None:
    after, before = probe(base, tmp_path / "run", max_train_images=400), load_file(base / "model.safetensors")
    names = {path.name for path in (tmp_path / "run").iterdir()}
    files = {"model.safetensors", "config.json", "README.md", "train_config.yaml", "metrics.jsonl", "curves.png"}
    assert names == files, "features are not kept on disk"
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in after if name not in CLASSIFIER)
    card = (tmp_path / "run" / "README.md").read_text()
    assert "A linear probe of `resnet`" in card
    assert "last step" not in card
    metrics = json.loads((tmp_path / "run" / "config.json").read_text())["ssia"]["metrics"]
    assert metrics["top1"] > 60, "even random features tell most digits apart"
    data = DataConfig(dataset="digits", max_eval_images=40, image_size=32, workers=0)
    model = timm.create_model(f"local-dir:{tmp_path / 'run'}", pretrained=True)
    assert validate(model, data)["top1"] == pytest.approx(metrics["top1"])


@pytest.mark.covers("probe_flip")
def test_the_classifier_depends_on_flips_if_asked_and_never_on_the_evaluation_split(base: Path, tmp_path: Path) -> None:
    one = probe(base, tmp_path / "one")
    other = probe(base, tmp_path / "other", max_eval_images=20)
    assert all(torch.equal(one[name], other[name]) for name in one)
    flipped = probe(base, tmp_path / "flipped", probe_flip=True)
    assert not torch.equal(one["fc.weight"], flipped["fc.weight"])


def test_the_fit_is_that_of_logistic_regression() -> None:
    torch.manual_seed(0)
    features, labels = torch.randn(1, 60, 5), torch.randint(3, (60,))
    layer = torch.nn.Linear(5, 3)
    _fit(layer, features, labels, weight_decay=0.1)
    reference = LogisticRegression(C=1 / (0.1 * 60), tol=1e-8, max_iter=1000).fit(features[0].numpy(), labels.numpy())
    expected = torch.from_numpy(reference.predict_proba(features[0].numpy())).float()
    torch.testing.assert_close(layer(features[0]).softmax(-1), expected, rtol=0, atol=2e-3)


@pytest.mark.parametrize("arch", ["levit_128s"])
def test_a_classifier_that_is_not_linear_is_refused(tmp_path: Path, arch: str) -> None:
    folder = make_folder(tmp_path / "levit", arch, img_size=64)
    with pytest.raises(ConfigError, match="is not one linear layer with a bias; use `freeze` head"):
        small_run(tmp_path / "run", model=f"local-dir:{folder}", pretrained=True, probe=True, epochs=30, image_size=64)
    assert not list((tmp_path / "run").iterdir())
