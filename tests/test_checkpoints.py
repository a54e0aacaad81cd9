"""Checkpoints: bit for bit, and what happens when one is damaged."""

import collections
import shutil
import sys

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from full_disk import QUIET, no_file_larger_than
from small import parts_of, small_config

from hpm_jax.run.checkpoints import (
    CheckpointError,
    NotFiniteError,
    SaveError,
    _say_failures_once,
    as_saved,
    checkpoints,
)
from hpm_jax.run.digest import digest
from hpm_jax.step.state import abstract_state, on_one_device
from hpm_jax.storage import StorageError


def states():
    """Three states of a run, each with other numbers."""
    state = parts_of(small_config()).state
    for step in (3, 6, 9):
        moved = jax.tree.map(lambda x, s=step: x + s if x.dtype == jnp.float32 else x, state)
        yield moved.replace(step=jnp.int32(step))


def save_three(folder):
    with checkpoints(folder, keep=2) as saved:
        for state in states():
            saved.save(state)
    return list(states())


def restore(folder):
    said = []
    with checkpoints(folder, keep=2) as saved:
        first = next(states())
        abstract = abstract_state(lambda: first, place=on_one_device)
        state = saved.restore(abstract, said.append)
    return state, said


def damage(folder, step):
    """Cuts every larger file of a checkpoint to half, as a full disk might."""
    files = [path for path in (folder / str(step)).rglob("*") if path.is_file()]
    for path in files:
        data = path.read_bytes()
        if len(data) > 1000:
            path.write_bytes(data[: len(data) // 2])


def test_restored_bit_for_bit(tmp_path):
    *_, expected = save_three(tmp_path / "checkpoints")
    state, said = restore(tmp_path / "checkpoints")
    assert jax.tree.structure(state) == jax.tree.structure(expected) and not said
    for one, other in zip(jax.tree.leaves(state), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(one, other)
    kept = {path.name for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit()}
    assert kept == {"6", "9"}


def test_nothing_to_restore(tmp_path):
    assert restore(tmp_path / "checkpoints") == (None, [])


def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_it_taken(tmp_path):
    save_three(tmp_path / "checkpoints")
    damage(tmp_path / "checkpoints", 9)
    state, said = restore(tmp_path / "checkpoints")
    assert int(state.step) == 6
    assert "checkpoint 9 is damaged" in said[0] and "going on from step 6" in said[0]
    assert (tmp_path / "damaged_checkpoints" / "9").is_dir(), "kept, for whoever wants to look"
    with checkpoints(tmp_path / "checkpoints", keep=2) as saved:
        *_, last = states()
        saved.save(last)
    assert int(restore(tmp_path / "checkpoints")[0].step) == 9, "the step can be saved again"


def test_when_every_checkpoint_is_damaged_nothing_is_touched(tmp_path):
    save_three(tmp_path / "checkpoints")
    for step in (6, 9):
        damage(tmp_path / "checkpoints", step)
    with pytest.raises(CheckpointError, match=r"no checkpoint in .* can be read:\n  step 9"):
        restore(tmp_path / "checkpoints")
    assert (tmp_path / "checkpoints" / "9").is_dir() and (tmp_path / "checkpoints" / "6").is_dir()


def test_a_checkpoint_without_its_end_is_not_seen(tmp_path):
    """Killed while saving: what was being written has another name until it is whole."""
    save_three(tmp_path / "checkpoints")
    half = tmp_path / "checkpoints" / "12.orbax-checkpoint-tmp"
    half.mkdir()
    (half / "part").write_bytes(b"half")
    assert int(restore(tmp_path / "checkpoints")[0].step) == 9


@QUIET
def test_what_cannot_be_saved_is_said_and_leaves_the_others_whole(tmp_path, capfd, caplog):
    """The error of the background comes out at the next call, whichever it is."""
    folder = tmp_path / "checkpoints"
    *_, last = save_three(folder)
    later = last.replace(step=jnp.int32(12))
    for then in ("save", "wait", "close"):
        with no_file_larger_than(20_000), pytest.raises(SaveError) as caught:  # noqa: SIM117
            with checkpoints(folder, keep=2) as saved:
                saved.save(later)
                if then == "save":
                    saved.save(later.replace(step=jnp.int32(15)))
                elif then == "wait":
                    saved.wait()
        assert f"cannot write {folder} (File too large)" in str(caught.value)
        assert restore(folder)[0].step == 9
    assert isinstance(caught.value, CheckpointError) and isinstance(caught.value, StorageError)
    assert not any(record.exc_info for record in caplog.records)
    assert "Traceback" not in capfd.readouterr().err
    with checkpoints(folder, keep=2) as saved:
        saved.save(later)
    state, said = restore(folder)
    assert state.step == 12 and not said
    assert {path.name for path in folder.iterdir()} == {"9", "12"}, "nothing half-written stays"


def test_a_disk_without_room_is_noticed_before_anything_is_written(tmp_path, monkeypatch):
    folder = tmp_path / "checkpoints"
    state = next(states())
    needed = sum(np.asarray(x).nbytes for x in jax.tree.leaves(state))
    usage = collections.namedtuple("usage", "total used free")
    with checkpoints(folder, keep=2) as saved:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1 << 40, 0, needed - 1))
        with pytest.raises(SaveError, match=rf"cannot write {folder} \(No space left on device\)"):
            saved.save(state)
        assert list(folder.iterdir()) == []
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, 0))
        saved.save(state)
    assert restore(folder)[0].step == 3, "a disk that tells nothing of its size is tried"


