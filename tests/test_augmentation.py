"""Mixing, label smoothing and erasing against plain numpy, pixel shares and distributions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from hpm_jax.augmentation import erase, mix, smooth_labels

KEYS = jax.random.split(jax.random.key(0), 2000)
SPREAD = 5  # standard deviations allowed
MIXUP, CUTMIX = 0.0, 1.0  # the switch
SIDES = (11, 20)

mix_jit = jax.jit(mix, static_argnums=(3, 4))  # the alphas choose what is compiled
erase_jit = jax.jit(erase, static_argnums=(2, 3, 4))


def codes(batch, sides=SIDES):
    """Images of one value each, the image's number, and one-hot targets."""
    images = np.broadcast_to(np.arange(batch)[:, None, None, None], (batch, *sides, 2))
    return jnp.asarray(images, jnp.float32), jnp.eye(batch)


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def mix_two(probability, switch, mixup_alpha, cutmix_alpha, sides):
    """For each key, a batch of a black and a white image, mixed."""
    options = (mixup_alpha, cutmix_alpha, probability, switch)
    return jax.vmap(lambda key: mix(key, *codes(2, sides), *options))(KEYS)


def shares(switch, mixup_alpha=2.0, cutmix_alpha=1.0, probability=1.0, sides=SIDES):
    """What the black image of two becomes, `[N, H, W]`, and its target `[N, 2]`, for each key."""
    images, targets = map(
        np.asarray, mix_two(probability, switch, mixup_alpha, cutmix_alpha, sides)
    )
    np.testing.assert_array_equal(images[..., 0], images[..., 1], "every channel alike")
    np.testing.assert_allclose(images[:, 0], 1 - images[:, 1], atol=1e-6, err_msg="and its partner")
    return images[:, 0, :, :, 0], targets[:, 0]


def is_flat(images):
    return (images == images[:, :1, :1]).all((1, 2))


# --- labels


def test_smooth_labels():
    targets = smooth_labels(jnp.array([2, 0]), 4, 0.1)
    expected = np.full((2, 4), 0.025)
    expected[0, 2] = expected[1, 0] = 0.925
    np.testing.assert_allclose(targets, expected, rtol=1e-6)
    assert targets.dtype == jnp.float32
    np.testing.assert_array_equal(smooth_labels(jnp.array([2, 0]), 4, 0.0), np.eye(4)[[2, 0]])


# --- mixup


def test_mixup_is_a_blend_with_the_batch_reversed():
    rng = np.random.default_rng(0)
    images, targets = rng.normal(size=(7, *SIDES, 2)), rng.dirichlet(np.ones(7), 7)
    mixed, mixed_targets = mix_jit(
        KEYS[0], jnp.float32(images), jnp.float32(targets), 2.0, 1.0, 1.0, MIXUP
    )
    # what is kept, from one number; the formula with it, for all
    kept = (float(mixed[0, 0, 0, 0]) - images[6, 0, 0, 0]) / (images - images[::-1])[0, 0, 0, 0]
    assert 0 < kept < 1
    np.testing.assert_allclose(mixed, kept * images + (1 - kept) * images[::-1], atol=2e-6)
    expected = kept * targets + (1 - kept) * targets[::-1]
    np.testing.assert_allclose(mixed_targets, expected, atol=2e-6)
    np.testing.assert_allclose(mixed_targets.sum(1), 1, rtol=1e-6)


@pytest.mark.parametrize(("alpha", "others"), [(0.8, 0.0), (2.0, 1.0)])
def test_the_kept_share_of_mixup_is_beta(alpha, others):
    images, targets = shares(MIXUP, alpha, others)
    assert is_flat(images).all()
    kept = targets[:, 0]
    np.testing.assert_allclose(images[:, 0, 0], 1 - kept, atol=1e-6)
    deviation = np.sqrt(1 / (4 * (2 * alpha + 1)))
    np.testing.assert_allclose(kept.mean(), 0.5, atol=SPREAD * deviation / np.sqrt(len(KEYS)))
    np.testing.assert_allclose(kept.std(), deviation, rtol=0.06)


# --- CutMix


def test_cutmix_targets_are_the_pixel_shares():
    images, targets = shares(CUTMIX)
    assert np.isin(images, (0, 1)).all(), "every pixel is of one image or of the other"
    replaced = images.mean((1, 2), dtype=np.float64)
    np.testing.assert_allclose(targets, np.stack([1 - replaced, replaced], 1), atol=1e-7)
    rows, columns = images.any(2), images.any(1)
    np.testing.assert_array_equal(images, rows[:, :, None] & columns[:, None, :], "a box")
    for spans in (rows, columns):
        assert (abs(np.diff(spans.astype(int), axis=1)).sum(1) <= 2).all(), "in one piece"


