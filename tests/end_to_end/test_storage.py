"""Workdirs in a bucket, by the real clients against a bucket on this machine; and full disks."""

import contextlib
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bucket import Bucket
from full_disk import QUIET, no_file_larger_than
from small import small_config, task_options

from hpm_jax.config import ConfigError, freeze
from hpm_jax.config.inherit import inherit
from hpm_jax.convert.read import read_weights
from hpm_jax.convert.weights import WeightsError
from hpm_jax.fields import as_dict
from hpm_jax.run import metrics
from hpm_jax.run.checkpoints import Checkpoints, SaveError, checkpoints
from hpm_jax.run.load import load_run
from hpm_jax.run.lock import release_all
from hpm_jax.run.metrics import MetricsWriter, read_lines
from hpm_jax.run.workdir import open_workdir, read_config
from hpm_jax.step.state import abstract_state, on_one_device
from hpm_jax.storage import StorageError, as_path, write
from hpm_jax.tasks.pretrain import pretrain
from hpm_jax.tasks.report import report

ROOT = Path(__file__).parents[2]
RUN = "gs://bucket/runs/a"
SHORT = {
    "optimizer": {"epochs": 2, "batch_size": 512, "warmup_epochs": 1.0},
    "evaluation": {"every_epochs": 0.0},
    "run": {"log_every_steps": 1},
}


@pytest.fixture(scope="module", autouse=True)
def compiled_once(tmp_path_factory):
    """The runs of this file have one step: the first compiles it, the others find it."""
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("compiled")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    yield
    jax.config.update("jax_compilation_cache_dir", None)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)


@pytest.fixture(scope="module")
def bucket():
    server = Bucket()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment().items():
            patch.setenv(name, value)
        yield server
        release_all()
    server.shutdown()


@pytest.fixture(scope="module")
def whole(bucket):
    """What a finished run has left in the bucket."""
    assert pretrain(small_config(**SHORT), RUN) == 0
    return dict(bucket.objects)


def losses(bucket):
    found = [json.loads(line) for line in bucket.objects["runs/a/metrics.jsonl"].splitlines()]
    return [(line["step"], line["loss"]) for line in found if "loss" in line]


def arrays(state):
    return [np.asarray(x) for x in jax.tree.leaves(state)]


def test_a_run_leaves_everything_in_its_bucket(whole):
    names = {name.removeprefix("runs/a/") for name in whole}
    assert {"config.json", "versions.json", "metrics.jsonl", "report.md"} < names
    assert "pictures/curves.png" in names
    assert any(name.startswith("tensorboard/events.out.tfevents") for name in names)
    steps = {name.split("/")[1] for name in names if name.startswith("checkpoints/")}
    assert steps == {"4", "6"}


def test_a_killed_run_goes_on_bit_for_bit(bucket, whole, monkeypatch):
    """What a kill leaves: half of the newest checkpoint, and numbers of steps that it lacks."""
    save, lines_at = Checkpoints.save, {}

    def save_and_look(saved, state):
        lines_at[int(state.step)] = [step for step, _ in losses(bucket)]
        save(saved, state)

    monkeypatch.setattr(Checkpoints, "save", save_and_look)
    before, state = losses(bucket), load_run(RUN).state
    assert [step for step, _ in before] == [1, 2, 3, 4, 5, 6]
    del bucket.objects["runs/a/checkpoints/6/commit_success.txt"]
    del bucket.objects["runs/a/report.md"]
    assert int(load_run(RUN).state.step) == 4
    assert pretrain(small_config(**SHORT), RUN) == 0
    assert losses(bucket) == before
    assert lines_at == {6: [1, 2, 3, 4, 5, 6]}, "all is there before a run can go on from it"
    assert "runs/a/checkpoints/6/commit_success.txt" in bucket.objects
    assert "runs/a/report.md" in bucket.objects
    for one, other in zip(arrays(state), arrays(load_run(RUN).state), strict=True):
        np.testing.assert_array_equal(one, other)


