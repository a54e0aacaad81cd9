"""MaskAlign: no decoder, and a loss on visible patches against the blocks of a teacher."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import Parts, schedule, small_config
from small_weights import random_weights
from test_multi_scale import GRID, TOKENIZER, model_of, normal, random_mask

from hpm_jax.config import ConfigError
from hpm_jax.convert.weights import Architecture
from hpm_jax.convert.write import write_weights
from hpm_jax.losses import Term
from hpm_jax.losses.term import Outputs, Own
from hpm_jax.masking.units import Unit
from hpm_jax.plugs import Setting
from hpm_jax.run.build import build_flops
from hpm_jax.step.step import make_train_step
from hpm_jax.visualize.view import make_view

ENCODER = Architecture((1, 4, 4), patch_size=4, channels=1, width=24, depth=2, heads=4)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("teacher") / "e.npz"
    write_weights(path, random_weights(ENCODER), "timm")
    return f"frozen(path={str(path)!r}, mean=(0.5,), std=(0.5,))"


def config_of(saved, **changes):
    """A student of three blocks that aligns with both blocks of the teacher."""
    start = {
        "teacher": saved,
        "decoder": "no_decoder",
        "model": {"depth": 3},
        "losses": ("dynamic_alignment(layers=2, blocks=(1, 2, 3))",),
        "mask": {"strategy": "attention(high=False, noise=1.0)", "ratio": 0.7},
        "optimizer": {"batch_size": 8},
    }
    return small_config(**start | changes)


def random_outputs(term, teacher_width=7, width=12):
    mask = random_mask()
    setting = Setting(TOKENIZER, GRID, 10, width, teacher_width)
    shapes = jax.eval_shape(lambda: term.init(jax.random.key(0), setting))
    rng = np.random.default_rng(3)
    params = jax.tree.map(lambda x: rng.normal(0, 0.3, x.shape).astype(np.float32), shapes)
    return Outputs(
        losses=jnp.zeros((3, 10)), predicted=None, values=jnp.zeros((3, 10, 16)),
        target=jnp.zeros((3, 10, 16)), features=normal(3, 7, width, seed=5),
        patches=normal(3, 16, 16, seed=6), mask=mask, unit=Unit(GRID), own=Own(params=params),
        blocks={n: normal(3, 7, width, seed=n) for n in term.student_blocks},
        readings={name: 3 * normal(3, 16, teacher_width, seed=9) for name in term.reads},
    )  # fmt: skip


def test_alignment_against_a_plain_reading():
    term = Term.parse_call("dynamic_alignment(layers=2, blocks=(1, 3), beta=0.5)", "x")
    assert term.weight == 2 and term.reads == ("block_-2", "block_-1")
    outputs = random_outputs(term)
    params, losses = outputs.own.params, []
    for layer in range(2):
        head = params["heads"][f"head_{layer}"]["layer_0"]
        for image in range(3):
            for place, patch in enumerate(outputs.mask.keep[image]):
                mixed = sum(
                    np.float64(params["mix"][layer, k]) * outputs.blocks[block][image, 1 + place]
                    for k, block in enumerate((1, 3))
                )
                found = mixed @ head["kernel"] + head["bias"]
                target = np.float64(outputs.readings[term.reads[layer]][image, patch])
                target = (target - target.mean()) / np.sqrt(target.var() + 1e-6)
                d = np.abs(found - target)
                losses.append(np.where(d < 0.5, d**2, d - 0.25).mean())
    np.testing.assert_allclose(term(outputs)[0], np.mean(losses), rtol=1e-5)


@pytest.mark.parametrize(("layers", "blocks"), [(2, (1, 2, 3)), (3, (2, 3)), (2, (1, 2))])
def test_the_mixture_starts_at_the_block_as_far_from_the_end(layers, blocks):
    term = Term.parse_call(f"dynamic_alignment(layers={layers}, blocks={blocks})", "x")
    setting = Setting(TOKENIZER, GRID, 10, 12)
    mix = np.asarray(term.init(jax.random.key(0), setting)["mix"])[::-1, ::-1]
    np.testing.assert_allclose(mix, np.eye(layers, len(blocks)) + 0.01, rtol=1e-6)


def test_a_step(saved):
    """All of the student that is read learns; the teacher stays; hidden patches have no part."""
    parts = Parts(config_of(saved))
    params = parts.state.params
    assert params.keys() == {"encoder", "reconstructor", "terms"}
    step = jax.jit(make_train_step(parts.model, parts.method, parts.optimizer))
    state, metrics = step(parts.state, parts.images, parts.key, schedule(n_hard=11))
    assert "reconstruction" not in metrics
    np.testing.assert_allclose(metrics["loss"], 2 * metrics["dynamic_alignment"], rtol=1e-6)
    chex.assert_trees_all_equal(state.frozen, parts.state.frozen)
    pairs = zip(
        jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(state.params), strict=True
    )
    still = [jax.tree_util.keystr(path) for (path, old), new in pairs if (old == new).all()]
    # blocks are mixed before the encoder's last norm
    norm = {f"['encoder']['transformer']['norm'][{name!r}]" for name in ("bias", "scale")}
    assert set(still) == norm | {"['reconstructor']['head']['bias']"}
    view = jax.jit(make_view(parts.model, parts.method))
    seen = view(state, parts.images, schedule(n_hard=11))
    assert np.isfinite(seen.rebuilt).all() and (np.asarray(seen.status) > 0).sum() == 8 * 12


def test_flops(saved):
    """Mixtures and heads as XLA counts them; no decoder costs nothing."""
    term = Term.parse_call("dynamic_alignment(layers=3, blocks=(1, 2, 3, 4))", "x")
    outputs = random_outputs(term, 64, 48)
    model = model_of(width=48)
    setting = Setting(TOKENIZER, GRID, 10, 48, 64, sizes=model.decoder_sizes)

    def loss(params, blocks):
        return term(outputs._replace(own=Own(params=params), blocks=blocks))[0]

    lowered = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(outputs.own.params, outputs.blocks)
    share = lowered.cost_analysis()["flops"] / 3 / term.step_flops(setting)
    assert 0.9 < share < 1.15, f"XLA counts {share:.3f} of the formula"
    config = config_of(saved)
    found, without = build_flops(config), build_flops(config_of(saved, losses=("dispersive",)))
    parts = Parts(config)
    sizes = parts.model.decoder_sizes
    setting = parts.method.setting._replace(sizes=sizes)
    of_term = config.losses[0].step_flops(setting)
    read = parts.method.networks(hard=False)["teacher"]
    assert found.student - without.student == of_term + config.teacher.pass_flops(setting, read)
    plain = config_of(saved, decoder="self_attention", losses=("dispersive",))
    assert build_flops(plain).student > 1.2 * without.student


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"losses": ("ranking", "visible")}, "no losses to rank, and config.losses has 'ranking'"),
        ({"losses": ("reconstruction",)}, "predicts nothing of hidden patches, and config.losses"),
        ({"losses": ("visible", "fourier")}, "and config.losses has 'fourier': leave it out"),
        ({"losses": ()}, "every weight is 0, so there is nothing to learn"),
        ({"mask": {"strategy": "group_hard"}, "losses": ("visible",)}, "learns from the losses"),
        ({"mask": {"strategy": "hard"}, "losses": ("visible",)}, "reads predicted losses"),
        ({"losses": ("dynamic_alignment",)}, r"as in blocks=\(1, 2, 3\)"),
        ({"losses": ("dynamic_alignment(blocks=(2, 1))",)}, "in rising order up to"),
        ({"losses": ("dynamic_alignment(blocks=())",)}, "in rising order up to"),
        ({"losses": ("dynamic_alignment(layers=3, blocks=(1,))",)}, "layers is at most that"),
        (
            {"losses": ("dynamic_alignment(blocks=(1,))",), "teacher": "none",
             "mask": {"strategy": "random"}},
            "and config.teacher = 'none' keeps none",
        ),
    ],
)  # fmt: skip
def test_refused(saved, changes, message):
    with pytest.raises(ConfigError, match=message):
        config_of(saved, **changes)
