"""Targets that are fitted before a run: codes, and pixels without directions of high variance."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small import Parts, small_config
from small_weights import random_weights

from hpm_jax.convert.weights import Architecture, classifier
from hpm_jax.convert.write import write_weights
from hpm_jax.losses import Term
from hpm_jax.losses.heads import perceptron
from hpm_jax.losses.term import Outputs, Own
from hpm_jax.step.method import own
from hpm_jax.targets.codes import fit_codebook, shares_of_codes
from hpm_jax.targets.fitted import write_arrays
from hpm_jax.targets.low_variance import dropped, fit_components
from hpm_jax.tokens import Mask, Tokenizer

ROOT = Path(__file__).parents[1]


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_shares_of_codes():
    values, codebook = normal(2, 3, 4), normal(5, 4, seed=1)
    distance = np.square(np.float64(values)[:, :, None] - codebook).sum(axis=-1)
    hard = shares_of_codes(values, codebook, 0.0)
    np.testing.assert_array_equal(hard, np.eye(5)[distance.argmin(axis=-1)])
    soft = np.exp(-distance / 0.7)
    soft /= soft.sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(shares_of_codes(values, codebook, 0.7), soft, rtol=1e-4)


def test_a_codebook_finds_what_is_there():
    """Three tight groups of points: the codes are their centres, and explain nearly all."""
    centres = np.float32([[0, 9], [9, 0], [-9, -9]])
    values = np.repeat(centres, 50, axis=0) + 0.01 * normal(150, 2)
    codebook, explained = fit_codebook(values, 3)
    order = [int(np.abs(codebook - centre).sum(axis=1).argmin()) for centre in centres]
    np.testing.assert_allclose(codebook[order], centres, atol=0.01)
    assert explained > 0.999


def test_components():
    """Those of the singular value decomposition, and how many are left out."""
    values = normal(200, 6) @ np.diag(np.float32([3, 2, 1, 0.5, 0.2, 0.1]))
    components, variances = fit_components(values)
    _, singular, rows = np.linalg.svd(np.float64(values), full_matrices=False)
    np.testing.assert_allclose(variances[0], singular**2 / 200, rtol=1e-4)
    np.testing.assert_allclose(np.abs((components * rows).sum(axis=1)), 1, rtol=1e-4)
    assert [dropped(np.float32([5, 3, 1, 1]), x) for x in (0.0, 0.5, 0.79, 0.8, 0.95)] == [
        0, 1, 1, 2, 3,
    ]  # fmt: skip


def test_low_variance_pixels(tmp_path):
    """The rest of the projection, over its deviation; the picture is the patch again."""
    values = normal(500, 16) * np.linspace(3, 0.1, 16, dtype=np.float32)
    components, variances = fit_components(values)
    path = tmp_path / "pca.npz"
    write_arrays(path, components=components, variances=variances)
    parts = Parts(small_config(target=f"low_variance_pixels(path={str(path)!r}, drop=0.5)"))
    count = dropped(variances[0], 0.5)
    assert 0 < count < 16
    patches = parts.method.patches(parts.images[:2])
    low = np.float64(components[count:])
    deviation = np.sqrt(variances[0, count:].sum() / 16)
    its_own = own(parts.state, "target")
    found = parts.method.target_of(patches, its_own)
    expected = np.asarray(patches, np.float64) @ low.T @ low / deviation
    np.testing.assert_allclose(found, expected, atol=1e-4)
    hide = np.int32([[1, 5], [0, 15]])
    context = parts.method.target_context(patches, its_own)
    hidden = np.take_along_axis(np.asarray(found), hide[..., None], axis=1)
    picture = parts.method.target.picture(hidden, context, hide)
    np.testing.assert_allclose(
        picture, np.take_along_axis(np.asarray(patches), hide[..., None], axis=1), atol=1e-4
    )


def test_distillation(tmp_path):
    """The teacher sees the visible patches alone, up to its first block, with its own mean."""
    weights = random_weights(
        Architecture((1, 4, 4), patch_size=4, channels=1, width=24, depth=2, heads=4)
    )
    write_weights(tmp_path / "e.npz", weights, "timm")
    call = f"distillation(path={str(tmp_path / 'e.npz')!r}, block=1, mean=(0.25,), std=(0.2,))"
    config = small_config(losses=("ranking", call))
    term, setting = Term.parse_call(call, "x"), config.setting
    tokenizer = Tokenizer((1, 4, 4), (0.5,), (0.5,))
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 1), np.uint8)
    keep = np.int32([[0, 3, 7], [1, 2, 15]])
    encoder = classifier(weights).bind({"params": weights.params}).encoder
    seen = Tokenizer((1, 4, 4), (0.25,), (0.2,))(images)
    outputs = encoder.outputs(seen, keep, collect=(0,)).blocks[0]
    norm = weights.params["encoder"]["transformer"]["norm"]
    block = np.float64(outputs[:, 1:])
    block -= block.mean(axis=-1, keepdims=True)
    block /= np.sqrt(np.square(block).mean(axis=-1, keepdims=True) + 1e-6)
    block = block * norm["scale"] + norm["bias"]
    features, kernel = normal(2, 4, 16), normal(16, 24, seed=1)
    params = {"layer_0": {"kernel": kernel, "bias": normal(24, seed=2)}}
    mine = np.float64(perceptron(params, features[:, 1:]))
    unit = [x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (mine, block)]
    arrays = Own(params=params, frozen=term.load(setting))
    outputs = Outputs(
        losses=None, predicted=None, values=None, target=None, features=features,
        patches=tokenizer(images), mask=Mask(keep, None), tokenizer=tokenizer,
        unit=config.unit, own=arrays,
    )  # fmt: skip
    np.testing.assert_allclose(term(outputs)[0], np.abs(unit[0] - unit[1]).mean(), rtol=1e-4)
    of_block = dataclasses.replace(term, student_block=3)
    other = outputs._replace(features=0 * features, blocks={3: features})
    np.testing.assert_array_equal(of_block(other)[0], term(outputs)[0])
    raw = dataclasses.replace(term, normalize="none", beta=1.0)
    error = np.abs(mine - block)
    expected = np.where(error < 1, error**2 / 2, error - 0.5).mean()
    np.testing.assert_allclose(raw(outputs)[0], expected, rtol=1e-4)


@pytest.mark.parametrize("what", ["codes", "pca"])
def test_the_command(what, tmp_path):
    """It fits on the images of a config; a run takes the file."""
    path = tmp_path / f"{what}.npz"
    command = [sys.executable, "-m", "hpm_jax.targets", what, str(path), "--codes=16"]
    command += ["--images=40", "--config=configs/quickstart.py", "--of=pixels"]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert str(path) in done.stdout
    arrays = np.load(path)
    if what == "codes":
        assert arrays["codebook"].shape[0] == 16 and "explain" in done.stdout
    else:
        components = arrays["components"]
        np.testing.assert_allclose(components @ components.T, np.eye(len(components)), atol=1e-4)
