"""Runs that were trained, by the commands alone; their images through other loaders."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import timm
import torch
from PIL import Image
from sklearn.datasets import load_digits
from transformers import AutoImageProcessor, AutoModelForImageClassification, ViTMAEForPreTraining

from hpm_jax.convert.read import read_weights
from hpm_jax.convert.weights import classifier, masked_autoencoder, masked_autoencoder_params
from hpm_jax.tokens import Mask, patchify

ROOT = Path(__file__).parents[2]
CONFIG = f"""
import sys

sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from small import small_options


def get_config():
    config = small_options()
    config.optimizer.update(epochs=2, batch_size=128, base_learning_rate=2e-3)
    config.target = "normalized_pixels"
    config.evaluation.every_epochs = 0.0
    return config
"""
# digits of 8 x 8 in 17 levels as grey images of 16 x 16, which is the size of the model
DIGITS = [
    np.repeat(np.repeat((digit * 255 / 16).astype(np.uint8), 2, 0), 2, 1)
    for digit in load_digits().images[:8]
]


def python(*arguments):
    env = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    command = [sys.executable, "-m", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folder of a pre-training run and of two classifiers that start from it."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "tiny.py").write_text(CONFIG)
    python("hpm_jax", f"--config={folder / 'tiny.py'}", f"--workdir={folder / 'pretrained'}")
    start = (f"--config.init_from={folder / 'pretrained'}", "--config.optimizer.warmup_epochs=0.1")
    for pool in ("cls", "mean"):
        place = (f"--workdir={folder / pool}", f"--config.model.pool={pool}")
        python("hpm_jax", "--config=finetune:epochs=1", *start, *place)
    return folder


def normalised():
    """`[8, 16, 16, 1]`, as the config of the runs says."""
    return ((np.stack(DIGITS)[..., None] / 255.0 - 0.5) / 0.5).astype(np.float32)


def logits(weights):
    model, patches = classifier(weights), patchify(normalised(), weights.architecture.patch)
    return np.asarray(jax.jit(lambda p: model.apply({"params": p}, patches))(weights.params))


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_classifiers(runs, tmp_path, pool):
    expected = logits(read_weights(runs / pool))
    python("hpm_jax.convert", runs / pool, tmp_path / "hf", "--names", "hugging_face", "--check")
    processor = AutoImageProcessor.from_pretrained(tmp_path / "hf")
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "hf").eval()
    assert model.config.id2label == {number: str(number) for number in range(10)}
    inputs = processor(images=[Image.fromarray(x) for x in DIGITS], return_tensors="pt")
    with torch.no_grad():
        found = model(**inputs).logits.numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4)

    python("hpm_jax.convert", runs / pool, tmp_path / "timm", "--names", "timm")
    model = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True).eval()
    config = timm.data.resolve_model_data_config(model)
    transform = timm.data.create_transform(**config, is_training=False)
    images = torch.stack([transform(Image.fromarray(x)) for x in DIGITS])
    with torch.no_grad():
        np.testing.assert_allclose(model(images).numpy(), expected, atol=1e-4)
    assert np.abs(expected - expected[:1]).max() > 1e-4, "images differ in what comes out"


def test_the_masked_autoencoder(runs, tmp_path):
    python("hpm_jax.convert", runs / "pretrained", tmp_path / "mae", "--names", "hugging_face")
    model = ViTMAEForPreTraining.from_pretrained(tmp_path / "mae").eval()
    assert model.config.norm_pix_loss and model.config.mask_ratio == 0.75
    noise = np.random.default_rng(0).random((8, 16), dtype=np.float32)
    order = np.argsort(noise, axis=1).astype(np.int32)
    mask = Mask(*(np.sort(part, axis=1) for part in (order[:, :4], order[:, 4:])))
    weights = read_weights(runs / "pretrained")
    ours, patches = masked_autoencoder(weights), patchify(normalised(), (1, 4, 4))
    params = {"params": masked_autoencoder_params(weights)}
    values = jax.jit(ours.apply)(params, patches, mask).values
    images = torch.from_numpy(normalised().transpose(0, 3, 1, 2))
    with torch.no_grad():
        found = model(images, noise=torch.from_numpy(noise)).logits.numpy()
    theirs = np.take_along_axis(found, mask.hide[..., None], axis=1)
    assert np.abs(values).max() > 0.1
    np.testing.assert_allclose(theirs, values, atol=1e-4)


def test_onnx(runs, tmp_path):
    said = python("hpm_jax.convert", runs / "mean", tmp_path / "classifier.onnx", "--check")
    assert "in onnx      logits" in said
