"""Probes of segmentation as a task: one table, with raw pixels and random weights."""

import json

from small_scenes import write_scenes
from test_segment_probe import options

from hpm_jax.config import freeze
from hpm_jax.config.inherit import inherit
from hpm_jax.tasks.segment_probe import segment_probe


def test_one_table(pretrained, tmp_path):
    root = write_scenes(tmp_path / "scenes", {"train": 8, "val": 2})
    config = freeze(inherit(options(pretrained, root)))
    assert segment_probe(config, tmp_path / "run") == 0
    document = json.loads((tmp_path / "run" / "report.json").read_text())
    found = [(row["encoder"], row["probe"]) for row in document["measured"]]
    titles = ("student weights, block 1", "random weights, block 1", "raw pixels")
    assert found == [(title, name) for title in titles for name in ("logistic", "knn")]
    assert all(row["pixel_accuracy"] > 0.4 for row in document["measured"])
    text = (tmp_path / "run" / "report.md").read_text()
    assert "| raw pixels | knn (200 patches, 5 neighbours) |" in text
    assert "raw pixels" in (tmp_path / "run" / "report.html").read_text()
    (root / "images" / "val" / "scene_0.png").write_bytes(b"")  # not read again
    assert segment_probe(config, tmp_path / "run") == 0
