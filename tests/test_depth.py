"""The depth probe: layouts, what is invalid, and scores against plain loops."""

import math

import numpy as np
import pytest
from PIL import Image
from small import changed, task_options

from hpm_jax.config import ConfigError, freeze
from hpm_jax.config.depth import DepthData
from hpm_jax.config.inherit import inherit
from hpm_jax.data.depth_maps import Depths, depth_maps
from hpm_jax.data.records import DataError
from hpm_jax.evaluation.depth import eigen_crop, fit_ridge, patch_depths, score_depth
from hpm_jax.tasks.depth_probe import depth_probe


def room(rng):
    """A box before a wall; near is bright, and a column has no measurement: image and mm."""
    depth = np.full((24, 32), 4000, np.uint16)
    top, left = rng.integers(0, 12), rng.integers(0, 16)
    depth[top : top + 12, left : left + 16] = 1500
    grey = np.where(depth == 1500, 200, 60) + rng.integers(-10, 11, depth.shape)
    depth[:, -2:] = 0
    return grey.astype(np.uint8), depth


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def write_rooms(root):
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 3)):
        for number in range(count):
            image, depth = room(rng)
            save(root / "images" / split / f"{number}.png", image)
            save(root / "depth" / split / f"{number}.png", depth)
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_rooms(tmp_path_factory.mktemp("rooms"))


def data(root, **changes):
    return DepthData(path=str(root), image_size=(16, 16), **changes)


def test_a_pair_of_folders(root):
    splits = depth_maps(data(root))
    assert (len(splits.train), len(splits.test), splits.classes) == (8, 3, ())
    found = Depths(splits.train, data(root))[0]["depth"]
    _, expected = room(np.random.default_rng(0))
    np.testing.assert_allclose(found, expected / 1000, rtol=1e-6)
    assert found.dtype == np.float32 and (found[:, -2:] == 0).all()
    near = Depths(splits.train, data(root, farthest=2.0))[0]["depth"]
    assert set(np.unique(near)) == {np.float32(0), np.float32(1.5)}
    assert Depths(splits.train, data(root, unit=0.002))[0]["depth"].max() == np.float32(8)


def test_files_of_scenes(tmp_path):
    image, depth = room(np.random.default_rng(0))
    for scene, name in (("bath_1", "sync_depth_00001"), ("den_2", "depth_00001")):
        save(tmp_path / "train" / scene / "rgb_00001.png", image)
        save(tmp_path / "train" / scene / f"{name}.png", depth)
    splits = depth_maps(data(tmp_path, holdout=0.5))
    assert (len(splits.train), len(splits.test)) == (1, 1)
    save(tmp_path / "train" / "den_2" / "rgb_00002.png", image)
    with pytest.raises(DataError, match=r"rgb_00002.png has no depth map sync_depth_00002.png"):
        depth_maps(data(tmp_path))


