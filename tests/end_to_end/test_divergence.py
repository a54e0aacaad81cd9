"""A run whose numbers go wrong ends, skips the update, or goes back; all of it can be resumed."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
from small import small_config

from hpm_jax.data.sources import SOURCES
from hpm_jax.run.divergence import TrainingDiverged
from hpm_jax.run.load import load_run
from hpm_jax.run.metrics import read_lines
from hpm_jax.tasks import pretrain as task

BAD = 31  # the step, from 1; with 25 steps an epoch, the checkpoint before it is 25


@pytest.fixture
def broken_step(monkeypatch):
    """Update 31 gives NaN, however often it is computed."""
    make = task.make_train_step

    def make_broken(*arguments):
        step = make(*arguments)

        def broken(state, *inputs):
            after, metrics = step(state, *inputs)
            harm = jnp.where(state.step == BAD - 1, jnp.nan, 1.0)
            params = {**after.params, "encoder": _times(after.params["encoder"], harm)}
            return after.replace(params=params), metrics | {"loss": metrics["loss"] * harm}

        return broken

    monkeypatch.setattr(task, "make_train_step", make_broken)


def _times(params, factor):
    return {**params, "cls_token": params["cls_token"] * factor}


def config_of(policy, **guard):
    return small_config(
        optimizer={"epochs": 3},
        evaluation={"every_epochs": 0.0},
        run={"log_every_steps": 1},
        guard={"policy": policy} | guard,
    )


def test_a_run_that_stops_keeps_the_evidence(broken_step, tmp_path):
    with pytest.raises(TrainingDiverged, match=f"nan at step {BAD}.*guard.policy=go_back"):
        task.pretrain(config_of("stop"), tmp_path)
    kept = tmp_path / "diverged" / f"step_{BAD:07d}"
    what = json.loads((kept / "what_0.json").read_text())
    assert what["step"] == BAD and what["numbers"]["loss"] == "nan"
    batch = np.load(kept / "batch_0.npz")
    assert batch["image"].shape == (64, 16, 16, 1)
    assert what["images"] == [f"image {_place(i)}" for i in batch["index"]]
    tensors = json.loads((kept / "tensors.json").read_text())
    assert tensors[".params['encoder']['cls_token']"]["not_finite"] == 16
    assert max(line["step"] for line in read_lines(tmp_path / "metrics.jsonl")) == BAD - 1
    # the same command, with the policy that the message names, goes on from the checkpoint
    assert task.pretrain(config_of("go_back"), tmp_path) == 0
    assert lines_of(tmp_path)[BAD]["passed_over"] == 1.0


def _place(index):
    records = SOURCES["digits"](config_of("stop").data).train
    return records.name(int(index)).removeprefix("image ")


def lines_of(workdir):
    return {line["step"]: line for line in read_lines(workdir / "metrics.jsonl")}


def numbers_of(workdir):
    kept = ("loss", "gradient_norm", "ranked_correctly", "passed_over")
    return {
        step: {name: line[name] for name in kept if name in line}
        for step, line in lines_of(workdir).items()
    }


@pytest.mark.parametrize("policy", ["skip", "go_back"])
def test_a_run_passes_over_the_update_and_ends(policy, broken_step, tmp_path, capsys):
    assert task.pretrain(config_of(policy), tmp_path / "run") == 0
    said = capsys.readouterr().out
    assert f"nan at step {BAD}" in said
    assert ("going back" in said) == (policy == "go_back")
    numbers = numbers_of(tmp_path / "run")
    assert sorted(numbers) == list(range(1, 76))
    assert [step for step in numbers if numbers[step].get("passed_over")] == [BAD]
    assert all(np.isfinite(list(line.values())).all() for line in numbers.values())
    params = load_run(tmp_path / "run").state.params
    assert np.isfinite(params["encoder"]["cls_token"]).all()
    # the same numbers on another topology
    other = config_of(policy)
    assert task.pretrain(_sharded(other), tmp_path / "sharded") == 0
    for step, line in numbers_of(tmp_path / "sharded").items():
        for name, value in line.items():
            np.testing.assert_allclose(value, numbers[step][name], rtol=2e-3, err_msg=name)


def _sharded(config):
    return dataclasses.replace(config, run=dataclasses.replace(config.run, fsdp=4))


def test_both_policies_give_the_same_run(broken_step, tmp_path):
    """Passing over a batch is the same, whether it is done at once or from a checkpoint."""
    for policy in ("skip", "go_back"):
        task.pretrain(config_of(policy), tmp_path / policy)
    skipped, gone_back = (numbers_of(tmp_path / policy) for policy in ("skip", "go_back"))
    assert skipped == gone_back


def test_several_batches_are_passed_over(broken_step, tmp_path):
    task.pretrain(config_of("go_back", batches=5), tmp_path)
    numbers = numbers_of(tmp_path)
    passed = [step for step in numbers if numbers[step].get("passed_over")]
    assert passed == list(range(BAD - 4, BAD + 1))
    assert json.loads((tmp_path / "diverged" / "steps.json").read_text()) == {
        "bad": [BAD],
        "passed_over": passed,
    }


def test_a_run_that_diverges_again_and_again_ends(monkeypatch, tmp_path):
    make = task.make_train_step

    def make_broken(*arguments):
        step = make(*arguments)

        def broken(state, *inputs):
            after, metrics = step(state, *inputs)
            return after, metrics | {"loss": jnp.where(state.step > 30, jnp.nan, metrics["loss"])}

        return broken

    monkeypatch.setattr(task, "make_train_step", make_broken)
    for policy in ("skip", "go_back"):
        with pytest.raises(TrainingDiverged, match="the 4th of the run"):
            task.pretrain(config_of(policy, most=3), tmp_path / policy)


def test_a_guard_can_be_taken_and_left_in_one_workdir(tmp_path):
    """Checkpoints have the history in any case, so that every policy goes on from every other."""
    for policy in ("stop", "skip", "go_back", "stop"):
        assert task.pretrain(config_of(policy), tmp_path) == 0
    assert int(load_run(tmp_path).state.step) == 75
