"""Attention and principal components of an encoder, against plain numpy and scikit-learn."""

import argparse
import dataclasses

import numpy as np
import pytest
from PIL import Image
from sklearn.decomposition import PCA
from small_weights import ENCODER, VIDEO_ENCODER, random_weights

from hpm_jax.convert.weights import Weights
from hpm_jax.convert.write import write_weights
from hpm_jax.visualize import attention, features
from hpm_jax.visualize.photographs import PhotographError, load_photographs

SQUARE = dataclasses.replace(ENCODER, grid=(1, 4, 4))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Weights, photographs, and what only looks like one."""
    folder = tmp_path_factory.mktemp("encoder")
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        pixels = rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
    (folder / "none.jpg").write_bytes(b"no photograph")
    weights = random_weights(SQUARE)
    attention_of = weights.params["encoder"]["transformer"]["blocks"]["attention"]
    attention_of["qkv"]["kernel"] *= 5  # so that attention is far from uniform
    write_weights(folder / "image.safetensors", weights)
    write_weights(folder / "video.safetensors", random_weights(VIDEO_ENCODER))
    return folder


def photographs(files, weights="image.safetensors", photos=("a.png", "b.png"), **changes):
    options = {"init_from": str(files / weights), "weights": "student", "block": -1}
    options |= {"image_size": None, "photos": [str(files / photo) for photo in photos]} | changes
    return load_photographs(argparse.Namespace(**options), cls_token=True)


def layer_norm(x, params):
    normed = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return normed * params["scale"] + params["bias"]


@pytest.mark.parametrize("size", [None, "24,32"])
def test_attention_is_the_softmax_of_the_models_own_block(files, size):
    photos = photographs(files, image_size=size, block=1)
    found = attention.cls_attention(photos)
    patches = np.asarray(photos.tokenizer(photos.images))
    assert found.shape == (2, 4, 1 + patches.shape[1]) and found.dtype == np.float32
    np.testing.assert_allclose(found.sum(axis=-1), 1.0, rtol=1e-5)

    params = photos.params
    embedding = params["patch_embedding"]["projection"]
    positions = np.asarray(params["positions"])
    tokens = patches @ embedding["kernel"] + embedding["bias"] + positions[:, 1:]
    cls = np.broadcast_to(params["cls_token"] + positions[:, :1], (2, 1, 32))
    block = params["transformer"]["blocks"]
    first = {name: part[0] for name, part in block["LayerNorm_0"].items()}
    normed = layer_norm(np.concatenate([cls, tokens], axis=1), first)
    qkv = normed @ block["attention"]["qkv"]["kernel"][0] + block["attention"]["qkv"]["bias"][0]
    query, key, _ = qkv.reshape(*qkv.shape[:2], 3, 4, 8).transpose(2, 0, 3, 1, 4)
    scores = np.einsum("bhd,bhnd->bhn", query[:, :, 0], key) / np.sqrt(8)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    expected = weights / weights.sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=1e-6)
    assert expected.max() > 2 * expected.mean(), "it is not uniform"


def test_blocks_count_from_the_end_too(files):
    last, second = (attention.cls_attention(photographs(files, block=b)) for b in (-1, 2))
    np.testing.assert_array_equal(last, second)
    assert np.abs(last - attention.cls_attention(photographs(files, block=1))).max() > 1e-3


def test_components_are_those_of_scikit_learn_and_of_the_covariance():
    values = np.random.default_rng(0).normal(size=(60, 5)) * [1, 5, 2, 3, 0.1]
    found = features.components(values)
    centred = values - values.mean(axis=0)
    eigenvalues, vectors = np.linalg.eigh(centred.T @ centred)
    order = np.argsort(-eigenvalues)[:3]
    np.testing.assert_allclose(np.abs(found), np.abs(centred @ vectors[:, order]), atol=1e-9)
    np.testing.assert_allclose(np.abs(found), np.abs(PCA(3).fit_transform(values)), atol=1e-9)


def test_colours_of_all_photographs_come_from_one_projection(files):
    encoded = features.patch_features(photographs(files))
    assert encoded.shape == (2, 16, 32)
    colors = features.colors_of(encoded)
    assert colors.shape == (2, 16, 3) and 0 <= colors.min() < colors.max() <= 1
    turned = features.colors_of(encoded[::-1])
    np.testing.assert_allclose(np.minimum(abs(turned[::-1] - colors), 1), 0, atol=1e-4)


def test_the_foreground_is_one_side_of_a_threshold():
    rng = np.random.default_rng(0)
    encoded = rng.normal(size=(2, 20, 6))
    encoded[:, :8, 0] += 20  # the first component tells these from the others
    above = features.colors_of(encoded, 0.5).any(axis=-1)
    below = features.colors_of(encoded, 0.5, invert=True).any(axis=-1)
    sides = [above[0, :8].mean() > 0.8, below[0, :8].mean() > 0.8]
    assert sorted(sides) == [False, True] and not (above & below).any()


def test_both_commands_draw(files, capsys):
    photos = [str(files / "a.png"), str(files / "b.png")]
    for command in (attention, features):
        out = files / f"{command.__name__}.png"
        weights = f"--init_from={files / 'image.safetensors'}"
        command.main([weights, f"--out={out}", "--image_size=16,32", *photos])
        assert f"wrote {out}" in capsys.readouterr().out
        drawn = np.asarray(Image.open(out).convert("RGB"))
        assert len(np.unique(drawn.reshape(-1, 3), axis=0)) > 100


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"photos": ["none.jpg"]}, r"none\.jpg cannot be read as an image \(.*\): expected"),
        ({"photos": ["gone.jpg"]}, r"there is no file .*gone\.jpg"),
        ({"weights": "video.safetensors"}, r"encodes videos of 4 frames, expected an encoder of"),
        ({"block": 3}, r"--block=3 does not exist: the encoder has 2, so 1 to 2, or -1 to -2"),
        ({"block": 0}, r"--block=0 does not exist"),
        ({"image_size": "17"}, r"--image_size=17: height 17 is not a multiple of the patch size 4"),
        ({"image_size": "large"}, r"--image_size=large: expected SIDE or HEIGHT,WIDTH"),
    ],
)
def test_what_cannot_be_drawn_is_said_in_one_sentence(files, changes, message):
    with pytest.raises(PhotographError, match=message) as caught:
        photographs(files, **changes)
    assert "\n" not in str(caught.value)


def test_an_encoder_without_a_cls_token_has_features_alone(files, monkeypatch):
    layout = dataclasses.replace(SQUARE, layout="videomae")
    weights = random_weights(layout)
    module = "hpm_jax.visualize.photographs.read_weights"
    monkeypatch.setattr(module, lambda *_: Weights(layout, weights.params))
    with pytest.raises(PhotographError, match="has no cls token, whose attention this is"):
        photographs(files)
    options = argparse.Namespace(
        init_from=str(files / "image.safetensors"),
        weights="student",
        block=-1,
        image_size=None,
        photos=[str(files / "a.png")],
    )
    assert features.patch_features(load_photographs(options, cls_token=False)).shape == (1, 16, 32)


@pytest.mark.parametrize("values", [np.zeros((2, 8)), np.full((9, 8), np.nan)])
def test_features_without_components(values):
    with pytest.raises(PhotographError):
        features.components(values)


def test_a_command_ends_with_the_sentence(files):
    with pytest.raises(SystemExit) as caught:
        attention.main([f"--init_from={files / 'image.safetensors'}", str(files / "none.jpg")])
    assert str(caught.value).startswith("error: ") and "none.jpg" in str(caught.value)
    with pytest.raises(SystemExit) as caught:
        attention.main([f"--init_from={files / 'gone.npz'}", str(files / "a.png")])
    assert str(caught.value).startswith("error: ") and "gone.npz" in str(caught.value)
