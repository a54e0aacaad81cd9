"""Decoders: what each computes, what it may see, what it costs, and what a config may combine."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import MAE, small_config

from hpm_jax.config import ConfigError
from hpm_jax.masking import select
from hpm_jax.masking.selection import ask_some
from hpm_jax.models import MaskedAutoencoder
from hpm_jax.models.decoders import Decoder, Linear
from hpm_jax.models.flops import step_flops
from hpm_jax.models.layouts import LAYOUTS
from hpm_jax.models.masked_autoencoder import hidden_places
from hpm_jax.models.positions import sincos_2d
from hpm_jax.run.build import build_flops, build_method, build_model
from hpm_jax.step.optimizer import decay_mask
from hpm_jax.step.state import init_params, param_shapes
from hpm_jax.tokens import Mask, gather

KINDS = ["self_attention", "cross_attention", "cross_attention(blocks='all')", "linear"]
KINDS += ["latent_regressor(depth=2)", "diffusion"]
GRID, KEY = (1, 4, 6), jax.random.key(0)
SIZES = {"width": 32, "depth": 2, "heads": 2}
SIZES |= {"decoder_width": 16, "decoder_depth": 2, "decoder_heads": 2}
EACH = pytest.mark.parametrize("kind", KINDS)
EACH_NEW = pytest.mark.parametrize("kind", KINDS[1:])


def model_of(kind, **changes):
    decoder = Decoder.parse_call(kind, "decoder")
    return MaskedAutoencoder(grid=GRID, values=20, decoder=decoder, **(SIZES | changes))


@functools.cache
def params_of(model):
    """Random parameters, none of them 0 as many are at first; quicker than those of a run."""
    random = np.random.default_rng(0)

    def draw(path, leaf):
        return random.normal(float(path[-1].key == "scale"), 0.2, leaf.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, param_shapes(model))


@functools.partial(jax.jit, static_argnums=0)
def run(model, params, patches, mask):
    return model.apply({"params": params}, patches, mask)


@functools.partial(jax.jit, static_argnums=(0, 3))
def read(model, params, patches, reads=("predicted_loss",), mask=None):
    return model.apply({"params": params}, patches, reads, mask, method="read")


@functools.partial(jax.jit, static_argnums=(0, 4))
def encode(model, params, patches, mask, collect=(), replaced=None):
    def outputs(model):
        keep = None if mask is None else mask.keep
        return model.encoder.outputs(patches, keep, collect=collect, replaced=replaced)

    return model.apply({"params": params}, method=outputs)


def patches_and_mask(batch=3, count=18):
    patches = jax.random.normal(jax.random.key(1), (batch, 24, 20))
    return patches, select(jax.random.uniform(jax.random.key(2), (batch, 24)), count)


def close(found, expected, tolerance=1e-5):
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


# --- what each computes


def test_self_attention_is_the_decoder_of_earlier_versions():
    """Parameters and numbers computed before there were others."""
    model = model_of("self_attention")
    assert model == MaskedAutoencoder(grid=GRID, values=20, **SIZES)
    params = jax.jit(init_params, static_argnums=0)(model, KEY)
    assert params.keys() == {"encoder", "decoder_input", "reconstructor", "predictor"}
    assert params["decoder_input"].keys() == {"embedding", "mask_token"}
    block = params["reconstructor"]["transformer"]["blocks"]
    assert block.keys() == {"attention", "LayerNorm_0", "LayerNorm_1", "Dense_0", "Dense_1"}
    assert block["attention"]["qkv"]["kernel"].shape == (2, 16, 48)
    patches, mask = patches_and_mask()
    found = run(model, params, patches, mask)
    close(found.values[0, 0, :4], [-0.45495018, 0.52807152, -0.54478109, -0.03423996])
    close(found.values[2, -1, -3:], [-0.87945312, -0.83650362, -1.13270044])
    close(found.loss[1, :4], [0.27486825, 0.15689367, -0.08690458, 0.04123021])
    whole = read(model, params, patches)["predicted_loss"]
    close(whole[1, :4], [0.27901030, 0.39027867, 0.43334943, 0.00266866])


def norm(x, p):
    x = x - x.mean(axis=-1, keepdims=True)
    return x / np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + 1e-6) * p["scale"] + p["bias"]


def dense(x, p):
    return x @ p["kernel"] + p["bias"]


def attend(x, memory, p, heads):
    """Attention head by head, query by query."""
    query = dense(x, p["query"])
    key, value = np.split(dense(memory, p["key_value"]), 2, axis=-1)
    out = np.zeros_like(query)
    for part in np.array_split(np.arange(query.shape[-1]), heads):
        scores = query[..., part] @ key[..., part].swapaxes(1, 2) / np.sqrt(len(part))
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        out[..., part] = weights / weights.sum(axis=-1, keepdims=True) @ value[..., part]
    return dense(out, p["projection"])


@pytest.mark.parametrize("blocks", ["last", "all"])
def test_cross_attention_computed_by_hand(blocks):
    """In NumPy, from the encoder's output: the equations of CrossMAE, section 3."""
    model = model_of(f"cross_attention(blocks={blocks!r})")
    params = params_of(model)
    patches, mask = patches_and_mask()
    outputs = encode(model, params, patches, mask, collect=(-1, 0, 1))
    x = params["decoder_input"]["mask_token"] + sincos_2d(16, GRID)[np.asarray(mask.hide)]
    part = params["reconstructor"]["transformer"]
    for number in range(2):
        p = jax.tree.map(lambda leaf, number=number: leaf[number], part["blocks"])
        memory = np.asarray(outputs.tokens)
        if blocks == "all":
            maps = np.stack(outputs.blocks)
            assert len(maps) == 3 == len(p["mix"]["kernel"])
            memory = norm(np.tensordot(p["mix"]["kernel"], maps, 1), p["mix"]["norm"])
        x = x + attend(norm(x, p["LayerNorm_0"]), memory, p["attention"], heads=2)
        hidden = dense(norm(x, p["LayerNorm_1"]), p["Dense_0"])
        x = x + dense(np.asarray(jax.nn.gelu(hidden, approximate=False)), p["Dense_1"])
    expected = dense(norm(x, part["norm"]), params["reconstructor"]["head"])
    found = run(model, params, patches, mask)
    close(found.values, expected, 2e-4)
    close(found.features, outputs.tokens)
    assert ("mix" in part["blocks"]) == (blocks == "all")


