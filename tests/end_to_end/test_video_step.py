"""The steps on clips: what the teacher sees and remembers, several masks and clips, devices."""

import dataclasses
import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import MAE, schedule, small_config

from hpm_jax.losses.term import Outputs
from hpm_jax.masking.units import Unit
from hpm_jax.run.build import (
    Start,
    build_flops,
    build_init,
    build_method,
    build_model,
    build_optimizer,
)
from hpm_jax.run.checkpoints import checkpoints
from hpm_jax.run.devices import all_devices
from hpm_jax.step import step as step_module
from hpm_jax.step.mask import run_network, run_networks
from hpm_jax.step.state import abstract_state, on_one_device
from hpm_jax.step.step import Masked, draw_all, make_train_step, total_loss
from hpm_jax.tokens import Mask

KEY = jax.random.key(0)


def video_config(**changes):
    """Clips of 8 frames of 16 x 16, in 4 slots of 16 places: 12 of 16 tubes are hidden."""
    sections = {
        "data": {"source": "synthetic", "frames": 8},
        "model": {"layout": "videomae", "tubelet": 2},
        "mask": {"unit": "tube"},
        "losses": ("ranking(pairs='tubes')",),
        "optimizer": {"batch_size": 8},
        "evaluation": {"pool": "mean"},
    }
    for name, change in changes.items():
        both = isinstance(change, dict) and name in sections
        sections[name] = sections[name] | change if both else change
    return small_config(**sections)


class Run:
    """The parts of a config, and its batch."""

    def __init__(self, config):
        self.config = config
        self.model, self.method = build_model(config), build_method(config)
        self.optimizer = build_optimizer(config)
        init = build_init(config, self.model, self.method, self.optimizer)
        self.state = jax.jit(init)(KEY, Start())
        shape = (config.optimizer.batch_size, *config.data.train_shape)
        self.images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        self.patches = np.asarray(jax.jit(self.method.patches)(self.images))
        self.step, self.masking = self.compiled(accumulation=1)

    def compiled(self, accumulation):
        """The step, and the same with an update that only gives what it was handed.

        That one moves the teacher a bit, so that it is seen when it is asked.
        """

        def move(state, masked, schedule):
            teacher = jax.tree.map(lambda x: 1.1 * x, state.teacher)
            return state.replace(step=state.step + 1, teacher=teacher), (masked, {})

        parts = self.model, self.method, self.optimizer, accumulation

        def masking(*inputs):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(step_module, "make_update", lambda *_: move)
                return make_train_step(*parts)(*inputs)

        return jax.jit(make_train_step(*parts)), jax.jit(masking)

    def masks(self, counts, state=None):
        """States before and after steps with `counts` hard units each, and what each masked."""
        before, found = self.state if state is None else state, []
        for n_hard in counts:
            after, masked = self.masking(before, self.images, KEY, schedule(n_hard))
            found.append((before, after, masked))
            before = after
        return found

    @functools.cached_property
    def says(self):
        """`(teacher, patches)` to its predicted loss of each unit."""

        def says(teacher, patches):
            found = run_network(self.model, self.method, teacher, patches)
            return self.method.unit.pool(found["predicted_loss"])

        return jax.jit(says)


run_of = functools.cache(Run)


def assert_hidden(said, hide, n_hard, tubes=12):
    """Whole tubes of 16, and the hardest ones among them."""
    for losses, row in zip(np.asarray(said), np.asarray(hide), strict=True):
        assert set(np.argsort(losses)[len(losses) - n_hard :]) <= set(row % 16)
        assert len(set(row % 16)) == tubes and len(row) == 4 * tubes


SELDOM = {"teacher": "moving_average(every_steps=3, frame_stride=2)"}


# --- a teacher that sees some of the frames


@pytest.mark.parametrize("tubes", [True, False])
def test_the_teacher_sees_every_second_slot(tubes):
    """What it does not see may be no number; it speaks of that as of hidden patches."""
    run = run_of(video_config(**SELDOM))
    unit = Unit(run.model.grid, tube=tubes)
    method = dataclasses.replace(run.method, unit=unit)
    teacher = run.state.teacher
    look_at = jax.jit(functools.partial(run_networks, run.model, method))

    def says(patches):
        found = look_at(run.state, patches.reshape(8, 64, 32))
        return np.asarray(found.units["teacher"]["predicted_loss"])

    patches = run.patches.reshape(8, 4, 16, 32)
    unseen = patches.copy()
    unseen[:, 1::2] = np.nan
    said = says(unseen)
    assert said.shape == (8, 16 if tubes else 64) and np.isfinite(said).all()
    np.testing.assert_array_equal(said, says(patches))
    for slot in (0, 2):
        changed = patches.copy()
        changed[:, slot] += 1.0
        assert np.abs(says(changed) - said).max() > 1e-4, "the others it sees"

    keep, hide = np.r_[0:16, 32:48], np.r_[16:32, 48:64]
    mask = Mask(np.tile(keep, (8, 1)), np.tile(hide, (8, 1)))
    predict = jax.jit(functools.partial(run.model.apply, method="predict_loss"))
    found = np.asarray(predict({"params": teacher}, run.patches, mask))
    each = np.empty_like(found)
    each[:, np.concatenate([keep, hide])] = found
    expected = each.reshape(8, 4, 16).mean(axis=1) if tubes else each
    np.testing.assert_allclose(said, expected, rtol=1e-5, atol=1e-6)


