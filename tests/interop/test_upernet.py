"""UPerNet against transformers' head and PyTorch's layers, with the same weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import UperNetConfig
from transformers.models.upernet.modeling_upernet import UperNetFCNHead, UperNetHead

from hpm_jax.models.segment_decoders.upernet import (
    BatchNorm,
    Pyramid,
    UPerNetHead,
    adaptive_pool,
)

WIDTH, CHANNELS, AUXILIARY, CLASSES = 12, 8, 6, 5
POOLS = (1, 2, 3, 6)
LEVELS = [(28, 20), (14, 10), (7, 5), (3, 2)]  # an odd grid: cells of the pools overlap


def filled(module, seed):
    """The module with random weights and running averages."""
    generator = torch.Generator().manual_seed(seed)
    for tensor in module.state_dict().values():
        if tensor.dtype.is_floating_point:
            tensor.copy_(0.5 * torch.rand(tensor.shape, generator=generator) + 0.1)
    return module


def numpy(tensor):
    return tensor.detach().numpy()


def kernel(weight):
    """`[out, in, h, w]` to `[h, w, in, out]`."""
    return numpy(weight).transpose(2, 3, 1, 0)


def block(module):
    """Parameters and running averages of a convolution with its norm."""
    norm = module.batch_norm
    params = {
        "convolution": {"kernel": kernel(module.conv.weight)},
        "batch_norm": {"norm": {"scale": numpy(norm.weight), "bias": numpy(norm.bias)}},
    }
    averages = {"mean": numpy(norm.running_mean), "var": numpy(norm.running_var)}
    return params, {"batch_norm": {"norm": averages}}


def classifier(module):
    return {"kernel": kernel(module.weight), "bias": numpy(module.bias)}


@pytest.fixture(scope="module")
def heads():
    config = UperNetConfig(
        backbone_config={"model_type": "resnet"},
        hidden_size=CHANNELS,
        num_labels=CLASSES,
        pool_scales=POOLS,
        auxiliary_channels=AUXILIARY,
        auxiliary_num_convs=1,
    )
    main = filled(UperNetHead(config, [WIDTH] * 4), 0)
    return main, filled(UperNetFCNHead(config, [WIDTH] * 4), 1)


@pytest.fixture(scope="module")
def ours(heads):
    main, auxiliary = heads
    blocks = {
        **{f"pooled_{place}": psp.layers[1] for place, psp in enumerate(main.psp_modules.blocks)},
        **{f"lateral_{place}": one for place, one in enumerate(main.lateral_convs)},
        **{f"smooth_{place}": one for place, one in enumerate(main.fpn_convs)},
        "bottleneck": main.bottleneck,
        "fusion": main.fpn_bottleneck,
        "auxiliary": auxiliary.convs[0],
    }
    converted = {name: block(one) for name, one in blocks.items()}
    params = {name: one[0] for name, one in converted.items()}
    params["classifier"] = classifier(main.classifier)
    params["auxiliary_classifier"] = classifier(auxiliary.classifier)
    averages = {name: one[1] for name, one in converted.items()}
    head = UPerNetHead(CLASSES, CHANNELS, AUXILIARY)
    return head, {"params": params, "batch_stats": averages}


def levels():
    rng = np.random.default_rng(0)
    return [rng.normal(size=(3, *size, WIDTH)).astype(np.float32) for size in LEVELS]


def as_torch(maps):
    return [torch.from_numpy(x.transpose(0, 3, 1, 2)) for x in maps]


def channels_last(tensor):
    return numpy(tensor).transpose(0, 2, 3, 1)


@pytest.mark.parametrize("train", [False, True])
def test_both_heads(heads, ours, train):
    """With running averages, and with the statistics of the batch."""
    head, variables = ours
    expected = [one.train(train)(as_torch(levels())) for one in heads]
    maps = [jnp.asarray(x) for x in levels()]
    found = [
        head.apply(variables, x, None, train, method=method, mutable=["batch_stats"])[0]
        for x, method in ((maps, "decode"), (maps[2], "decode_auxiliary"))
    ]
    for one, other in zip(found, expected, strict=True):
        reference = channels_last(other)
        assert one.shape == reference.shape
        np.testing.assert_allclose(one, reference, rtol=1e-4, atol=1e-4)


def test_running_averages():
    """PyTorch's, but for the factor n / (n - 1) of its variance."""
    x = np.random.default_rng(0).normal(2.0, 3.0, (4, 5, 6, 3)).astype(np.float32)
    theirs = torch.nn.BatchNorm2d(3)
    variables = BatchNorm().init(jax.random.key(0), x, True)
    for _ in range(3):
        theirs(torch.from_numpy(x.transpose(0, 3, 1, 2)))
        _, moved = BatchNorm().apply(variables, x, True, mutable=["batch_stats"])
        variables = variables | moved
    found, count = variables["batch_stats"]["norm"], 4 * 5 * 6
    np.testing.assert_allclose(found["mean"], numpy(theirs.running_mean), rtol=1e-5)
    start = 0.9**3  # what is left of the initial 1
    batch = (numpy(theirs.running_var) - start) * (count - 1) / count
    np.testing.assert_allclose(found["var"], start + batch, rtol=1e-5)


def test_the_pyramid():
    """MMSegmentation's neck: transposed convolutions, the identity, and the largest of 2 x 2."""
    rng = np.random.default_rng(0)
    maps = [rng.normal(size=(2, 5, 7, WIDTH)).astype(np.float32) for _ in range(4)]
    layers = [filled(torch.nn.ConvTranspose2d(WIDTH, WIDTH, 2, 2), seed) for seed in range(3)]
    norm = filled(torch.nn.BatchNorm2d(WIDTH), 3).eval()
    four = torch.nn.Sequential(layers[0], norm, torch.nn.GELU(), layers[1])
    given = as_torch(maps)
    expected = [four(given[0]), layers[2](given[1]), given[2], torch.nn.MaxPool2d(2, 2)(given[3])]

    def converted(layer):  # PyTorch's kernel is that of the gradient: turned, inputs first
        turned = numpy(layer.weight).transpose(2, 3, 0, 1)[::-1, ::-1]
        return {"kernel": turned.copy(), "bias": numpy(layer.bias)}

    names = ("first_of_four", "second_of_four", "two")
    params = {name: converted(layer) for name, layer in zip(names, layers, strict=True)}
    scales = {"scale": numpy(norm.weight), "bias": numpy(norm.bias)}
    params["batch_norm"] = {"norm": scales}
    averages = {"mean": numpy(norm.running_mean), "var": numpy(norm.running_var)}
    variables = {"params": params, "batch_stats": {"batch_norm": {"norm": averages}}}
    found = Pyramid().apply(variables, [jnp.asarray(x) for x in maps], False)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, channels_last(other), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [(7, 5), (6, 6), (2, 3), (16, 11)])
@pytest.mark.parametrize("side", POOLS)
def test_pools(size, side):
    x = np.random.default_rng(0).normal(size=(2, *size, 3)).astype(np.float32)
    expected = torch.nn.AdaptiveAvgPool2d(side)(as_torch([x])[0])
    found = adaptive_pool(jnp.asarray(x), side)
    np.testing.assert_allclose(found, channels_last(expected), atol=1e-5)