def test_the_input_of_the_first_block():
    """What `collect=(-1,)` gives: embedded patches with positions, behind the cls token."""
    model = model_of("cross_attention")
    params, (patches, mask) = params_of(model), patches_and_mask()
    found = encode(model, params, patches, mask, collect=(-1, 0, 1)).blocks[0]
    of_encoder = params["encoder"]
    embedded = dense(gather(patches, mask.keep), of_encoder["patch_embedding"]["projection"])
    close(found[:, 1:], embedded + sincos_2d(32, GRID)[np.asarray(mask.keep)], 1e-4)
    close(found[:, 0], np.broadcast_to(of_encoder["cls_token"][0], (3, 32)))


def test_linear_is_a_head_on_an_encoder_that_sees_mask_tokens():
    """The encoder of all places, hidden ones replaced after the embedding (SimMIM)."""
    model = model_of("linear")
    params = params_of(model)
    patches, mask = patches_and_mask()
    assert params["decoder_input"].keys() == {"mask_token"}
    assert params["reconstructor"].keys() == {"head"}
    token = params["decoder_input"]["mask_token"]
    hidden = np.zeros((3, 24), bool)
    np.put_along_axis(hidden, np.asarray(mask.hide), True, axis=1)
    np.testing.assert_array_equal(hidden_places(mask, 24), hidden)
    features = encode(model, params, patches, None, replaced=(jnp.asarray(hidden), token)).tokens
    features = np.asarray(features)
    at_hidden = gather(jnp.asarray(features[:, 1:]), mask.hide)
    found = run(model, params, patches, mask)
    close(found.values, dense(at_hidden, params["reconstructor"]["head"]), 1e-4)
    kernel, bias = (params["predictor"][name] for name in ("head_kernel", "head_bias"))
    close(found.loss, at_hidden @ kernel.mean(axis=1) + bias.mean(), 1e-4)
    visible = gather(jnp.asarray(features[:, 1:]), mask.keep)
    close(found.features, np.concatenate([features[:, :1], visible], axis=1), 1e-4)


