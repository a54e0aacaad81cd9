"""COCO's layout, what is refused in it, and views of images with their objects."""

import json
import types

import numpy as np
import pytest
from PIL import Image
from small_blobs import CLASSES, change, write_annotations, write_blobs

from hpm_jax.config.detect import DetectAugment, DetectData
from hpm_jax.data.coco import Instances, coco, find_instances, lengths_of
from hpm_jax.data.detect_views import (
    draw_window,
    fitted,
    point_maps,
    random_view,
    seen_objects,
    whole_view,
)
from hpm_jax.data.detected import Detected, check_first, check_masks
from hpm_jax.data.geometry import Box, View
from hpm_jax.data.records import DataError
from hpm_jax.detection.rasters import decode, raster, run_lengths

pytest.importorskip("pycocotools")

SIZE = (48, 64)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return write_blobs(tmp_path_factory.mktemp("blobs"))


@pytest.fixture
def root(tmp_path):
    return write_blobs(tmp_path / "blobs", {"train": 2, "val": 1})


def options(root, **changes):
    return DetectData(path=str(root), image_size=(32, 32), **changes)


def test_both_splits_with_their_objects(shared):
    splits = coco(options(shared))
    assert (len(splits.train), len(splits.test), splits.classes) == (6, 3, CLASSES)
    records, place = find_instances(splits.train, 2)
    instances = records.instances[place]
    document = json.loads((shared / "annotations/train.json").read_text())
    rows = [one for one in document["annotations"] if one["image_id"] == 3]
    np.testing.assert_allclose(
        instances.boxes[:, 2:] - instances.boxes[:, :2], [one["bbox"][2:] for one in rows]
    )
    assert instances.classes.tolist() == [(one["category_id"] - 1) // 3 for one in rows]
    assert set(splits.train[0]) == {"image"} and splits.train.name(0).endswith("train/blob_1.png")
    example = Detected(splits.train, options(shared))[0]
    assert example["image"].height == 48 and len(example["instances"].boxes)


def test_a_missing_val_split_is_held_out(root):
    (root / "annotations/val.json").unlink()
    splits = coco(options(root, holdout=0.5))
    assert len(splits.train) == len(splits.test) == 1
    images, place = find_instances(splits.test, 0)
    assert images.name(place) == splits.test.name(0)


def test_names_of_coco(root):
    for split in ("train", "val"):
        (root / "annotations" / f"{split}.json").rename(
            root / "annotations" / f"instances_{split}.json"
        )
        (root / "images").mkdir(exist_ok=True)
        (root / split).rename(root / "images" / split)
    assert len(coco(options(root)).train) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bbox": [3, 4, 0, 5]}, r"of blob_1.png has an empty box \[3, 4, 0, 5\]"),
        ({"bbox": [3, 4, -2, 5]}, "has an empty box"),
        ({"bbox": [64, 4, 5, 5]}, "has a box .* outside the image of 48 x 64 pixels"),
        ({"bbox": [-9, 4, 9, 5]}, "outside the image"),
        ({"bbox": [3, 4, 5]}, r"has the box \[3, 4, 5\], expected \[left, top, width, height\]"),
        ({"bbox": [3, float("nan"), 5, 5]}, "has the box"),
        ({"category_id": 2}, "has the category 2, which is not among the categories"),
        ({"segmentation": [[1, 2, 3, 4]]}, "has a degenerate polygon of 4 numbers"),
        ({"segmentation": [[1, 2, 3, 4, 5, 6, 7]]}, "has a degenerate polygon of 7 numbers"),
        ({"segmentation": [["a"] * 6]}, "has a polygon that is no list of numbers"),
        ({"segmentation": {"size": [4, 4], "counts": [16]}}, r"has a mask of the size \[4, 4\]"),
        ({"segmentation": {"size": [48, 64], "counts": [9, 9]}}, "run lengths do not fill"),
        ({"segmentation": {"size": [48, 64], "counts": [3072]}}, "has an empty mask"),
        ({"segmentation": {"size": [48, 64], "counts": "04@9"}}, "run lengths do not fill"),
        ({"segmentation": {"size": [48, 64], "counts": "\u00e9"}}, "run lengths do not fill"),
        ({"segmentation": {"size": [48, 64]}}, "has a mask without counts"),
        ({"segmentation": "x"}, "neither polygons nor run lengths"),
        ({"area": "large"}, "has the area 'large', expected a number"),
        ({"category_id": [1]}, r"has the category \[1\]"),
    ],
)
def test_annotations_that_cannot_be_used(root, changes, message):
    """They are one sentence with the names of the files; or they are left out."""
    change(root, "train", **changes)
    with pytest.raises(DataError, match=f"annotations/train.json: the annotation 1.*{message}"):
        coco(options(root))
    records = coco(options(root, skip_invalid=True)).train
    whole = json.loads((root / "annotations/train.json").read_text())["annotations"]
    assert records.skipped == 1
    assert sum(len(one.boxes) for one in records.instances) == len(whole) - 1


