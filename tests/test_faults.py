"""Faults around a run: signals, stalled reads, dead workers, memory and files that are left."""

import errno
import json
import logging
import multiprocessing.util
import os
import signal
import subprocess
import sys
import threading
import warnings
from multiprocessing import shared_memory as python_memory

import grain
import numpy as np
import pytest
from absl import flags
from small import small_config

from hpm_jax import signals, storage
from hpm_jax.config import ConfigError
from hpm_jax.data import shared_memory
from hpm_jax.data.pipeline import train_batches
from hpm_jax.data.reading import Reader, WorkerError
from hpm_jax.data.records import Arrays
from hpm_jax.run import stopping
from hpm_jax.run.divergence import way_out
from hpm_jax.run.library_log import log_to_workdir
from hpm_jax.run.metrics import MetricsWriter, read_lines
from hpm_jax.run.stopping import StopRequest
from hpm_jax.run.workdir import open_workdir, read_config
from hpm_jax.visualize.report import write_report

BUSY = """
import hashlib
from hpm_jax import signals
signals.listen()
print("listening", flush=True)
hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)  # minutes in C, as a compiler
"""
NEVER_ENDS = """
import sys, threading
from hpm_jax import signals
threading.Thread(target=threading.Event().wait).start()
signals.end_within(0.5, 74)
sys.exit(74)
"""
HOLD = """
import os, signal, sys
from pathlib import Path
from hpm_jax.data import shared_memory
shared_memory.FOLDER = Path(sys.argv[1])
prefix = shared_memory.claim()
(shared_memory.FOLDER / f"{prefix}1").write_bytes(b"a batch")
print("held", flush=True)
signal.pause()
"""