# --- what each may see


@EACH_NEW
def test_hidden_pixels_change_nothing_and_the_order_of_patches_neither(kind):
    model = model_of(kind)
    params, (patches, mask) = params_of(model), patches_and_mask()
    rows = jnp.arange(3)[:, None]
    one = run(model, params, patches, mask)
    other = run(model, params, patches.at[rows, mask.hide].set(99.0), mask)
    for name in one._fields:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert one.features.shape == (3, 7, 32) and one.values.shape == (3, 18, 20)
    changed = run(model, params, patches.at[rows, mask.keep].set(9.0), mask)
    assert np.abs(changed.values - one.values).max() > 1e-3
    assert np.abs(changed.loss - one.loss).max() > 1e-4
    order = np.random.default_rng(0).permutation(6), np.random.default_rng(1).permutation(18)
    mixed = run(model, params, patches, Mask(mask.keep[:, order[0]], mask.hide[:, order[1]]))
    close(mixed.values, one.values[:, order[1]], 1e-4)
    close(mixed.loss, one.loss[:, order[1]], 1e-4)
    close(mixed.features[:, 1:], one.features[:, 1:][:, order[0]], 1e-4)


@EACH
def test_which_predictions_depend_on_the_other_queries(kind):
    """A share of the hidden patches gets what all of them get, but for self-attention."""
    model = model_of(kind)
    params, (patches, mask) = params_of(model), patches_and_mask()
    whole = run(model, params, patches, mask).values[:, :5]
    some = run(model, params, patches, mask._replace(hide=mask.hide[:, :5])).values
    apart = kind.startswith(("cross", "linear"))
    assert (np.abs(some - whole).max() < 1e-4) == apart


@EACH_NEW
def test_the_loss_of_the_whole_image(kind):
    """All patches are asked for; with a mask those that are hidden are not seen."""
    model = model_of(kind)
    params, (patches, mask) = params_of(model), patches_and_mask()
    found = read(model, params, patches, ("block_1", "features", "predicted_loss"))
    assert found["predicted_loss"].shape == (3, 24)
    outputs = encode(model, params, patches, None, collect=(-1, 0, 1))
    close(found["features"], outputs.tokens[:, 1:], 1e-4)
    close(found["block_1"], outputs.blocks[1][:, 1:], 1e-4)
    partly = read(model, params, patches, ("predicted_loss",), mask)["predicted_loss"]
    student = run(model, params, patches, mask).loss
    # the order is visible, hidden; queries of some see each other
    apart = not kind.startswith(("latent", "diffusion"))
    assert (np.abs(partly[:, 6:] - student).max() < 1e-4) == apart
    assert np.abs(partly - found["predicted_loss"]).max() > 1e-3
    last = jnp.argsort(jnp.concatenate(mask[:2], axis=1), axis=1)
    hidden = np.take_along_axis(np.asarray(partly), np.asarray(last), axis=1)
    assert np.abs(hidden - found["predicted_loss"]).max() > 1e-3, "the whole image is seen"