def test_another_task_starts_from_a_bucket(bucket, whole):
    config = freeze(inherit(task_options("report", RUN, probes={"names": ("knn",)})))
    assert config.data.image_size == (16, 16), "as it was in pre-training"
    assert report(config, "gs://bucket/reports/a") == 0
    rows = json.loads(bucket.objects["reports/a/report.json"])["rows"]
    assert {row["probe"] for row in rows} == {"knn"}
    given = read_weights(RUN).params["encoder"]["cls_token"]
    np.testing.assert_array_equal(given, load_run(RUN).state.params["encoder"]["cls_token"])
    with pytest.raises(WeightsError, match="copy it here"):
        read_weights(f"{RUN}/metrics.jsonl")


def restore(folder, state):
    said = []
    with checkpoints(folder, keep=2) as saved:
        found = saved.restore(abstract_state(lambda: state, place=on_one_device), said.append)
    return int(found.step), said


def test_a_bucket_that_becomes_read_only_and_a_damaged_checkpoint(bucket, whole):
    folder, state = "gs://bucket/runs/b/checkpoints", load_run(RUN).state
    with checkpoints(folder, keep=2) as saved:
        saved.save(state)
    bucket.read_only = re.compile("runs/b/checkpoints/9/.*_METADATA")
    with pytest.raises(SaveError, match=rf"cannot write {folder} .*make it writable"):  # noqa: SIM117
        with checkpoints(folder, keep=2) as saved:
            saved.save(state.replace(step=jnp.int32(9)))
            saved.wait()
    bucket.read_only = re.compile("(?!)")
    assert restore(folder, state) == (6, []), "half of 9 is not taken for a checkpoint"
    with checkpoints(folder, keep=2) as saved:
        saved.save(state.replace(step=jnp.int32(9)))
    assert restore(folder, state) == (9, [])

    largest = max((n for n in bucket.objects if "/b/checkpoints/9/" in n), key=bucket.size)
    bucket.objects[largest] = bucket.objects[largest][:1000]
    step, said = restore(folder, state)
    assert step == 6 and "checkpoint 9 is damaged" in said[0]
    aside = largest.replace("/checkpoints/", "/damaged_checkpoints/")
    assert len(bucket.objects[aside]) == 1000 and largest not in bucket.objects


def test_numbers_are_copied_to_a_bucket_now_and_then(bucket, monkeypatch):
    workdir = as_path("gs://bucket/runs/c")
    writer = MetricsWriter(workdir)
    writer.write(1, {"loss": 0.5})
    assert read_lines(writer.path) == []
    writer.flush()
    writer.write(2, {"loss": 0.25})
    assert read_lines(writer.path) == [{"step": 1, "loss": 0.5}], "all that a kill would leave"
    monkeypatch.setattr(metrics, "FLUSH_SECONDS", 0.0)
    writer.write(3, {"loss": 0.125})
    assert [line["step"] for line in read_lines(writer.path)] == [1, 2, 3]
    again = MetricsWriter(workdir, step=2)
    again.write(3, {"loss": 0.0625})
    again.close()
    assert [line["loss"] for line in read_lines(writer.path)] == [0.5, 0.25, 0.0625]
    bucket.read_only = re.compile("runs/c/")
    with pytest.raises(StorageError, match=r"cannot write gs://bucket/runs/c/metrics.jsonl"):
        writer.flush()
    bucket.read_only = re.compile("(?!)")


def test_buckets_that_cannot_be_used(monkeypatch):
    assert as_path("runs/a") == Path("runs/a")
    with pytest.raises(ConfigError, match=r"s3://bucket/a: Orbax .* folders and to gs:// alone"):
        as_path("s3://bucket/a")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match='needs the extra "gcs": pip install gcsfs'):
        as_path(Path("gs://bucket/a"))  # of whose slashes a Path keeps one


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path):
    write(tmp_path / "report.md", "old")
    with no_file_larger_than(50_000), pytest.raises(StorageError) as caught:
        write(tmp_path / "report.md", "x" * 100_000)
    assert f"cannot write {tmp_path / 'report.md'} (File too large)" in str(caught.value)
    assert (tmp_path / "report.md").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["report.md"]


