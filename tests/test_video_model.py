"""The model on clips: positions, tokens, biases, first weights and counts of a layout."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small import small_config

from hpm_jax.models import Classifier, MaskedAutoencoder
from hpm_jax.models.decoders.self_attention import DecoderInput
from hpm_jax.models.encoder import Encoder
from hpm_jax.models.flops import step_flops
from hpm_jax.models.layouts import LAYOUTS
from hpm_jax.models.positions import encoder_on_grid, sincos_2d, sinusoid
from hpm_jax.run.build import build_model, build_optimizer
from hpm_jax.step.state import init_params, param_shapes
from hpm_jax.tokens import Mask

GRID = (3, 2, 4)
SMALL = {"width": 32, "depth": 2, "heads": 2}
SMALL |= {"decoder_width": 16, "decoder_depth": 2, "decoder_heads": 2}
KEY = jax.random.key(0)
VIDEO_LAYOUTS = ("videomae", "mae_st")


def model_of(layout, **changes):
    return MaskedAutoencoder(grid=GRID, values=12, layout=LAYOUTS[layout], **(SMALL | changes))


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def init(module, *inputs):
    """Fresh parameters as numpy arrays."""
    return jax.tree.map(np.array, jax.jit(module.init)(KEY, *inputs)["params"])


def apply(module, params, *inputs, method=None):
    return jax.jit(functools.partial(module.apply, method=method))({"params": params}, *inputs)


def table(layout, width, params):
    """Positions of the patches of `GRID`, one by one; learned ones are in `params`."""
    rows = []
    for number, (t, h, w) in enumerate(np.ndindex(GRID)):
        if layout == "videomae":
            angle = [number / 10000 ** (2 * (j // 2) / width) for j in range(width)]
            rows.append([(np.cos if j % 2 else np.sin)(a) for j, a in enumerate(angle)])
        else:
            time, space = params["positions_time"], params["positions_space"]
            rows.append(time[t, 0] + space[0, h * GRID[2] + w])
    return np.array(rows, np.float32)


# --- positions


def test_sinusoid():
    """Of the number of a patch alone: sines and cosines in turn (VideoMAE)."""
    expected = table("videomae", 16, None)
    np.testing.assert_allclose(sinusoid(16, GRID), expected, rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(sinusoid(16, GRID), sinusoid(16, (1, 4, 6)))


def test_two_dimensional_positions_are_for_one_frame():
    with pytest.raises(ValueError, match=r"one frame, not 3: .* layout videomae or mae_st"):
        sincos_2d(16, GRID)


def test_separable_positions_start_small_and_there_are_few():
    model = model_of("mae_st").clone(grid=(8, 14, 14), depth=1, decoder_depth=1)
    params = jax.jit(lambda: init_params(model, KEY))()
    for part, width in (("encoder", 32), ("decoder_input", 16)):
        assert params[part]["positions_time"].shape == (8, 1, width)
        assert params[part]["positions_space"].shape == (1, 196, width)
        for name in ("positions_time", "positions_space"):
            np.testing.assert_allclose(np.std(params[part][name]), 0.02, rtol=0.15)


def cubic(values, size):
    """PyTorch's cubic interpolation of the first axis, one output at a time."""

    def weight(x):
        x, a = abs(x), -0.75
        near = (a + 2) * x**3 - (a + 3) * x**2 + 1
        return near if x < 1 else a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a

    rows = []
    for place in (np.arange(size) + 0.5) * len(values) / size - 0.5:
        four = int(np.floor(place)) + np.arange(-1, 3)
        at = np.clip(four, 0, len(values) - 1)
        rows.append(sum(weight(place - n) * values[i] for n, i in zip(four, at, strict=True)))
    return np.array(rows)


def test_separable_positions_on_another_grid():
    """Time by itself, rows and columns by themselves; what stays as long stays as it is."""
    before = {"positions_time": draw(4, 1, 3), "positions_space": draw(1, 36, 3), "x": 1}
    after = encoder_on_grid(before, (4, 6, 6), (8, 12, 6))
    time = cubic(before["positions_time"][:, 0], 8)
    space = cubic(before["positions_space"].reshape(6, 6, 3), 12).reshape(1, 72, 3)
    np.testing.assert_allclose(after["positions_time"][:, 0], time, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(after["positions_space"], space, rtol=1e-4, atol=1e-5)
    assert before["positions_time"].shape == (4, 1, 3) and after["x"] == 1
    same = encoder_on_grid(before, (4, 6, 6), (4, 6, 6))
    np.testing.assert_array_equal(same["positions_space"], before["positions_space"])


# --- the tokens of encoder and decoder


def layer_norm(x):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)