# --- a teacher that runs every n-th step


def asked(steps):
    """At which steps the teacher ran: its predictions are other ones."""
    return [
        number
        for number, (before, after, _) in enumerate(steps)
        if np.isfinite(after.scores).all() and not np.array_equal(before.scores, after.scores)
    ]


def test_the_teacher_runs_at_every_third_step():
    run = run_of(video_config(**SELDOM))
    assert run.state.scores.shape == (8, 16) and np.isnan(run.state.scores).all()
    steps = run.masks([4] * 7)
    assert steps[0][2].drawn == {}, "where every pair counts"
    assert asked(steps) == [0, 3, 6]
    for number in (0, 3, 6):
        before, after, _ = steps[number]
        said = run.says(before.teacher, run.patches)
        np.testing.assert_allclose(after.scores, said, rtol=1e-5, atol=1e-6)
    hidden = [np.asarray(masked.mask.hide) for _, _, masked in steps]
    for (_, after, _), hide in zip(steps, hidden, strict=True):
        assert_hidden(after.scores, hide, 4)
    for one, other in itertools.combinations(hidden[:3], 2):
        assert (one != other).any(axis=1).mean() > 0.8, "masks differ while it remembers"


def test_a_teacher_that_is_first_asked_in_between():
    """It looks at once, whatever the step, and again when the batch changes."""
    run = run_of(video_config(**SELDOM))
    counts = [0, 0, 0, 0, 4, 4, 4, 0, 4]
    steps = run.masks(counts)
    assert asked(steps) == [4, 6, 8], "and anew, after it was not needed"
    for n_hard, (_, after, masked) in zip(counts, steps, strict=True):
        assert n_hard or np.isnan(after.scores).all()
        assert_hidden(after.scores, masked.mask.hide, n_hard)


def test_what_the_teacher_said_is_saved_and_restored(tmp_path):
    run = run_of(video_config(**SELDOM))
    steps = run.masks([4] * 3)
    with checkpoints(tmp_path / "checkpoints", keep=1) as saved:
        saved.save(steps[1][0])
    with checkpoints(tmp_path / "checkpoints", keep=1) as saved:
        abstract = abstract_state(lambda: run.state, place=on_one_device)
        state = saved.restore(abstract, print)
    np.testing.assert_array_equal(state.scores, steps[0][1].scores)
    chex.assert_trees_all_equal(run.masks([4] * 2, state), steps[1:])


def test_nothing_is_remembered_where_nobody_asks():
    for changes in ({}, {"mask": {"strategy": "random"}} | SELDOM, MAE):
        config = video_config(**changes)
        assert config.stored_scores is None
        step, inputs = traced(config)
        after, _ = jax.eval_shape(step, *inputs)
        assert inputs[0].scores is None and after.scores is None
    assert video_config(data={"clips": 2}, **SELDOM).stored_scores == (16, 16)


def traced(config):
    """The step, not compiled, and the shapes of what it takes."""
    model, method, optimizer = build_model(config), build_method(config), build_optimizer(config)
    state = jax.eval_shape(build_init(config, model, method, optimizer), KEY, Start())
    images = jax.ShapeDtypeStruct((8, *config.data.train_shape), np.uint8)
    return make_train_step(model, method, optimizer), (state, images, KEY, schedule())


def test_plain_mae_on_clips():
    """No teacher, no ranking, nothing remembered."""
    step, inputs = traced(video_config(**MAE))
    state, (after, metrics) = inputs[0], jax.eval_shape(step, *inputs)
    assert state.scores is None and after.scores is None and after.teacher is None
    assert metrics.keys() == {"loss", "reconstruction", "gradient_norm"}


# --- several masks of a clip, several clips of a video

EVERYTHING = {
    "data": {"clips": 2},
    "mask": {"views": 2},
    "losses": ("ranking(pairs='sampled', distances=3)",),
    **SELDOM,
}


@pytest.mark.parametrize("n_hard", [0, 7, 12])
def test_several_masks_of_each_clip_by_one_look(n_hard):
    run = run_of(video_config(**EVERYTHING))
    _, _, masked = run.masks([n_hard])[0]
    hide = np.asarray(masked.mask.hide)
    np.testing.assert_allclose(masked.patches, np.repeat(run.patches, 2, axis=0), atol=1e-6)
    said = run.says(run.state.teacher, run.patches)
    assert_hidden(np.repeat(said, 2, axis=0), hide, n_hard)
    differ = (hide[::2] != hide[1::2]).any(axis=1).mean()
    assert differ == 0 if n_hard == 12 else differ > 0.8, "where all is hard, nothing is drawn"