def test_what_is_refused(tmp_path, root):
    with pytest.raises(DataError, match="holds no depth maps: expected images/<split>"):
        depth_maps(data(tmp_path / "nothing"))
    with pytest.raises(DataError, match=r"config.data.train_split = 'val'"):
        depth_maps(data(root, train_split="val"))
    image, depth = room(np.random.default_rng(0))
    for split in ("train", "test"):
        save(tmp_path / "images" / split / "a.png", image)
    with pytest.raises(DataError, match=r"has no folder of depth maps .*a PNG of 16 bits"):
        (tmp_path / "depth").mkdir()
        depth_maps(data(tmp_path))
    for split in ("train", "test"):
        save(tmp_path / "depth" / split / "a.png", depth[:12])
    with pytest.raises(DataError, match=r"a.png has 12 x 32 pixels .* has 24 x 32"):
        _ = Depths(depth_maps(data(tmp_path)).train, data(tmp_path))[0]
    (tmp_path / "depth" / "train" / "a.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"a.png is no depth map .*grey PNG of 16 bits"):
        _ = Depths(depth_maps(data(tmp_path)).train, data(tmp_path))[0]


# --- scores


def test_scores_against_plain_loops():
    rng = np.random.default_rng(0)
    truth = rng.uniform(0.5, 9, (6, 7))
    truth[0], truth[3, 2] = 0, 0
    predicted = truth * rng.uniform(0.5, 2.2, truth.shape) + (truth == 0)
    pairs = [(t, p) for t, p in zip(truth.ravel(), predicted.ravel(), strict=True) if t > 0]
    found = score_depth(truth, predicted)
    for power, share in ((1, found.delta1), (2, found.delta2), (3, found.delta3)):
        expected = sum(max(t / p, p / t) < 1.25**power for t, p in pairs) / len(pairs)
        assert share == pytest.approx(expected)
    assert found.rmse == pytest.approx(math.sqrt(sum((t - p) ** 2 for t, p in pairs) / len(pairs)))
    assert found.relative == pytest.approx(sum(abs(t - p) / t for t, p in pairs) / len(pairs))
    perfect = score_depth(truth, np.where(truth > 0, truth, 5.0))
    assert perfect[:3] == (1.0, 1.0, 1.0) and perfect.rmse == perfect.relative == 0


def test_an_image_without_a_valid_pixel_has_no_scores():
    assert score_depth(np.zeros((4, 4)), np.ones((4, 4))) is None


def test_the_crop_of_eigen():
    inside = eigen_crop(np.ones((480, 640), np.float32))
    assert inside.sum() == (471 - 45) * (601 - 41)
    assert inside[45, 41] == inside[470, 600] == 1 and inside[44].sum() == inside[:, 601].sum() == 0
    assert eigen_crop(np.ones((240, 320), np.float32)).sum() == pytest.approx(
        426 * 560 / 4, rel=0.02
    )


def test_depths_of_patches():
    depth = np.zeros((4, 8), np.float32)
    depth[:2, :4] = 3.0  # half of a patch
    depth[0, 4:] = 2.0  # a quarter
    assert patch_depths(depth, 4).tolist() == [[3.0, 0.0]]


def test_the_regression_is_the_normal_equations():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(200, 5)).astype(np.float32)
    targets = features @ np.array([1.0, -2, 0, 0.5, 3]) + 4 + 0.01 * rng.normal(size=200)
    linear, penalty = fit_ridge(features, targets.astype(np.float32), (1.0, 1e-2))
    assert penalty == 1e-2
    centred = features - features.mean(axis=0)
    gram = centred.T @ centred / 200 + 1e-2 * np.eye(5)
    expected = np.linalg.solve(gram, centred.T @ (targets - targets.mean()) / 200)
    np.testing.assert_allclose(linear.kernel, expected, rtol=1e-3, atol=1e-4)
    residual = targets - features @ linear.kernel - linear.bias
    assert abs(residual.mean()) < 1e-4


# --- the task


def options(pretrained, root, **changes):
    config = task_options(
        "depth_probe",
        pretrained,
        data={"path": str(root), "image_size": (16, 16)},
        head={"bank": 200},
        evaluation={"batch_size": 16, "pictures": 2},
    )
    return changed(config, changes)


def test_depth_beyond_the_range(pretrained, root, tmp_path):
    config = freeze(inherit(options(pretrained, root, data={"farthest": 1.0})))
    with pytest.raises(DataError, match=r"has 0 training patches with a depth from .*data.unit"):
        depth_probe(config, tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"nearest": 20.0}}, "config.data.nearest = 20 is not below"),
        ({"data": {"frames": 4}}, "config.data.frames = 4 has no effect on the depth probe"),
        ({"features": {"block": 0}}, "blocks count from 1"),
        ({"head": {"penalties": ()}}, "config.head.penalties = ()"),
        ({"evaluation": {"scales": ()}}, "give one factor or more"),
        ({"init_from": ""}, "config.init_from is empty"),
    ],
)
def test_configs_that_cannot_run(pretrained, root, changes, message):
    with pytest.raises(ConfigError, match=message):
        freeze(inherit(options(pretrained, root, **changes)))
