"""Folders of images and label maps: what is read, what is refused, and what a view shows."""

import dataclasses
import io
import json

import numpy as np
import pytest
from PIL import Image
from small_scenes import CLASSES, VOID, scene, write_pair, write_scenes

from hpm_jax.config import SegmentAugment, SegmentData, defaults, freeze
from hpm_jax.data.decoding import BrokenImage
from hpm_jax.data.fingerprint import fingerprint
from hpm_jax.data.pipeline import train_batches
from hpm_jax.data.records import DataError
from hpm_jax.data.segment_views import (
    distort,
    draw_window,
    is_balanced,
    pad,
    random_view,
    resized,
    segment_view,
)
from hpm_jax.data.segmented import IGNORED, Segmented, check_first, check_ignored
from hpm_jax.data.sources import SOURCES
from hpm_jax.tasks.segment import class_names

PLAIN = SegmentAugment(scale=(1.0, 1.0), max_share=1.0, photometric=False)


def options(root, **changes):
    changes = {"image_size": (16, 16), "ignore_index": VOID} | changes
    return SegmentData(path=str(root), **changes)


def segmented(root, split="train", **changes):
    data = options(root, **changes)
    return Segmented(getattr(SOURCES["label_maps"](data), split), data, len(CLASSES))


@pytest.fixture
def root(tmp_path):
    return write_scenes(tmp_path)


# --- reading


def test_camvid_layout(root):
    splits = SOURCES["label_maps"](options(root))
    assert (len(splits.train), len(splits.test), splits.classes) == (6, 3, CLASSES)
    rng = np.random.default_rng(0)
    for index in range(6):
        image, labels = scene(rng)
        example = segmented(root)[index]
        np.testing.assert_array_equal(example["image"].pixels(3), image)
        np.testing.assert_array_equal(
            example["label_map"], np.where(labels == VOID, IGNORED, labels.astype(int))
        )


def test_ade_layout_with_zero_left_out(tmp_path):
    """0 is left out and k + 1 is class k; names stand in the last column of the list."""
    rng = np.random.default_rng(0)
    for split, count in (("training", 3), ("validation", 2)):
        for number in range(count):
            image, labels = scene(rng)
            stored = np.where(labels == VOID, 0, labels + 1).astype(np.uint8)
            write_pair(tmp_path, split, f"ADE_{number}", image, stored, "annotations", "jpg")
    header = "Idx\tRatio\tTrain\tVal\tStuff\tName\n"
    rows = "".join(f"{k + 1}\t0.1\t1\t1\t0\t{name}\n" for k, name in enumerate(CLASSES))
    (tmp_path / "objectInfo150.txt").write_text(header + rows)
    data = options(tmp_path, reduce_zero_label=True, ignore_index=255)
    splits = SOURCES["label_maps"](data)
    assert (len(splits.train), len(splits.test), splits.classes) == (3, 2, CLASSES)
    found = Segmented(splits.train, data, 3)[0]["label_map"]
    _, labels = scene(np.random.default_rng(0))
    np.testing.assert_array_equal(found, np.where(labels == VOID, IGNORED, labels.astype(int)))


def test_coco_stuff_layout(tmp_path):
    """Maps of training indices are preferred; without them the plain ones are read."""
    rng = np.random.default_rng(0)
    for split in ("train2017", "val2017"):
        image, labels = scene(rng)
        write_pair(tmp_path, split, "000000000009", image, labels + 90, "annotations")
        ids = tmp_path / "annotations" / split / "000000000009_labelTrainIds.png"
        Image.fromarray(labels).save(ids)
    splits = SOURCES["label_maps"](options(tmp_path, classes=3))
    assert (len(splits.train), len(splits.test)) == (1, 1)
    found = Segmented(splits.test, options(tmp_path), 3)[0]["label_map"]
    np.testing.assert_array_equal(found, np.where(labels == VOID, IGNORED, labels.astype(int)))
    for split in ("train2017", "val2017"):
        (tmp_path / "annotations" / split / "000000000009_labelTrainIds.png").unlink()
    data = options(tmp_path, ignore_index=VOID + 90)
    plain = Segmented(SOURCES["label_maps"](data).test, data, 182)[0]["label_map"]
    np.testing.assert_array_equal(plain, np.where(labels == VOID, IGNORED, labels + 90.0))