def test_compressed_run_lengths():
    rng = np.random.default_rng(0)
    for _ in range(20):
        pixels = rng.random(SIZE) < rng.uniform(0.01, 0.99)
        listed = counts_of(pixels)
        text = run_lengths({"size": list(SIZE), "counts": listed}, SIZE)["counts"]
        assert lengths_of(text.decode()) == listed


def test_files_that_do_not_fit(root):
    change(root, "train", image_id=[1])
    with pytest.raises(DataError, match=r"of the image \[1\], which is not among"):
        coco(options(root))
    change(root, "train", image_id=99)
    with pytest.raises(DataError, match="the annotation 1 of the image 99, which is not among"):
        coco(options(root))
    change(root, "train", image_id=1)
    (root / "val/blob_1.png").unlink()
    with pytest.raises(DataError, match=r"val/blob_1.png does not exist, and .*val.json names it"):
        coco(options(root))
    with pytest.raises(DataError, match=r"has no file test.json .* it has train.json, val.json"):
        coco(options(root, test_split="test"))
    with pytest.raises(DataError, match="holds no folder annotations"):
        coco(options(root / "train"))
    (root / "annotations/train.json").write_text('{"images": [')
    with pytest.raises(DataError, match=r"train.json is damaged"):
        coco(options(root))
    (root / "annotations/train.json").write_text("{}")
    with pytest.raises(DataError, match=r"train.json has no list 'images'"):
        coco(options(root))


def test_categories_that_differ(root):
    document = json.loads((root / "annotations/val.json").read_text())
    write_annotations(root, "val", document["images"], document["annotations"], ("square", "disc"))
    with pytest.raises(DataError, match=r"val.json has 2 categories, square, disc, ..., and "):
        coco(options(root))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ({"id": 1}, "has an image without id, file_name, height or width: 1"),
        ({"id": 1, "file_name": "../x.png", "height": 4, "width": 4}, r"has the image ../x.png"),
        ({"id": 1, "file_name": "x.png", "height": 0, "width": 4}, "of 0 x 4 pixels"),
        ({"id": 2, "file_name": "x.png", "height": 4, "width": 4}, "two images of the id 2"),
    ],
)
def test_images_that_cannot_be(root, image, message):
    document = json.loads((root / "annotations/train.json").read_text())
    document["images"][0] = image
    (root / "annotations/train.json").write_text(json.dumps(document))
    with pytest.raises(DataError, match=message):
        coco(options(root))


def test_an_image_of_another_size(root):
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(root / "train/blob_1.png")
    records = Detected(coco(options(root)).train, options(root))
    with pytest.raises(DataError, match=r"blob_1.png has 20 x 30 pixels .* says 48 x 64"):
        check_first(records, 1)


def test_objects_without_masks(tmp_path):
    root = write_blobs(tmp_path / "blobs", {"train": 2, "val": 1}, masks=False)
    records = Detected(coco(options(root)).train, options(root))
    with pytest.raises(
        DataError, match=r"objects in .*train.json have no mask, which config.model"
    ):
        check_masks(records)


def test_other_sources_have_no_boxes():
    other = types.SimpleNamespace(name=lambda index: "cat.jpg")
    with pytest.raises(DataError, match=r"cat.jpg has no boxes: use --config.data.source=coco"):
        find_instances(other, 0)


def view_of(window, scaled=(96, 128), flip=False):
    return View(Box(0, 0, *SIZE), flip, scaled, Box(*window))


@pytest.mark.parametrize("flip", [False, True])
def test_points_move_as_pixels_do(flip):
    view = view_of((10, 20, 40, 60), flip=flip)
    forward, backward = point_maps(view)
    points = np.array([[12.5, 7.0], [30.0, 20.0]])
    np.testing.assert_allclose(backward(forward(points)), points)
    x, y = forward(points)[0]
    assert y == 4 and x == (60 - 5 if flip else 5)