@pytest.mark.parametrize("layout", VIDEO_LAYOUTS)
def test_tokens_of_the_encoder(layout):
    """With blocks that do nothing: kept patches, embedded, with the position of their place."""
    of = LAYOUTS[layout]
    encoder = Encoder(GRID, 16, {"depth": 1, "heads": 2}, layout=of, positions=of.positions)
    patches = draw(2, 24, 12)
    keep = np.sort(np.random.default_rng(1).permuted(np.tile(np.arange(24), (2, 1)), axis=1)[:, :7])
    params = init(encoder, patches, keep)
    params["transformer"]["blocks"] = jax.tree.map(np.zeros_like, params["transformer"]["blocks"])
    found = apply(encoder, params, patches, keep)

    projection = params["patch_embedding"]["projection"]
    tokens = patches @ projection["kernel"] + projection["bias"] + table(layout, 16, params)
    tokens = np.take_along_axis(tokens, keep[..., None], axis=1)
    if of.cls_token:
        cls_token = np.broadcast_to(params["cls_token"], (2, 1, 16))
        tokens = np.concatenate([cls_token, tokens], axis=1)
    assert found.shape == (2, 7 + of.extra_tokens, 16)
    np.testing.assert_allclose(found, layer_norm(tokens), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("layout", VIDEO_LAYOUTS)
def test_tokens_of_the_decoder(layout):
    """mae_st drops the encoder's cls token and puts its own first; VideoMAE has none."""
    of = LAYOUTS[layout]
    module = DecoderInput(GRID, 16, layout=of)
    order = np.random.default_rng(1).permuted(np.tile(np.arange(24), (2, 1)), axis=1)
    keep, hide = np.sort(order[:, :7]), np.sort(order[:, 7:])
    features = draw(2, 7 + of.extra_tokens, 32)
    params = init(module, features, keep, hide)
    found = apply(module, params, features, keep, hide)

    embedding, positions = params["embedding"], table(layout, 16, params)
    visible = features[:, of.extra_tokens :] @ embedding["kernel"] + embedding.get("bias", 0)
    expected = [visible + positions[keep], params["mask_token"] + positions[hide]]
    if layout == "mae_st":
        expected.insert(0, np.broadcast_to(params["cls_token"], (2, 1, 16)))
    np.testing.assert_allclose(found, np.concatenate(expected, axis=1), rtol=1e-4, atol=1e-5)
    assert ("bias" in embedding) == (layout == "mae_st")
    every = draw(2, 24 + of.extra_tokens, 32)
    in_order = apply(module, params, every, np.tile(np.arange(24), (2, 1)))
    np.testing.assert_array_equal(apply(module, params, every), in_order)


@pytest.mark.parametrize("layout", VIDEO_LAYOUTS)
def test_what_comes_out(layout):
    model = model_of(layout, target_values=6)
    keep = np.arange(9)[None].repeat(2, 0)
    mask = Mask(keep, np.arange(9, 24)[None].repeat(2, 0))
    patches, params, extra = draw(2, 24, 12), param_shapes(model), int(layout == "mae_st")

    def shapes(*inputs, method=None):
        run = functools.partial(model.apply, method=method)
        return jax.eval_shape(run, {"params": params}, patches, *inputs)

    prediction = shapes(mask)
    assert prediction.features.shape == (2, 9 + extra, 32)
    assert prediction.values.shape == (2, 15, 6) and prediction.loss.shape == (2, 15)
    assert shapes(method="predict_loss").shape == (2, 24)
    assert shapes(mask, method="predict_loss").shape == (2, 24), "also of what it does not see"
    assert shapes(method="encode").shape == (2, 24 + extra, 32)


@pytest.mark.parametrize("layout", VIDEO_LAYOUTS)
def test_a_classifier_averages_every_patch_and_no_cls_token(layout):
    of = LAYOUTS[layout]
    model = Classifier(GRID, 12, 5, 32, 1, 2, layout=of)
    patches = draw(2, 24, 12)
    params = init(model, patches)
    stack, positions = {"depth": 1, "heads": 2, "norm": False}, of.classifier_positions
    encoder = Encoder(GRID, 32, stack, layout=of, positions=positions)
    tokens = np.asarray(apply(encoder, params["encoder"], patches))
    found = apply(model, params, patches, method="features")
    expected = layer_norm(tokens[:, -24:].mean(axis=1))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


# --- parameters: which there are, how they start, which decay


def by_path(params):
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {"/".join(part.key for part in path): leaf for path, leaf in leaves}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_block_has_the_biases_of_its_layout(layout):
    grid = (1, 4, 6) if layout == "mae" else GRID
    names = by_path(param_shapes(model_of(layout).clone(grid=grid)))
    blocks = [f"{part}/transformer/blocks" for part in ("encoder", "reconstructor", "predictor")]
    for block in blocks:
        assert (f"{block}/attention/query_value_bias" in names) == (layout == "videomae")
        assert (f"{block}/attention/qkv/bias" in names) == (layout != "videomae")
    assert ("encoder/cls_token" in names) == (layout != "videomae")
    assert ("decoder_input/cls_token" in names) == (layout == "mae_st")
    assert ("decoder_input/embedding/bias" in names) == (layout != "videomae")
    learned = {name for name in names if "positions" in name}
    assert len(learned) == (4 if layout == "mae_st" else 0), "time and space, in both halves"


def count(shapes):
    return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(shapes))