def test_clips_of_a_video_are_rows_of_the_batch():
    method = build_method(video_config(data={"clips": 2}))
    images = np.random.default_rng(0).integers(0, 256, (3, 2, 8, 16, 16, 1), dtype=np.uint8)
    patches = jax.jit(method.patches)(images)
    assert patches.shape == (6, 64, 32)
    for video, clip in np.ndindex(3, 2):
        # slot 1, row 2, column 3: two frames of 4 x 4 pixels
        patch = images[video, clip, 2:4, 8:12, 12:16].reshape(-1)
        np.testing.assert_allclose(patches[2 * video + clip, 27], patch / 127.5 - 1, atol=1e-6)


# --- the whole step


def test_eight_devices_and_two_parts_change_nothing():
    """The same masks, bit for bit, and the same update, up to the order of sums."""
    run, devices = run_of(video_config(**EVERYTHING)), all_devices()
    assert devices.count == 8
    here = run.state, run.images, KEY, schedule(5)
    there = jax.device_put(run.state, devices.replicated), devices.put(run.images), *here[2:]
    step, masking = run.compiled(accumulation=2)
    _, expected = run.masking(*here)
    _, found = masking(*there)
    chex.assert_trees_all_equal(expected.mask, jax.device_get(found.mask))
    assert expected.drawn.keys() == {"ranking"}
    chex.assert_trees_all_equal(expected.drawn, jax.device_get(found.drawn))

    state, metrics = run.step(*here)
    other, others = step(*there)
    for name, value in metrics.items():
        np.testing.assert_allclose(others[name], value, rtol=2e-4, err_msg=name)
    moments = [jax.device_get((s.optimizer[1].mu, s.scores)) for s in (state, other)]
    chex.assert_trees_all_close(*moments, rtol=1e-5, atol=2e-6)


def test_sampled_pairs_are_drawn_anew_for_every_mask():
    run = run_of(video_config(**EVERYTHING))
    order = np.asarray(run.masks([5])[0][2].drawn["ranking"])
    np.testing.assert_array_equal(np.sort(order), np.tile(np.arange(48), (32, 1)))
    assert len({tuple(row) for row in order}) == 32


def test_training_on_clips_lowers_the_loss():
    run = run_of(video_config(**EVERYTHING))
    state, losses = run.state, []
    for _ in range(30):
        state, metrics = run.step(state, run.images, KEY, schedule(5, rate=3e-3))
        losses.append(float(metrics["reconstruction"]))
    assert losses[-1] < 0.9 * losses[0]


def pair_by_pair(predicted, loss):
    """The relative loss and the share of pairs in the right order; there are no ties."""
    cost, right = [], []
    for p, t in zip(np.float64(predicted), np.float64(loss), strict=True):
        for i, j in itertools.combinations(range(len(p)), 2):
            above = (p[i] - p[j]) * np.sign(t[i] - t[j])
            cost.append(-np.log(1 / (1 + np.exp(-above)) + 1e-6))
            right.append(above > 0)
    return np.mean(cost), np.mean(right)


@pytest.mark.parametrize("pairs", ["all", "tubes", "sampled"])
def test_the_pairs_of_a_config(pairs):
    """Those of the loss and of its metric, and in which order sampled ones stand."""
    config = video_config(losses=(f"ranking(pairs={pairs!r}, distances=100, weight=0.5)",))
    method = build_method(config)
    true, predicted = np.random.default_rng(0).normal(size=(2, 2, 48)).astype(np.float32)
    mask = Mask(None, jnp.zeros((2, 48), jnp.int32))
    drawn = draw_all(method, mask, KEY, 0)
    assert drawn.keys() == ({"ranking"} if pairs == "sampled" else set())
    nothing = jnp.zeros((2, 48, 32))
    outputs = Outputs(
        jnp.asarray(true), jnp.asarray(predicted), nothing, nothing, None, None, mask, method.unit
    )
    state = run_of(config).state
    masked = Masked(None, mask, drawn)
    loss, parts = jax.jit(lambda: total_loss(method, state, state.params, masked, outputs))()
    if pairs == "tubes":
        predicted, compared = (x.reshape(2, 4, 12).mean(axis=1) for x in (predicted, true))
    cost, right = pair_by_pair(predicted, compared if pairs == "tubes" else true)
    np.testing.assert_allclose(parts["ranking"], cost, rtol=1e-5)
    np.testing.assert_allclose(parts["ranked_correctly"], right, rtol=1e-5)
    np.testing.assert_allclose(loss, true.mean() + 0.5 * cost, rtol=1e-5)


def test_flops_of_a_step_of_clips():
    """Every clip and mask costs a student; masks and steps share a pass of the teacher."""
    plain, full = build_flops(video_config()), build_flops(video_config(**EVERYTHING))
    assert full.student == 4 * plain.student
    seen = build_flops(video_config(teacher="moving_average(frame_stride=2)")).teacher
    assert 0.4 * plain.teacher < seen < 0.8 * plain.teacher, "the decoder speaks of all frames"
    assert full.teacher == pytest.approx(2 * seen / 3)
