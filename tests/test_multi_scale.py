"""LocalMIM: decoders on several blocks, each against a plain reading, and what they cost."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import Parts, schedule, small_config
from test_decoders import dense, norm

from hpm_jax.config import ConfigError
from hpm_jax.losses import Term
from hpm_jax.losses.multi_scale import scale_loss
from hpm_jax.losses.term import Outputs, Own
from hpm_jax.masking.units import Unit
from hpm_jax.models import MaskedAutoencoder
from hpm_jax.models.decoders import Decoder
from hpm_jax.models.positions import sincos_2d
from hpm_jax.models.stack import Stack
from hpm_jax.plugs import Setting
from hpm_jax.run.build import build_flops
from hpm_jax.step.step import make_train_step
from hpm_jax.targets.hog import histograms
from hpm_jax.tokens import Mask, Tokenizer

LOCAL = {
    "model": {"depth": 3},
    "data": {"image_size": (16, 16)},
    "decoder": "self_attention(block=2)",
    "target": "hog(cell=4, window=0)",
    "losses": ("ranking", "multi_scale(blocks=(1, 2, 3), cells=(1, 2, 8), bins=5)"),
}
GRID, TOKENIZER = (1, 4, 4), Tokenizer((1, 4, 4), (0.5,), (0.5,))


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def random_mask(images=3, hidden=10, patches=16):
    rng = np.random.default_rng(1)
    order = np.stack([rng.permutation(patches) for _ in range(images)]).astype(np.int32)
    return Mask(np.sort(order[:, hidden:]), np.sort(order[:, :hidden]))


def setup(term, model, hidden=10):
    """The term's parameters, random, and outputs of the student that it takes."""
    mask = random_mask(hidden=hidden)
    setting = Setting(TOKENIZER, GRID, hidden, model.width, sizes=model.decoder_sizes)
    shapes = jax.eval_shape(lambda: term.init(jax.random.key(0), setting))
    rng = np.random.default_rng(3)
    params = jax.tree.map(lambda x: rng.normal(0, 0.3, x.shape).astype(np.float32), shapes)
    tokens = 1 + 16 - hidden
    outputs = Outputs(
        losses=jnp.zeros((3, hidden)), predicted=None, values=jnp.zeros((3, hidden, 16)),
        target=jnp.zeros((3, hidden, 16)), features=normal(3, tokens, model.width, seed=5),
        patches=normal(3, 16, 16, seed=6), mask=mask, unit=Unit(GRID), own=Own(params=params),
        blocks={n: normal(3, tokens, model.width, seed=n) for n in term.student_blocks},
        tokenizer=TOKENIZER, sizes=model.decoder_sizes,
    )  # fmt: skip
    return outputs, setting


def model_of(**changes):
    sizes = {"width": 12, "depth": 3, "heads": 2}
    sizes |= {"decoder_width": 8, "decoder_depth": 1, "decoder_heads": 2} | changes
    return MaskedAutoencoder(GRID, 16, **sizes)


def gelu(x):
    return np.asarray(0.5 * x * (1 + jax.lax.erf(jnp.asarray(x, jnp.float32) / np.sqrt(2))))


def plain_tokens(params, features, mask, normed):
    """Every token after the blocks of the decoder, in the order cls, visible, hidden."""
    entry, positions = params["input"], sincos_2d(8, GRID)
    x = norm(features, entry["norm"]) if normed else features
    x = dense(x, entry["embedding"])
    x = np.concatenate([x[:, :1], x[:, 1:] + positions[mask.keep]], axis=1)
    hidden = entry["mask_token"] + positions[mask.hide]
    x = jnp.asarray(np.concatenate([x, hidden], axis=1), jnp.float32)
    return np.asarray(Stack(1, 2).apply({"params": params["transformer"]}, x))


def plain_cells(params, vector, doublings):
    """The cells of one patch, by transposed convolutions written out as loops."""
    x = vector[None, None]
    for number in range(doublings):
        if number:
            x = gelu(norm(x, params[f"norm_{number}"]))
        kernel, bias = params[f"double_{number}"]["kernel"], params[f"double_{number}"]["bias"]
        half = x.shape[-1] // 2
        wide = np.zeros((2 * len(x), 2 * len(x), half))
        for row in range(len(x)):
            for column in range(len(x)):
                for part in range(4):
                    some = slice(part * half, (part + 1) * half)
                    place = 2 * row + part // 2, 2 * column + part % 2
                    wide[place] = x[row, column] @ kernel[:, some] + bias[some]
        x = wide
    return dense(x, params["head"])