def test_tensorflow_datasets(tmp_path):
    """Masks from 1, as oxford_iiit_pet's; the classes of images are not those of pixels."""
    write_tfds_masks(tmp_path)
    changes = {"source": "tfds", "name": "pets", "reduce_zero_label": True, "test_split": "test"}
    data = options(tmp_path, ignore_index=255, **changes)
    splits = SOURCES["tfds"](data)
    assert (len(splits.train), len(splits.test), splits.classes) == (3, 1, ())
    found = Segmented(splits.train, data, 3)[1]
    image, labels = list(tfds_scenes(3))[1]
    np.testing.assert_array_equal(found["label_map"], np.where(labels == VOID, IGNORED, labels))
    np.testing.assert_array_equal(found["image"].pixels(3), image)
    message = r"'pets' has no label maps named depth: .* one of its features, image, label, seg"
    with pytest.raises(DataError, match=message):
        SOURCES["tfds"](dataclasses.replace(data, label_map_key="depth"))


def tfds_scenes(count):
    rng = np.random.default_rng(0)
    for _ in range(count):
        image, labels = scene(rng)
        yield image, labels.astype(int)


def write_tfds_masks(root):
    """A prepared data set, by hand, as in tests/test_data.py."""
    import tensorflow_datasets as tfds
    from array_record.python.array_record_module import ArrayRecordWriter

    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "label": tfds.features.ClassLabel(names=["cat", "dog"]),
            "segmentation_mask": tfds.features.Image(
                shape=(None, None, 1), encoding_format="png", use_colormap=True
            ),
        }
    )
    place = root / "pets" / "1.0.0"
    place.mkdir(parents=True)
    splits = []
    for name, count in (("train", 3), ("test", 1)):
        path = place / f"pets-{name}.array_record-00000-of-00001"
        writer = ArrayRecordWriter(str(path), "group_size:1")
        for image, labels in tfds_scenes(count):
            stored = np.where(labels == VOID, 0, labels + 1).astype(np.uint8)
            files = {"image": encoded(image), "segmentation_mask": encoded(stored), "label": 0}
            writer.write(features.serialize_example(features.encode_example(files)))
        writer.close()
        splits.append(
            {"name": name, "numBytes": "1", "shardLengths": [str(count)]}
            | {"filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"}
        )
    features.save_config(str(place))
    info = {"name": "pets", "version": "1.0.0", "fileFormat": "array_record", "moduleName": "pets"}
    (place / "dataset_info.json").write_text(json.dumps(info | {"splits": splits}))


def encoded(array):
    """A PNG in memory."""
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return io.BytesIO(file.getvalue())


def test_a_share_is_held_out_without_a_test_split(tmp_path):
    write_scenes(tmp_path, {"train": 10})
    splits = SOURCES["label_maps"](options(tmp_path, holdout=0.3))
    assert (len(splits.train), len(splits.test)) == (7, 3)
    data = options(tmp_path, holdout=0.3, image_size=(24, 32))
    assert Segmented(splits.test, data, 3)[0]["label_map"].shape == (24, 32)


def test_any_split_may_be_the_test_split(tmp_path):
    write_scenes(tmp_path, {"train": 2, "val": 1, "test": 3})
    assert len(SOURCES["label_maps"](options(tmp_path, test_split="test")).test) == 3
    assert len(SOURCES["label_maps"](options(tmp_path)).test) == 1
    with pytest.raises(DataError, match=r"test_split = 'tset'.*it has test, train, val"):
        SOURCES["label_maps"](options(tmp_path, test_split="tset"))


def test_a_folder_may_move_and_its_files_may_not_change(root, tmp_path_factory):
    def digest(folder):
        return fingerprint(SOURCES["label_maps"](options(folder)))

    before = digest(root)
    moved = tmp_path_factory.mktemp("moved") / "here"
    root.rename(moved)
    assert digest(moved) == before
    Image.fromarray(np.zeros((24, 32), np.uint8)).save(moved / "labels/train/scene_0.png")
    assert digest(moved)["train"] != before["train"]


# --- what is refused


def spoil(root, array, name="labels/train/scene_1.png"):
    Image.fromarray(array).save(root / name)


def test_a_label_map_of_another_size(root):
    spoil(root, np.zeros((12, 16), np.uint8))
    with pytest.raises(DataError, match=r"labels/train/scene_1.png has 12 x 16 .*has 24 x 32"):
        segmented(root)[1]


def test_values_beyond_the_classes(root):
    labels = np.zeros((24, 32), np.uint8)
    labels[3, 7] = 5
    spoil(root, labels)
    message = r"scene_1.png has the value 5 in row 3, column 7: expected 0 to 2, one of the 3 cl"
    with pytest.raises(DataError, match=message):
        segmented(root)[1]
    with pytest.raises(DataError, match=r"has the value 11 .*config.data.ignore_index = 255"):
        segmented(root, ignore_index=255)[0]
    deep = np.full((24, 32), 70_000, np.int32)
    Image.fromarray(deep, "I").save(root / "labels/train/scene_2.tif")
    with pytest.raises(DataError, match="has the value 70000 in row 0"):
        segmented(root).indices(deep, 2)


