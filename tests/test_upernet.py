"""UPerNet in the step: statistics of the whole batch, running averages, relative positions."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import changed, task_options
from small_scenes import VOID, write_scenes

from hpm_jax.config import ConfigError, freeze
from hpm_jax.config.inherit import inherit
from hpm_jax.models import Segmenter
from hpm_jax.models.flops import segmenter_flops
from hpm_jax.models.relative import Relative, offsets
from hpm_jax.models.segment_decoders import UPerNet
from hpm_jax.run.build_dense import build_segment_init
from hpm_jax.run.checkpoints import checkpoints
from hpm_jax.run.devices import all_devices
from hpm_jax.step.optimizer import FINETUNE_DECAYED, make_optimizer
from hpm_jax.step.schedules import SegmentSchedule
from hpm_jax.step.segment_step import (
    SegmentRecipe,
    learning_rates,
    make_segment_step,
    prepare,
    variables_of,
)
from hpm_jax.step.state import Start, on_one_device, param_shapes
from hpm_jax.tokens import Tokenizer

DECODER = UPerNet(channels=8, auxiliary_channels=4, dropout=0.0)
MODEL = Segmenter(
    (1, 4, 4), 16, 3, width=16, depth=3, heads=2, decoder=DECODER, relative=True, head_std=0.1
)
RECIPE = SegmentRecipe(Tokenizer((1, 4, 4), (0.5,), (0.5,)))
OPTIMIZER = make_optimizer(0.9, 0.999, 1e-8, 0.05, None, FINETUNE_DECAYED)
KEY = jax.random.key(0)
SCHEDULE = SegmentSchedule(np.float32(1e-2))


@pytest.fixture(scope="module")
def state():
    return jax.jit(build_segment_init(MODEL, OPTIMIZER))(KEY, Start())


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (8, 16, 16, 1), dtype=np.uint8)
    return images, rng.integers(-1, 3, (8, 16, 16)).astype(np.int16)


@pytest.fixture(scope="module")
def step():
    return compiled()


@pytest.fixture(scope="module")
def after(step, state, batch):
    return step(state, *batch, KEY, SCHEDULE)


def compiled(recipe=RECIPE):
    rates = learning_rates(param_shapes(MODEL), MODEL, 0.5)
    return jax.jit(make_segment_step(MODEL, recipe, OPTIMIZER, rates))


def test_running_averages_move_to_those_of_the_batch(state, batch, after):
    """A tenth of the way, from 0 and 1; the norm of a lateral map is computed again here."""
    moved, metrics = after
    maps = MODEL.apply(variables_of(state), RECIPE.tokenizer(batch[0]), method="maps")
    kernel = state.params["head"]["lateral_2"]["convolution"]["kernel"][0, 0]
    values = np.asarray(maps[2] @ kernel).reshape(-1, 8)
    found = moved.plugs["head"]["lateral_2"]["batch_norm"]["norm"]
    np.testing.assert_allclose(found["mean"], 0.1 * values.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(found["var"], 0.9 + 0.1 * values.var(axis=0), rtol=1e-4)
    assert float(metrics["loss"]) == pytest.approx(
        float(metrics["cross_entropy"] + 0.4 * metrics["auxiliary"]), rel=1e-6
    )


def test_devices_share_the_statistics(step, state, batch, after):
    """Synchronised: the same averages and gradients for any number of devices."""
    devices = all_devices()
    moved, metrics = step(state, *map(devices.put, batch), KEY, SCHEDULE)
    for name in ("loss", "gradient_norm"):
        assert float(metrics[name]) == pytest.approx(float(after[1][name]), rel=1e-4)
    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(one, other, atol=1e-4),
        moved.plugs,
        after[0].plugs,
    )


def test_parts_have_statistics_of_their_own(state, batch, after):
    """As in PyTorch; running averages get the mean of the parts, which is that of the batch."""
    step = compiled(dataclasses.replace(RECIPE, accumulation=2))
    moved, _ = step(state, *batch, KEY, SCHEDULE)
    found, whole = (
        one.plugs["head"]["lateral_2"]["batch_norm"]["norm"] for one in (moved, after[0])
    )
    np.testing.assert_allclose(found["mean"], whole["mean"], atol=1e-5)
    assert np.all(np.asarray(found["var"]) <= np.asarray(whole["var"]) + 1e-5)


def test_a_saved_state_goes_on_bit_for_bit(step, batch, after, tmp_path):
    """With the running averages: the step after a checkpoint is the one without it."""
    with checkpoints(tmp_path, keep=1) as saved:
        saved.save(after[0])
        saved.wait()
        shapes = jax.eval_shape(lambda: after[0])
        placed = jax.tree.map(
            lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
            shapes,
            on_one_device(shapes),
        )
        restored = saved.restore(placed, print)
    one, other = (step(state, *batch, KEY, SCHEDULE)[0] for state in (after[0], restored))
    jax.tree.map(np.testing.assert_array_equal, one, other)
    assert np.any(one.plugs["head"]["fusion"]["batch_norm"]["norm"]["mean"])


def test_channels_are_dropped_by_step_and_image(state, batch):
    model = MODEL.clone(decoder=dataclasses.replace(DECODER, dropout=0.5))
    first, again, other = (prepare(model, RECIPE, *batch, KEY, step).drawn for step in (0, 0, 1))
    assert first["decoder"].shape == (8, 8) and first["auxiliary"].shape == (8, 4)
    assert set(np.unique(first["decoder"])) == {0.0, 2.0}
    np.testing.assert_array_equal(first["decoder"], again["decoder"])
    assert np.any(first["decoder"] != other["decoder"])
    nothing = jax.tree.map(jnp.zeros_like, first)  # the biases of the classifiers are left
    decoded, _ = jax.jit(
        lambda variables, patches: model.apply(
            variables, patches, None, nothing, method="decoded", mutable=["batch_stats"]
        )
    )(variables_of(state), RECIPE.tokenizer(batch[0]))
    assert not np.any(decoded.logits) and not np.any(decoded.auxiliary["auxiliary"][1])
    assert prepare(MODEL, RECIPE, *batch, KEY, 0).drawn is None


def test_scores_need_no_batch(state, batch):
    """Running averages make the logits of an image independent of the others."""
    patches = RECIPE.tokenizer(batch[0])
    logits = jax.jit(MODEL.apply)
    whole = logits(variables_of(state), patches)
    assert whole.shape == (8, 16, 16, 3) and whole.dtype == jnp.float32
    alone = logits(variables_of(state), patches[2:3])
    np.testing.assert_allclose(whole[2:3], alone, atol=1e-5)


# --- relative positions


def test_offsets_of_patches():
    """An entry for each offset, and three for pairs with the cls token."""
    found = offsets(Relative(2, 3, 1))
    assert found.shape == (7, 7) and found[0, 0] == 17
    assert set(found[0, 1:]) == {15} and set(found[1:, 0]) == {16}
    inner = found[1:, 1:]
    assert len(np.unique(inner)) == 3 * 5 and len(set(np.diag(inner))) == 1
    assert inner[0, 1] == inner[1, 2] == inner[3, 4] != inner[1, 0]  # one to the right
    assert inner[0, 3] == inner[2, 5] != inner[2, 3]  # one down; a row does not wrap


def test_relative_positions_start_as_nothing_and_learn(state, batch, after):
    patches = RECIPE.tokenizer(batch[0])
    plain = MODEL.clone(relative=False)
    variables = variables_of(state)
    blocks = variables["params"]["encoder"]["transformer"]["blocks"]
    table = blocks["attention"]["relative_positions"]
    assert table.shape == (3, 7 * 7 + 3, 2) and not np.asarray(table).any()
    trimmed = jax.tree_util.tree_map_with_path(lambda path, x: x, variables)
    del trimmed["params"]["encoder"]["transformer"]["blocks"]["attention"]["relative_positions"]
    np.testing.assert_allclose(
        MODEL.apply(variables, patches), plain.apply(trimmed, patches), atol=1e-5
    )
    moved = after[0].params["encoder"]["transformer"]["blocks"]["attention"]["relative_positions"]
    rates = np.abs(np.asarray(moved)).max(axis=(1, 2))
    np.testing.assert_allclose(rates, 1e-2 * 0.5 ** np.array([3, 2, 1]), rtol=0.05)


def test_a_bias_changes_attention_as_softmax_says():
    from hpm_jax.models.attention import Attention

    attention = Attention(2, relative=Relative(2, 2, 1))
    x = jax.random.normal(KEY, (1, 5, 8))
    params = attention.init(KEY, x)["params"]
    table = params["relative_positions"].at[-1].set(50.0)  # the cls token, to itself alone
    variables = {"params": params | {"relative_positions": table}}
    weights = attention.apply(variables, x, method="summary_weights")
    np.testing.assert_allclose(weights[0, :, 0], 1, atol=1e-5)
    values, other = (attention.apply(variables, y) for y in (x, x.at[:, 1:].add(1.0)))
    np.testing.assert_allclose(values[:, 0], other[:, 0], atol=1e-5)


# --- runs


def options(pretrained, root, **changes):
    config = task_options(
        "segment",
        pretrained,
        data={"path": str(root), "image_size": (16, 16), "ignore_index": VOID},
        augment={"photometric": False},
        model={"relative_positions": True, "layer_scale": 1.0},
        decoder="upernet(channels=8, auxiliary_channels=4)",
        optimizer={"epochs": 2, "batch_size": 8, "warmup_epochs": 1.0},
        evaluation={"every_epochs": 2.0, "pictures": 0},
        run={"log_every_steps": 1},
    )
    return changed(config, changes)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp("scenes"), {"train": 8, "val": 2})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model": {"raw_pixels": True, "relative_positions": False}},
            "reads four blocks of an encoder",
        ),
        ({"decoder": "upernet(blocks=(1, 1))"}, "expected 4 numbers from 1 to the 1 blocks"),
        ({"decoder": "upernet(blocks=(1, 1, 1, 2))"}, "expected 4 numbers from 1 to the 1 blocks"),
        ({"data": {"image_size": (4, 16)}}, "which has 1 x 4: expected two patches"),
        ({"decoder": "uppernet"}, "did you mean 'upernet'"),
        ({"model": {"attention": "cudnn"}}, "has no relative positions"),
        ({"model": {"raw_pixels": True}}, "has no encoder, .*relative_positions = True is about"),
        ({"model": {"frozen": True}}, "adds parameters to it that start at zero: set one of them"),
    ],
)
def test_configs_that_cannot_run(pretrained, root, changes, message):
    with pytest.raises(ConfigError, match=message):
        freeze(inherit(options(pretrained, root, **changes)))


def test_blocks_of_the_usual_sizes():
    assert UPerNet().blocks_of(12) == (4, 6, 8, 12) and UPerNet().blocks_of(24) == (8, 12, 16, 24)


def test_operations(state, batch):
    """The count of the compiler, which adds what is no product, but for the encoder's part."""
    sizes = MODEL.sizes
    forward = DECODER.flops(sizes)
    assert segmenter_flops(MODEL) > 3 * forward > 3 * DECODER.flops(sizes, train=False)
    maps = [jnp.zeros((1, 4, 4, 16))] * 4
    head = DECODER.module(sizes)
    variables = {"params": state.params["head"], "batch_stats": state.plugs["head"]}
    run = jax.jit(lambda v, m: head.apply(v, m, None, True, mutable=["batch_stats"])[0])
    cost = run.lower(variables, maps).cost_analysis()
    assert 0.85 * cost["flops"] < forward < 1.3 * cost["flops"]
