"""Where numbers go besides `metrics.jsonl`."""

import json
import sys
import types

import pytest
from full_disk import no_file_larger_than
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hpm_jax.config import ConfigError
from hpm_jax.run.metrics import MetricsWriter, read_lines
from hpm_jax.storage import StorageError


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


def test_tensorboard_reads_the_numbers_and_forgets_what_a_resume_repeats(tmp_path):
    writer = MetricsWriter(tmp_path)
    for step in (1, 2, 3):
        writer.write(step, {"loss": 1 / step, "note": "left out"})
    writer.write_picture(3, "pictures", b"png")  # killed here
    again = MetricsWriter(tmp_path, step=2)
    again.write(3, {"loss": 9.0})
    again.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [
        (1, 1.0),
        (2, 0.5),
        (3, 9.0),
    ]
    assert events.Tags()["scalars"] == ["loss"]
    kept = read_lines(tmp_path / "metrics.jsonl")
    assert [line["loss"] for line in kept] == [1.0, 0.5, 9.0]


def test_a_full_disk_is_named(tmp_path):
    writer = MetricsWriter(tmp_path)
    writer.write(1, {"loss": 1.0})
    with no_file_larger_than(50_000):
        with pytest.raises(StorageError, match=rf"cannot write {tmp_path}/metrics.jsonl \(File"):
            writer.write(2, {"note": "x" * 100_000})
        with pytest.raises(StorageError, match=rf"cannot write {tmp_path}/tensorboard \(File"):
            writer.write_picture(2, "pictures", b"x" * 100_000)
    again = MetricsWriter(tmp_path, step=1)
    again.close()
    assert read_lines(tmp_path / "metrics.jsonl") == [{"step": 1, "loss": 1.0}]
