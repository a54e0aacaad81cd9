"""A run with UPerNet: trained, resumed, scored and loaded."""

import json

import numpy as np
import pytest
from small import task_options
from small_scenes import write_scenes
from test_upernet import options

from hpm_jax.config import freeze
from hpm_jax.config.inherit import inherit
from hpm_jax.convert.read import read_weights
from hpm_jax.convert.weights import WeightsError
from hpm_jax.run.build_dense import build_segmenter
from hpm_jax.run.load import load_run
from hpm_jax.run.metrics import read_lines
from hpm_jax.tasks.segment import segment
from hpm_jax.tasks.segment_evaluate import segment_evaluate


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp("scenes"), {"train": 8, "val": 2})


def test_a_run(pretrained, root, tmp_path, capsys):
    """The running averages of its checkpoint are those that it was scored with."""
    config = freeze(inherit(options(pretrained, root)))
    assert segment(config, tmp_path) == 0
    scored = freeze(task_options("segment_evaluate", tmp_path, evaluation={"pictures": 0}))
    assert segment_evaluate(scored, tmp_path / "scored") == 0
    found, expected = (
        json.loads((there / "segmentation.json").read_text())
        for there in (tmp_path / "scored", tmp_path)
    )
    assert found["classes"] == expected["classes"]
    lines = read_lines(tmp_path / "metrics.jsonl")
    assert any("auxiliary" in line for line in lines) and any("miou" in line for line in lines)
    run = load_run(tmp_path)
    assert build_segmenter(run.config, 3) == run.model
    mean = run.state.plugs["head"]["fusion"]["batch_norm"]["norm"]["mean"]
    assert np.asarray(mean).any()
    assert "decoder: upernet(channels=8, auxiliary_channels=4)" in capsys.readouterr().out
    with pytest.raises(WeightsError, match="was trained with relative positions"):
        read_weights(tmp_path)
