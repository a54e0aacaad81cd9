"""The training step: its parts, its invariances, its cost."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import MAE, compiled_step, parts_of, schedule, small_config

from hpm_jax import random
from hpm_jax.masking import select
from hpm_jax.masking.hard import Random
from hpm_jax.models.flops import step_flops
from hpm_jax.step.mask import choose_mask, mask_context
from hpm_jax.step.step import make_train_step

FEATURES = {"target": "teacher_features", "objective": "cosine"}
TARGETS = pytest.mark.parametrize("changes", [{}, FEATURES], ids=["pixels", "features"])


def run(config, n_hard=0, steps=1, accumulation=1, put=lambda x: x, put_images=lambda x: x):
    parts, step = parts_of(config), compiled_step(config, accumulation)
    state, images = put(parts.state), put_images(parts.images)
    for _ in range(steps):
        state, metrics = step(state, images, parts.key, schedule(n_hard))
    return state, {name: float(value) for name, value in metrics.items()}


def mask_of(config, n_hard, passes=1, put=lambda x: x, put_images=lambda x: x):
    parts = parts_of(config)

    def mask(state, images, key):
        patches = parts.method.patches(images)
        return choose_mask(parts.model, parts.method, state, patches, key, schedule(n_hard), passes)

    return jax.jit(mask)(put(parts.state), put_images(parts.images), parts.key)


def test_one_code_serves_three_methods():
    """HPM, loss prediction with random masks, and MAE, by config alone."""
    _, hpm = run(small_config(), n_hard=6)
    _, loss_prediction = run(small_config(mask={"strategy": "random"}))
    state, mae = run(small_config(**MAE))
    assert hpm.keys() == loss_prediction.keys()
    assert mae.keys() == {"loss", "reconstruction", "gradient_norm"} and state.teacher is None
    assert "predictor" not in state.params
    np.testing.assert_allclose(hpm["loss"], hpm["reconstruction"] + hpm["ranking"], rtol=1e-6)
    np.testing.assert_allclose(mae["loss"], mae["reconstruction"])
    assert hpm["loss"] != loss_prediction["loss"], "another mask, another loss"


def test_training_lowers_the_loss():
    _, first = run(small_config())
    _, last = run(small_config(), steps=30)
    assert last["reconstruction"] < 0.8 * first["reconstruction"]


def test_without_hard_patches_the_mask_is_that_of_random_masking():
    parts = parts_of(small_config())
    patches = parts.method.patches(parts.images)
    context = mask_context(parts.method, parts.state, patches, jnp.int32(0), {})
    expected = select(Random().scores(parts.key, context), parts.method.hidden)
    np.testing.assert_array_equal(mask_of(parts.config, 0).hide, expected.hide)


def test_hard_patches_are_the_teachers_choice():
    parts = parts_of(small_config())
    patches = parts.method.patches(parts.images)
    predicted = parts.model.apply({"params": parts.state.teacher}, patches, method="predict_loss")
    hardest = np.argsort(predicted, axis=1)[:, -6:]
    hidden = np.asarray(mask_of(parts.config, 6).hide)
    assert all(set(hard) <= set(hide) for hard, hide in zip(hardest, hidden, strict=True))


def test_the_teacher_is_not_run_while_nothing_is_hard():
    """It stands behind a condition for HPM, and in no other step at all."""
    for config, conditions in ((small_config(), 1), (small_config(**MAE), 0)):
        parts = parts_of(config)
        step = make_train_step(parts.model, parts.method, parts.optimizer)
        arguments = (parts.state, parts.images, parts.key, schedule())
        jaxpr = str(jax.make_jaxpr(step)(*arguments))
        assert jaxpr.count("cond[") == conditions


def test_teacher_starts_as_the_student_and_follows_it():
    parts = parts_of(small_config())
    chex.assert_trees_all_equal(parts.state.teacher, parts.state.params)
    state, _ = run(parts.config, n_hard=3)
    expected = jax.tree.map(
        lambda old, new: 0.9 * old + 0.1 * new, parts.state.teacher, state.params
    )
    chex.assert_trees_all_close(state.teacher, expected, atol=1e-7)
    with pytest.raises(AssertionError):
        chex.assert_trees_all_equal(state.teacher, parts.state.teacher)


def test_a_compiled_step_serves_every_schedule():
    parts = parts_of(small_config())
    step = make_train_step(parts.model, parts.method, parts.optimizer)
    step = jax.jit(chex.assert_max_traces(step, n=1))
    state = parts.state
    for n_hard in range(4):
        state, _ = step(state, parts.images, parts.key, schedule(n_hard, 1e-4 * n_hard))


@TARGETS
def test_bfloat16(changes):
    with jax.numpy_dtype_promotion("standard"):  # flax's layer norm mixes dtypes itself
        config = small_config(**changes, model={"dtype": "bfloat16"})
        state, metrics = run(config, n_hard=6, steps=2)
    _, expected = run(small_config(**changes), n_hard=6, steps=2)
    np.testing.assert_allclose(metrics["loss"], expected["loss"], rtol=0.03)
    dtypes = {x.dtype for x in jax.tree.leaves((state.params, state.teacher))}
    assert dtypes == {jnp.dtype("float32")}


def test_flops_against_the_compiler():
    """XLA counts norms, softmax and the optimizer as well, so it may count a little more."""
    config = small_config(
        data={"image_size": (32, 32)},
        model={"width": 128, "depth": 3, "decoder_width": 64, "decoder_depth": 2, "heads": 4},
        mask={"strategy": "hard(start=0.5)"},
    )
    parts = parts_of(config)

    def student(params, patches, mask):
        prediction = parts.model.apply({"params": params}, patches, mask)
        return jnp.square(prediction.values).mean() + jnp.square(prediction.loss).mean()

    def teacher(params, patches):
        return parts.model.apply({"params": params}, patches, method="predict_loss")

    patches, mask = parts.method.patches(parts.images), mask_of(config, 3)
    wanted = step_flops(parts.model, config.hidden, network_passes=1)
    for function, arguments, analytic in (
        (jax.grad(student), (parts.state.params, patches, mask), wanted.student),
        (teacher, (parts.state.params, patches), wanted.teacher),
    ):
        counted = jax.jit(function).lower(*arguments).cost_analysis()["flops"]
        share = counted / len(parts.images) / analytic
        assert 0.97 < share < 1.12, f"{function.__name__}: XLA counts {share:.3f} of the formula"


def test_streams_do_not_touch_each_other():
    key = jax.random.key(0)
    keys = [random.stream(key, name, step) for name in ("mask", "init") for step in (0, 1)]
    assert len({tuple(np.asarray(jax.random.key_data(k))) for k in keys}) == 4
    again = random.stream(key, "mask", jnp.int32(1))
    np.testing.assert_array_equal(jax.random.key_data(again), jax.random.key_data(keys[1]))