@QUIET
def test_a_run_whose_disk_fills_up_goes_on_when_there_is_room(tmp_path, monkeypatch, capsys):
    save = Checkpoints.save
    with contextlib.ExitStack() as stack:

        def save_until_it_is_full(saved, state):
            if int(state.step) == 6:
                saved.wait()
                stack.enter_context(no_file_larger_than(80_000))  # a checkpoint has more
            save(saved, state)

        monkeypatch.setattr(Checkpoints, "save", save_until_it_is_full)
        with pytest.raises(SaveError, match=rf"cannot write {tmp_path}/checkpoints \(File too"):
            pretrain(small_config(**SHORT), tmp_path)
    monkeypatch.undo()
    assert pretrain(small_config(**SHORT), tmp_path) == 0
    assert "going on from step 4 of 6" in capsys.readouterr().out
    assert int(load_run(tmp_path).state.step) == 6


def test_the_command_says_it_in_one_sentence(tmp_path):
    command = [sys.executable, "-m", "hpm_jax.main", "--config=configs/quickstart.py"]
    with no_file_larger_than(500):  # for the child
        run = subprocess.run(
            [*command, f"--workdir={tmp_path / 'run'}"], cwd=ROOT, capture_output=True, text=True
        )
    assert run.returncode == 74, run.stderr
    assert run.stderr.count("\n") == 1, run.stderr
    assert f"error: cannot write {tmp_path / 'run' / 'config.json'} (File too large)" in run.stderr
    assert "the same command goes on" in run.stderr


def test_options_that_came_later_do_not_keep_a_run_from_going_on(tmp_path):
    config = small_config()
    open_workdir(tmp_path, config)
    there = tmp_path / "config.json"
    new = as_dict(config)
    old = json.loads(there.read_text())
    old["losses"] = ["ranking"]
    del old["mask"]["views"], old["teacher"], new["teacher"]
    there.write_text(json.dumps(old))
    assert open_workdir(tmp_path, freeze(new)) == tmp_path
    assert "weight=1.0" in json.loads(there.read_text())["losses"][0]
    del old["losses"]
    there.write_text(json.dumps(old))
    with pytest.raises(ConfigError, match=r"config.losses: .*weight=1.0.* there, .*weight=0.5"):
        open_workdir(tmp_path, small_config(losses=("ranking(weight=0.5)",)))


def test_options_of_the_version_before_plugs_are_translated(tmp_path):
    """A workdir from when strategies and teachers had no options of their own goes on."""
    config = small_config(
        mask={"strategy": "hard(start=0.1, end=0.6, schedule='step')"},
        losses=("ranking(weight=0.5, pairs='sampled', distances=4)",),
        teacher="moving_average(start=0.9, end=0.95, ramp_epochs=7)",
        target="normalized_pixels",
    )
    open_workdir(tmp_path, config)
    there = tmp_path / "config.json"
    old = json.loads(there.read_text())
    for name in ("losses", "objective", "modules"):
        del old[name]
    old["mask"] = {"strategy": "hard", "unit": "patch", "ratio": 0.75, "views": 1}
    old["mask"] |= {"hard_start": 0.1, "hard_end": 0.6, "schedule": "step"}
    old["ranking"] = {"loss": "relative", "weight": 0.5, "pairs": "sampled", "distances": 4}
    old["teacher"] = {"keep": True, "decay_start": 0.9, "decay_end": 0.95, "ramp_epochs": 7}
    old["teacher"] |= {"frame_stride": 1, "every_steps": 1}
    old |= {"target": "normalized_pixels", "target_frames": "all"}
    there.write_text(json.dumps(old))
    assert read_config(tmp_path) == config
    assert open_workdir(tmp_path, config) == tmp_path
    mae = old | {"ranking": {"loss": "none"}, "teacher": {"keep": False}}
    mae["mask"] = old["mask"] | {"strategy": "random"}
    there.write_text(json.dumps(mae | {"target_frames": "one"}))
    found = read_config(tmp_path)
    assert found.losses == () and str(found.teacher) == "none"
    assert str(found.target) == "normalized_pixels(frames='one')"


def test_options_that_are_no_more(tmp_path):
    config = small_config()
    open_workdir(tmp_path, config)
    there = tmp_path / "config.json"
    old = json.loads(there.read_text())
    old["mask"]["shape"] = "round"
    there.write_text(json.dumps(old))
    message = r"config.json is of another version .*config.mask.shape does not exist.*versions.json"
    with pytest.raises(ConfigError, match=message):
        open_workdir(tmp_path, config)
    with pytest.raises(ConfigError, match=message):
        load_run(tmp_path)
    assert json.loads(there.read_text())["mask"]["shape"] == "round", "nothing was touched"