def test_cutmix_boxes_are_those_of_the_formula():
    """Sides and areas against numpy's draws of the same lambda, centre and clipping."""
    rng, count, (height, width) = np.random.default_rng(0), 20000, SIDES
    ratio = np.sqrt(1 - rng.beta(1, 1, count))
    spans = []
    for side in (height, width):
        cut, centre = (side * ratio).astype(int), rng.integers(side, size=count)
        low, high = centre - cut // 2, centre + (cut + 1) // 2
        spans.append([low.clip(0, side), high.clip(0, side)])
    (top, bottom), (left, right) = spans
    expected = (bottom - top) * (right - left) / height / width
    images, targets = shares(CUTMIX)
    error = SPREAD * expected.std() / np.sqrt(len(KEYS))
    np.testing.assert_allclose(targets[:, 1].mean(), expected.mean(), atol=error)
    np.testing.assert_allclose(targets[:, 1].std(), expected.std(), rtol=0.06)
    # how often each pixel is replaced
    y, x = np.arange(height)[:, None, None], np.arange(width)[:, None]
    by_pixel = ((top <= y) & (y < bottom) & (left <= x) & (x < right)).mean(-1)
    np.testing.assert_allclose(images.mean(0), by_pixel, atol=SPREAD * 0.45 / np.sqrt(len(KEYS)))


def test_cutmix_takes_the_box_from_the_partner():
    images, targets = codes(7)
    for key in KEYS[:5]:
        mixed, mixed_targets = map(np.asarray, mix_jit(key, images, targets, 2.0, 1.0, 1.0, CUTMIX))
        inside = mixed[0, ..., 0] == 6
        for number in range(7):
            expected = np.where(inside, 6 - number, number)
            np.testing.assert_array_equal(mixed[number, ..., 1], expected)
            shares = np.zeros(7)
            np.add.at(shares, [number, 6 - number], [1 - inside.mean(), inside.mean()])
            np.testing.assert_allclose(mixed_targets[number], shares, atol=1e-6)


# --- which of them


def test_both_are_chosen_between():
    images, targets = shares(0.3)
    # a box of no pixel or of all looks flat as well, but its targets are not mixed
    cut = ~is_flat(images) | np.isin(targets[:, 0], (0, 1))
    assert abs(cut.mean() - 0.3) < SPREAD * np.sqrt(0.3 * 0.7 / len(KEYS))
    np.testing.assert_allclose(targets[~cut, 0].std(), np.sqrt(1 / 20), rtol=0.08)


def test_alphas_of_zero_switch_off():
    images, _ = shares(CUTMIX, mixup_alpha=0.8, cutmix_alpha=0.0)
    assert is_flat(images).all(), "mixup alone, whatever the switch says"
    images, _ = shares(MIXUP, mixup_alpha=0.0, cutmix_alpha=1.0, sides=(12, 12))
    assert np.isin(images, (0, 1)).all() and not is_flat(images).all(), "CutMix alone"
    corners = images[:, [0, 0, -1, -1], [0, -1, 0, -1]].mean(0)
    # in square images too, boxes are off the diagonal as often
    assert abs(corners[[0, 3]].mean() - corners[[1, 2]].mean()) < 0.02
    images, targets = codes(3)
    assert mix(KEYS[0], images, targets, 0.0, 0.0, 1.0, 0.5) == (images, targets)


@pytest.mark.parametrize("switch", [MIXUP, CUTMIX, 0.5])
def test_the_probability_of_mixing_at_all(switch):
    images, targets = shares(switch, probability=0.4)
    untouched = (images == 0).all((1, 2)) & (targets == [1, 0]).all(1)
    # a box of CutMix is empty where its height is below one of eleven pixels
    expected = 0.6 + 0.4 * switch / 11**2
    assert abs(untouched.mean() - expected) < SPREAD * np.sqrt(0.4 * 0.6 / len(KEYS))
    cut = ~is_flat(images[~untouched])
    assert abs(cut.mean() - switch) < SPREAD * 0.5 / np.sqrt(len(cut)) + 0.02, "full boxes are flat"
    images, targets = shares(switch, probability=0.0)
    assert not images.any() and (targets == [1, 0]).all()


# --- erasing

HEIGHT, WIDTH, COUNT, GREY = 24, 36, 1000, 100.0


@functools.cache
def erased_boxes(probability):
    """Which pixels of grey images are erased `[N, H, W]`, and these images `[N, H, W, C]`."""
    grey = jnp.full((COUNT, HEIGHT, WIDTH, 3), GREY)
    images = np.asarray(erase_jit(KEYS[0], grey, probability))
    boxes = (images != GREY).any(-1)
    np.testing.assert_array_equal(boxes, (images != GREY).all(-1), "all channels or none")
    return boxes, images


def test_the_share_of_erased_images():
    boxes, _ = erased_boxes(0.25)
    share = boxes.any((1, 2)).mean()
    assert abs(share - 0.25) < SPREAD * np.sqrt(0.25 * 0.75 / COUNT)
    assert erased_boxes(1.0)[0].any((1, 2)).all()
    assert not erased_boxes(0.0)[0].any()


