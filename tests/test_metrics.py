"""Where numbers go besides `metrics.jsonl`."""

import json
import sys
import types

import pytest

from hpm_jax.options import ConfigError
from hpm_jax.training.metrics import MetricsWriter, read_lines


def test_weights_and_biases_gets_the_same_numbers(tmp_path, monkeypatch):
    calls = []
    run = types.SimpleNamespace(
        log=lambda numbers, step: calls.append((step, numbers)),
        finish=lambda: calls.append("finished"),
    )
    stand_in = types.SimpleNamespace(init=lambda **options: calls.append(options) or run)
    monkeypatch.setitem(sys.modules, "wandb", stand_in)
    (tmp_path / "config.json").write_text(json.dumps({"seed": 3}))
    writer = MetricsWriter(tmp_path, wandb="mine")
    writer.write(5, {"loss": 0.5})
    writer.close()
    options, *rest = calls
    assert options["project"] == "mine" and options["config"] == {"seed": 3}
    assert options["id"] == tmp_path.name and options["resume"] == "allow"
    assert rest == [(5, {"loss": 0.5}), "finished"]
    assert read_lines(tmp_path / "metrics.jsonl") == [{"step": 5, "loss": 0.5}]


def test_without_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match='needs the extra "wandb": pip install wandb'):
        MetricsWriter(tmp_path, wandb="mine")