@pytest.mark.parametrize("kind", ["cross_attention", "linear"])
def test_replaced_patches_are_not_seen(kind):
    model = model_of(kind, replaces=True)
    params, (patches, mask) = params_of(model), patches_and_mask()
    assert ("replacing_token" in params) == (kind != "linear")
    replaced = jnp.tile(jnp.arange(6) % 2 == 0, (3, 1))
    mask = mask._replace(replaced=replaced)
    rows, away = jnp.arange(3)[:, None], mask.keep[:, ::2]
    one = run(model, params, patches, mask)
    other = run(model, params, patches.at[rows, away].set(99.0), mask)
    np.testing.assert_array_equal(one.values, other.values)
    without = run(model, params, patches, mask._replace(replaced=jnp.zeros_like(replaced)))
    assert np.abs(without.values - one.values).max() > 1e-4


@EACH_NEW
@pytest.mark.parametrize("layout", ["videomae", "mae_st"])
def test_clips(kind, layout):
    """Every layout; without a bias of keys, and with positions that are learned."""
    model = model_of(kind, layout=LAYOUTS[layout]).clone(grid=(2, 3, 4))
    shapes, (patches, mask) = param_shapes(model), patches_and_mask()
    found = jax.eval_shape(lambda p: model.apply({"params": p}, patches, mask), shapes)
    assert found.values.shape == (3, 18, 20)
    assert found.features.shape == (3, 6 + (layout == "mae_st"), 32)
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(shapes)]
    attends = kind != "linear"
    assert any("value_bias" in name for name in names if "predictor" in name) == (
        attends and layout == "videomae"
    )
    learned = any("decoder_input" in name and "positions_time" in name for name in names)
    assert learned == (attends and layout == "mae_st")


def test_rematerialisation_changes_no_number_and_bfloat16_is_close():
    patches, mask = patches_and_mask()
    plain = model_of("cross_attention(blocks='all')", depth=1, decoder_depth=1)
    params = params_of(plain)

    def gradient(model):
        def loss(params):
            return jnp.square(model.apply({"params": params}, patches, mask).values).mean()

        return jax.jit(jax.grad(loss))(params)

    found, expected = (jax.tree.leaves(gradient(plain.clone(remat=x))) for x in ("full", "none"))
    for one, another in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, another, rtol=2e-4, atol=1e-5)
    with jax.numpy_dtype_promotion("standard"):  # flax's layer norm mixes dtypes itself
        rough = run(plain.clone(dtype=jnp.bfloat16), params, patches, mask)
    exact = run(plain, params, patches, mask)
    assert rough.values.dtype == rough.loss.dtype == jnp.float32
    assert 0 < np.abs(rough.values - exact.values).max() < 0.1 * np.abs(exact.values).max()


# --- which hidden patches are asked for


def test_a_share_of_the_hidden_patches():
    _, mask = patches_and_mask(batch=500)
    noise = jax.random.uniform(KEY, mask.hide.shape)
    found = ask_some(mask, noise, 6)
    assert found.hide.shape == (500, 6) and found.counted is None
    assert (np.diff(found.hide, axis=1) > 0).all(), "raster order"
    pairs = zip(np.asarray(found.hide), np.asarray(mask.hide), strict=True)
    assert all(set(row) <= set(hidden) for row, hidden in pairs)
    np.testing.assert_array_equal(found.keep, mask.keep)
    asked = np.bincount(np.asarray(found.hide).ravel(), minlength=24)
    assert abs(asked / 500 - 6 / 24).max() < 0.1, "each as often as the others"
    counted = jnp.tile(jnp.arange(18) % 6 == 0, (500, 1))
    some = ask_some(mask._replace(counted=counted), noise, 5)
    assert (some.counted.sum(axis=1) == 3).all(), "what enters the loss comes first"
    marked = np.where(some.counted, some.hide, -1)
    assert (np.sort(marked, axis=1)[:, -3:] == np.sort(mask.hide[:, ::6], axis=1)).all()


def test_pictures_and_evaluations_ask_for_all():
    method = build_method(small_config(decoder="cross_attention(share=0.25)"))
    assert (method.hidden, method.queried) == (12, 3)
    assert method.in_full.queried == method.at_random.queried == 0
    assert build_method(small_config(decoder="cross_attention")).queried == 0