def test_colour_label_maps(root):
    spoil(root, np.zeros((24, 32, 3), np.uint8))
    with pytest.raises(DataError, match=r"scene_1.png is no label map .*one class index a pixel"):
        check_first(segmented(root), 3)


def test_a_palette_holds_indices(root):
    _, labels = scene(np.random.default_rng(5))
    image = Image.fromarray(labels).convert("P")
    image.putpalette(np.random.default_rng(0).integers(0, 256, 768).astype(np.uint8).tobytes())
    image.putdata(labels.reshape(-1).tolist())
    image.save(root / "labels/train/scene_1.png")
    found = segmented(root)[1]["label_map"]
    np.testing.assert_array_equal(found, np.where(labels == VOID, IGNORED, labels.astype(int)))


def test_a_damaged_label_map_is_named(root):
    path = root / "labels/train/scene_1.png"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(DataError, match=r"labels/train/scene_1.png is no label map"):
        segmented(root)[1]


def test_a_damaged_image_counts_as_unreadable(root):
    path = root / "images/train/scene_1.png"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(BrokenImage):
        segmented(root)[1]


def test_files_without_a_partner(root):
    (root / "labels/train/scene_2.png").unlink()
    with pytest.raises(DataError, match=r"scene_2.png has no label map .*labels/train/scene_2"):
        segmented(root)
    (root / "images/train/scene_2.png").rename(root / "images/train/other.png")
    (root / "images/train/other.png").unlink()
    (root / "images/val/scene_0.png").unlink()
    with pytest.raises(DataError, match=r"labels/val/scene_0.png has no image .*images/val/scen"):
        segmented(root)


