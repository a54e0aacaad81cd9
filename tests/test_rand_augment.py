"""RandAugment: every operation against its formula, the draws against their distributions."""

import numpy as np
import pytest

from hpm_jax.config import ConfigError
from hpm_jax.data import rand_augment as module
from hpm_jax.data.rand_augment import OPERATIONS, Policy, draw, parse_policy, rand_augment

MAE = parse_policy("rand-m9-mstd0.5-inc1")
FILL = (200, 20, 90)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def change(monkeypatch):
    """One operation at a strength: `change(name, image, strength)`."""

    def apply(name, image, strength=0.9, increasing=True):
        monkeypatch.setattr(module, "draw", lambda rng, policy: [(name, strength)])
        policy = Policy(increasing=increasing)
        return rand_augment(image, np.random.default_rng(0), policy, FILL[: image.shape[-1]])

    return apply


# --- operations on values

both = pytest.mark.parametrize("image", [noise(9, 7, 3), noise(9, 7, 1)], ids=["colour", "grey"])


@both
def test_auto_contrast_spreads_each_channel(change, image):
    image = 60 + image // 3
    low, high = image.min((0, 1)), image.max((0, 1))
    expected = (image - low) * (255.0 / (high - low))
    np.testing.assert_allclose(change("AutoContrast", image), expected, atol=1)


