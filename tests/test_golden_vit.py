"""The official fine-tuning ViT's numbers, from every `*.npz` in `HPM_GOLDEN` that has them."""

import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hpm_jax.convert.official import to_official, to_params
from hpm_jax.convert.weights import Architecture
from hpm_jax.models import Classifier
from hpm_jax.step.optimizer import FINETUNE_DECAYED, decay_mask, layer_scales
from hpm_jax.step.schedules import warmup_cosine
from hpm_jax.tokens import patchify

FOLDER = Path(os.environ.get("HPM_GOLDEN") or Path(__file__).parent / "golden")
POOLS = {"mean_pool": "mean", "cls_token": "cls"}


def _cases():
    for path in sorted(FOLDER.glob("*.npz")):
        with np.load(path) as file:
            for case, pool in POOLS.items():
                if f"{case}/logits" in file.files:
                    yield pytest.param((path, case, pool), id=f"{path.stem}-{case}")


CASES = list(_cases())


def test_there_are_cases():
    assert len(CASES) >= 2, f"no golden file of a fine-tuning ViT in {FOLDER}"


class Case:
    """One model of one file; its sizes are those of its weights."""

    def __init__(self, path, case, pool):
        with np.load(path) as file:
            self.file = dict(file)
        start = f"{case}/weights/"
        self.weights = {k[len(start) :]: v for k, v in self.file.items() if k.startswith(start)}
        self.images = self.file[f"{case}/images"]
        self.features, self.logits = self.file[f"{case}/features"], self.file[f"{case}/logits"]
        width, channels, self.patch, _ = self.weights["patch_embed.proj.weight"].shape
        height, columns = self.images.shape[2] // self.patch, self.images.shape[3] // self.patch
        config = json.loads(str(self.file["config"])) if "config" in self.file else {}
        self.architecture = Architecture(
            grid=(1, height, columns),
            patch_size=self.patch,
            channels=channels,
            width=width,
            depth=sum(name.endswith("norm1.weight") for name in self.weights),
            heads=config.get("num_heads", 4),
            classes=len(self.weights["head.bias"]),
            pool=pool,
        )
        a = self.architecture
        self.model = Classifier(
            a.grid, a.values, a.classes, a.width, a.depth, a.heads, a.pool, unroll=0
        )
        self.params = to_params(self.weights)


@pytest.fixture(scope="module", params=CASES)
def case(request):
    return Case(*request.param)


def assert_close(actual, expected, rtol=1e-5):
    error = np.abs(np.asarray(actual, np.float64) - expected).max()
    assert error <= rtol * np.abs(expected).max(), f"off by {error}"


@pytest.fixture(scope="module")
def patches(case):
    return patchify(jnp.asarray(case.images.transpose(0, 2, 3, 1)), (1, case.patch, case.patch))


def test_features(case, patches):
    features = jax.jit(lambda p, x: case.model.apply({"params": p}, x, method="features"))(
        case.params, patches
    )
    assert_close(features, case.features)


def test_logits(case, patches):
    logits = jax.jit(lambda p, x: case.model.apply({"params": p}, x))(case.params, patches)
    assert_close(logits, case.logits)


def test_parameters_are_those_of_the_model(case, patches):
    fresh = jax.eval_shape(lambda: case.model.init(jax.random.key(0), patches)["params"])
    assert jax.tree.map(jnp.shape, case.params) == jax.tree.map(jnp.shape, fresh)


def test_layer_decay(case):
    """Every parameter's scale and weight decay, spread over the parameter and named officially."""
    key = next(name for name in case.file if name.startswith("layer_decay_"))
    expected = {
        name: values
        for name, values in json.loads(str(case.file[key])).items()
        if name in case.weights
    }
    scales = layer_scales(case.params, float(key.removeprefix("layer_decay_")))
    spread = jax.tree.map(np.broadcast_to, scales, jax.tree.map(np.shape, case.params))
    decays = jax.tree.map(
        lambda p, decays: np.full(p.shape, 0.05 * decays),
        case.params,
        decay_mask(case.params, FINETUNE_DECAYED),
    )
    ours = to_official(spread, case.architecture), to_official(decays, case.architecture)
    checked = 0
    for name, (scale, decay) in expected.items():
        np.testing.assert_allclose(ours[0][name], scale, rtol=1e-6, err_msg=name)
        np.testing.assert_allclose(ours[1][name], decay, rtol=1e-6, err_msg=name)
        checked += 1
    assert checked >= len(case.weights) - 2  # norm or fc_norm: the file has the other's


def test_learning_rate(case):
    epochs, values = case.file["lr_schedule_epochs"], case.file["lr_schedule_values"]
    ours = [warmup_cosine(epoch, 1.2e-3, 0.0, 40, 200) for epoch in epochs]
    np.testing.assert_allclose(ours, values, rtol=1e-12, atol=1e-15)
