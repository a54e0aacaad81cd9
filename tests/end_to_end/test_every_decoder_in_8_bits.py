"""The teacher's pass in 8 bits: the products of every decoder, and parameters that are sharded."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import parts_of, schedule, small_config
from test_quantization import DEEP, teacher

from hpm_jax.models.compiled_for import compiling_for
from hpm_jax.run import devices
from hpm_jax.run.build import Start, build_init, build_method, build_model, build_optimizer
from hpm_jax.step.mask import run_network
from hpm_jax.step.step import make_train_step

DECODERS = ("self_attention", "cross_attention", "latent_regressor", "diffusion", "linear")


@pytest.mark.parametrize(
    "decoder, platform, products_a_block",
    [*((decoder, "gpu", 6) for decoder in DECODERS), ("self_attention", "cpu", 4)],
)
def test_every_decoder_computes_in_8_bits(decoder, platform, products_a_block):
    """The products with kernels of encoder and decoder blocks; those of the student stay.

    On CPUs query, key and value are one product.
    """
    losses = ("ranking", "latent_alignment") if decoder == "latent_regressor" else ("ranking",)
    changes = DEEP | {"decoder": decoder, "losses": losses}
    counts = {}
    for dtype in ("", "int8"):
        config = teacher(dtype, **changes)
        parts = build_model(config), build_method(config), build_optimizer(config)
        step, key = make_train_step(*parts), jax.random.key(0)
        state = jax.eval_shape(build_init(config, *parts), key, Start())
        arguments = state, np.zeros((64, 16, 16, 1), np.uint8), key, schedule(6)
        with compiling_for(platform):
            lines = str(jax.make_jaxpr(step)(*arguments)).splitlines()
        products = [line for line in lines if "dot_general" in line]
        counts[dtype] = len(products), sum("i32[" in line.split("=")[0] for line in products)
    assert counts[""][1] == 0 and counts["int8"][0] == counts[""][0]
    assert counts["int8"][1] >= products_a_block * (1 if decoder == "linear" else 2)


@pytest.mark.parametrize("options", ["dtype='int8'", "view='visible'"])
def test_sharded_parameters_predict_the_same(options, monkeypatch):
    """Each block is gathered in the dtype of the model, and then quantised."""
    monkeypatch.setattr(devices, "SMALL", 8)
    parts = parts_of(small_config(teacher=f"moving_average({options})"))
    patches = parts.method.patches(jnp.asarray(parts.images[:8]))
    mesh = devices.all_devices(fsdp=4)
    params = parts.state.teacher
    sharded = jax.device_put(params, mesh.shardings(params))
    model = parts.model.clone(gather=mesh.gather)
    expected, found = (
        jax.jit(lambda p, x, model=model: run_network(model, parts.method, p, x))(p, x)
        for model, p, x in (
            (parts.model, params, patches),
            (model, sharded, jax.device_put(patches, mesh.batch)),
        )
    )
    found, expected = found["predicted_loss"], expected["predicted_loss"]
    np.testing.assert_allclose(found, expected, atol=2e-3 * float(expected.std()))
