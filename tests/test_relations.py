"""Relations of tokens: those of attention itself, against plain formulas, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import MAE, parts_of, schedule, small_config
from small_weights import random_weights

from hpm_jax.config import ConfigError
from hpm_jax.convert.weights import Architecture
from hpm_jax.convert.write import write_weights
from hpm_jax.losses.relations import divergence, heads_apart, log_relations
from hpm_jax.models.attention import Attention
from hpm_jax.models.layers import Block
from hpm_jax.models.stack import Stack
from hpm_jax.step.mask import make_mask
from hpm_jax.step.method import own
from hpm_jax.step.step import Masked, student_pass, total_loss

ENCODER = Architecture((1, 4, 4), patch_size=4, channels=1, width=16, depth=2, heads=2)


@pytest.fixture
def file(tmp_path):
    write_weights(tmp_path / "e.npz", random_weights(ENCODER), "timm")
    return str(tmp_path / "e.npz")


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_heads_are_those_of_the_block():
    """Attention of the heads, times the projection, is what the layer computes."""
    x, layer = normal(2, 5, 8), Attention(2)
    params = layer.init(jax.random.key(0), x)["params"]
    query, key, value = layer.apply({"params": params}, x, method="heads_of")
    weights = np.exp(log_relations(query, key))
    kernel = params["projection"]["kernel"].reshape(2, 4, 8)
    out = np.einsum("bhnm,bhmd,hdw->bnw", weights, value, kernel)
    np.testing.assert_allclose(layer.apply({"params": params}, x), out, atol=1e-5)


def test_a_stack_returns_the_heads_of_its_blocks():
    x, stack = normal(2, 5, 8, seed=1), Stack(3, 2)
    params = stack.init(jax.random.key(1), x)["params"]
    found = stack.apply({"params": params}, x, related=(0, 2), method="outputs")
    plain = stack.apply({"params": params}, x, collect=(1,), method="outputs")
    np.testing.assert_allclose(found.tokens, plain.tokens, atol=1e-5)
    for heads, number, tokens in zip(found.heads, (0, 2), (x, plain.blocks[0]), strict=True):
        one = jax.tree.map(lambda leaf, at=number: leaf[at], params["blocks"])
        expected = Block(2).heads_of(one, tokens)
        for ours, theirs in zip(heads, expected, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-5)
    with pytest.raises(ValueError, match="no block 3 to collect"):
        stack.apply({"params": params}, x, related=(3,), method="outputs")


def test_divergence():
    first, second = normal(2, 3, 4, 6), normal(2, 3, 4, 6, seed=2)
    total = []
    for image in range(2):
        for head in range(3):
            shares = []
            for x in (first, second):
                scores = np.exp(np.float64(x[image, head]) @ x[image, head].T / np.sqrt(6))
                shares.append(scores / scores.sum(axis=1, keepdims=True))
            total.append((shares[0] * np.log(shares[0] / shares[1])).sum(axis=1))
    found = divergence(*(log_relations(x, x) for x in (first, second)))
    np.testing.assert_allclose(found, np.mean(total), rtol=1e-4)
    assert divergence(*[log_relations(first, first)] * 2) == 0


def test_heads_cut_anew():
    heads = normal(1, 2, 3, 4)
    np.testing.assert_array_equal(heads_apart(heads, 0), heads)
    np.testing.assert_array_equal(heads_apart(heads, 1)[0, 0, 1], heads[0, :, 1].reshape(-1))
    four = heads_apart(heads, 4)
    assert four.shape == (1, 4, 3, 2)
    np.testing.assert_array_equal(four[0, 2, 1], heads[0, 1, 1, :2])


@pytest.mark.parametrize("decoder", ["self_attention", "linear"])
def test_a_student_like_its_teacher_costs_nothing(file, decoder):
    """The student is the teacher, and normalises images as it does: both divergences are 0."""
    call = f"token_relations(path={file!r}, mean=(0.5,), std=(0.5,))"
    model = {"depth": 2, "encoder_positions": "learned"}
    config = small_config(**MAE | {"losses": (call,)}, model=model, decoder=decoder)
    parts = parts_of(config)
    frozen = own(parts.state, "token_relations").frozen
    params = dict(parts.state.params)
    patches = parts.method.patches(parts.images)
    mask = make_mask(parts.method, parts.state, patches, parts.key, schedule(), {})
    masked = Masked(patches, mask)

    @jax.jit
    def metrics(params):
        outputs = student_pass(parts.model, parts.method, parts.state, params, masked)
        return total_loss(parts.method, parts.state, params, masked, outputs)[1]

    other = metrics(params)
    assert other["token_relations"] > 1e-3
    ours = other["relations_attention"] + other["relations_values"]
    np.testing.assert_allclose(other["token_relations"], ours, rtol=1e-6)
    if decoder == "linear":  # its encoder sees mask tokens at hidden patches, the teacher none
        return
    params["encoder"] = jax.tree.map(jnp.asarray, frozen)
    same = metrics(params)
    np.testing.assert_allclose(same["token_relations"], 0, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "model", "message"),
    [
        ("block=3", {}, r"block = 3 of 2 blocks: expected 1 to 2, or -1 to -2"),
        ("student_block=0", {}, r"student_block = 0 of 1 blocks"),
        ("", {"heads": 4}, r"the teacher has 2 attention heads and the student 4"),
        ("parts=3", {}, r"parts = 3 does not divide the widths 16 of the teacher"),
    ],
)
def test_refused(file, options, model, message):
    call = f"token_relations(path={file!r}, mean=(0.5,), std=(0.5,), {options})"
    with pytest.raises(ConfigError, match=message):
        small_config(**MAE | {"losses": (call,)}, model=model)