@pytest.mark.parametrize("flip", [False, True])
def test_polygons_and_run_lengths_give_the_same_array(flip):
    polygon = [[20, 10, 44, 10, 44, 22, 20, 40]]
    lengths = run_lengths(polygon, SIZE)
    listed = {"size": list(SIZE), "counts": counts_of(decode(polygon, SIZE))}
    view = view_of((4, 30, 80, 64), flip=flip)
    box = view.apply_boxes(np.array([[20, 10, 44, 40]], np.float32))[0]
    drawn = [raster(mask, box, 24, SIZE, *point_maps(view)) for mask in (polygon, lengths, listed)]
    np.testing.assert_array_equal(drawn[1], drawn[2])
    assert 0.5 < drawn[0].mean() < 0.9 and (drawn[0] != drawn[1]).mean() < 0.06
    expected = view.apply_label_map(decode(polygon, SIZE).astype(int))
    left, top, right, bottom = box.astype(int)
    part = expected[top:bottom, left:right]
    rows, columns = (np.linspace(0.5, length - 0.5, 24).astype(int) for length in part.shape)
    assert (part[rows][:, columns] != drawn[0]).mean() < 0.08


def counts_of(pixels):
    """The uncompressed run lengths of a mask, column by column, first of zeros."""
    flat = pixels.T.ravel().astype(int)
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff(np.concatenate([[0], edges, [len(flat)]])).tolist()
    return ([0] if flat[0] else []) + counts


def test_a_cut_object_has_the_box_of_what_is_left(shared):
    """A triangle of which the crop shows the tip: its box shrinks with the tip."""
    instances = Instances(
        np.array([[0, 0, 40, 40]] * 2, np.float32),
        np.array([1, 0], np.int32),
        np.array([False, True]),
        np.array([800.0, 800.0], np.float32),
        ([[0, 0, 40, 0, 0, 40]], None),
    )
    view = View(Box(0, 0, *SIZE), False, SIZE, Box(20, 0, 28, 64))
    boxes, classes, masks = seen_objects(instances, view, SIZE, 40)
    np.testing.assert_allclose(boxes, [[0, 0, 20, 20]], atol=1.1)
    assert classes.tolist() == [1] and 0.4 < masks.mean() < 0.6  # the crowd is left out
    without, _, _ = seen_objects(instances, view, SIZE, 0)
    np.testing.assert_allclose(without, [[0, 0, 40, 20]])


def test_jitter_fits_the_image_at_scale_one(shared):
    assert fitted((48, 64), (32, 32)) == (24, 32) and fitted((480, 640), (1024, 1024)) == (
        768,
        1024,
    )
    rng = np.random.default_rng(0)
    data = options(shared)
    views = [draw_window(rng, SIZE, data, DetectAugment()) for _ in range(200)]
    widths = np.array([view.size[1] for view in views])
    assert 3 <= widths.min() < 8 and 58 < widths.max() <= 64
    assert all(max(view.shape) <= 32 for view in views)
    assert len({view.flip for view in views}) == 2
    assert max(view.window.left for view in views) > 20


def test_views_have_fixed_shapes_and_follow_their_key(shared):
    data = options(shared, max_objects=2)
    records = Detected(coco(data).train, data)
    seen = [
        random_view(records[0], np.random.default_rng(seed), data, DetectAugment((0.9, 1.1)), 16)
        for seed in (0, 0, 1)
    ]
    for one in seen:
        assert one["image"].shape == (32, 32, 3) and one["masks"].shape == (2, 16, 16)
        assert one["boxes"].shape == (2, 4) and one["classes"].dtype == np.int32
        inside = one["boxes"].reshape(-1, 2) <= one["size"][::-1]
        assert inside.all() and (one["boxes"] >= 0).all()
    for key in seen[0]:
        np.testing.assert_array_equal(seen[0][key], seen[1][key])
    assert (seen[0]["image"] != seen[2]["image"]).any()


def test_objects_lie_on_their_pixels(shared):
    """Inside a mask the image has the colour of its class, whatever the view."""
    data = options(shared, mask_cells=32)
    records = Detected(coco(data).train, data)
    checked = 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        one = random_view(records[seed % 6], rng, data, DetectAugment((1.2, 2.0)), 32)
        for box, kind, mask in zip(one["boxes"], one["classes"], one["masks"], strict=True):
            left, top, right, bottom = box.astype(int)
            if right - left < 8 or bottom - top < 8:
                continue
            rows, columns = np.nonzero(mask)
            row, column = int(np.median(rows)), int(np.median(columns))
            assert mask[row, column]
            pixel = one["image"][
                int(top + (row + 0.5) / 32 * (box[3] - box[1])),
                int(left + (column + 0.5) / 32 * (box[2] - box[0])),
            ].astype(int)
            assert (pixel[0] > pixel[2] + 60) == (kind == 0), pixel
            checked += 1
    assert checked > 10


def test_test_images_are_padded(shared):
    data = options(shared)
    seen = whole_view(Detected(coco(data).test, data)[0], data)
    assert seen["size"].tolist() == [24, 32] and seen["image"].shape == (32, 32, 3)
    fill = np.rint(255 * np.array(data.mean))
    np.testing.assert_array_equal(seen["image"][24:], np.broadcast_to(fill, (8, 32, 3)))
