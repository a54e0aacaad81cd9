"""A teacher that sees parts: every patch is predicted as of a hidden one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import parts_of, small_config

from hpm_jax.config import ConfigError
from hpm_jax.step.mask import losses_by_parts, run_network
from hpm_jax.tokens import Mask

PARTS = "moving_average(start=0.9, end=0.9, view='parts')"


def looked_at(config):
    parts = parts_of(config)
    patches = parts.method.patches(jnp.asarray(parts.images[:4]))
    return parts, patches, parts.state.params


def test_each_patch_is_predicted_by_the_parts_that_do_not_hold_it():
    parts, patches, params = looked_at(small_config(teacher=PARTS))
    found = losses_by_parts(parts.model, parts.method, params, patches)["predicted_loss"]
    dealt = np.array_split(np.random.default_rng(0).permutation(16), 4)
    expected = np.zeros((4, 16))
    for part in dealt:
        rest = np.setdiff1d(np.arange(16), part)
        rows = [np.tile(np.sort(x), (4, 1)) for x in (part, rest)]
        mask = Mask(*map(jnp.asarray, rows))
        values = parts.model.apply({"params": params}, patches, mask, method="predict_loss")
        np.add.at(expected, (np.arange(4)[:, None], rest), np.asarray(values)[:, len(part) :])
    np.testing.assert_allclose(found, expected / 3, rtol=1e-5, atol=1e-6)


def test_what_is_in_a_patch_does_not_change_its_own_prediction():
    parts, patches, params = looked_at(small_config(teacher=PARTS))
    before = run_network(parts.model, parts.method, params, patches)["predicted_loss"]
    changed = patches.at[:, 5].add(3.0)
    after = run_network(parts.model, parts.method, params, changed, passes=2)["predicted_loss"]
    np.testing.assert_allclose(after[:, 5], before[:, 5], rtol=1e-5, atol=1e-6)
    assert not np.allclose(after, before)
    whole, patches, params = looked_at(small_config())
    one, other = (
        run_network(whole.model, whole.method, params, x)["predicted_loss"]
        for x in (patches, changed)
    )
    assert not np.allclose(one[:, 5], other[:, 5])


def test_there_are_as_many_parts_as_views_fit_into_an_image():
    for changes in ({}, {"mask": {"ratio": 0.5}}):
        config = small_config(teacher=PARTS, **changes)
        parts = parts_of(config)
        assert parts.method.parts == (4 if not changes else 2)
        found = jax.eval_shape(
            lambda x, p=parts: run_network(p.model, p.method, p.state.params, p.method.patches(x)),
            parts.images,
        )
        assert found["predicted_loss"].shape == (64, 16)


@pytest.mark.parametrize(
    "changes",
    [
        {"mask": {"strategy": "attention"}, "teacher": PARTS},
        {"teacher": "moving_average(view='part')"},
    ],
)
def test_what_it_cannot_see_is_said(changes):
    with pytest.raises(ConfigError, match="view"):
        small_config(**changes)
