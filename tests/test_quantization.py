"""Products in 8 bits: exact where they can be, near otherwise, and never emulated unasked."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import parts_of, small_config

from hpm_jax.config import ConfigError
from hpm_jax.models import quantization
from hpm_jax.models.compiled_for import compiling_for
from hpm_jax.models.quantization import has_float8, quantize, quantized_product
from hpm_jax.run.build import build_method, build_model
from hpm_jax.step.mask import run_network

PRODUCTS = {
    "bnw,whd->bhnd": ((2, 5, 12), (12, 3, 4), "bnhd"),  # to heads
    "bhnd,hdw->bnw": ((2, 3, 5, 4), (3, 4, 12), ""),  # from heads
    "bnw,wo->bno": ((2, 5, 12), (12, 7), ""),  # of a feed-forward layer
}


def operands(equation, whole=False):
    """Random tokens and kernel; whole numbers from -126 to 126, and 127 in every token, output."""
    rng = np.random.default_rng(0)
    shapes, own = PRODUCTS[equation][:2], equation.split("->")[0].split(",")
    found = []
    for shape, letters in zip(shapes, own, strict=True):
        x = rng.integers(-126, 127, shape) if whole else rng.normal(size=shape)
        contracted = [letter not in equation.split("->")[1] for letter in letters]
        if whole:
            x[tuple(0 if gone else slice(None) for gone in contracted)] = 127
        found.append(jnp.float32(x))
    return found


@pytest.mark.parametrize("equation", PRODUCTS)
def test_whole_numbers_are_multiplied_exactly(equation):
    tokens, kernel = operands(equation, whole=True)
    found = quantized_product(equation, tokens / 8, kernel / 16, "int8")
    np.testing.assert_allclose(found, jnp.einsum(equation, tokens, kernel) / 128, rtol=1e-6)


@pytest.mark.parametrize("equation", PRODUCTS)
@pytest.mark.parametrize(("name", "step"), [("int8", 1 / 254), ("float8", 1 / 16)])
def test_each_operand_is_off_by_half_a_step_at_most(equation, name, step):
    """Half a step of int8 is 1 / 254 of the largest value; of e4m3, 1 / 16 of the value itself."""
    tokens, kernel = operands(equation)
    with compiling_for(float8=True):
        found = quantized_product(equation, tokens, kernel, name)
    left, right = (jnp.abs(x) for x in (tokens, kernel))
    if name == "int8":
        own = equation.split("->")[0].split(",")
        axes = [
            tuple(i for i, x in enumerate(letters) if x not in equation.split("->")[1])
            for letters in own
        ]
        a, b = (
            jnp.broadcast_to(x.max(axis=axis, keepdims=True), x.shape) * step
            for x, axis in zip((left, right), axes, strict=True)
        )
    else:
        a, b = left * step, right * step
    bound = sum(jnp.einsum(equation, *pair) for pair in ((left, b), (a, right), (a, b)))
    error = jnp.abs(found - jnp.einsum(equation, tokens, kernel))
    assert (error <= bound * 1.001 + 1e-6).all() and error.max() > 0


def test_a_token_and_an_output_have_scales_of_their_own():
    tokens, kernel = operands("bnw,wo->bno")
    before = quantized_product("bnw,wo->bno", tokens, kernel, "int8")
    large = tokens.at[0, 0].multiply(1024.0), kernel.at[:, 0].multiply(1024.0)
    after = quantized_product("bnw,wo->bno", *large, "int8")
    np.testing.assert_array_equal(after[1, :, 1:], before[1, :, 1:])
    np.testing.assert_allclose(after[1, :, 0], 1024 * before[1, :, 0], rtol=1e-6)
    nothing = quantized_product("bnw,wo->bno", jnp.zeros_like(tokens), kernel, "int8")
    np.testing.assert_array_equal(nothing, jnp.zeros_like(nothing))


def test_the_largest_value_becomes_the_largest_of_the_format():
    for dtype, largest in ((jnp.int8, 127), (jnp.float8_e4m3fn, 448)):
        values, scale = quantize(jnp.float32([[-3.0, 1.0]]), (1,), dtype)
        assert values.dtype == dtype and float(values.astype(jnp.float32)[0, 0]) == -largest
        np.testing.assert_allclose(scale, [[3.0 / largest]], rtol=1e-6)


def test_float8_is_not_emulated_silently(monkeypatch):
    pair = operands("bnw,wo->bno")
    with pytest.raises(ConfigError, match=r"'float8' in config\.teacher needs a GPU .* cpu: dtype"):
        quantized_product("bnw,wo->bno", *pair, "float8")
    with compiling_for(float8=False), pytest.raises(ConfigError, match="float8"):
        quantized_product("bnw,wo->bno", *pair, "float8")
    for capability, has in (("9.0", True), ("8.9", True), ("10.0", True), ("8.6", False)):
        device = types.SimpleNamespace(compute_capability=capability)
        assert has_float8(device) == has
    assert not has_float8(types.SimpleNamespace(compute_capability="gfx942"))
    monkeypatch.setattr(quantization, "has_float8", lambda _: True)
    assert quantized_product("bnw,wo->bno", *pair, "float8").shape == (2, 5, 7)


# --- the teacher's pass


DEEP = {"model": {"depth": 2, "width": 32, "heads": 2, "decoder_width": 16}}


def teacher(dtype, **changes):
    return small_config(teacher=f"moving_average(start=0.9, end=0.9, dtype={dtype!r})", **changes)


def predicted(dtype):
    """By the same weights for each dtype."""
    parts, config = parts_of(teacher("", **DEEP)), teacher(dtype, **DEEP)
    patches = parts.method.patches(jnp.asarray(parts.images[:8]))
    method = build_method(config)
    return run_network(build_model(config), method, parts.state.teacher, patches)["predicted_loss"]


@pytest.mark.parametrize("dtype", ["", "float32", "bfloat16", "int8", "float8"])
def test_the_teacher_predicts_nearly_the_same(dtype):
    whole = predicted("")
    with compiling_for(float8=True), jax.numpy_dtype_promotion("standard"):
        found = predicted(dtype)
    assert found.dtype == jnp.float32
    apart = float(jnp.abs(found - whole).max() / whole.std())
    least, most = {"bfloat16": (1e-5, 0.2), "int8": (1e-5, 0.2), "float8": (1e-3, 0.5)}.get(
        dtype, (0.0, 0.0)
    )
    assert least <= apart <= most


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"teacher": "moving_average(dtype='int8')", "target": "teacher_features"},
            "'teacher_features' reads features of the teacher as targets, and int8 adds noise",
        ),
        (
            {
                "teacher": "moving_average(dtype='float32')",
                "model": {"dtype": "bfloat16", "attention": "cudnn"},
            },
            "computes in half precision alone: dtype = '' or 'bfloat16'",
        ),
        ({"teacher": "moving_average(dtype='int4')"}, "dtype = 'int4'"),
        ({"teacher": "staged(dtype='int8')"}, "staged.dtype does not exist"),
        ({"teacher": "frozen(dtype='int8')"}, "frozen.dtype = 'int8'"),
    ],
)
def test_what_is_refused(changes, sentence):
    with pytest.raises(ConfigError) as refusal:
        small_config(**changes)
    assert sentence in str(refusal.value)


def test_features_may_be_read_in_half_precision():
    small_config(teacher="moving_average(dtype='bfloat16')", target="teacher_features")
