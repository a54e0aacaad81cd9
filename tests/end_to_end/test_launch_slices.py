"""Slices of TPUs from their creation to their end, against stand-ins for gcloud and uv."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
from stand_ins import ARGUMENTS, GCLOUD, LAUNCH, RUN, UV, Machine, until
from test_launch import PLACE, TPU

QUEUED = TPU | {"WORKDIR": "gs://bucket/runs/x", "INTERVAL": "0"}


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def test_a_slice_from_its_creation_to_its_end(machine):
    machine.stand_in("gcloud", GCLOUD)
    machine.stand_in("uv", UV.format(python=RUN.format(python=sys.executable)))

    def tpu(*arguments, **options):
        return machine.run(LAUNCH / "tpu_vm.sh", *arguments, **(TPU | options))

    def started(worker):
        log = machine.here / f"worker{worker}" / "hpm_jax.log"
        return [json.loads(x) for x in log.read_text().splitlines()] if log.exists() else []

    assert "launch/tpu_vm.sh delete" in tpu("create", "--spot", PROJECT="p")
    vm = ["gcloud", "compute", "tpus", "tpu-vm"]
    kind = ["--accelerator-type=v5litepod-16", "--version=v2-alpha-tpuv5-lite", "--spot"]
    assert machine.calls() == [[*vm, "create", "hpm", *PLACE, "--project", "p", *kind]]

    tpu("install")
    (scp,) = machine.calls("scp")
    assert scp[5:] == [scp[5], "hpm:", *PLACE, "--worker=all"]
    for worker in "01":
        home = machine.here / f"worker{worker}"
        assert (home / "hpm_jax" / "hpm_jax" / "main.py").exists()
        assert (home / "hpm_jax" / "configs" / "hpm_in1k.py").exists()
    installed = machine.calls("uv", "install")
    assert len(installed) == 2 and all("jax[tpu]" in call for call in installed)

    assert "launch/tpu_vm.sh logs" in tpu("run", "--", *ARGUMENTS)
    command, again = ["-m", "hpm_jax.main", *ARGUMENTS], ["-m", "hpm_jax.main", "--again"]
    with contextlib.ExitStack() as stack:
        for worker in "01":
            assert until(lambda worker=worker: started(worker)) == [command]
            stack.callback(kill, machine.here / f"worker{worker}" / "hpm_jax.pid")
        for refused in (["run", "--", "--again"], ["install"]):
            assert "hpm is busy" in tpu(*refused, code=1)
        assert started("0") == started("1") == [command], "nothing else was started"
        assert "no run is going on" not in tpu("stop")
        until(lambda: tpu("stop").count("no run is going on here") == 2)
        tpu("run", "--", "--again")
        until(lambda: [started(worker) for worker in "01"] == [[command, again]] * 2)

    machine.stand_in("tail")
    tpu("logs")
    tpu("logs", WORKER="1")
    assert [call[-2] for call in machine.calls("ssh")[-2:]] == ["--worker=0", "--worker=1"]
    assert machine.calls("tail")[0] == ["tail", "-n", "100", "-F", "hpm_jax.log"]
    tpu("delete")
    assert machine.calls()[-1] == [*vm, "delete", "hpm", *PLACE, "--quiet"]


def test_up_is_all_of_it_in_one(machine):
    """Creates what is not there, installs and runs; asked again, it creates nothing."""
    machine.stand_in("gcloud", GCLOUD)
    machine.stand_in("uv", UV.format(python=RUN.format(python=sys.executable)))

    def up(**options):
        machine.run(LAUNCH / "tpu_vm.sh", "up", "--spot", "--", *ARGUMENTS, **TPU, **options)

    def started():
        log = machine.here / "worker1" / "hpm_jax.log"
        return log.read_text().splitlines() if log.exists() else []

    with contextlib.ExitStack() as stack:
        for lines in (1, 2):
            up()
            until(lambda lines=lines: len(started()) == lines)
            for worker in "01":
                stack.callback(kill, machine.here / f"worker{worker}" / "hpm_jax.pid")
                kill(machine.here / f"worker{worker}" / "hpm_jax.pid")
    (created,) = machine.calls("create")
    assert created[-1] == "--spot" and created[5] == "hpm"


def kill(file):
    """Whatever the test started must not outlive it."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(int(file.read_text()), signal.SIGKILL)


def test_the_code_of_a_repository(machine):
    """REPOSITORY and BRANCH instead of this checkout."""
    machine.stand_in("gcloud", GCLOUD)
    machine.stand_in("uv", UV.format(python=""))
    repository = machine.here / "a repository"
    for name in ("hpm_jax", "configs", "launch"):
        (repository / name).mkdir(parents=True)
        (repository / name / "file").write_text("theirs")
    (repository / "requirements.txt").write_text("")
    shutil.copy(LAUNCH / "install.sh", repository / "launch")
    git = ["git", "-C", repository, "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q", "-b", "ours"], ["add", "."], ["commit", "-qm", "a"]):
        subprocess.run([*git, *command], check=True)
    for worker in "01":
        (machine.here / f"worker{worker}").mkdir()
    machine.run(
        LAUNCH / "tpu_vm.sh", "install", **TPU, REPOSITORY=f"file://{repository}", BRANCH="ours"
    )
    assert (machine.here / "worker1" / "hpm_jax" / "hpm_jax" / "file").read_text() == "theirs"


