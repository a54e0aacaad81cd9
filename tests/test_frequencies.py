"""Masked frequency modelling: spectra against numpy, what the student sees, what is learnt."""

import jax
import numpy as np
import pytest
from small import MAE, Parts, compiled_step, parts_of, schedule, small_config

from hpm_jax.config import ConfigError
from hpm_jax.evaluation.evaluator import Evaluator
from hpm_jax.losses import Term
from hpm_jax.losses.frequencies import frequency_distance
from hpm_jax.run.devices import all_devices
from hpm_jax.step.step import make_train_step
from hpm_jax.tasks.data import load_data
from hpm_jax.tokens import Mask, Tokenizer

ALONE = MAE | {"losses": ("masked_frequencies(radius=4.0)",), "decoder": "no_decoder"}
TOKENIZER = Tokenizer((1, 4, 4), (0.4, 0.5), (0.2, 0.3))
GRID = (1, 2, 3)


def photographs(count=4, height=8, width=12, channels=2):
    return np.random.default_rng(1).uniform(size=(count, height, width, channels))


def disc(height, width, radius):
    """The centred mask that the official code multiplies a shifted spectrum with."""
    rows, columns = np.mgrid[:height, :width]
    return (rows - height // 2) ** 2 + (columns - width // 2) ** 2 < radius**2


@pytest.mark.parametrize("low", [True, False])
def test_the_student_sees_what_is_left_of_the_spectrum(low):
    term = Term.parse_call("masked_frequencies(radius=3.0)", "x")
    images = photographs()
    patches = TOKENIZER.patchify(TOKENIZER.normalize(np.float32(images)))
    seen = term.whole_input(patches, GRID, TOKENIZER, np.full(4, low))
    kept = disc(8, 12, 3.0) if low else ~disc(8, 12, 3.0)
    spectrum = np.fft.fftshift(np.fft.fft2(images, axes=(1, 2)), axes=(1, 2))
    spectrum = np.fft.ifftshift(spectrum * kept[None, :, :, None], axes=(1, 2))
    expected = np.clip(np.fft.ifft2(spectrum, axes=(1, 2)).real, 0, 1)
    found = TOKENIZER.pixels(seen, GRID)[:, 0]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(found - images).max() > 0.1


@pytest.mark.parametrize("gamma", [1.0, 2.0])
def test_distance_of_the_removed_frequencies(gamma):
    difference = np.float32(photographs()[:, None])
    counted = np.zeros((4, 1, 8, 12, 1), bool)
    counted[0, :, 1, 2], counted[3, :, 5] = True, True
    found = frequency_distance(difference, counted, gamma)
    spectrum = np.fft.fft2(difference, axes=(2, 3), norm="ortho")
    where = np.broadcast_to(counted, spectrum.shape)
    np.testing.assert_allclose(found, (np.abs(spectrum[where]) ** gamma).mean(), rtol=1e-5)


def test_no_gradient_of_what_is_left_and_none_infinite():
    """Rebuilding what was removed is enough; a perfect image has a finite gradient."""
    term = Term.parse_call("masked_frequencies(radius=3.0)", "x")
    low = np.array([True, False, True, False])
    shape = (4, 1, 8, 12, 2)
    removed = ~np.asarray(term.kept(low, shape))
    kept = np.fft.ifft2(
        np.fft.fft2(photographs()[:, None], axes=(2, 3)) * ~removed, axes=(2, 3)
    ).real
    assert frequency_distance(np.float32(kept), removed) < 1e-5
    slope = jax.grad(lambda x: frequency_distance(x, removed))(np.zeros(shape, np.float32))
    assert np.isfinite(slope).all()


def test_the_share_of_images_that_keep_low_frequencies():
    term = Term.parse_call("masked_frequencies(low=0.25)", "x")
    rows = np.zeros((2000, 3), np.int32)
    drawn = np.asarray(term.draw(jax.random.key(0), Mask(rows, rows)))
    assert drawn.shape == (2000,) and abs(drawn.mean() - 0.25) < 0.03


def test_a_step_learns_encoder_and_head_alone():
    config = small_config(**ALONE)
    parts = parts_of(config)
    losses, state = [], parts.state
    for _ in range(20):
        state, metrics = compiled_step(config)(state, parts.images, parts.key, schedule(rate=3e-3))
        losses.append(float(metrics["loss"]))
    assert set(metrics) >= {"loss", "masked_frequencies"} and "reconstruction" not in metrics
    assert np.mean(losses[-3:]) < 0.95 * np.mean(losses[:3])
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), parts.state.params, state.params)
    assert all(jax.tree.leaves(moved["terms"]))
    assert moved["encoder"]["patch_embedding"]["projection"]["kernel"]


def test_masks_do_not_matter_without_a_decoder():
    """The pass over the visible patches is not computed: its ratio changes no loss and no cost."""
    few, many = (
        small_config(**ALONE | {"mask": MAE["mask"] | {"ratio": ratio}}) for ratio in (0.25, 0.75)
    )
    found = [masked_step(config) for config in (few, many)]
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-6)
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-3)


def masked_step(config):
    """The loss of a step, and the operations of what is compiled."""
    parts = Parts(config)
    step = jax.jit(make_train_step(parts.model, parts.method, parts.optimizer))
    compiled = step.lower(parts.state, parts.images, parts.key, schedule()).compile()
    metrics = compiled(parts.state, parts.images, parts.key, schedule())[1]
    return float(metrics["loss"]), compiled.cost_analysis()["flops"]


def test_it_is_a_further_term_of_hpm():
    config = small_config(losses=("ranking", "masked_frequencies(radius=4.0, weight=0.1)"))
    parts = parts_of(config)
    _, metrics = compiled_step(config)(parts.state, parts.images, parts.key, schedule(n_hard=4))
    parts_of_loss = metrics["reconstruction"] + metrics["ranking"]
    expected = parts_of_loss + 0.1 * metrics["masked_frequencies"]
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5)


def test_its_held_out_loss_is_measured():
    config = small_config(**ALONE)
    parts = parts_of(config)
    splits = load_data(config)
    evaluator = Evaluator(config, parts.model, parts.method, splits, all_devices(), print)
    numbers = evaluator(parts.state)
    assert np.isfinite(numbers["held_out/masked_frequencies"])
    assert "held_out/explained" not in numbers, "no patch is predicted"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"losses": ("masked_frequencies",)}, "no frequency of 16 x 16 pixels is farther than 11"),
        (
            {"losses": ("masked_frequencies(radius=4.0)", "supervised")},
            "masked_frequencies and supervised, which take one pass .* leave one out",
        ),
    ],
)
def test_refused_when_the_config_is_read(changes, message):
    with pytest.raises(ConfigError, match=message):
        small_config(**MAE | changes)


@pytest.mark.parametrize(
    ("changes", "predicts"),
    [
        ({}, True),
        ({"target": "teacher_features", "objective": "cosine"}, False),
        ({"target": "teacher_features", "objective": "smooth_l1"}, True),
        ({"decoder": "no_decoder", "losses": ("dispersive",)}, False),
    ],
)
def test_a_variance_is_explained_where_values_are_predicted(changes, predicts):
    masks = {"mask": {"strategy": "random"}, "losses": ()}
    method = parts_of(small_config(**masks | changes)).method
    assert method.predicts_values == predicts