def test_parameters_of_videomae():
    """The base model of 16 frames of 224 x 224, term by term."""
    sizes = {"decoder_width": 384, "decoder_depth": 4, "decoder_heads": 6}
    params = param_shapes(MaskedAutoencoder((8, 14, 14), 1536, layout=LAYOUTS["videomae"], **sizes))

    def transformer(width, depth):
        norms, mlp = 4 * width, 8 * width**2 + 5 * width
        attention = 3 * width**2 + 2 * width + width**2 + width
        return depth * (norms + mlp + attention) + 2 * width

    encoder = 1536 * 768 + 768 + transformer(768, 12)
    assert count(params["encoder"]) == encoder == 86_227_200
    assert count(params["decoder_input"]) == 768 * 384 + 384
    assert count(params["reconstructor"]) == transformer(384, 4) + 384 * 1536 + 1536
    assert count(params["predictor"]) == count(params["reconstructor"])
    official = count(params) - count(params["predictor"])
    assert official == 94_210_944


def test_videomae_starts_as_pytorch_does():
    """Embeddings uniform within 1 / sqrt(inputs); the mask token cut at one deviation, 0.02."""
    sizes = {"width": 128, "heads": 4, "depth": 1, "decoder_width": 512, "decoder_depth": 1}
    model = model_of("videomae", **sizes)
    params = jax.jit(lambda: init_params(model, KEY))()
    patch, decoder = params["encoder"]["patch_embedding"], params["decoder_input"]["embedding"]
    for kernel, inputs in ((patch["projection"]["kernel"], 12), (decoder["kernel"], 128)):
        bound = inputs**-0.5
        assert 0.98 * bound < np.abs(kernel).max() <= bound
        np.testing.assert_allclose(np.std(kernel), bound / 3**0.5, rtol=0.05)
    mask_token = np.asarray(params["decoder_input"]["mask_token"])
    assert 0.018 < np.abs(mask_token).max() <= 0.02
    # the deviation of a normal that is cut at its own
    np.testing.assert_allclose(mask_token.std(), 0.02 * 0.5396, rtol=0.1)
    head = params["reconstructor"]["head"]["kernel"]
    assert 0.98 < np.abs(head).max() / (6 / (512 + 12)) ** 0.5 <= 1, "all else is Xavier's"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_decays(layout):
    """What is no vector of one block, without VideoMAE's mask token (its no_weight_decay)."""
    frames = 1 if layout == "mae" else 4
    config = small_config(
        data={"frames": frames, "source": "synthetic"},
        model={"layout": layout},
        evaluation={"pool": "mean"},
    )
    params = param_shapes(build_model(config))
    wanted = set()
    for name, leaf in by_path(params).items():
        vector = len(leaf.shape) - ("blocks" in name) == 1 or name.endswith("query_value_bias")
        spared = layout == "videomae" and name.endswith("mask_token")
        if not (vector or spared):
            wanted.add(name)
    # with gradients of zero, AdamW only decays
    optimizer = build_optimizer(config)

    def decay(params):
        zeros = optax.tree.zeros_like(params)
        return optimizer.update(zeros, optimizer.init(params), params)[0]

    ones = jax.tree.map(lambda x: np.ones(x.shape, x.dtype), params)
    with jax.numpy_dtype_promotion("standard"):  # optax raises floats to integer powers
        updates = jax.jit(decay)(ones)
    assert {name for name, update in by_path(updates).items() if np.any(update)} == wanted
    assert ("decoder_input/positions_time" in wanted) == (layout == "mae_st")


# --- cost


@pytest.mark.parametrize(("layout", "stride"), [("videomae", 1), ("videomae", 2), ("mae_st", 4)])
def test_flops_against_the_compiler(layout, stride):
    """XLA counts norms and softmax as well, so it may count a little more."""
    model = MaskedAutoencoder(
        (4, 4, 4), 96, 48, 128, 3, 4, 64, 2, 4, layout=LAYOUTS[layout], unroll=0
    )
    params, patches = param_shapes(model), jax.ShapeDtypeStruct((8, 64, 96), jnp.float32)
    keep, hide = (jax.ShapeDtypeStruct((8, n), jnp.int32) for n in (12, 52))
    seen = Mask(
        *(jax.ShapeDtypeStruct((8, n), jnp.int32) for n in (64 // stride, 64 - 64 // stride))
    )

    def student(params, patches, keep, hide):
        prediction = model.apply({"params": params}, patches, Mask(keep, hide))
        return jnp.square(prediction.values).mean() + jnp.square(prediction.loss).mean()

    def teacher(params, patches, seen):
        return model.apply({"params": params}, patches, seen, method="predict_loss")

    wanted = step_flops(model, hidden=52, network_passes=1, frame_stride=stride)
    for function, arguments, analytic in (
        (jax.grad(student), (params, patches, keep, hide), wanted.student),
        (teacher, (params, patches, seen), wanted.teacher),
    ):
        counted = jax.jit(function).lower(*arguments).cost_analysis()["flops"]
        share = counted / 8 / analytic
        assert 0.97 < share < 1.12, f"{function.__name__}: XLA counts {share:.3f} of the formula"
    assert step_flops(model, 52, network_passes=0).teacher == 0