# --- what each costs


@EACH
def test_flops_against_the_compiler(kind):
    """XLA counts norms and softmax as well, so it may count a little more."""
    decoder = Decoder.parse_call(kind, "decoder")
    model = MaskedAutoencoder((1, 8, 8), 96, 48, 128, 3, 4, 64, 2, 4, decoder, unroll=0)
    params, patches = param_shapes(model), jax.ShapeDtypeStruct((8, 64, 96), jnp.float32)
    queried = 16 if kind.startswith("cross") else 48
    keep, hide = (jax.ShapeDtypeStruct((8, n), jnp.int32) for n in (16, queried))

    def student(params, patches, keep, hide):
        prediction = model.apply({"params": params}, patches, Mask(keep, hide))
        return jnp.square(prediction.values).mean() + jnp.square(prediction.loss).mean()

    def teacher(params, patches):
        return model.apply({"params": params}, patches, method="predict_loss")

    wanted = step_flops(model, hidden=48, network_passes=1, queried=queried)
    for function, arguments, analytic in (
        (jax.grad(student), (params, patches, keep, hide), wanted.student),
        (teacher, (params, patches), wanted.teacher),
    ):
        counted = jax.jit(function).lower(*arguments).cost_analysis()["flops"]
        share = counted / 8 / analytic
        assert 0.97 < share < 1.12, f"{function.__name__}: XLA counts {share:.3f} of the formula"


def test_a_share_costs_less():
    some = "cross_attention(share=0.25)"
    costs = {kind: build_flops(small_config(decoder=kind)) for kind in (*KINDS, some)}
    assert costs[some].student < costs["cross_attention"].student
    assert costs[some].teacher == costs["cross_attention"].teacher
    assert costs["cross_attention"].student < costs["self_attention"].student
    assert costs["cross_attention"].student < costs["cross_attention(blocks='all')"].student


# --- what a config may combine


CLIPS = {
    "data": {"source": "synthetic", "frames": 4},
    "model": {"tubelet": 2, "layout": "mae_st"},
}
REFUSED = {
    "frames": (
        CLIPS | {"decoder": "linear", "teacher": "moving_average(frame_stride=2)"},
        "config.decoder = 'linear' has a token for every patch in the encoder",
    ),
    "parts": (
        {"decoder": "linear", "teacher": "moving_average(view='parts')"},
        "would save nothing: frame_stride = 1 and view = 'whole'",
    ),
    "one query": (
        {"decoder": "cross_attention(share=0.05)"},
        "predicts 1 of 12 hidden patches, and a ranking needs two: raise share",
    ),
    "no share": ({"decoder": "cross_attention(share=0.0)"}, "expected a number above 0 to 1"),
    "a name": ({"decoder": "cros_attention"}, "there is no decoder 'cros_attention'"),
    "another mix": ({"decoder": "cross_attention(blocks='some')"}, "choose from last, all"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case):
    changes, sentence = REFUSED[case]
    with pytest.raises(ConfigError) as refusal:
        small_config(**changes)
    assert sentence in str(refusal.value)


def test_a_single_query_without_a_ranking():
    config = small_config(**MAE, decoder="cross_attention(share=0.05)")
    assert config.queried == 1
    small_config(**CLIPS, decoder="cross_attention", teacher="moving_average(frame_stride=2)")
    assert build_model(small_config(decoder="linear")).decoder == Linear()


def test_mask_tokens_decay_as_those_of_mae():
    """The learned mix decays as well, as a matrix does in the official code."""
    decayed = decay_mask(param_shapes(model_of("cross_attention(blocks='all')")))
    blocks = decayed["predictor"]["transformer"]["blocks"]
    assert decayed["decoder_input"]["mask_token"] and blocks["mix"]["kernel"]
    assert not blocks["attention"]["key_value"]["bias"] and not blocks["mix"]["norm"]["scale"]
