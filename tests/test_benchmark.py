"""The benchmark's arithmetic, with times that are given: how large real ones are tells nothing."""

import jax
import pytest
from small import parts_of, small_config
from small_scenes import VOID, write_scenes

import hpm_jax.benchmark
import hpm_jax.run.throughput
from hpm_jax.benchmark import benchmark, table
from hpm_jax.config import ConfigError, defaults, freeze
from hpm_jax.models.flops import segmenter_flops
from hpm_jax.run.build import build_flops
from hpm_jax.run.build_dense import build_segmenter

WHOLE, MASK, FORWARD, BOTH = 4.0, 0.25, 0.5, 1.25  # seconds; the last three of half a batch
PEAK = 1e9


@pytest.fixture
def times(monkeypatch):
    """What is timed runs once, and takes as long as it is told to, in the order of asking."""
    given = iter([WHOLE, MASK, FORWARD, BOTH])

    def stand_in(call, steps):
        jax.block_until_ready(call())
        return next(given)

    monkeypatch.setattr(hpm_jax.benchmark, "median_time", stand_in)
    monkeypatch.setattr(hpm_jax.run.throughput, "peak_flops", lambda: (PEAK, "a stand-in"))


def test_numbers_follow_from_the_times(times):
    config = small_config(optimizer={"batch_size": 64, "accumulation": 2})
    numbers = benchmark(config, steps=2, pipeline=True)
    shares = {"teacher": 0.5, "forward": 1.0, "backward": 1.5, "update": 1.0}
    for name, seconds in shares.items():
        assert numbers[f"share/{name}"] == pytest.approx(seconds / WHOLE), name
    assert numbers["images_per_second"] == 64 / WHOLE
    assert numbers["mfu"] == pytest.approx(build_flops(config).total * 64 / WHOLE / PEAK)
    state = sum(leaf.nbytes for leaf in jax.tree.leaves(parts_of(config).state))
    assert 0 <= numbers["state_bytes"] - state < 64 * 16 * 16 + 1000, "and images, key, scalars"
    assert numbers["pipeline/images_per_second"] > 0


def test_segmentation(times, tmp_path):
    """The same numbers, by the same function; weights are not read."""
    root = write_scenes(tmp_path)
    config = defaults("segment")
    config.init_from = "not read"
    config.data.update(path=str(root), image_size=(16, 16), ignore_index=VOID, classes=3)
    config.data.update(channels=1, mean=(0.5,), std=(0.5,))
    config.model.update(patch_size=4, width=16, depth=1, heads=2)
    config.decoder = "upernet(channels=4, auxiliary_channels=4)"
    config.optimizer.update(batch_size=16, accumulation=2)
    config = freeze(config)
    numbers = benchmark(config, steps=1, pipeline=True)
    assert numbers["share/prepare"] == pytest.approx(0.125)
    assert numbers["gflop_per_image"] == segmenter_flops(build_segmenter(config, 3)) / 1e9
    assert numbers["images_per_second"] == 16 / WHOLE and numbers["temporary_bytes"] > 0
    assert 0 < numbers["pipeline/data_wait"] < 1


def test_tasks_without_a_step():
    config = defaults("finetune")
    config.init_from = "not read"
    with pytest.raises(ConfigError, match=r"config.task = 'finetune' has no step that is compi"):
        benchmark(freeze(config))


def test_the_table_says_shares_in_percent_and_bytes_in_mebibytes():
    lines = table({"share/teacher": 0.125, "state_bytes": 3 * 2**20, "mfu": 0.4, "device": "x"})
    assert [line.split(maxsplit=1)[1].strip() for line in lines.splitlines()] == [
        "12.5%",
        "3 MiB",
        "40.0%",
        "x",
    ]
