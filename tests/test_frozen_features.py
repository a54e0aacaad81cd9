"""Features of a trained encoder as a target: those of its model, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import parts_of, small_config
from small_weights import random_weights

from hpm_jax.config import ConfigError
from hpm_jax.convert import read
from hpm_jax.convert.weights import Architecture, classifier
from hpm_jax.convert.write import write_weights
from hpm_jax.frozen_encoder import _held
from hpm_jax.run.build import (
    build_flops,
    build_fresh_params,
    build_method,
    build_model,
    load_frozen,
)
from hpm_jax.run.frozen import check_frozen
from hpm_jax.step.method import own
from hpm_jax.tokens import Tokenizer

ENCODER = Architecture((1, 4, 4), patch_size=4, channels=1, width=24, depth=2, heads=4)
CALL = "frozen_features(path={path!r}, mean=(0.25,), std=(0.2,), normalize='none'{more})"


@pytest.fixture
def saved(tmp_path):
    """A file of weights, and the weights."""
    weights = random_weights(ENCODER)
    write_weights(tmp_path / "encoder.npz", weights, "timm")
    return tmp_path / "encoder.npz", weights


def config_of(path, more="", **changes):
    return small_config(target=CALL.format(path=str(path), more=more), **changes)


def test_features_are_those_of_its_model(saved):
    """With its own mean and deviation, from weights that lie beside the run's."""
    path, weights = saved
    parts = parts_of(config_of(path))
    assert parts.method.target_width == 24
    pixels = Tokenizer((1, 4, 4), (0.25,), (0.2,))(parts.images)
    encoder = classifier(weights).bind({"params": weights.params}).encoder
    expected = encoder(pixels)[:, 1:]
    found = parts.method.target_of(parts.method.patches(parts.images), own(parts.state, "target"))
    np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())


def test_a_start_reads_the_file_once(saved, tmp_path, monkeypatch):
    """For the check, for sizes, for operations and for the weights of three plugs."""
    path, _ = saved
    reads, read_weights = [], read.read_weights

    def counted(*arguments):
        reads.append(arguments[0])
        return read_weights(*arguments)

    monkeypatch.setattr(read, "read_weights", counted)

    def start():
        options = f"path={str(path)!r}, mean=(0.25,), std=(0.2,)"
        config = small_config(
            teacher=f"frozen({options})",
            target="teacher_features(block=1)",
            mask={"strategy": "attention"},
            losses=(f"distillation({options}, block=1)",),
        )
        method = build_method(config)
        frozen = load_frozen(method)
        build_flops(config)
        jax.eval_shape(build_fresh_params(build_model(config), method), jax.random.key(0), 0)
        return frozen

    assert start().keys() == {"teacher", "distillation"}
    assert reads == [str(path)] and not _held, "nothing is kept beside the state"
    write_weights(path, random_weights(ENCODER, seed=1), "timm")
    again = jax.tree.leaves(start()["teacher"])
    assert len(reads) == 2, "another file in its place is read"
    expected = jax.tree.leaves(random_weights(ENCODER, seed=1).params["encoder"])
    assert sum(x.sum() for x in again) == pytest.approx(sum(x.sum() for x in expected), abs=1e-3)


def test_a_run_goes_on_with_the_same_weights_alone(tmp_path):
    workdir, weights = tmp_path, {"target": {"kernel": np.ones((2, 3), np.float32)}}
    check_frozen(workdir, {})
    assert not (workdir / "frozen.json").exists()
    check_frozen(workdir, weights)
    check_frozen(workdir, weights)
    other = {"target": {"kernel": jnp.ones((2, 3)).at[1, 2].set(1.1)}}
    with pytest.raises(ConfigError, match=r"frozen weights of config\.target are not those"):
        check_frozen(workdir, other)


@pytest.mark.parametrize(
    ("more", "changes", "message"),
    [
        ("", {"model": {"patch_size": 8}}, r"patches of \(1, 4, 4\).*and the run into \(1, 8, 8\)"),
        ("", {"data": {"channels": 3, "mean": (0.5,) * 3, "std": (0.5,) * 3}}, "takes 1 channels"),
        (", dtype='float8'", {}, "dtype = 'float8'"),
    ],
)
def test_refused(saved, more, changes, message):
    with pytest.raises(ConfigError, match=message):
        config_of(saved[0], more, **changes)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match=r"there is no .*gone\.npz"):
        config_of(tmp_path / "gone.npz")
    with pytest.raises(ConfigError, match="path is empty"):
        small_config(target="frozen_features")
