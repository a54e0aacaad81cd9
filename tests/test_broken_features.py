"""Features that are not finite end in a sentence that names whose they are."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest
from full_disk import no_file_larger_than
from small import task_options

from hpm_jax.compare.data import Images, Measured
from hpm_jax.compare.representation import measure_representation
from hpm_jax.config import ConfigError, freeze
from hpm_jax.config.inherit import inherit
from hpm_jax.convert.read import read_weights
from hpm_jax.convert.weights import WeightsError
from hpm_jax.data.sources import SOURCES, DataError
from hpm_jax.evaluation.evaluator import Evaluator
from hpm_jax.evaluation.feature_file import SplitFeatures, origin, read_features, write_features
from hpm_jax.evaluation.features import FeatureExtractor
from hpm_jax.evaluation.knn import rank_me
from hpm_jax.evaluation.standardised import tell
from hpm_jax.run import load
from hpm_jax.run.devices import all_devices
from hpm_jax.storage import StorageError
from hpm_jax.tasks.report import load_features

GOOD = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
BROKEN = np.where(np.arange(8)[:, None] == 3, np.nan, GOOD).astype(np.float32)
LABELS = np.arange(8) % 2
REMEDY = "features of 1 of 8 images are not finite, first of image 3.*take an earlier checkpoint"


def test_measures_of_features():
    with pytest.raises(DataError, match=f"RankMe: {REMEDY}"):
        rank_me(BROKEN)
    for bank, queries, name in ((BROKEN, GOOD, "bank"), (GOOD, BROKEN, "queries")):
        with pytest.raises(DataError, match=f"{name}: {REMEDY}"):
            tell(bank, LABELS, queries, LABELS, 1e-2, 3)


def test_a_run_names_the_step():
    held = SimpleNamespace(features=lambda params, images: BROKEN, images=None)
    state = SimpleNamespace(params=None, step=70)
    with pytest.raises(DataError, match=f"the student after step 70: {REMEDY}"):
        Evaluator.__call__(held, state)


def test_a_comparison_names_the_arm():
    images = Images(np.zeros((8, 2, 2, 1), np.uint8), LABELS)
    options = SimpleNamespace(measures=("logistic",))
    with pytest.raises(DataError, match=f"arm hpm, seed 1: {REMEDY}"):
        measure_representation(
            options,
            lambda params, pixels, places: (BROKEN[np.arange(len(pixels)) % 8], GOOD[places]),
            None,
            Measured(images, images),
            4,
            "arm hpm, seed 1",
        )


def test_a_report_names_the_weights_or_the_file(pretrained, tmp_path):
    path = str(tmp_path / "features.npz")
    config = freeze(inherit(task_options("report", pretrained, features_file=path)))
    weights, devices = read_weights(pretrained), all_devices()
    huge = jax.tree.map(lambda x: x * np.float32(1e30), weights.params["encoder"])
    broken = weights._replace(params=weights.params | {"encoder": huge})
    whose = f"student weights of {pretrained}"
    extractor = FeatureExtractor(config, broken, devices, "mean", whose)
    with pytest.raises(DataError, match=f"{whose}: features of .* are not finite"):
        extractor(SOURCES["digits"](config.data).test)
    features = SplitFeatures(GOOD, LABELS, BROKEN, LABELS, ())
    write_features(tmp_path / "features.npz", features, origin(config, weights, "mean"))
    with pytest.raises(DataError, match=f"config.features_file = '{path}': {REMEDY}"):
        load_features(config, weights, ((), ()), devices, "mean", print)


def test_a_workdir_of_weights_that_have_diverged(pretrained, monkeypatch):
    found = load.load_run(pretrained)
    params = jax.tree.map(lambda x: x * np.nan, found.state.params)
    diverged = found._replace(state=found.state.replace(params=params))
    monkeypatch.setattr(load, "load_run", lambda path, folder: diverged)
    with pytest.raises(WeightsError, match=f"{pretrained}: .*of the student holds numbers that"):
        read_weights(pretrained)


def test_a_damaged_file_of_features(tmp_path):
    path = tmp_path / "features.npz"
    arrays = SplitFeatures(GOOD, LABELS, GOOD, LABELS, ())._asdict()
    np.savez(path, **arrays, made_by="{")
    with pytest.raises(ConfigError, match="holds no features that can be read"):
        read_features(path, {})
    with no_file_larger_than(100), pytest.raises(StorageError, match=r"cannot write .*other.npz"):
        write_features(tmp_path / "other.npz", SplitFeatures(**arrays), {})
    assert list(tmp_path.iterdir()) == [path]
