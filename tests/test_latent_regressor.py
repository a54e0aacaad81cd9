"""CAE: the regressor and its decoder against a plain reading, the alignment, and their cost."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import Parts, schedule, small_config
from test_decoders import attend, dense, norm
from test_multi_scale import GRID, gelu, normal, random_mask

from hpm_jax.config import ConfigError
from hpm_jax.losses import Term
from hpm_jax.models import MaskedAutoencoder
from hpm_jax.models.decoders import Decoder
from hpm_jax.models.flops import step_flops
from hpm_jax.models.positions import sincos_2d
from hpm_jax.models.stack import Stack
from hpm_jax.plugs import Setting
from hpm_jax.run.build import build_flops
from hpm_jax.step.mask import choose_mask
from hpm_jax.step.state import param_shapes
from hpm_jax.step.step import Masked, make_train_step, student_pass, total_loss
from hpm_jax.tokens import Mask

CAE = {"decoder": "latent_regressor(depth=2)", "losses": ("ranking", "latent_alignment")}


def model_of(**changes):
    sizes = {"width": 12, "depth": 2, "heads": 2}
    sizes |= {"decoder_width": 8, "decoder_depth": 1, "decoder_heads": 2} | changes
    decoder = Decoder.parse_call("latent_regressor(depth=2)", "x")
    return MaskedAutoencoder(GRID, 16, decoder=decoder, **sizes)


def random_params(model):
    rng = np.random.default_rng(3)
    shapes = param_shapes(model)
    return jax.tree.map(lambda x: rng.normal(0, 0.3, x.shape).astype(np.float32), shapes)


def plain_regressor(params, features, mask):
    """Block by block: keys and values of visible patches and of the queries, after one norm."""
    positions = np.float64(sincos_2d(12, GRID))
    x = params["queries"]["mask_token"] + positions[mask.hide]
    visible = features + positions[mask.keep]
    for number in range(2):
        block = jax.tree.map(lambda p, n=number: p[n], params["transformer"]["blocks"])
        memory = norm(np.concatenate([visible, x], axis=1), block["memory_norm"])
        x = x + attend(norm(x, block["LayerNorm_0"]), memory, block["attention"], 2)
        hidden = gelu(dense(norm(x, block["LayerNorm_1"]), block["Dense_0"]))
        x = x + dense(hidden, block["Dense_1"])
    return norm(x, params["transformer"]["norm"])


def test_regressor_and_decoder_against_a_plain_reading():
    model = model_of()
    params, patches, mask = random_params(model), normal(3, 16, 16), random_mask()
    apply = jax.jit(model.apply, static_argnames="latents")
    found = apply({"params": params}, patches, mask, latents=True)
    latents = plain_regressor(params["decoder_input"], np.float64(found.features[:, 1:]), mask)
    np.testing.assert_allclose(found.latents[0], latents, rtol=2e-3, atol=2e-3)

    def predicted(part):
        x = jnp.asarray(dense(latents, part["embedding"]), jnp.float32)
        return np.asarray(Stack(1, 2).apply({"params": part["transformer"]}, x))

    values = dense(predicted(params["reconstructor"]), params["reconstructor"]["head"])
    np.testing.assert_allclose(found.values, values, rtol=2e-3, atol=5e-3)
    head = params["predictor"]
    loss = predicted(head) @ head["head_kernel"].mean(axis=1) + head["head_bias"].mean()
    np.testing.assert_allclose(found.loss, loss, rtol=2e-3, atol=5e-3)


def test_the_target_is_the_output_of_the_encoder_for_hidden_patches():
    """They alone are seen there, without gradient; where no term asks it is not computed."""
    model = model_of()
    params, patches, mask = random_params(model), normal(3, 16, 16), random_mask()

    @jax.jit
    def latents(params, patches):
        return model.apply({"params": params}, patches, mask, latents=True).latents

    encode = jax.jit(lambda p: model.apply(p, method=lambda m: m.encoder(patches, mask.hide)))
    expected = encode({"params": params})[:, 1:]
    predicted, target = latents(params, patches)
    np.testing.assert_allclose(target, expected, rtol=1e-5, atol=1e-5)
    rows = np.arange(3)[:, None]
    changed = np.array(patches)
    changed[rows, mask.keep] = 9.0
    other = latents(params, changed)
    np.testing.assert_array_equal(other[1], target)
    assert np.abs(other[0] - predicted).max() > 1e-3
    slopes = jax.jit(jax.grad(lambda p: latents(p, patches)[1].sum()))(params)
    assert all(not x.any() for x in jax.tree.leaves(slopes))
    shapes = jax.eval_shape(model.apply, {"params": params}, patches, mask)
    assert shapes.latents is None


def test_alignment():
    term = Term.parse_call("latent_alignment", "x")
    assert term.weight == 2 and term.takes_latents
    parts = Parts(small_config(**CAE, mask={"counted": 0.5}, optimizer={"batch_size": 8}))
    state, method = parts.state, parts.method
    patches = method.patches(parts.images)
    scalars = schedule()._replace(counted=np.float32(0.5))
    mask = choose_mask(parts.model, method, state, patches, parts.key, scalars)
    outputs = student_pass(parts.model, method, state, state.params, Masked(patches, mask))
    predicted, target = (np.float64(x) for x in outputs.latents)
    assert predicted.shape == (8, 12, 16)
    error = np.square(predicted - target).mean(axis=-1)
    expected = error[np.asarray(mask.counted)].mean()
    found = total_loss(method, state, state.params, Masked(patches, mask), outputs)[1]
    np.testing.assert_allclose(found["latent_alignment"], expected, rtol=1e-5)


def test_every_part_learns():
    parts = Parts(small_config(**CAE, optimizer={"batch_size": 8}))
    step = jax.jit(make_train_step(parts.model, parts.method, parts.optimizer))
    state, metrics = step(parts.state, parts.images, parts.key, schedule(n_hard=6))
    total = metrics["reconstruction"] + metrics["ranking"] + 2 * metrics["latent_alignment"]
    np.testing.assert_allclose(metrics["loss"], total, rtol=1e-5)
    pairs = zip(
        jax.tree_util.tree_leaves_with_path(parts.state.params),
        jax.tree.leaves(state.params),
        strict=True,
    )
    still = [jax.tree_util.keystr(path) for (path, old), new in pairs if (old == new).all()]
    assert all("head_bias" in name for name in still), still


def test_flops_of_the_alignment():
    """XLA counts norms and softmax as well, so it may count a little more."""
    decoder = Decoder.parse_call("latent_regressor(depth=2)", "x")
    model = MaskedAutoencoder((1, 8, 8), 96, 48, 128, 3, 4, 64, 2, 4, decoder, unroll=0)
    params, patches = param_shapes(model), jax.ShapeDtypeStruct((8, 64, 96), jnp.float32)
    keep, hide = (jax.ShapeDtypeStruct((8, n), jnp.int32) for n in (16, 48))

    def student(params, patches, keep, hide):
        found = model.apply({"params": params}, patches, Mask(keep, hide), latents=True)
        aligned = jnp.square(found.latents[0] - found.latents[1]).mean()
        return jnp.square(found.values).mean() + jnp.square(found.loss).mean() + aligned

    lowered = jax.jit(jax.grad(student)).lower(params, patches, keep, hide)
    setting = Setting(None, (1, 8, 8), 48, 128, sizes=model.decoder_sizes)
    of_term = Term.parse_call("latent_alignment", "x").step_flops(setting)
    wanted = step_flops(model, hidden=48, network_passes=0).student + of_term
    share = lowered.cost_analysis()["flops"] / 8 / wanted
    assert 0.97 < share < 1.12, f"XLA counts {share:.3f} of the formula"
    with_term, without = (
        build_flops(small_config(**CAE | {"losses": losses}))
        for losses in (CAE["losses"], ("ranking",))
    )
    assert with_term.student > without.student and with_term.teacher == without.teacher


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decoder": "self_attention"}, "predicts none: --config.decoder=latent_regressor"),
        ({"decoder": "no_decoder", "losses": ("latent_alignment",),
          "mask": {"strategy": "random"}}, "predicts nothing of hidden patches"),
        ({"model": {"decoder_width": 12, "decoder_heads": 3}}, "does not divide that"),
        ({"decoder": "latent_regressor(depth=0)"}, "expected a number above 0"),
    ],
)  # fmt: skip
def test_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        small_config(**CAE | changes)