def test_every_scale_against_a_plain_reading():
    term = Term.parse_call("multi_scale(blocks=(1, 2, 3), cells=(1, 2, 8), bins=5)", "x")
    outputs, _ = setup(term, model_of())
    mask, params = outputs.mask, outputs.own.params
    images = outputs.patches.reshape(3, 4, 4, 4, 4, 1).swapaxes(2, 3).reshape(3, 16, 16, 1)
    expected = {}
    for block, cell in ((1, 1), (2, 2), (3, 8)):
        last = block == 3
        features = outputs.features if last else outputs.blocks[block]
        tokens = plain_tokens(params[f"block_{block}"], features, mask, not last)[:, 1:]
        target = np.asarray(histograms(images, 5, cell, 0))[:, :, :, 0]
        hidden = np.zeros((3, 16))
        np.put_along_axis(hidden, mask.hide, 1, axis=1)
        grid = np.zeros((3, 16, 8))
        order = np.concatenate([mask.keep, mask.hide], axis=1)
        np.put_along_axis(grid, order[..., None], tokens, axis=1)
        total, weight = 0.0, 0.0
        for image in range(3):
            if cell == 8:
                for row in range(2):
                    for column in range(2):
                        four = [8 * row + 2 * column + n for n in (0, 1, 4, 5)]
                        mean = np.mean(
                            [plain_cells(params["block_3"], grid[image, n], 0) for n in four], 0
                        )
                        share = hidden[image, four].mean()
                        total += share * np.square(mean[0, 0] - target[image, row, column]).mean()
                        weight += share
                continue
            many = 4 // cell
            for patch in mask.hide[image]:
                found = plain_cells(params[f"block_{block}"], grid[image, patch], many // 2)
                row, column = (many * n for n in divmod(patch, 4))
                there = target[image, row : row + many, column : column + many]
                total += np.square(found - there).mean()
                weight += 1
        expected[f"multi_scale_{cell}"] = total / weight
    loss, others = jax.jit(lambda own: term(outputs._replace(own=own)))(outputs.own)
    assert others.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(others[name], value, rtol=1e-4, err_msg=name)
    np.testing.assert_allclose(loss, sum(expected.values()), rtol=1e-4)


def test_what_counts():
    """Patches that do not count have no part in any scale, and a perfect prediction costs 0."""
    mask = random_mask()
    target = normal(3, 2, 2, 5)
    whole = np.repeat(np.repeat(target, 2, axis=1), 2, axis=2).reshape(3, 16, 5)
    order = np.concatenate([mask.keep, mask.hide], axis=1)
    perfect = np.take_along_axis(whole, order[..., None], axis=1)[:, :, None, None]
    assert scale_loss(perfect, target, mask, GRID) < 1e-12
    none = mask._replace(counted=np.zeros((3, 10), bool))
    assert scale_loss(perfect + 1, target, none, GRID) == 0
    np.testing.assert_allclose(scale_loss(perfect + 1, target, mask, GRID), 1, rtol=1e-5)
    cells = normal(3, 10, 2, 2, 5)
    fine = normal(3, 8, 8, 5)
    counted = np.zeros((3, 10), bool)
    counted[1, 4] = True
    row, column = divmod(mask.hide[1, 4], 4)
    there = fine[1, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
    found = scale_loss(cells, fine, mask._replace(counted=counted), GRID)
    np.testing.assert_allclose(found, np.square(cells[1, 4] - there).mean(), rtol=1e-5)


def test_flops_against_the_compiler():
    """XLA counts norms, softmax and histograms as well, so it may count a little more."""
    term = Term.parse_call("multi_scale(blocks=(1, 2, 3), cells=(1, 2, 8), bins=9)", "x")
    sizes = {"width": 96, "decoder_width": 96, "decoder_depth": 2, "heads": 4, "decoder_heads": 4}
    outputs, setting = setup(term, model_of(**sizes, unroll=0))

    def loss(params, features, blocks):
        own = Own(params=params)
        return term(outputs._replace(own=own, features=features, blocks=blocks))[0]

    inputs = outputs.own.params, outputs.features, outputs.blocks
    lowered = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(*inputs)
    share = lowered.cost_analysis()["flops"] / 3 / term.step_flops(setting)
    assert 0.97 < share < 1.12, f"XLA counts {share:.3f} of the formula"


def test_they_are_counted():
    plain = small_config(**LOCAL | {"losses": ("ranking",)})
    setting = Parts(small_config(**LOCAL)).method.setting
    of_terms = build_flops(small_config(**LOCAL)).student - build_flops(plain).student
    model = Parts(plain).model
    term = small_config(**LOCAL).losses[1]
    assert of_terms == term.step_flops(setting._replace(sizes=model.decoder_sizes)) > 0


def test_a_decoder_that_reads_a_block():
    """The block after a norm of the decoder's; the blocks behind it change nothing."""
    model = model_of(decoder=Decoder.parse_call("self_attention(block=2)", "x"))
    assert model.decoder.collect(3) == (1,) and model_of().decoder.collect(3) == ()
    assert Decoder.parse_call("self_attention(block=-2)", "x").collect(3) == (1,)
    patches, mask = normal(3, 16, 16), random_mask()
    params = jax.jit(model.init)(jax.random.key(0), patches, mask)["params"]
    apply = jax.jit(model.apply, static_argnums=3)
    assert params["decoder_input"]["norm"].keys() == {"scale", "bias"}
    first = apply({"params": params}, patches, mask, (1,))
    x = norm(np.asarray(first.blocks[0]), params["decoder_input"]["norm"])
    plain = model_of()
    without = {name: x for name, x in params["decoder_input"].items() if name != "norm"}
    expected = plain.apply(
        {"params": params | {"decoder_input": without}},
        jnp.asarray(x, jnp.float32),
        mask,
        method=lambda m, x, mask: m.reconstructor(m.decoder_input(x, mask.keep, mask.hide), 10),
    )
    np.testing.assert_allclose(first.values, expected, rtol=1e-4, atol=1e-5)
    blocks = params["encoder"]["transformer"]["blocks"]
    changed = jax.tree.map(lambda x: x.at[2].set(0.5), blocks)
    transformer = params["encoder"]["transformer"] | {"blocks": changed}
    changed = params | {"encoder": params["encoder"] | {"transformer": transformer}}
    found = apply({"params": changed}, patches, mask, (1,)).values
    np.testing.assert_array_equal(found, first.values)


def test_every_part_learns():
    """With a decoder that reads an earlier block, the last one learns from its own scale."""
    config = small_config(**LOCAL, optimizer={"batch_size": 8})
    parts = Parts(config)
    step = jax.jit(make_train_step(parts.model, parts.method, parts.optimizer))
    state, metrics = step(parts.state, parts.images, parts.key, schedule(n_hard=6))
    scales = {f"multi_scale_{cell}" for cell in (1, 2, 8)}
    assert scales | {"multi_scale", "ranked_correctly", "reconstruction"} <= metrics.keys()
    total = metrics["reconstruction"] + metrics["ranking"] + sum(metrics[x] for x in scales)
    np.testing.assert_allclose(metrics["loss"], total, rtol=1e-5)
    pairs = zip(
        jax.tree_util.tree_leaves_with_path(parts.state.params),
        jax.tree.leaves(state.params),
        strict=True,
    )
    still = [jax.tree_util.keystr(path) for (path, old), new in pairs if (old == new).all()]
    assert all("head_bias" in name for name in still), still


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"losses": ("ranking", "multi_scale(cells=(1, 2))")}, "3 blocks and 2 cells"),
        ({"losses": ("ranking", "multi_scale(blocks=(), cells=())")}, "0 blocks and 0 cells"),
        ({"losses": ("ranking", "multi_scale(cells=(1, 2, 8))")}, "up to config.model.depth = 3"),
        ({"losses": ("ranking", "multi_scale(blocks=(2, 1), cells=(1, 2))")}, "in rising order"),
        ({"losses": ("ranking", "multi_scale(blocks=(1,), cells=(3,))")}, "halved or doubled"),
        ({"losses": ("ranking", "multi_scale(blocks=(1,), cells=(12,))")}, "halved or doubled"),
        ({"losses": ("ranking", "multi_scale(blocks=(1,), cells=(32,))")}, "do not fill the grid"),
        (
            {"model": {"depth": 3, "patch_size": 8, "decoder_width": 12}},
            "halves config.model.decoder_width = 12, which has to be a multiple of 8",
        ),
        ({"decoder": "cross_attention(share=0.5)"}, "leaves some out: share=1.0"),
        ({"decoder": "self_attention(block=4)"}, "so block is from 1 to 3, or from -3 to -1"),
        ({"decoder": "self_attention(block=0)"}, "so block is from 1 to 3, or from -3 to -1"),
    ],
)
def test_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        small_config(**LOCAL | changes)
