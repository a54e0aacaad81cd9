"""Attention in windows against timm's SAM, whose encoder is ViTDet's, and the pyramid's layers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hpm_jax.models.layouts import Layout
from hpm_jax.models.pyramid import SimplePyramid
from hpm_jax.models.windows import WindowedEncoder, global_indices

torch = pytest.importorskip("torch")
pytest.importorskip("timm")
from timm.models.vision_transformer_sam import VisionTransformerSAM  # noqa: E402

WIDTH, HEADS, DEPTH, SIDE, PATCH, WINDOW = 32, 4, 4, 24, 4, 4


def tensor(array):
    return torch.from_numpy(np.array(array))


def loaded(params):
    """timm's encoder of 6 x 6 patches in windows of 4 x 4, which need padding."""
    over_image = global_indices(DEPTH, 2)
    model = VisionTransformerSAM(
        img_size=SIDE,
        patch_size=PATCH,
        embed_dim=WIDTH,
        depth=DEPTH,
        num_heads=HEADS,
        window_size=WINDOW,
        global_attn_indexes=over_image,
        use_rel_pos=False,
        neck_chans=0,
        num_classes=0,
    ).eval()
    kernel = params["patch_embedding"]["projection"]["kernel"].reshape(PATCH, PATCH, 3, WIDTH)
    state = {
        "pos_embed": tensor(params["positions"]).reshape(1, 6, 6, WIDTH),
        "patch_embed.proj.weight": tensor(kernel).permute(3, 2, 0, 1),
        "patch_embed.proj.bias": tensor(params["patch_embedding"]["projection"]["bias"]),
    }
    blocks = params["transformer"]["blocks"]
    names = {
        "norm1": ("LayerNorm_0", "scale"),
        "attn.qkv": ("attention", "qkv", "kernel"),
        "attn.proj": ("attention", "projection", "kernel"),
        "norm2": ("LayerNorm_1", "scale"),
        "mlp.fc1": ("Dense_0", "kernel"),
        "mlp.fc2": ("Dense_1", "kernel"),
    }
    for name, (*path, last) in names.items():
        node = blocks
        for part in path:
            node = node[part]
        for index in range(DEPTH):
            weight = tensor(node[last][index])
            state[f"blocks.{index}.{name}.weight"] = weight.T if weight.ndim == 2 else weight
            state[f"blocks.{index}.{name}.bias"] = tensor(node["bias"][index])
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and all(name.startswith("neck.") for name in missing)
    return model


def test_the_encoder_is_vitdets():
    stack = {"depth": DEPTH, "heads": HEADS}
    layout = Layout(cls_token=False)
    model = WindowedEncoder((1, 6, 6), WIDTH, stack, WINDOW, 2, layout=layout)
    rng = np.random.default_rng(0)
    images = rng.normal(size=(2, SIDE, SIDE, 3)).astype(np.float32)
    cut = images.reshape(2, 6, PATCH, 6, PATCH, 3).swapaxes(2, 3).reshape(2, 36, -1)
    params = model.init(jax.random.key(0), jnp.asarray(cut))["params"]
    params = jax.tree.map(lambda x: x + 0.05 * rng.normal(size=x.shape).astype(x.dtype), params)
    with torch.no_grad():
        theirs = loaded(params)
        expected = theirs.patch_embed(tensor(images).permute(0, 3, 1, 2)) + theirs.pos_embed
        expected = theirs.blocks(expected)
    found = model.apply({"params": params}, jnp.asarray(cut))
    np.testing.assert_allclose(found, expected, atol=2e-4)


def test_the_pyramid_has_pytorchs_layers():
    """The finest level, which has every kind of layer, and the two coarsest ones."""
    pyramid = SimplePyramid(8)
    x = np.random.default_rng(1).normal(size=(2, 4, 6, 16)).astype(np.float32)
    params = pyramid.init(jax.random.key(0), jnp.asarray(x))["params"]
    functional = torch.nn.functional

    def enlarged(x, layer):  # flax's kernel is not mirrored, and neither is PyTorch's
        kernel = tensor(layer["kernel"]).permute(2, 3, 0, 1).flip(2, 3)
        return functional.conv_transpose2d(x, kernel, tensor(layer["bias"]), stride=2)

    def normed(x, layer):
        parts = tensor(layer["scale"]), tensor(layer["bias"])
        return functional.layer_norm(x.permute(0, 2, 3, 1), (x.shape[1],), *parts, 1e-6).permute(
            0, 3, 1, 2
        )

    def mixed(x, layer):
        kernel = tensor(layer["conv"]["kernel"]).permute(3, 2, 0, 1)
        x = functional.conv2d(x, kernel, padding=kernel.shape[-1] // 2)
        return normed(x, layer["norm"])

    maps = tensor(x).permute(0, 3, 1, 2)
    four = enlarged(maps, params["enlarge_4_first"])
    four = enlarged(functional.gelu(normed(four, params["norm_4"])), params["enlarge_4_second"])
    four = mixed(mixed(four, params["reduce_4"]), params["mix_4"])
    half = functional.max_pool2d(maps, 2)
    half = mixed(mixed(half, params["reduce_0.5"]), params["mix_0.5"])
    coarsest = functional.max_pool2d(half, 1, stride=2)
    levels = pyramid.apply({"params": params}, jnp.asarray(x))
    for found, expected in ((levels[0], four), (levels[3], half), (levels[4], coarsest)):
        np.testing.assert_allclose(found, expected.permute(0, 2, 3, 1), atol=1e-4)
