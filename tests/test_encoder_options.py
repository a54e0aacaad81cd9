"""Options of the encoder: each against a formula made here, and none where they are off."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from small import changed, parts_of, schedule, small_config, small_options, task_options
from small_weights import random_like

from hpm_jax.config import ConfigError, freeze
from hpm_jax.config.inherit import inherit
from hpm_jax.models import Classifier, MaskedAutoencoder
from hpm_jax.models.attention import rotate
from hpm_jax.models.encoder import Encoder
from hpm_jax.models.flops import transformer_flops
from hpm_jax.models.layers import Block
from hpm_jax.models.layouts import DEFAULT_VARIANT, LAYOUTS, EncoderVariant, layout_of
from hpm_jax.models.mlp import MLPS, hidden_width, mlp_weights
from hpm_jax.models.rotary import rotary_angles, rotation_of
from hpm_jax.run.build import build_classifier
from hpm_jax.run.devices import all_devices
from hpm_jax.step.optimizer import decay_mask, layer_scales
from hpm_jax.step.state import param_shapes
from hpm_jax.step.step import make_train_step

GRID, WIDTH, HEADS, VALUES = (1, 3, 4), 16, 2, 6
EVERYTHING = {
    "registers": 3,
    "encoder_positions": "learned",
    "rotary_base": 100.0,
    "pre_norm": True,
    "patch_bias": False,
    "mlp": "swiglu",
    "layer_scale": 0.3,
    "norm_eps": 1e-5,
}
VARIANTS = {
    "defaults": {},
    "registers": {"registers": 3},
    "learned": {"encoder_positions": "learned"},
    "no cls token": {"cls_token": False, "encoder_positions": "learned"},
    "rotary alone": {"encoder_positions": "none", "rotary_base": 100.0},
    "clip": {"pre_norm": True, "patch_bias": False, "mlp": "quick_gelu", "norm_eps": 1e-5},
    "tanh": {"mlp": "gelu_tanh", "mlp_width": 24},
    "everything": EVERYTHING,
    "everything, no cls token": EVERYTHING | {"cls_token": False},
}


def encoder_of(variant, depth=1, **stack):
    layout = layout_of("mae", EncoderVariant(**variant))
    stack = {"depth": depth, "heads": HEADS} | stack
    return Encoder(GRID, WIDTH, stack, jnp.float32, layout, layout.positions)


def params_of(encoder, seed=0):
    patches = jnp.zeros((1, 12, VALUES))
    return random_like(jax.eval_shape(encoder.init, jax.random.key(0), patches)["params"], seed)


PATCHES = np.random.default_rng(2).normal(size=(2, 12, VALUES)).astype(np.float32)
KEEP = np.array([[1, 2, 7, 11, 4], [0, 3, 5, 6, 10]], np.int32)


def norm(x, params, eps):
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps)
    return scaled * params["scale"] + params["bias"]


def activation(kind, x):
    if kind == "swiglu":
        gate, value = np.split(x, 2, axis=-1)
        return gate / (1 + np.exp(-gate)) * value
    if kind == "quick_gelu":
        return x / (1 + np.exp(-1.702 * x))
    return np.asarray(jax.nn.gelu(x, approximate=kind == "gelu_tanh"))


def by_hand(encoder, params, patches, seen):
    """One block over all patches of one image, in which attention reaches those that are seen."""
    layout, positions = encoder.layout, params.get("positions")
    kernel = params["patch_embedding"]["projection"]
    tokens = patches @ kernel["kernel"] + kernel.get("bias", 0)
    first = []
    if layout.cls_token:
        first.append(params["cls_token"][0])
    if positions is not None:
        tokens = tokens + positions[0, len(first) :]
        first = [part + positions[0, :1] for part in first]
    elif layout.encoder_positions == "layout":
        from hpm_jax.models.positions import sincos_2d

        tokens = tokens + sincos_2d(WIDTH, GRID)
    if layout.registers:
        first.append(params["registers"][0])
    x = np.concatenate([*first, tokens])
    extra = len(x) - 12
    eps = layout.norm_eps
    if layout.pre_norm:
        x = norm(x, params["pre_norm"], eps)
    block = jax.tree.map(lambda leaf: leaf[0], params["transformer"]["blocks"])
    qkv = block["attention"]["qkv"]
    normed = norm(x, block["LayerNorm_0"], eps)
    query, key, value = (
        part.reshape(-1, HEADS, WIDTH // HEADS)
        for part in np.split(normed @ qkv["kernel"] + qkv["bias"], 3, axis=-1)
    )
    if layout.rotary_base:
        query, key = (turned(part, extra, layout.rotary_base) for part in (query, key))
    scores = np.einsum("nhd,mhd->hnm", query, key) / np.sqrt(WIDTH // HEADS)
    hidden = np.setdiff1d(np.arange(12), seen) + extra
    scores[:, :, hidden] = -np.inf
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    out = np.einsum("hnm,mhd->nhd", weights, value).reshape(-1, WIDTH)
    projection = block["attention"]["projection"]
    out = out @ projection["kernel"] + projection["bias"]
    x = x + out * block.get("attention_scale", 1)
    inner = norm(x, block["LayerNorm_1"], eps) @ block["Dense_0"]["kernel"]
    inner = activation(layout.mlp, inner + block["Dense_0"]["bias"])
    out = inner @ block["Dense_1"]["kernel"] + block["Dense_1"]["bias"]
    x = norm(x + out * block.get("mlp_scale", 1), params["transformer"]["norm"], eps)
    return x[[*range(extra), *(seen + extra)]]


def turned(part, extra, base):
    """Rotates by complex numbers: DINOv3's positions, rows first."""
    half, (_, rows, columns) = part.shape[-1] // 2, GRID
    turned = part.astype(np.complex128)
    for number in range(rows * columns):
        row, column = divmod(number, columns)
        place = (2 * (row + 0.5) / rows - 1, 2 * (column + 0.5) / columns - 1)
        for plane in range(half):
            axis, k = divmod(plane, half // 2)
            angle = 2 * np.pi * place[axis] * base ** (-k / (half // 2))
            x = part[extra + number, :, plane] + 1j * part[extra + number, :, plane + half]
            x = x * np.exp(1j * angle)
            turned[extra + number, :, plane] = x.real
            turned[extra + number, :, plane + half] = x.imag
    return turned.real


@pytest.mark.parametrize("variant", VARIANTS)
def test_visible_patches_alone_and_the_formula(variant):
    """Masked encoding is full attention that is restricted to the visible patches."""
    encoder = encoder_of(VARIANTS[variant])
    params = params_of(encoder)
    apply = jax.jit(encoder.apply)
    found = apply({"params": params}, PATCHES, KEEP)
    everything = apply({"params": params}, PATCHES)
    for image in range(2):
        for keep, tokens in ((KEEP[image], found[image]), (np.arange(12), everything[image])):
            expected = by_hand(encoder, params, PATCHES[image], keep)
            np.testing.assert_allclose(tokens, expected, atol=2e-5 * np.abs(expected).max())


def test_the_tree_of_the_defaults():
    """No option adds a parameter where it is off, and each adds its own where it is on."""
    plain = names_of(param_shapes(MaskedAutoencoder((1, 4, 4), 12, width=16, depth=1, heads=2)))
    encoder = {
        "cls_token",
        "patch_embedding/projection/kernel",
        "patch_embedding/projection/bias",
        *(f"transformer/norm/{name}" for name in ("scale", "bias")),
        *(f"transformer/blocks/{layer}/{name}" for layer in ("LayerNorm_0", "LayerNorm_1")
          for name in ("scale", "bias")),
        *(f"transformer/blocks/{layer}/{name}" for name in ("kernel", "bias") for layer in
          ("attention/qkv", "attention/projection", "Dense_0", "Dense_1")),
    }  # fmt: skip
    assert {name[8:] for name in plain if name.startswith("encoder/")} == encoder
    layout = layout_of("mae", EncoderVariant(**EVERYTHING))
    sizes = {"width": 16, "depth": 1, "heads": 2, "layout": layout}
    found = names_of(param_shapes(MaskedAutoencoder((1, 4, 4), 12, **sizes)))
    new = {
        "encoder/positions": (1, 17, 16),
        "encoder/registers": (1, 3, 16),
        "encoder/pre_norm/scale": (16,),
        "encoder/pre_norm/bias": (16,),
        "encoder/transformer/blocks/attention_scale": (1, 16),
        "encoder/transformer/blocks/mlp_scale": (1, 16),
    }
    assert {name: found[name] for name in found.keys() - plain.keys()} == new
    assert plain.keys() - found.keys() == {"encoder/patch_embedding/projection/bias"}
    assert found["encoder/transformer/blocks/Dense_0/kernel"] == (1, 16, 96)


def names_of(shapes):
    leaves = jax.tree_util.tree_leaves_with_path(shapes)
    return {"/".join(part.key for part in path): leaf.shape for path, leaf in leaves}


def test_layouts_keep_their_own():
    for name, layout in LAYOUTS.items():
        assert layout_of(name) == layout, "defaults change nothing"
        assert layout_of(name, DEFAULT_VARIANT) == layout
    assert not layout_of("videomae").cls_token


def test_rotary_scores_depend_on_the_difference_of_positions():
    angles = rotary_angles(8, (1, 4, 5), 100.0)
    query, key = np.random.default_rng(0).normal(size=(2, 1, 1, 1, 8)).astype(np.float32)
    rotation = rotation_of(angles, 1)
    query, key = (
        np.asarray(rotate(jnp.broadcast_to(x, (1, 1, 21, 8)), rotation))[0, 0] for x in (query, key)
    )
    scores = query @ key.T
    by_difference = {}
    for i in range(20):
        for j in range(20):
            difference = i // 5 - j // 5, i % 5 - j % 5
            by_difference.setdefault(difference, []).append(scores[1 + i, 1 + j])
    for values in by_difference.values():
        np.testing.assert_allclose(values, values[0], atol=1e-4)
    means = [values[0] for values in by_difference.values()]
    assert np.std(means) > 0.1, "they differ between differences"
    for row in range(1, 21):
        length = np.linalg.norm(query[row])
        np.testing.assert_allclose(length, np.linalg.norm(query[0]), rtol=1e-5)


def test_rotary_attention_of_one_query():
    """The attention of the cls token, and of the mean query, is that of the block."""
    for cls_token in (True, False):
        encoder = encoder_of(EVERYTHING | {"cls_token": cls_token})
        params = params_of(encoder)
        weights = functools.partial(encoder.apply, {"params": params}, method="outputs")
        found = weights(PATCHES, KEEP, attention=True).attention
        assert found.shape == (2, HEADS, 8 + cls_token)
        np.testing.assert_allclose(found.sum(-1), 1, rtol=1e-5)
        moved = weights(PATCHES, KEEP[:, ::-1], attention=True).attention
        extra = 3 + cls_token
        np.testing.assert_allclose(moved[..., :extra], found[..., :extra], rtol=1e-4)
        np.testing.assert_allclose(moved[..., extra:], found[..., extra:][..., ::-1], rtol=1e-4)


def test_layer_scale_starts_at_its_value():
    x = np.random.default_rng(1).normal(size=(2, 5, 16)).astype(np.float32)
    block, scaled = Block(heads=2), Block(heads=2, layer_scale=1e-3)
    params = block.init(jax.random.key(0), x)["params"]
    own = scaled.init(jax.random.key(0), x)["params"]
    added = {name: own.pop(name) for name in ("attention_scale", "mlp_scale")}
    jax.tree.map(np.testing.assert_array_equal, own, params)
    for value in added.values():
        np.testing.assert_array_equal(value, np.full(16, 1e-3, np.float32))
    change = scaled.apply({"params": own | added}, x) - x
    assert 0 < np.abs(change).max() < 2e-2
    ones = jax.tree.map(jnp.ones_like, added)
    same = scaled.apply({"params": own | ones}, x)
    np.testing.assert_allclose(same, block.apply({"params": params}, x), rtol=1e-6)


@pytest.mark.parametrize("mlp", MLPS)
def test_flops_count_every_matrix(mlp):
    init = Block(heads=2, mlp=mlp).init
    params = jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, 3, 32)))["params"]
    kernels = sum(x.size for x in jax.tree.leaves(params) if x.ndim > 1)
    assert kernels == 4 * 32**2 + mlp_weights(mlp, 32)
    flops = transformer_flops(7, 32, 3, mlp=mlp_weights(mlp, 32))
    assert flops == 2 * 3 * (7 * kernels + 2 * 7**2 * 32)
    assert transformer_flops(7, 32, 3) == transformer_flops(7, 32, 3, mlp=8 * 32**2)