def test_what_is_erased_is_one_box_of_the_sizes_of_the_formula():
    """Against a plain loop, image by image, with numpy's random numbers."""
    boxes, _ = erased_boxes(1.0)
    heights, widths = boxes.any(2).sum(1), boxes.any(1).sum(1)
    np.testing.assert_array_equal(boxes.sum((1, 2)), heights * widths)
    for spans in (boxes.any(2), boxes.any(1)):
        assert (abs(np.diff(spans.astype(int), axis=1)).sum(1) <= 2).all(), "in one piece"
    assert heights.max() < HEIGHT and widths.max() < WIDTH

    rng, expected = np.random.default_rng(0), []
    while len(expected) < 10 * COUNT:
        for _ in range(10):
            area = rng.uniform(0.02, 1 / 3) * HEIGHT * WIDTH
            aspect = np.exp(rng.uniform(np.log(0.3), np.log(1 / 0.3)))
            h, w = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
            if h < HEIGHT and w < WIDTH:
                top, left = rng.integers(HEIGHT - h + 1), rng.integers(WIDTH - w + 1)
                expected.append([h, w, h * w, h / w, top, left])
                break
    tops, lefts = boxes.any(2).argmax(1), boxes.any(1).argmax(1)
    found = np.stack([heights, widths, heights * widths, heights / widths, tops, lefts], 1)
    error = SPREAD * np.std(expected, 0) / np.sqrt(COUNT)
    assert (abs(found.mean(0) - np.mean(expected, 0)) < error).all()
    np.testing.assert_allclose(found.std(0), np.std(expected, 0), rtol=0.1)
    assert (found.min(0)[4:] == 0).all(), "boxes reach the edges"
    assert (tops + heights).max() == HEIGHT and (lefts + widths).max() == WIDTH
    down, right = tops / (HEIGHT - heights), lefts / (WIDTH - widths)
    assert abs(np.corrcoef([down, right, heights * widths])[np.triu_indices(3, 1)]).max() < 0.16


def test_noise_is_normal():
    boxes, images = erased_boxes(1.0)
    noise = images[boxes]
    assert abs(noise.mean()) < 0.01 and abs(noise.std() - 1) < 0.01
    assert abs((noise**4).mean() - 3) < 0.1, "and as heavy in the tails"
    np.testing.assert_allclose(np.corrcoef(noise.T), np.eye(3), atol=0.01)


def test_images_are_erased_independently():
    boxes, images = erased_boxes(1.0)
    assert len(np.unique(boxes.reshape(COUNT, -1), axis=0)) > 0.98 * COUNT
    areas = boxes.sum((1, 2))
    assert abs(np.corrcoef(areas[:-1], areas[1:])[0, 1]) < SPREAD / np.sqrt(COUNT)
    drawn = erased_boxes(0.25)[0].any((1, 2))
    assert abs(np.corrcoef(drawn[:-1], drawn[1:])[0, 1]) < SPREAD / np.sqrt(COUNT)
    both = boxes[0] & boxes[1]
    assert not np.isin(images[0][both], images[1][both]).any(), "noise of its own"


def test_narrow_images_are_erased_where_a_box_fits():
    """Of boxes for 100 x 4 pixels few are narrow enough, so that ten attempts may fail."""
    erased = np.asarray(erase_jit(KEYS[0], jnp.zeros((200, 100, 4, 1)), 1.0))[..., 0] != 0
    widths = erased.any(1).sum(1)
    assert widths.max() == 3 and 0 < (widths == 0).mean() < 1
    assert (erased.sum((1, 2)) == erased.any(2).sum(1) * widths).all()


# --- compiled and sharded


def arguments(batch=16):
    rng = np.random.default_rng(0)
    images = rng.normal(size=(batch, 8, 12, 3)).astype(np.float32)
    return images, np.eye(batch, dtype=np.float32)


def augment(key, images, targets):
    mixing, erasing = jax.random.split(key)
    return mix(mixing, erase(erasing, images, 0.5), targets, 0.8, 1.0, 1.0, 0.5)


augment_jit = jax.jit(augment)


def test_jit_changes_nothing():
    arrays = [jnp.asarray(array) for array in arguments()]
    for one, other in zip(augment(KEYS[0], *arrays), augment_jit(KEYS[0], *arrays), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_sharding_changes_nothing_and_gathers_nothing():
    """Up to the last bit of a product: the order of fused operations is the compiler's."""
    arrays = arguments()
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    split = NamedSharding(mesh, PartitionSpec("data"))
    placed = [jax.device_put(array, split) for array in arrays]
    compiled = jax.jit(augment, out_shardings=split).lower(KEYS[0], *placed).compile()
    for key in KEYS[:6]:
        for one, other in zip(augment_jit(key, *arrays), compiled(key, *placed), strict=True):
            assert other.sharding == split
            np.testing.assert_allclose(one, other, atol=1e-6)
    text = compiled.as_text()
    assert "f32[2,8,12,3]" in text, "a device's part"
    assert "f32[16,8,12,3]" not in text, "the whole batch"


def test_keys_decide():
    first, again, other = (augment_jit(key, *arguments()) for key in KEYS[jnp.array([0, 0, 1])])
    for one, same, different in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(one, same)
        assert (one != different).any()