def test_two_images_of_one_name(root):
    (root / "images/train/scene_0.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"scene_0.jpg and scene_0.png: expected one file"):
        segmented(root)


def test_folders_that_hold_something_else(tmp_path):
    with pytest.raises(DataError, match="holds no folder images: expected images/<split>"):
        segmented(tmp_path)
    (tmp_path / "images" / "train").mkdir(parents=True)
    with pytest.raises(DataError, match="has images and no folder labels or annotations"):
        segmented(tmp_path)
    (tmp_path / "labels").mkdir()
    with pytest.raises(DataError, match="has no folder of label maps"):
        segmented(tmp_path)


def classes_of(root, **changes):
    config = defaults("segment")
    config.init_from = "runs/x"
    config.data.update(path=str(root), image_size=(16, 16), **changes)
    config.model.update(patch_size=4)
    config = freeze(config)
    return class_names(config, SOURCES["label_maps"](config.data))


def test_the_number_of_classes(root):
    assert classes_of(root, ignore_index=VOID) == CLASSES
    with pytest.raises(DataError, match=r"config.data.classes = 4, and .* names 3 classes"):
        classes_of(root, classes=4)
    with pytest.raises(DataError, match=r"ignore_index = 1 is the class 'road' of the 3 classes"):
        classes_of(root, ignore_index=1)
    (root / "classes.txt").unlink()
    with pytest.raises(DataError, match=r"has no classes.txt, so the number of classes is unkno"):
        classes_of(root)
    assert classes_of(root, classes=3) == ("0", "1", "2")
    (root / "classes.txt").write_text("alone\n")
    with pytest.raises(DataError, match="names 1 classes"):
        classes_of(root)


def test_a_reduced_label_may_be_left_out():
    data = SegmentData(reduce_zero_label=True, ignore_index=4)
    check_ignored(data, CLASSES)
    with pytest.raises(DataError, match="is the class 'car'"):
        check_ignored(dataclasses.replace(data, ignore_index=3), CLASSES)


# --- views


def coordinates(height=60, width=80):
    """An image whose pixels hold their row and column, and a label map of their blocks."""
    rows, columns = np.indices((height, width))
    image = np.stack([rows, columns, np.zeros_like(rows)], axis=-1).astype(np.uint8)
    return image, (80 * rows + columns).astype(np.int16)


@pytest.mark.parametrize("factor", [0.7, 1.0, 1.9])
def test_image_and_label_map_have_one_view(factor):
    image, labels = coordinates()
    data = SegmentData(image_size=(32, 48), interpolation="bilinear")
    augment = dataclasses.replace(PLAIN, scale=(factor, factor))
    flips = set()
    for seed in range(8):
        rng = np.random.default_rng(seed)
        seen = random_view({"image": image, "label_map": labels}, rng, data, augment)
        assert seen["image"].shape == (32, 48, 3) and seen["label_map"].shape == (32, 48)
        np.testing.assert_allclose(seen["image"][..., 0], seen["label_map"] // 80, atol=2)
        np.testing.assert_allclose(seen["image"][..., 1], seen["label_map"] % 80, atol=2)
        steps = np.diff(seen["label_map"][0].astype(int) % 80)
        assert abs(abs(steps.sum()) - 47 / factor) <= 2, "the scale is the drawn one"
        flips.add(bool(steps.sum() < 0))
    assert flips == {True, False}


def test_images_smaller_than_the_crop_are_padded():
    image, labels = coordinates(20, 80)
    data = SegmentData(image_size=(32, 48), flip=0.0, mean=(0.2, 0.4, 0.6))
    seen = random_view({"image": image, "label_map": labels}, np.random.default_rng(0), data, PLAIN)
    assert (seen["label_map"][20:] == IGNORED).all() and (seen["label_map"][:20] >= 0).all()
    np.testing.assert_array_equal(seen["image"][25, 30], [51, 102, 153])
    with_range = dataclasses.replace(data, value_range=(0.0, 255.0))
    seen = random_view(
        {"image": image, "label_map": labels}, np.random.default_rng(0), with_range, PLAIN
    )
    assert seen["image"].dtype == np.float32
    np.testing.assert_allclose(seen["image"][25, 30], [0.2, 0.4, 0.6], rtol=1e-6)


def test_one_class_fills_a_crop_less_often():
    """A small object in a large plain: crops without it are drawn again."""
    labels = np.zeros((64, 64), np.int16)
    labels[20:36, 20:36] = 1
    data = SegmentData(image_size=(16, 16))
    shares = {}
    for max_share in (0.75, 1.0):
        augment = dataclasses.replace(PLAIN, max_share=max_share)
        found = []
        for seed in range(40):
            view = draw_window(np.random.default_rng(seed), labels, (64, 64), data, augment)
            found.append(is_balanced(view.apply_label_map(labels), 0.75))
        shares[max_share] = np.mean(found)
    assert shares[0.75] > shares[1.0] + 0.3


def test_balance_counts_labelled_pixels_alone():
    assert not is_balanced(np.array([0, 0, 0, 1]), 0.75), "three quarters are too many"
    assert is_balanced(np.array([0, 0, 1, IGNORED]), 0.75)
    assert not is_balanced(np.array([0, 0, IGNORED]), 0.75), "one class alone"
    assert not is_balanced(np.array([IGNORED]), 0.75)


def test_sizes():
    data = SegmentData(short_side=512)
    assert resized((600, 800), data, 1.0) == (512, 683)
    assert resized((100, 1000), data, 1.0) == (205, 2048), "the long side has a limit"
    assert resized((600, 800), SegmentData(), 0.5) == (300, 400)


def test_padding_leaves_whole_arrays():
    whole = np.ones((4, 4))
    assert pad(whole, (4, 4), np.float64(0)) is whole


def test_photometric_distortion():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    seen = [distort(np.random.default_rng(seed), image) for seed in range(100)]
    assert all(one.dtype == np.uint8 and one.shape == image.shape for one in seen)
    same = [np.array_equal(one, image) for one in seen]
    assert 0 < sum(same) < 20, "with all four off, once in 16 draws"
    grey = np.full((4, 4, 3), 100, np.uint8)
    for seed in range(20):
        found = distort(np.random.default_rng(seed), grey)
        assert np.ptp(found, axis=-1).max() == 0, "grey has no hue and no saturation"
        assert abs(float(found[0, 0, 0]) - 100) <= 0.5 * 132 + 32
    alone = distort(np.random.default_rng(3), image[..., :1])
    assert alone.shape == (8, 8, 1)


def test_batches_depend_on_seed_and_step_alone(root):
    config = defaults("segment")
    config.init_from = "runs/x"
    config.data.update(path=str(root), image_size=(16, 16), ignore_index=VOID)
    config.model.update(patch_size=4)
    config.optimizer.update(batch_size=4)
    config = freeze(config)
    records = segmented(root)
    view = segment_view(config.data, config.augment)

    def batch(start, skipped, rows=None):
        reader = train_batches(records, config, start, rows, view=view)
        for _ in range(skipped):
            next(reader)
        found = next(reader)
        reader.close()
        return {name: found[name] for name in ("image", "label_map")}

    whole = batch(0, 2)
    assert whole["image"].shape == (4, 16, 16, 3) and whole["image"].dtype == np.uint8
    assert whole["label_map"].shape == (4, 16, 16) and whole["label_map"].dtype == np.int16
    assert set(np.unique(whole["label_map"])) <= {IGNORED, 0, 1, 2}
    resumed, part = batch(2, 0), batch(2, 0, np.array([2, 3]))
    for name, value in whole.items():
        np.testing.assert_array_equal(resumed[name], value)
        np.testing.assert_array_equal(part[name], value[2:])
