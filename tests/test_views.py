"""One view for an image, its label map and its boxes; examples on their way to a batch."""

import dataclasses

import numpy as np
import pytest
from small_images import config_of, encode
from small_videos import video_data

from hpm_jax.data.geometry import Box, View
from hpm_jax.data.pipeline import evaluation_batches, train_batches
from hpm_jax.data.rand_augment import parse_policy
from hpm_jax.data.records import DataError
from hpm_jax.data.views import test_view as make_test_view
from hpm_jax.data.views import train_view

HEIGHT, WIDTH = 90, 120


def coordinates(height=HEIGHT, width=WIDTH):
    """An image whose pixels hold their row and column, and a label map of the same, 1000 r + c."""
    rows, columns = np.indices((height, width))
    image = np.stack([rows, columns, np.zeros_like(rows)], axis=-1).astype(np.uint8)
    return image, 1000 * rows + columns


def assert_same_places(image, label_map):
    """Each label is of the place that its pixel shows: within a pixel, and one of rounding."""
    np.testing.assert_allclose(image[..., 0], label_map // 1000, atol=2)
    np.testing.assert_allclose(image[..., 1], label_map % 1000, atol=2)


def options(**changes):
    return config_of(**{"channels": 3, "image_size": (32, 48), **changes}).data


# --- label maps


@pytest.mark.parametrize("crop", ["resized", "multi_scale"])
@pytest.mark.parametrize("stored", ["array", "file"])
def test_a_label_map_goes_through_the_crop_and_the_flip_of_its_image(crop, stored):
    image, labels = coordinates()
    example = {"image": image, "label_map": labels}
    if stored == "file":
        example = {"image": encode(image), "label_map": labels}
    view, flipped = train_view(options(crop=crop)), set()
    for seed in range(20):
        seen = view(example, np.random.default_rng(seed))
        assert seen["image"].shape == (32, 48, 3) and seen["label_map"].shape == (32, 48)
        assert_same_places(seen["image"], seen["label_map"])
        assert np.isin(seen["label_map"], labels).all(), "no label is made up"
        flipped.add(bool(seen["label_map"][0, 0] > seen["label_map"][0, -1]))
    assert flipped == {True, False}


def test_a_large_file_is_decoded_small_and_its_label_map_is_not():
    """The box of the image shrinks with it; that of the label map must not."""
    blocks = np.random.default_rng(0).integers(0, 2, (6, 8))
    labels = np.kron(blocks, np.ones((200, 200), int))
    image = np.repeat(255 * labels[..., None], 3, axis=-1).astype(np.uint8)
    example = {"image": encode(image, "JPEG", quality=95), "label_map": labels}
    for seed in range(4):
        seen = train_view(options(crop_scale=(0.5, 1.0)))(example, np.random.default_rng(seed))
        differ = (seen["image"][..., 0] > 127) != seen["label_map"].astype(bool)
        assert seen["label_map"].std() > 0 and differ.mean() < 0.02, "at edges alone"


def test_label_maps_of_a_centre_crop():
    image, labels = coordinates()
    view = make_test_view(options(test_crop=0.7))
    seen = view({"image": image, "label_map": labels})
    assert_same_places(seen["image"], seen["label_map"])
    assert abs(seen["label_map"].mean() - labels.mean()) < 1100, "within a pixel"


def test_label_maps_in_files():
    """Whole numbers stay as they are: of a palette, and those beyond 255."""
    image, labels = coordinates()
    deep = labels.astype(np.uint16)
    view = train_view(options())
    for kept, file in (
        (deep, encode(deep)),
        (labels % 7, encode((labels % 7).astype(np.uint8))),
    ):
        seen = view({"image": image, "label_map": file}, np.random.default_rng(0))
        expected = view({"image": image, "label_map": kept}, np.random.default_rng(0))
        np.testing.assert_array_equal(seen["label_map"], expected["label_map"])


def test_label_maps_and_boxes_of_clips():
    """Those of the frames that are seen, by the view of the clip."""
    image, labels = coordinates()
    count = 30
    video = np.repeat(image[None], count, axis=0)
    video[..., 2] = np.arange(count)[:, None, None]
    boxes = np.tile(np.array([30.0, 20, 90, 70]), (count, 1, 1))
    example = {"image": video, "label_map": labels + 10**6 * np.arange(count)[:, None, None]}
    example["boxes"] = boxes
    data = video_data(frames=4, clips=2, image_size=(32, 48))
    seen = train_view(data)(example, np.random.default_rng(1))
    assert seen["image"].shape == (2, 4, 32, 48, 3) and seen["label_map"].shape == (2, 4, 32, 48)
    assert seen["boxes"].shape == (2, 4, 1, 4)
    np.testing.assert_array_equal(seen["image"][..., 2], seen["label_map"] // 10**6)
    assert_same_places(seen["image"], seen["label_map"] % 10**6)

    data = video_data(frames=4, image_size=(32, 48))
    seen = make_test_view(data, clips=2, crops=3)(example)
    assert seen["label_map"].shape == (6, 4, 32, 48) and seen["boxes"].shape == (6, 4, 1, 4)
    np.testing.assert_array_equal(seen["image"][..., 2], seen["label_map"] // 10**6)
    assert_same_places(seen["image"], seen["label_map"] % 10**6)


# --- boxes


def test_boxes_go_where_their_pixels_go():
    """A white rectangle on black, found again in the view."""
    view, found = train_view(options(crop_scale=(0.3, 1.0))), 0
    box = np.array([[40, 20, 80, 60]])
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[20:60, 40:80] = 255
    for seed in range(30):
        seen = view({"image": image, "boxes": box}, np.random.default_rng(seed))
        left, top, right, bottom = seen["boxes"][0]
        assert seen["boxes"].dtype == np.float32
        white = np.argwhere(seen["image"][..., 0] > 127)
        if len(white) < 20:
            continue
        found += 1
        (first, start), (last, end) = white.min(axis=0), white.max(axis=0) + 1
        np.testing.assert_allclose([left, top, right, bottom], [start, first, end, last], atol=1)
    assert found > 15


def test_boxes_are_clipped_and_those_outside_become_zeros():
    boxes = np.array([[0.0, 0, 100, 80], [12, 22, 17, 27], [0, 0, 10, 20], [60, 0, 70, 80]])
    view = View(Box(top=20, left=10, height=20, width=10), flip=False, size=(40, 40))
    expected = [[0, 0, 40, 40], [8, 4, 28, 14], [0, 0, 0, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(view.apply_boxes(boxes), expected)
    flipped = view._replace(flip=True).apply_boxes(boxes)
    np.testing.assert_allclose(flipped[:2], [[0, 0, 40, 40], [12, 4, 32, 14]])
    assert not flipped[2:].any()
    windowed = view._replace(window=Box(4, 2, 10, 20)).apply_boxes(boxes)
    np.testing.assert_allclose(windowed[:2], [[0, 0, 20, 10], [6, 0, 20, 10]])


def test_windows_cut_label_maps_as_they_cut_images():
    image, labels = coordinates()
    view = View(Box(10, 20, 60, 80), flip=True, size=(45, 60), window=Box(5, 7, 30, 40))
    seen, map_of = view.apply_image(image), view.apply_label_map(labels)
    assert seen.shape == (30, 40, 3) and map_of.shape == view.shape == (30, 40)
    assert_same_places(seen, map_of)


# --- through the pipeline


@dataclasses.dataclass(frozen=True)
class Scenes:
    """A source of one's own: images without labels, each with a label map and two boxes."""

    count: int = 20
    broken: tuple[int, ...] = ()

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        image, labels = coordinates()
        image[..., 2] = index
        if index in self.broken:
            image = b"not an image"
        boxes = np.array([[10, 10, 50, 50], [0, 0, 0, 0]])
        return {"image": image, "label_map": labels, "boxes": boxes, "box_labels": np.array([3, 0])}

    def name(self, index):
        return f"scene {index}"


@pytest.mark.parametrize("workers", [0, 1])
def test_a_source_with_label_maps_reaches_the_batch(workers):
    config = config_of(channels=3)
    run = dataclasses.replace(config.run, workers=workers)
    config = dataclasses.replace(config, run=run)
    batches = train_batches(Scenes(broken=(3,)), config)
    batch = next(batches)
    batches.close()
    assert batch["image"].shape == (48, 16, 16, 3) and batch["label_map"].shape == (48, 16, 16)
    assert batch["boxes"].shape == (48, 2, 4) and not batch["boxes"][:, 1].any()
    assert batch["box_labels"].shape == (48, 2) and (batch["label"] == -1).all()
    for image, label_map in zip(batch["image"], batch["label_map"], strict=True):
        assert_same_places(image, label_map)
    assert (batch["broken"] == 3).any() and 3 not in batch["image"][..., 2]


def test_label_maps_in_batches_of_evaluation():
    """A broken image and the rest of the last batch are black, of weight 0, with labels of 0."""
    config = config_of(channels=3)
    records = Scenes(10, broken=(0, 4))
    batches = list(evaluation_batches(records, config.data, config.run, 8))
    weight = np.concatenate([batch["weight"] for batch in batches])
    np.testing.assert_array_equal(np.flatnonzero(weight == 0), [0, 4, *range(10, 16)])
    for name in ("image", "label_map", "boxes", "box_labels"):
        values = np.concatenate([batch[name] for batch in batches])
        assert not values[weight == 0].any() and values[weight == 1].any()


def test_a_label_map_of_another_size_is_a_broken_example():
    """As any that cannot be read: the run goes on, and names it."""

    class OneOdd(Scenes):
        def __getitem__(self, index):
            example = super().__getitem__(index)
            if index == 5:
                example["label_map"] = example["label_map"][1:]
            return example

    config = config_of(channels=3)
    batch = next(train_batches(OneOdd(), config))
    assert (batch["broken"] == 5).any() and 5 not in batch["image"][..., 2]


def test_rand_augment_would_leave_label_maps_behind():
    view = train_view(options(), parse_policy("rand-m9-mstd0.5"))
    with pytest.raises(DataError, match="label_map and boxes, which RandAugment would leave"):
        view(Scenes()[0], np.random.default_rng(0))