@both
def test_equalize_is_the_cumulative_histogram(change, image):
    image = np.tile(image // 2, (12, 12, 1))
    changed = change("Equalize", image)
    for c in range(image.shape[-1]):
        below = np.array([(image[..., c] < value).sum() for value in range(256)])
        last = (image[..., c] == image[..., c].max()).sum()
        expected = (below * 255 / (image[..., c].size - last))[image[..., c]]
        # Pillow counts in steps of whole pixels: at most 255 of 9072 are lost to rounding
        np.testing.assert_allclose(changed[..., c], np.minimum(expected, 255), atol=8)


@both
def test_invert(change, image):
    np.testing.assert_array_equal(change("Invert", image), 255 - image)


@both
@pytest.mark.parametrize(
    ("strength", "increasing", "bits"),
    [(0.1, True, 4), (0.3, True, 3), (-0.9, True, 1), (0.9, False, 3), (-0.3, False, 1)],
)
def test_posterize_keeps_the_highest_bits(change, image, strength, increasing, bits):
    expected = image // 2 ** (8 - bits) * 2 ** (8 - bits)
    np.testing.assert_array_equal(change("Posterize", image, strength, increasing), expected)


def test_posterize_to_no_bits_is_black_and_to_all_bits_nothing(change):
    image = noise(5, 5, 3)
    assert not change("Posterize", image, 1.0).any()
    assert not change("Posterize", image, 3.0).any()
    np.testing.assert_array_equal(change("Posterize", image, 2.5, False), image)


@both
@pytest.mark.parametrize(
    ("strength", "increasing", "threshold"),
    [(0.0, True, 256), (0.9, True, 26), (-0.5, True, 128), (0.9, False, 230), (1.2, True, 0)],
)
def test_solarize_inverts_from_a_threshold(change, image, strength, increasing, threshold):
    expected = np.where(image < threshold, image, 255 - image)
    np.testing.assert_array_equal(change("Solarize", image, strength, increasing), expected)


@both
@pytest.mark.parametrize(("strength", "added"), [(0.9, 99), (-0.25, 27), (2.0, 128)])
def test_solarize_add_brightens_the_dark_half(change, image, strength, added):
    expected = np.where(image < 128, np.minimum(image.astype(int) + added, 255), image)
    np.testing.assert_array_equal(change("SolarizeAdd", image, strength), expected)


def blend(base, image, factor):
    return np.clip(base + factor * (image.astype(float) - base), 0, 255)


def luma(image):
    """ITU-R 601."""
    return image @ [0.299, 0.587, 0.114] if image.shape[-1] == 3 else image[..., 0].astype(float)


def smooth(image):
    """The kernel of Pillow's SMOOTH, inside; the edge as it was."""
    smoothed = image.astype(float)
    inner = sum(
        (5 if (y, x) == (1, 1) else 1) * image.astype(float)[y : y + 7, x : x + 5]
        for y in range(3)
        for x in range(3)
    )
    smoothed[1:-1, 1:-1] = inner / 13
    return smoothed


BASES = {
    "Brightness": lambda image: 0.0,
    "Contrast": lambda image: luma(image).mean(),
    "Color": lambda image: luma(image)[..., None],
    "Sharpness": smooth,
}


@both
@pytest.mark.parametrize("name", BASES)
@pytest.mark.parametrize(
    ("strength", "increasing", "factor"),
    [
        (0.9, True, 1.81),
        (-0.9, True, 0.19),
        (-1.5, True, 0.1),
        (0.0, True, 1.0),
        (0.3, False, 0.64),
        (-0.3, False, 0.64),
    ],
)
def test_enhancements(change, image, name, strength, increasing, factor):
    changed = change(name, image, strength, increasing)
    # Pillow rounds the base to a whole value, then the blend: 1 of each
    expected = blend(BASES[name](image), image, factor)
    np.testing.assert_allclose(changed, expected, atol=1 + abs(1 - factor))


def test_color_leaves_grey_as_it_is(change):
    image = noise(6, 6, 1)
    for strength in (-0.9, 0.5):
        np.testing.assert_array_equal(change("Color", image, strength), image)


# --- operations on places

HEIGHT, WIDTH = 40, 60


def ramp(x, y):
    """Planes of values, which interpolation keeps: one rises to the right, one down, one both."""
    return np.stack([20 + 3 * x, 30 + 4 * y, 40 + x + 2 * y], axis=-1)


def sources(name, strength):
    """Where each pixel comes from, as (x, y); the centre of the first is (0, 0)."""
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(float)
    middle_x, middle_y = (WIDTH - 1) / 2, (HEIGHT - 1) / 2
    if name == "Rotate":  # counter-clockwise on the screen, around the middle
        angle = np.deg2rad(30 * strength)
        right, down = x - middle_x, y - middle_y
        return (
            np.cos(angle) * right - np.sin(angle) * down + middle_x,
            np.sin(angle) * right + np.cos(angle) * down + middle_y,
        )
    if name == "ShearX":
        return x + 0.3 * strength * (y + 0.5), y
    if name == "ShearY":
        return x, y + 0.3 * strength * (x + 0.5)
    if name == "TranslateX":
        return x + 0.45 * strength * WIDTH, y
    return x, y + 0.45 * strength * HEIGHT


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("strength", [0.9, -0.9, 0.13])
@pytest.mark.parametrize("name", ["Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY"])
def test_geometry(change, name, strength, channels):
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    image = ramp(x, y).astype(np.uint8)[..., :channels]
    changed = change(name, image, strength)
    x, y = sources(name, strength)
    depth = np.minimum(np.minimum(x, WIDTH - 1 - x), np.minimum(y, HEIGHT - 1 - y))
    inside, outside = depth > 2, depth < -1
    assert inside.mean() > 0.3 and (outside.any() or abs(strength) < 0.5)
    # Pillow's cubic (a = -1) keeps a plane within half a value, and cuts off what is behind the dot
    np.testing.assert_allclose(changed[inside], ramp(x, y)[inside][:, :channels], atol=1.5)
    assert (changed[outside] == FILL[:channels]).all()


def test_geometry_is_bicubic(change):
    """A line moved by half a pixel spreads over four columns, two of them below the ground."""
    image = np.full((1, 40, 1), 100, np.uint8)
    image[0, 20] = 200
    moved = change("TranslateX", image, 0.5 / (0.45 * 40))
    np.testing.assert_allclose(moved[0, 18:22, 0], [87, 162, 162, 87], atol=1)
    image = np.repeat(image, 40, axis=0)
    for name in ("Rotate", "ShearX"):
        assert change(name, image, 0.3).min() < 95, "below all values of the image"


# --- draws


def test_the_share_of_untouched_images():
    rng, image = np.random.default_rng(0), noise(4, 4, 3)
    share = np.mean([rand_augment(image, rng, MAE, FILL) is image for _ in range(4000)])
    assert abs(share - 0.25) < 5 * np.sqrt(0.25 * 0.75 / 4000), "neither of two, half of the time"
    counts = [len(draw(rng, parse_policy("rand-n3-p0.2"))) for _ in range(4000)]
    np.testing.assert_allclose(np.mean(counts), 0.6, atol=5 * np.sqrt(3 * 0.16 / 4000))
    assert max(counts) == 3


def test_operations_are_drawn_uniformly_and_again():
    rng, policy = np.random.default_rng(0), parse_policy("rand-p1")
    drawn = [[name for name, _ in draw(rng, policy)] for _ in range(6000)]
    for layer in (0, 1):
        counts = np.array([sum(names[layer] == name for names in drawn) for name in OPERATIONS])
        assert len(counts) == 15 and abs(counts - 400).max() < 5 * np.sqrt(400)
    again = np.mean([first == second for first, second in drawn])
    assert abs(again - 1 / 15) < 5 * np.sqrt(1 / 15 / 6000), "with replacement"


def strengths(text, count=4000):
    rng, policy = np.random.default_rng(0), parse_policy(text + "-n1-p1")
    return np.array([strength for _ in range(count) for _, strength in draw(rng, policy)])


def test_magnitudes_are_normal_and_clipped():
    sizes = abs(strengths("rand-m5-mstd0.5")) * 10
    np.testing.assert_allclose([sizes.mean(), sizes.std()], [5, 0.5], atol=0.04)
    sizes = abs(strengths("rand-m9-mstd0.5")) * 10
    clipped = (sizes == 10).mean()
    assert sizes.max() == 10 and abs(clipped - 0.02275) < 0.012, "two deviations above the mean"
    sizes = abs(strengths("rand-m1-mstd1")) * 10
    assert abs((sizes == 0).mean() - 0.1587) < 0.03, "and one below"


def test_magnitudes_without_deviation_above_ten_and_uniform():
    np.testing.assert_allclose(abs(strengths("rand-m9", 50)), 0.9)
    np.testing.assert_allclose(abs(strengths("rand-m15", 50)), 1.0)
    np.testing.assert_allclose(abs(strengths("rand-m15-mmax12", 50)), 1.2)
    uniform = abs(strengths("rand-m8-mstd101")) * 10
    np.testing.assert_allclose([uniform.mean(), uniform.std()], [4, 8 / np.sqrt(12)], atol=0.2)
    assert uniform.max() <= 8


def test_signs_are_fair():
    assert abs((strengths("rand-m9") > 0).mean() - 0.5) < 5 * 0.5 / np.sqrt(4000)


@pytest.mark.parametrize("shape", [(32, 48, 3), (17, 17, 1), (1, 1, 3)])
def test_an_image_is_a_function_of_the_generator(shape):
    image = noise(*shape)
    kept = image.copy()
    fill = FILL[: shape[-1]]
    for seed in range(60):
        one, other = (rand_augment(image, np.random.default_rng(seed), MAE, fill) for _ in range(2))
        assert one.shape == shape and one.dtype == np.uint8
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(image, kept)


def test_views_such_as_a_mirrored_crop():
    image = noise(20, 20, 3)[:, ::-1]
    for seed in range(8):
        view = rand_augment(image, np.random.default_rng(seed), MAE, FILL)
        copy = rand_augment(image.copy(), np.random.default_rng(seed), MAE, FILL)
        np.testing.assert_array_equal(view, copy)


def test_other_channels_and_a_wrong_fill():
    with pytest.raises(ConfigError, match="these have 4"):
        rand_augment(noise(4, 4, 4), np.random.default_rng(0), MAE, (0, 0, 0, 0))
    with pytest.raises(ConfigError, match=r"fill = \(1, 2, 3\)"):
        rand_augment(noise(4, 4, 1), np.random.default_rng(0), MAE, (1, 2, 3))


# --- policies


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("rand", Policy(10, 2, 0.5, 0.0, 10, False)),
        ("rand-m9-mstd0.5-inc1", Policy(9, 2, 0.5, 0.5, 10, True)),
        ("rand-inc0-p1.0-n4-mmax20-m12", Policy(12, 4, 1.0, 0.0, 20, False)),
        ("rand-mstd101-m7", Policy(7, 2, 0.5, 101.0, 10, False)),
    ],
)
def test_policies(text, policy):
    assert parse_policy(text) == policy


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "begins with ''"),
        ("augmix-m5", "begins with 'augmix'"),
        ("rand-q9", "no part 'q9'"),
        ("rand-tweights", "no part 'tweights'"),
        ("rand-m9-", "no part ''"),
        ("rand-M9", "no part 'M9'"),
        ("rand-m9.5", "'m9.5' is not like m9"),
        ("rand-m", "'m' is not like"),
        ("rand-n0", "'n0' is not like n2"),
        ("rand-p1.5", "'p1.5' is not like p0.5"),
        ("rand-p50", "'p50' is not like p0.5"),
        ("rand-mstd1.2.3", "'mstd1.2.3' is not like"),
        ("rand-mmax0", "'mmax0' is not like"),
        ("rand-inc2", "'inc2' is not like inc1 or inc0"),
        ("rand-m9-n2-m8", "'m8' is its second 'm' part"),
    ],
)
def test_wrong_policies_name_the_part(text, part):
    with pytest.raises(ConfigError) as error:
        parse_policy(text)
    assert part in str(error.value) and repr(text) in str(error.value)
    assert "rand-m9-mstd0.5-inc1" in str(error.value) or "second" in part