def test_the_width_of_dinov2_giant():
    assert hidden_width("swiglu", 1536) == 4096
    assert hidden_width("gelu", 1536) == 6144


MODEL = EVERYTHING | {"dtype": "bfloat16", "remat": "full", "unroll": 1, "depth": 2}


@functools.cache
def trained(cls_token=True):
    """The parameters before and after a step in bfloat16, with everything recomputed."""
    config = small_config(model=MODEL | {"cls_token": cls_token}, evaluation={"pool": "mean"})
    with jax.numpy_dtype_promotion("standard"):  # flax's layer norm mixes dtypes in bfloat16
        parts = parts_of(config)
        step = jax.jit(make_train_step(parts.model, parts.method, parts.optimizer))
        state, metrics = step(parts.state, parts.images, parts.key, schedule(n_hard=2))
    return config, parts.state.params, state.params, metrics


@pytest.mark.parametrize("cls_token", [True, False])
def test_a_step_of_pretraining_trains_them(cls_token):
    _, before, after, metrics = trained(cls_token)
    assert np.isfinite(metrics["loss"])
    moved = names_of_changed(before["encoder"], after["encoder"])
    for name in ("registers", "positions", "pre_norm/scale", "transformer/blocks/mlp_scale"):
        assert name in moved
    assert ("cls_token" in moved) == cls_token


