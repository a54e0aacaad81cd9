"""RandAugment against timm's own, pixel by pixel."""

import numpy as np
import pytest
from PIL import Image
from timm.data import auto_augment

from hpm_jax.data import rand_augment
from hpm_jax.data.rand_augment import INCREASING, OPERATIONS, ORIGINAL, parse_policy

FILL = (124, 116, 104)
SAMPLES = {
    "random": np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8),
    "smooth": np.stack(np.meshgrid(np.arange(64) * 2 + 9, np.arange(48) * 5), -1)[
        ..., [0, 1, 1]
    ].astype(np.uint8),
}
MAGNITUDES = (0.0, 0.4, 3.0, 4.9, 7.5, 9.0, 10.0, 13.7)  # above 10 where mmax allows it


def names_in_timm(increasing):
    """Our names to timm's."""
    names = {name: name for name in OPERATIONS} | {
        f"Translate{x}": f"Translate{x}Rel" for x in "XY"
    }
    if increasing:
        for name in ("Posterize", "Solarize", "Color", "Contrast", "Brightness", "Sharpness"):
            names[name] += "Increasing"
    return names


def by_timm(monkeypatch, name, image, magnitude, sign):
    """timm's operation, its random sign fixed."""
    monkeypatch.setattr(auto_augment, "_randomly_negate", lambda value: sign * value)
    hparams = {"img_mean": FILL, "interpolation": Image.Resampling.BICUBIC, "magnitude_max": 20}
    operation = auto_augment.AugmentOp(name, prob=1.0, magnitude=magnitude, hparams=hparams)
    if image.shape[-1] == 1:
        operation.kwargs["fillcolor"] = FILL[0]
        return np.asarray(operation(Image.fromarray(image[..., 0])))[..., None]
    return np.asarray(operation(Image.fromarray(image)))


def by_us(monkeypatch, name, image, magnitude, sign, policy):
    monkeypatch.setattr(rand_augment, "draw", lambda *_: [(name, sign * magnitude / 10)])
    fill = FILL[: image.shape[-1]]
    return rand_augment.rand_augment(image, np.random.default_rng(0), policy, fill)


@pytest.mark.parametrize("increasing", [True, False])
def test_operations_are_the_same_set(increasing):
    theirs = auto_augment._RAND_INCREASING_TRANSFORMS
    theirs = theirs if increasing else auto_augment._RAND_TRANSFORMS
    assert list(names_in_timm(increasing).values()) == theirs


@pytest.mark.parametrize("increasing", [True, False])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("sample", SAMPLES)
@pytest.mark.parametrize("name", OPERATIONS)
def test_pixels_are_the_same(monkeypatch, name, sample, channels, increasing):
    image = SAMPLES[sample][..., :channels]
    policy = parse_policy(f"rand-inc{increasing:d}")
    theirs = names_in_timm(increasing)[name]
    for magnitude in MAGNITUDES:
        bits = {"Posterize": int(0.4 * magnitude), "PosterizeIncreasing": 4 - int(0.4 * magnitude)}
        if bits.get(theirs, 1) < 1:
            continue  # black, which Pillow 13 refuses to make for timm
        for sign in (1, -1):
            np.testing.assert_array_equal(
                by_us(monkeypatch, name, image, magnitude, sign, policy),
                by_timm(monkeypatch, theirs, image, magnitude, sign),
                err_msg=f"{name} at magnitude {sign * magnitude}",
            )


@pytest.mark.parametrize(
    "text",
    [
        "rand",
        "rand-m9-mstd0.5-inc1",
        "rand-m7-n3-p0.25-inc0",
        "rand-m12-mmax20-mstd1.5",
        "rand-mstd101-inc1",
    ],
)
def test_policies_are_read_as_by_timm(text):
    policy, theirs = parse_policy(text), auto_augment.rand_augment_transform(text, {})
    operation = theirs.ops[0]
    assert policy.layers == theirs.num_layers
    assert policy.magnitude == operation.magnitude
    assert policy.probability == operation.prob
    assert policy.maximum == (operation.magnitude_max or 10)
    uniform = operation.magnitude_std == float("inf")
    assert policy.deviation > 100 if uniform else policy.deviation == operation.magnitude_std
    table = INCREASING if policy.increasing else ORIGINAL
    names = [names_in_timm(policy.increasing)[name] for name in table]
    assert [operation.name for operation in theirs.ops] == names
