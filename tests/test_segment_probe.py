"""Probes of single patches: their labels and the two classifiers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import task_options
from small_scenes import VOID

from hpm_jax.config import ConfigError, freeze
from hpm_jax.config.inherit import inherit
from hpm_jax.data.segmented import IGNORED
from hpm_jax.evaluation.patch_probes import (
    PatchBank,
    fit_logistic,
    knn_votes,
    logistic_logits,
    patch_labels,
    standard_of,
)


def test_labels_of_patches_against_plain_loops():
    rng = np.random.default_rng(0)
    label_map = rng.integers(-1, 3, (12, 20)).astype(np.int16)
    label_map[:4, :4] = 2  # pure
    label_map[4:8, :4] = IGNORED
    label_map[4:6, :4] = 1  # half of the pixels
    label_map[8:12, :4] = IGNORED
    label_map[8, :4] = 1  # too few
    found = patch_labels(label_map, 4, 3)
    assert found.shape == (3, 5) and found.dtype == np.int32
    for row in range(3):
        for column in range(5):
            patch = label_map[4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
            counts = [int((patch == k).sum()) for k in range(3)]
            expected = int(np.argmax(counts)) if max(counts) >= 8 else IGNORED
            assert found[row, column] == expected
    assert found[:, 0].tolist() == [2, 1, IGNORED]


@pytest.fixture(scope="module")
def bank():
    """Three clouds; one feature is constant, another has a scale of its own."""
    rng = np.random.default_rng(0)
    labels = np.arange(300) % 3
    centres = np.array([[4.0, 0, 0, 7], [0, 4, 0, 7], [0, 0, 400, 7]])
    noise = rng.normal(size=(300, 4)) * [1, 1, 100, 0]
    return PatchBank((centres[labels] + noise).astype(np.float32), labels.astype(np.int32))


def test_both_classifiers_tell_clouds_apart(bank):
    standard = standard_of(bank)
    features = np.asarray(standard(jnp.asarray(bank.features)))
    np.testing.assert_allclose(features.mean(axis=0), 0, atol=1e-3)
    np.testing.assert_allclose(features.std(axis=0), [1, 1, 1, 0], atol=1e-3)

    def tokens(params, images):
        return images  # [B, L, D] already

    images = bank.features.reshape(50, 6, 4)
    fitted, penalty = fit_logistic(bank, 3, (1e-1, 1e-3), 50)
    assert penalty in (1e-1, 1e-3)
    logits = jax.jit(logistic_logits(tokens, (2, 3)))((None, standard, fitted), images)
    assert logits.shape == (50, 2, 3, 3)
    right = np.asarray(logits).argmax(axis=-1).reshape(-1) == bank.labels
    assert right.mean() > 0.9

    params = (None, standard, jnp.asarray(features), jnp.asarray(bank.labels))
    votes = jax.jit(knn_votes(tokens, (2, 3), 3, 5, 0.07))(params, images)
    np.testing.assert_allclose(np.asarray(votes).sum(axis=-1), 1, rtol=1e-5)
    assert (np.asarray(votes).argmax(axis=-1).reshape(-1) == bank.labels).mean() > 0.9
    # the plain formula, for the first patch
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    cosines = unit @ unit[0]
    near = np.argsort(-cosines)[:5]
    weights = np.exp(cosines[near] / 0.07)
    expected = [weights[bank.labels[near] == k].sum() / weights.sum() for k in range(3)]
    np.testing.assert_allclose(np.asarray(votes)[0, 0, 0], expected, atol=1e-4)


def options(pretrained, root, **probes):
    config = task_options("segment_probe", pretrained)
    config.data.update(path=str(root), image_size=(16, 16), ignore_index=VOID)
    config.probes.update(bank=200, penalties=(1e-2,), iterations=20, neighbors=5, **probes)
    config.evaluation.update(batch_size=16)
    return config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"names": ("linear",)}, "config.probes.names = 'linear' does not exist"),
        ({"names": ()}, "give logistic, knn or both"),
    ],
)
def test_probes_that_do_not_exist(pretrained, tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        freeze(inherit(options(pretrained, tmp_path, **changes)))