def names_of_changed(before, after):
    before, after = (jax.tree_util.tree_leaves_with_path(x) for x in (before, after))
    return {
        "/".join(part.key for part in path)
        for (path, old), (_, new) in zip(before, after, strict=True)
        if not np.array_equal(old, new)
    }


def test_decay_layers_and_shards():
    _, params, *_ = trained()
    decayed = names_of(jax.tree.map(lambda on: np.zeros(int(on)), decay_mask(params["encoder"])))
    names = {name for name, shape in decayed.items() if shape == (1,)}
    assert "registers" in names, "a learned token, as the cls token"
    assert "transformer/blocks/Dense_0/kernel" in names
    assert not names & {"positions", "pre_norm/scale", "transformer/blocks/mlp_scale"}

    layout = layout_of("mae", EncoderVariant(**EVERYTHING))
    model = Classifier((1, 4, 4), 16, 3, width=256, depth=2, heads=2, layout=layout)
    shapes = param_shapes(model)
    scales = layer_scales(shapes, 0.5)["encoder"]
    for name in ("registers", "positions", "patch_embedding"):
        assert set(np.ravel(jax.tree.leaves(scales[name]))) == {np.float32(0.5**3)}
    np.testing.assert_array_equal(
        np.ravel(scales["transformer"]["blocks"]["mlp_scale"]), [0.5**2, 0.5]
    )
    placed = all_devices(2).shardings(shapes)["encoder"]["transformer"]["blocks"]
    assert placed["Dense_0"]["kernel"].spec == PartitionSpec(None, None, "fsdp")
    assert placed["mlp_scale"].spec == PartitionSpec()


def test_fine_tuning_inherits_them(tmp_path):
    from hpm_jax.run.workdir import open_workdir

    config, *_ = trained()
    workdir = open_workdir(tmp_path / "run", config)
    finetune = freeze(inherit(task_options("finetune", workdir)))
    for name, value in EVERYTHING.items():
        assert getattr(finetune.model, name) == value
    model = build_classifier(finetune, 3)
    assert model.layout.classifier_positions == "learned"
    assert model.layout.extra_tokens == 4


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"encoder_positions": "none"}, "without rotary positions"),
        ({"rotary_base": 100.0, "width": 12}, "heads of a multiple of 4"),
        ({"rotary_base": 0.5}, "base of at least 1"),
        ({"layout": "mae_st", "cls_token": False}, "is for encoders of images"),
        ({"layout": "videomae", "rotary_base": 10.0}, "is for encoders of images"),
        ({"cls_token": False}, "config.model.cls_token = False"),
        ({"mlp": "relu"}, "gelu"),
    ],
)
def test_refused(model, message):
    changes = {"model": model, "evaluation": {"pool": "cls"}}
    with pytest.raises(ConfigError, match=message):
        freeze(changed(small_options(), changes))
