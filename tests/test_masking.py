"""Masks: exact counts, one for each image, hard patches always hidden, the rest uniform."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpm_jax.masking import Context, hidden_count, select
from hpm_jax.masking.hard import Hard
from hpm_jax.masking.schedule import hard_count
from hpm_jax.tokens import Tokenizer


def context(predicted_loss, n_hard):
    batch, length = predicted_loss.shape
    return Context(
        patches=jnp.zeros((batch, length, 1)),
        grid=(1, 1, length),
        tokenizer=Tokenizer((1, 1, 1), (0.0,), (1.0,)),
        hidden=length // 2,
        n_hard=jnp.int32(n_hard),
        readings={"teacher": {"predicted_loss": jnp.asarray(predicted_loss)}},
    )


def hard_mask(key, predicted_loss, n_hard, count):
    return select(Hard().scores(key, context(predicted_loss, n_hard)), count)


@settings(max_examples=40, deadline=None)
@given(
    length=st.integers(2, 60),
    count=st.integers(1, 59),
    n_hard=st.integers(0, 59),
    seed=st.integers(0, 2**31 - 1),
)
def test_hard_masks(length, count, n_hard, seed):
    count, n_hard = min(count, length - 1), min(n_hard, count, length - 1)
    predicted = np.random.default_rng(seed).normal(size=(3, length)).astype(np.float32)
    mask = hard_mask(jax.random.key(seed), predicted, n_hard, count)
    assert mask.hide.shape == (3, count) and mask.keep.shape == (3, length - count)
    for image in range(3):
        keep, hide = np.asarray(mask.keep[image]), np.asarray(mask.hide[image])
        assert sorted([*keep, *hide]) == list(range(length)), "every patch is kept or hidden, once"
        assert (np.diff(keep) > 0).all() and (np.diff(hide) > 0).all(), "raster order"
        hardest = np.argsort(predicted[image])[length - n_hard :]
        assert set(hardest) <= set(hide), "all hard patches are hidden"


def test_images_of_a_batch_differ():
    predicted = np.tile(np.arange(64, dtype=np.float32), (2, 1))
    for n_hard in (0, 24):
        mask = hard_mask(jax.random.key(0), predicted, n_hard, 48)
        assert (mask.hide[0] != mask.hide[1]).any()


def test_nothing_is_random_when_all_is_hard():
    predicted = np.random.default_rng(0).normal(size=(2, 16)).astype(np.float32)
    one, other = (hard_mask(jax.random.key(seed), predicted, 12, 12) for seed in (0, 1))
    np.testing.assert_array_equal(one.hide, other.hide)


def test_the_random_part_is_uniform():
    """Every patch that is not hard is hidden equally often, within five standard deviations."""
    draws, length, n_hard, count = 8000, 12, 3, 8
    predicted = np.tile(np.arange(length, dtype=np.float32), (draws, 1))
    mask = hard_mask(jax.random.key(0), predicted, n_hard, count)
    times = np.bincount(np.asarray(mask.hide).ravel(), minlength=length)
    assert (times[-n_hard:] == draws).all()
    share = (count - n_hard) / (length - n_hard)
    bound = 5 * np.sqrt(draws * share * (1 - share))
    assert np.abs(times[:-n_hard] - draws * share).max() < bound
    # pairs too: the hidden set is drawn without replacement
    hidden = np.zeros((draws, length))
    np.put_along_axis(hidden, np.asarray(mask.hide), 1, axis=1)
    together = (hidden[:, 0] * hidden[:, 1]).mean()
    wanted = share * (count - n_hard - 1) / (length - n_hard - 1)
    assert abs(together - wanted) < 5 * np.sqrt(wanted / draws)


def test_a_changing_n_hard_does_not_recompile():
    predicted = np.tile(np.arange(16, dtype=np.float32), (2, 1))

    @jax.jit
    @chex.assert_max_traces(n=1)
    def masks(n_hard):
        scores = Hard().scores(jax.random.key(0), context(predicted, 0)._replace(n_hard=n_hard))
        return select(scores, 12)

    hidden = [masks(jnp.int32(n_hard)).hide for n_hard in range(12)]
    assert (hidden[0] != hidden[11]).any()


@pytest.mark.parametrize(
    ("epochs", "first", "at_10", "halfway"),
    [(200, 2, 4, 36), (800, 10, 1, 36), (1600, 21, 0, 36), (100, 1, None, 36), (400, 5, None, 36)],
)
def test_counts_of_the_official_code(epochs, first, at_10, halfway):
    """The table of section 2.2 of the algorithm's description, computed with the official code."""
    counts = [hard_count(epoch, epochs, 147) for epoch in range(epochs)]
    assert next(epoch for epoch, count in enumerate(counts) if count) == first
    assert at_10 is None or counts[10] == at_10
    assert counts[epochs // 2 - 1] == halfway and counts[-1] == 73
    assert counts == sorted(counts)
    assert counts == [int(147 * (float((epoch + 1) / epochs) * 0.5)) for epoch in range(epochs)]


def test_hard_counts_follow_start_and_end():
    assert hard_count(0, 10, 100, start=0.5, end=0.5) == 50
    assert hard_count(9, 10, 100, start=0.0, end=1.0) == 100
    assert hard_count(9, 10, 100, start=1.0, end=0.0) == 0, "hard to easy works as well"
    assert hard_count(0.5, 10, 100, 0.0, 1.0) == 10, "the same in the whole of an epoch"


def test_hard_counts_by_step_run_from_start_to_end_exactly():
    """Not by (E + 1) / E of the way, as counting epochs ahead would."""
    counts = [hard_count(epoch, 10, 100, 0.2, 0.6, "step") for epoch in np.linspace(0, 10, 1001)]
    assert counts[0] == 20 and counts[-1] == 60 and max(counts) == 60
    np.testing.assert_allclose(counts, np.linspace(20, 60, 1001), atol=1.0)


@pytest.mark.parametrize(("ratio", "count"), [(0.75, 147), (0.6, 118), (0.8, 157), (0.9, 177)])
def test_hidden_count_truncates_as_the_official_code(ratio, count):
    assert hidden_count(196, ratio) == count


@pytest.mark.parametrize("ratio", [0.0, 1.0, 1.5, -0.1])
def test_impossible_ratios(ratio):
    with pytest.raises(ValueError, match=f"mask ratio {ratio} hides"):
        hidden_count(196, ratio)
