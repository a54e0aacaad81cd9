"""The registry of data sources: every source by its name, `config.data.source`."""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from hpm_jax.data.coco import coco
from hpm_jax.data.depth_maps import depth_maps
from hpm_jax.data.digits import digits, moving_digits
from hpm_jax.data.folders import class_folders
from hpm_jax.data.label_maps import label_maps
from hpm_jax.data.lists import image_list
from hpm_jax.data.multi_label import multi_label
from hpm_jax.data.numpy_arrays import numpy_arrays
from hpm_jax.data.records import Arrays as Arrays
from hpm_jax.data.records import DataError as DataError
from hpm_jax.data.records import Example as Example
from hpm_jax.data.records import Records as Records
from hpm_jax.data.records import Splits as Splits
from hpm_jax.data.records import Subset as Subset
from hpm_jax.data.records import hold_out as hold_out
from hpm_jax.data.records import known_labels as known_labels
from hpm_jax.data.records import set_apart as set_apart
from hpm_jax.data.video_sources import video_csv, video_folder
from hpm_jax.data.volumes import volumes
from hpm_jax.data.webdataset import webdataset
from hpm_jax.extras import import_extra

if TYPE_CHECKING:
    from hpm_jax.config import Data

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm")


@dataclasses.dataclass(frozen=True)
class TfdsRecords:
    """A split of a tensorflow-datasets data source, images still encoded."""

    source: Any
    title: str
    label_map: str = ""  # feature of the label maps; '' for none

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Example:
        example = self.source[index]
        found = {"image": example["image"], "label": int(example.get("label", -1))}
        return found | ({"label_map": example[self.label_map]} if self.label_map else {})

    def name(self, index: int) -> str:
        return f"{self.title}, example {index}"


def synthetic(data: "Data") -> Splits:
    """Returns noise images or clips of the configured size at almost no cost, for benchmarks."""
    rng = np.random.default_rng(0)
    pool = rng.integers(0, 256, (16, *data.view_shape), dtype=np.uint8)
    numbers = np.arange(data.synthetic_images)
    # a view: it costs no more memory than its pool of 16
    records = Subset(Arrays(pool, np.arange(16) % 10), numbers % 16)
    return Splits(*hold_out(records, data.holdout), tuple("0123456789"))


def folder(data: "Data") -> Splits:
    """Loads image folders: `path/train/<class>/*` and `path/test/<class>/*`, or a part of that."""
    return class_folders(data, "images", IMAGE_ENDINGS)


def tfds(data: "Data") -> Splits:
    """Loads a tensorflow-datasets data set stored as ArrayRecord; TensorFlow is not needed."""
    what = "config.data.source = 'tfds'"
    tensorflow_datasets = import_extra("tensorflow_datasets", "tfds", what, "tensorflow-datasets")
    if not data.name:
        raise DataError(
            "config.data.name is empty: name the data set, as in --config.data.name=cifar10"
        )

    def split(builder, name):
        label_map = _label_map_feature(data, builder.info.features)
        decoded = ("image", *filter(None, [label_map]))
        decoders = {key: tensorflow_datasets.decode.SkipDecoding() for key in decoded}
        source = builder.as_data_source(split=name, decoders=decoders)
        return TfdsRecords(source, f"{data.name}/{name}", label_map)

    try:
        builder = tensorflow_datasets.builder(
            data.name, data_dir=data.path or None, file_format="array_record"
        )
        train = split(builder, data.train_split)
    except DataError:
        raise
    except Exception as error:
        raise DataError(
            f"cannot read {data.name!r} from {data.path or 'the usual data_dir'}: {error}\n"
            f"Prepare it once (this needs TensorFlow): tfds build {data.name} "
            "--file_format=array_record"
        ) from error
    features = builder.info.features
    classes = tuple(features["label"].names) if "label" in features else ()
    if label_map := _label_map_feature(data, features):  # the classes of images are others
        classes = tuple(getattr(features[label_map], "names", None) or ())
    if data.test_split in builder.info.splits:
        return Splits(train, split(builder, data.test_split), classes)
    return Splits(*hold_out(train, data.holdout), classes)


LABEL_MAP_FEATURES = ("segmentation_mask", "segmentation_label", "annotation")


def _label_map_feature(data: "Data", features: Any) -> str:
    """Returns the feature of the label maps, for tasks that read them; '' for other tasks."""
    wanted = getattr(data, "label_map_key", None)  # an option of segmentation
    if wanted is None:
        return ""
    keys = (wanted,) if wanted else LABEL_MAP_FEATURES
    found = next((key for key in keys if key in features), "")
    if not found:
        raise DataError(
            f"{data.name!r} has no label maps named {' or '.join(keys)}: expected "
            f"config.data.label_map_key to be one of its features, {', '.join(sorted(features))}"
        )
    return found


def parquet(data: "Data") -> Splits:
    """Loads Parquet files with a column of encoded images."""
    from hpm_jax.data.parquet import parquet

    return parquet(data)


def hugging_face(data: "Data") -> Splits:
    """Loads a data set of Hugging Face's `datasets`."""
    from hpm_jax.data.hugging_face import hugging_face

    return hugging_face(data)


def store(data: "Data") -> Splits:
    """Loads images that `python -m hpm_jax.data.store` has resized."""
    from hpm_jax.data.store.read import read_store

    return read_store(data)


SOURCES: dict[str, Callable[["Data"], Splits]] = {
    "digits": digits,
    "folder": folder,
    "list": image_list,
    "multi_label": multi_label,
    "label_maps": label_maps,
    "depth_maps": depth_maps,
    "coco": coco,
    "tfds": tfds,
    "hugging_face": hugging_face,
    "webdataset": webdataset,
    "parquet": parquet,
    "numpy": numpy_arrays,
    "volumes": volumes,
    "store": store,
    "synthetic": synthetic,
    "video_folder": video_folder,
    "video_csv": video_csv,
    "moving_digits": moving_digits,
}