def test_a_preempted_slice_comes_back(machine):
    machine.stand_in("gcloud", GCLOUD)
    states = machine.here / "states.txt"
    files = machine.here / "bucket/runs/x/launch"
    create = ["gcloud", "compute", "tpus", "queued-resources", "create", "hpm", *PLACE]
    create += ["--node-id=hpm", "--spot", "--accelerator-type=v5litepod-16"]
    create += ["--runtime-version=v2-alpha-tpuv5-lite"]

    states.write_text("hpm\tACTIVE")
    output = machine.run(LAUNCH / "tpu_queued.sh", "create", "--", *ARGUMENTS, code=1, **QUEUED)
    assert "hpm is there already, ACTIVE" in output and not files.exists()

    states.write_text("no-hpm\tACTIVE")
    machine.run(LAUNCH / "tpu_queued.sh", "create", "--network=n", "--", *ARGUMENTS, **QUEUED)
    first = (machine.here / "booted.sh").read_text()
    assert {path.name for path in files.iterdir()} == {"code.tar.gz", "startup.sh"}

    # found preempted, then out of reach, then gone, then at work until it is done
    seen = ["hpm\tSUSPENDING", "hpm\tSUSPENDED", "unreachable", "x\tACTIVE", "hpm\tACTIVE"]
    states.write_text("\n".join(seen))
    (machine.here / "booted.sh").unlink()
    machine.stand_in(
        "sleep",
        f"if not Path({str(states)!r}).read_text().count(chr(10)):\n"
        f"    Path({str(files / 'exit_code')!r}).write_text('0')",
    )
    output = machine.run(LAUNCH / "tpu_queued.sh", "watch", "--network=n", **QUEUED)
    assert "ended with exit code 0" in output and "out of reach" in output
    asked = machine.calls("create")
    assert len(asked) == 3, "once by create, twice by watch"
    assert all(call[: len(create)] == create and call[-1] == "--network=n" for call in asked)
    assert (machine.here / "booted.sh").read_text() == first, "the same command"
    deleted = machine.calls("delete")
    assert len(deleted) == 2 and all({"--force", "--quiet"} <= set(call) for call in deleted)
    assert machine.calls()[-1] == deleted[-1]


def test_a_run_that_fails_is_deleted_and_told_of(machine):
    machine.stand_in("gcloud", GCLOUD)
    (machine.here / "states.txt").write_text("hpm\tACTIVE")
    files = machine.here / "bucket/runs/x/launch"
    assert "startup.sh cannot be read" in machine.run(
        LAUNCH / "tpu_queued.sh", "watch", code=1, **QUEUED
    )
    files.mkdir(parents=True)
    (files / "startup.sh").write_text("")
    (files / "exit_code").write_text("1\n")
    output = machine.run(LAUNCH / "tpu_queued.sh", "watch", code=1, **QUEUED)
    assert "exit code 1" in output and "gs://bucket/runs/x/launch/log_" in output
    assert len(machine.calls("delete")) == 1


@pytest.mark.parametrize(
    ("codes", "runs", "left"),
    [([0], 1, "0"), ([1, 143, 143, 143, 1, 0], 6, "0"), ([1, 1, 2, 0], 3, "2")],
)
def test_what_a_worker_does_when_it_boots(machine, codes, runs, left):
    """Installs, runs, goes on after SIGTERM, and leaves word of how it ended."""
    for name, body in (("gcloud", GCLOUD), ("sleep", ""), ("curl", "print(0)")):
        machine.stand_in(name, body)
    ends = machine.here / "codes.txt"
    ends.write_text(" ".join(map(str, codes)))
    run = f"""#!{sys.executable}
import json, sys
from pathlib import Path
first, *rest = Path({str(ends)!r}).read_text().split()
Path({str(ends)!r}).write_text(" ".join(rest))
print(json.dumps(sys.argv[1:]))
sys.exit(int(first))
"""
    machine.stand_in("uv", UV.format(python=run))
    (machine.here / "states.txt").write_text("x\tACTIVE")
    machine.run(LAUNCH / "tpu_queued.sh", "create", "--", *ARGUMENTS, **QUEUED)
    root = machine.here / "root"
    root.mkdir()
    script = machine.here / "booted.sh"
    script.write_text(script.read_text().replace("/root", str(root)))
    machine.run(script, cwd=root)

    files = machine.here / "bucket/runs/x/launch"
    assert (files / "exit_code").read_text().strip() == left
    log = (files / "log_0.txt").read_text()
    ran = [json.loads(line) for line in log.splitlines() if line.startswith("[")]
    command = ["-m", "hpm_jax.main", *ARGUMENTS, "--workdir=gs://bucket/runs/x"]
    assert ran == [command] * runs
    assert all("jax[tpu]" in call for call in machine.calls("uv", "install"))