LEAVES = """
from multiprocessing.shared_memory import SharedMemory
from hpm_jax.run.library_log import log_to_workdir
log_to_workdir("/nowhere")
SharedMemory(create=True, size=10).close()
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_a_process_that_is_busy_in_foreign_code(number, code):
    process = subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "listening\n"
    process.send_signal(number)
    assert process.wait(60) == code


def test_a_process_whose_threads_are_stuck_ends():
    assert subprocess.run([sys.executable, "-c", NEVER_ENDS], timeout=60).returncode == 74


def test_a_second_signal_or_the_end_of_the_grace_ends_a_stuck_run(monkeypatch, capsys):
    ended, over = [], threading.Event()
    monkeypatch.setattr(signals, "end_at_once", lambda number: (ended.append(number), over.set()))
    request = StopRequest(grace=0.01)
    request.take(signal.SIGTERM)
    assert over.wait(60) and ended == [signal.SIGTERM] and request.exit_code == 143
    assert "had not stopped 0 s after the signal" in capsys.readouterr().err

    request = StopRequest(grace=3600)
    request.take(signal.SIGINT)
    request.take(signal.SIGINT)  # at once: one signal that came by two ways
    assert len(ended) == 1 and request.now
    monkeypatch.setattr(stopping, "APART", 0.0)
    request.take(signal.SIGINT)
    assert ended == [signal.SIGTERM, signal.SIGINT]
    request.ended()


class Stalling:
    """Batches of which the second never comes."""

    def __init__(self):
        self.given = 0

    def __next__(self):
        self.given += 1
        if self.given > 1:
            threading.Event().wait()
        return self.given

    def close(self):
        threading.Event().wait()


def test_a_stop_does_not_wait_for_a_stalled_read(monkeypatch):
    monkeypatch.setattr("hpm_jax.data.reading.CLOSE_SECONDS", 0.1)
    reader = Reader(Stalling())
    assert next(reader) == 1
    asked = iter([False, False, True])
    assert reader.take(lambda: next(asked)) is None
    reader.close()


def test_the_end_and_the_errors_of_batches_come_through():
    assert list(Reader(iter([1, 2]))) == [1, 2]
    with pytest.raises(ZeroDivisionError):
        list(Reader(1 / n for n in (1, 0)))


def with_workers(count):
    options = {"data": {"image_size": (8, 8)}, "optimizer": {"batch_size": 8}}
    config = small_config(run={"workers": count, "prefetch": 1}, **options)
    records = Arrays(np.zeros((4000, 8, 8, 1), np.uint8), np.zeros(4000, np.int32))
    return train_batches(records, config)


def test_a_worker_that_dies_while_starting_ends_the_run_with_a_sentence(monkeypatch):
    """What it starts with is more than a pipe holds, and it dies before it reads any of it."""
    real = multiprocessing.util.spawnv_passfds

    def die(path, args, fds):
        pid = real(path, args, fds)
        if any(b"spawn_main" in os.fsencode(word) for word in args):
            os.kill(pid, signal.SIGKILL)
        return pid

    monkeypatch.setattr(multiprocessing.util, "spawnv_passfds", die)
    found = []

    def read():
        try:
            next(with_workers(2))
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(120)
    assert found, "it hangs"
    assert isinstance(found[0], WorkerError) and "killed by signal 9" in str(found[0])
    assert "config.run.workers" in str(found[0]) and "\n" not in str(found[0])


def test_a_worker_that_is_killed_later_ends_the_run_with_a_sentence():
    batches = with_workers(1)
    assert next(batches)["image"].shape == (8, 8, 8, 1)
    (worker,) = [p for p in multiprocessing.active_children() if "grain" in p.name]
    worker.kill()
    with pytest.raises(WorkerError, match="killed by signal 9"):
        for _ in range(10):
            next(batches)
    batches.close()


def test_memory_of_a_killed_run_is_removed_and_that_of_a_live_one_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(shared_memory, "FOLDER", tmp_path)
    (tmp_path / "psm_other").write_bytes(b"not ours")
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout.readline() == "held\n"
    processes[0].kill()
    processes[0].wait()
    shared_memory.remove_leftovers()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert len(names) == 3 and "psm_other" in names, names
    processes[1].kill()
    processes[1].wait()
    shared_memory.remove_leftovers()
    assert [path.name for path in tmp_path.iterdir()] == ["psm_other"]


def test_shared_memory_of_a_worker_is_named_after_its_run(monkeypatch):
    for name in ("_SHM_NAME_PREFIX", "_SHM_SAFE_NAME_LENGTH"):
        monkeypatch.setattr(python_memory, name, getattr(python_memory, name))
    shared_memory.use_prefix("hpm_jax_01234567_")
    memory = python_memory.SharedMemory(create=True, size=10)
    memory.close()
    memory.unlink()
    assert memory.name.startswith("hpm_jax_01234567_")


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    done = []
    real_sync, real_replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda number: (done.append("sync"), real_sync(number)))
    monkeypatch.setattr(os, "replace", lambda *names: (done.append("name"), real_replace(*names)))
    storage.write(tmp_path / "config.json", "{}")
    assert done == ["sync", "name", "sync"], "the file, its name, the folder with the name"
    done.clear()
    writer = MetricsWriter(tmp_path)
    writer.write(1, {"loss": 2.0})
    done.clear()
    writer.flush()
    assert done == ["sync"]
    writer.close()


LINES = [json.dumps({"step": step, "epoch": float(step), "loss": 1.0}) for step in range(1, 5)]


def damaged_lines(path):
    """The third line is cut, another is no JSON, one is no line of metrics; the last is half."""
    content = [LINES[0], LINES[1], LINES[2][:9], "\0\xff\0", "3", LINES[3], LINES[3][:5]]
    path.write_bytes("\n".join(content).encode("latin-1"))


def test_damaged_lines_are_left_out_and_told_of(tmp_path):
    damaged_lines(tmp_path / "metrics.jsonl")
    said = []
    lines = read_lines(tmp_path / "metrics.jsonl", said.append)
    assert [line["step"] for line in lines] == [1, 2, 4]
    assert len(said) == 1 and said[0].startswith("3 damaged lines of")
    (tmp_path / "pictures").mkdir()
    write_report(tmp_path, "a command", ["a fact"], "")
    assert "- 3 damaged lines of" in (tmp_path / "report.md").read_text()


def test_a_resumed_run_keeps_damaged_lines_aside(tmp_path):
    damaged_lines(tmp_path / "metrics.jsonl")
    before, said = (tmp_path / "metrics.jsonl").read_bytes(), []
    MetricsWriter(tmp_path, step=4, say=said.append).close()
    assert (tmp_path / "metrics.1.jsonl").read_bytes() == before
    assert [line["step"] for line in read_lines(tmp_path / "metrics.jsonl")] == [1, 2, 4]
    assert len(said) == 1 and "metrics.1.jsonl" in said[0]
    MetricsWriter(tmp_path, step=4, say=said.append).close()
    assert len(said) == 1 and not (tmp_path / "metrics.2.jsonl").exists()


@pytest.mark.parametrize("content", ["", '{"task": "pre', "\xff\xfe"])
def test_a_damaged_config_is_named(tmp_path, content):
    open_workdir(tmp_path, small_config())
    (tmp_path / "config.json").write_bytes(content.encode("latin-1"))
    for use in (read_config, lambda path: open_workdir(path, small_config())):
        with pytest.raises(ConfigError, match=r"config\.json is damaged.* delete it"):
            use(tmp_path)
    (tmp_path / "config.json").unlink()
    open_workdir(tmp_path, small_config())
    assert read_config(tmp_path) == small_config()


def test_a_run_goes_on_with_another_learning_rate_where_that_is_accepted(tmp_path):
    open_workdir(tmp_path, small_config())
    slower = {"base_learning_rate": 1e-3}
    with pytest.raises(ConfigError, match=r"by --config\.run\.accept_new_options=True"):
        open_workdir(tmp_path, small_config(optimizer=slower))
    accept = {"accept_new_options": True}
    (tmp_path / "checkpoints" / "7").mkdir(parents=True)
    open_workdir(tmp_path, small_config(optimizer=slower, run=accept))
    (change,) = json.loads((tmp_path / "config_changes.json").read_text())
    assert change["from_step"] == 7
    assert change["options"] == {"optimizer.base_learning_rate": [4e-3, 1e-3]}
    open_workdir(tmp_path, small_config(optimizer=slower))  # it is the run's own now
    assert len(json.loads((tmp_path / "config_changes.json").read_text())) == 1
    with pytest.raises(ConfigError) as refusal:
        open_workdir(tmp_path, small_config(optimizer={"batch_size": 32}, run=accept))
    assert "accept_new_options" not in str(refusal.value), "what would not help is not advised"


def test_the_way_out_of_a_divergence_is_a_command():
    advice = way_out(small_config().optimizer)
    assert "--config.optimizer.base_learning_rate=0.002 --config.run.accept_new_options" in advice
    absolute = small_config(
        optimizer={"absolute_learning_rate": 1.0, "base_learning_rate": 0.0}
    ).optimizer
    assert "--config.optimizer.absolute_learning_rate=0.5 " in way_out(absolute)


def test_shared_memory_that_a_worker_leaves_is_no_news():
    """Python's own process, which removes it, would warn of it after the run's last line."""
    found = subprocess.run([sys.executable, "-c", LEAVES], capture_output=True, text=True)
    assert found.returncode == 0 and found.stderr == ""


def test_what_libraries_log_goes_to_the_workdir(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(logging.root, "handlers", [])
    monkeypatch.setenv("PYTHONWARNINGS", "")
    log_to_workdir(tmp_path / "run")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            logging.captureWarnings(True)
            warnings.warn("an old name", DeprecationWarning, stacklevel=1)
            assert not (tmp_path / "run").exists(), "a refused run leaves nothing"
            (tmp_path / "run").mkdir()
            logging.getLogger("absl").warning("saving took long")
    finally:
        logging.captureWarnings(False)
    text = (tmp_path / "run" / "warnings.log").read_text()
    assert "an old name" in text and "saving took long" in text
    assert capfd.readouterr().err == ""


def test_a_machine_without_room_for_workers_is_told_so():
    class Scarce:
        def __next__(self):
            raise OSError(errno.EMFILE, "Too many open files")

        def close(self):
            raise AssertionError("can only join a started process")

    reader = Reader(Scarce())
    with pytest.raises(WorkerError, match=r"Too many open files.*config\.run\.workers"):
        next(reader)
    reader.close()  # grain fails to end what it could not start


@pytest.mark.parametrize("workers", [[], ["a process"]])
def test_workers_are_ended_once(monkeypatch, workers):
    """A thread that is still ending them is waited for before grain's own finalizers run."""
    ending, waited = threading.Event(), []

    class Slow:
        def close(self):
            ending.wait(60)

    monkeypatch.setattr("hpm_jax.data.reading.CLOSE_SECONDS", 0.05)
    monkeypatch.setattr("multiprocessing.active_children", lambda: workers)
    monkeypatch.setattr(
        "multiprocessing.util.Finalize", lambda *given, exitpriority: waited.append(given[1])
    )
    Reader(Slow()).close()
    ending.set()
    assert len(waited) == len(workers)
    for wait in waited:
        wait(60)


def test_a_worker_that_was_never_started_is_not_joined(monkeypatch):
    """Else Python prints a traceback below the sentence, when it ends."""

    def scarce(process):
        raise OSError(errno.EMFILE, "Too many open files")

    flags.FLAGS.mark_as_parsed()  # grain reads them
    monkeypatch.setattr("multiprocessing.process.BaseProcess.start", scarce)
    options = grain.multiprocessing.MultiprocessingOptions(num_workers=1)
    batches = iter(grain.MapDataset.range(8).to_iter_dataset().mp_prefetch(options))
    with pytest.raises(WorkerError, match="Too many open files"):
        next(Reader(batches))
    batches.close()