@QUIET
def test_an_error_of_the_run_is_not_hidden_by_that_of_its_checkpoints(tmp_path):
    with no_file_larger_than(20_000), pytest.raises(ZeroDivisionError):  # noqa: SIM117
        with checkpoints(tmp_path / "checkpoints", keep=2) as saved:
            saved.save(next(states()))
            raise ZeroDivisionError


def test_only_the_echo_of_a_failed_save_is_left_out(monkeypatch, capsys):
    class Broken:
        def __init__(self, message):
            self.message = message

        def __del__(self):
            raise RuntimeError(self.message)

    monkeypatch.setattr(sys, "unraisablehook", sys.__unraisablehook__)
    _say_failures_once()
    Broken("Event loop is closed")
    assert capsys.readouterr().err == ""
    Broken("something else")
    assert "RuntimeError: something else" in capsys.readouterr().err


def same(a, b):
    return all(map(np.array_equal, jax.tree.leaves(a), jax.tree.leaves(b)))


def test_a_newest_folder_that_is_empty_does_not_hide_the_others(tmp_path):
    folder = tmp_path / "checkpoints"
    *_, expected = save_three(folder)
    (folder / "12").mkdir()
    (folder / "15" / "default").mkdir(parents=True)
    state, said = restore(folder)
    assert same(state, expected) and len(said) == 2 and "15 is damaged" in said[0]


def test_arrays_that_are_not_those_that_were_saved_are_noticed(tmp_path, monkeypatch):
    """Whatever changes them without being noticed by the format: a wrong digest stands for it."""
    folder = tmp_path / "checkpoints"
    _, second, third = states()
    with checkpoints(folder, keep=2) as saved:
        saved.save(second)
    with checkpoints(folder, keep=2) as saved:
        monkeypatch.setattr("hpm_jax.run.checkpoints.digest", lambda parts: digest(parts) ^ 1)
        saved.save(third)
    monkeypatch.undo()
    state, said = restore(folder)
    assert int(state.step) == 6 and "is not what was saved: its checksum differs" in said[0]


def test_a_damaged_array_is_said_in_one_sentence(monkeypatch, capfd):
    """Reads of further arrays fail after the error that is raised; Python would show each."""

    class Read:
        def __init__(self, message):
            self.message = message

        def __del__(self):
            raise ValueError(self.message)

    monkeypatch.setattr(sys, "unraisablehook", sys.__unraisablehook__)
    _say_failures_once()
    Read("Encountered error while reading array index: (slice(0, 8, 1),). See full details")
    assert not capfd.readouterr().err
    Read("something else")
    assert "something else" in capfd.readouterr().err


def test_a_checkpoint_of_an_earlier_version_has_no_digest_and_is_read(tmp_path):
    folder = tmp_path / "checkpoints"
    *_, state = states()
    with checkpoints(folder, keep=2) as saved:
        saved._manager.save(9, args=ocp.args.StandardSave(as_saved(state)))
    found, said = restore(folder)
    assert same(found, state) and not said


@pytest.mark.parametrize("failures", [2, 99])
def test_a_disk_that_does_not_serve_is_no_damage(tmp_path, monkeypatch, failures):
    folder = tmp_path / "checkpoints"
    *_, expected = save_three(folder)
    left = [failures]
    real = ocp.CheckpointManager.restore

    def flaky(self, *args, **kwargs):
        left[0] -= 1
        if left[0] >= 0:
            raise ValueError("Error reading local file [os_error_code='5']")
        return real(self, *args, **kwargs)

    monkeypatch.setattr(ocp.CheckpointManager, "restore", flaky)
    monkeypatch.setattr("hpm_jax.run.checkpoints.PAUSES", (0.0, 0.0, 0.0))
    if failures == 2:
        assert same(restore(folder)[0], expected)
    else:
        with pytest.raises(CheckpointError, match=r"cannot be read now .* nothing was changed"):
            restore(folder)
        monkeypatch.undo()
        assert same(restore(folder)[0], expected)
    assert not (tmp_path / "damaged_checkpoints").exists()


def test_nothing_that_is_not_finite_is_saved(tmp_path):
    folder = tmp_path / "checkpoints"
    *_, state = save_three(folder)
    broken = jax.tree.map(
        lambda x: x * jnp.nan if x.dtype == jnp.float32 else x, state.replace(step=jnp.int32(12))
    )
    with checkpoints(folder, keep=2) as saved, pytest.raises(NotFiniteError, match="after step 12"):
        saved.save(broken)
    assert int(restore(folder)[0].step) == 9
