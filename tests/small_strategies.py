"""Every mask strategy on a tiny model: its step, which shows the mask, and the parts of it."""

import functools

import chex
import jax
import numpy as np
from small import Parts, schedule, small_config

from hpm_jax.masking import STRATEGIES
from hpm_jax.run.build import build_method
from hpm_jax.run.checkpoints import checkpoints
from hpm_jax.step import step as step_module
from hpm_jax.step.state import abstract_state, on_one_device
from hpm_jax.tokens import Mask

NAMES = sorted({plug.name for plug in STRATEGIES.values()})
CLIPS = {"source": "synthetic", "frames": 4, "image_size": (32, 32)}
KINDS = {  # each of 16 units a frame, of which 12 are hidden
    "images": {"data": {"image_size": (32, 32)}, "model": {"patch_size": 8}},
    "tubes": {
        "data": CLIPS,
        "model": {"patch_size": 8, "tubelet": 2, "layout": "mae_st"},
        "mask": {"unit": "tube"},
        "losses": ("ranking(pairs='tubes')",),
    },
    "free": {"data": CLIPS, "model": {"patch_size": 8, "tubelet": 2, "layout": "mae_st"}},
}
VIEWS = {"disjoint": 2}


def strategy_config(name, kind="images", **changes):
    mask = {"strategy": name, "views": VIEWS.get(name, 1)}
    sections = KINDS[kind] | {"optimizer": {"batch_size": 8}} | changes
    return small_config(**sections | {"mask": KINDS[kind].get("mask", {}) | mask})


@functools.cache
def base(kind):
    """What the strategies share: the model, the optimizer, a first state and a batch."""
    return Parts(strategy_config("hard", kind))


def started(name, kind="images"):
    """The method of a strategy, and the first state with what the strategy keeps."""
    method, state = build_method(strategy_config(name, kind)), base(kind).state
    kept = method.strategy.init_state(state.params, method.setting)
    return method, state.replace(plugs=None if kept is None else {"mask": kept})


def shown(masked):
    """What the mask hides, as metrics may be: arrays by name."""
    return {"keep": masked.mask.keep, "hide": masked.mask.hide}


def mask_of(metrics):
    """The inverse; it is taken out of the metrics."""
    return Mask(metrics.pop("keep"), metrics.pop("hide"))


def showing_step(patch, name, kind="images", trains=True):
    """The jitted step, with the mask among its metrics.

    Args:
        patch: pytest's monkeypatch.
        trains: or gives the mask alone, which compiles sooner.
    """
    make_update = step_module.make_update

    def make_showing(loss_of, optimizer, accumulation):
        update = make_update(loss_of, optimizer, accumulation)

        def show(state, masked, schedule):
            if not trains:
                return state.replace(plugs=None), (shown(masked), {})
            state, (metrics, observed) = update(state, masked, schedule)
            return state, (metrics | shown(masked), observed)

        return show

    patch.setattr(step_module, "make_update", make_showing)
    if not trains:
        patch.setattr(step_module, "update_plugs", lambda method, before, after, seen: after)
    shared = base(kind)
    step = step_module.make_train_step(shared.model, started(name, kind)[0], shared.optimizer)
    return jax.jit(step)


def assert_trains_and_resumes(patch, name, kind, folder):
    """Two steps; then the second one again, after the first has been saved and restored.

    Returns:
        The first state, the images, and the mask of the first step.
    """
    shared, (method, first) = base(kind), started(name, kind)
    images = np.random.default_rng(0).integers(0, 256, (8, *shared.config.data.train_shape), "u1")
    inputs = images, shared.key, schedule(n_hard=method.hidden // 2)
    step = showing_step(patch, name, kind).lower(first, *inputs).compile()
    second, metrics = step(first, *inputs)
    third, others = step(second, *inputs)

    masks = [jax.device_get(mask_of(found)) for found in (metrics, others)]
    for keep, hide, *_ in masks:
        assert hide.shape == (8 * method.views, method.hidden * method.unit.size)
        patches = np.sort(np.concatenate([keep, hide], axis=1), axis=1)
        np.testing.assert_array_equal(patches, np.tile(np.arange(patches.shape[1]), (len(hide), 1)))
    assert (masks[0].hide != masks[1].hide).any(), "masks are drawn anew"
    assert np.isfinite([float(value) for value in (metrics | others).values()]).all()
    assert int(third.step) == 2
    for old, new in ((first, second), (second, third)):
        chex.assert_tree_all_finite(new.params)
        for part in ("params", "teacher") + ("plugs",) * (new.plugs is not None):
            before, after = (jax.tree.leaves(getattr(state, part)) for state in (old, new))
            assert any((x != y).any() for x, y in zip(before, after, strict=True)), part

    with checkpoints(folder, keep=1) as saved:
        saved.save(second)
    with checkpoints(folder, keep=1) as saved:
        restored = saved.restore(abstract_state(lambda: second, place=on_one_device), print)
    again, found = step(restored, *inputs)
    chex.assert_trees_all_equal(mask_of(found), masks[1])
    chex.assert_trees_all_equal((again, found), (third, others))
    return first, images, masks[0]
