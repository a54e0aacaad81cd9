"""The machines that a plan is made for, and what is said where one does not exist or suffice."""

import subprocess
import sys
import types
from pathlib import Path

import jax
import pytest

from hpm_jax.chips import peak_of
from hpm_jax.plan.compiled import asked_for
from hpm_jax.plan.gpus import DESCRIBED, target
from hpm_jax.plan.machines import GIB, PlanError, devices_of, gpus_of, machine
from hpm_jax.run.throughput import peak_flops


def test_machines():
    assert machine("v5e:4x4").devices == 16 and machine("v4:2x2x4").devices == 16
    assert machine("v3:2x2").devices == 8, "its cores are devices"
    assert machine("h100:8").devices == 8
    assert machine("v5e:4x4").peak("bfloat16") == 16 * 197e12
    assert machine("a100-40:2").peak("float32") == 2 * 156e12


def test_a_gpu_gives_what_jax_takes(monkeypatch):
    monkeypatch.delenv("XLA_PYTHON_CLIENT_MEM_FRACTION", raising=False)
    assert machine("a100-40:1").memory == 30 * GIB
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.9")
    assert machine("a100-40:1").memory == 36 * GIB
    assert machine("v5e:4x4").memory == 15.75 * GIB


def test_gpus_are_described_as_their_chips(monkeypatch):
    """Memory and bandwidth by two sources; what nothing describes is planned by arithmetic."""
    for kind, gpu in DESCRIBED.items():
        chip = machine(f"{kind}:1").chip
        assert gpu.memory / GIB == pytest.approx(chip.memory, rel=0.02)
        assert gpu.bandwidth == pytest.approx(chip.bandwidth, rel=0.05)
        text = target(gpu)
        assert f"core_count: {gpu.cores}" in text and text.count("{") == text.count("}")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert gpus_of(machine("h100:8")) == []
    monkeypatch.undo()
    assert gpus_of(machine("t4:8")) == []


@pytest.mark.parametrize(
    ("kind", "teraflops"),
    [
        ("TPU v2", 22.5),
        ("TPU v4", 275),
        ("TPU v5 lite", 197),
        ("TPU v5", 459),
        ("TPU v6 lite", 918),
        ("NVIDIA L4", 121),
        ("NVIDIA L40S", 362),
        ("NVIDIA A10", 125),
        ("NVIDIA A10G", 70),
        ("NVIDIA A100-SXM4-40GB", 312),
        ("NVIDIA A100 80GB PCIe", 312),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H200", 989),
        ("NVIDIA B200", 2250),
        ("NVIDIA GeForce RTX 4090", 165),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA L40", None),
        ("NVIDIA GH200 480GB", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("TPU v4 lite", None),
        ("cpu", None),
    ],
)
def test_peaks_go_by_whole_words(kind, teraflops):
    assert peak_of(kind) == (teraflops and teraflops * 1e12)


def test_the_meter_takes_the_peak_of_all_devices_or_measures_one(monkeypatch):
    stand_in = types.SimpleNamespace(device_kind="NVIDIA L40S")
    monkeypatch.setattr(jax, "devices", lambda: [stand_in] * 4)
    monkeypatch.setattr(jax, "device_count", lambda: 4)
    assert peak_flops() == (4 * 362e12, "NVIDIA L40S: data sheet, bfloat16")
    stand_in.device_kind = "NVIDIA L40"
    peak, source = peak_flops()
    assert peak > 0 and source.startswith("NVIDIA L40: measured")


@pytest.mark.parametrize(
    ("topology", "message"),
    [
        ("v9:4x4", "there is no chip 'v9'; expected one such as v5e:4x4"),
        ("v5e", "chips on each side, as in v5e:4x4"),
        ("v5e:16", "chips on each side"),
        ("v5e:four", "chips on each side"),
        ("h100", "how many, as in h100:8"),
        ("h100:0", "how many"),
        ("h100:2x4", "how many"),
        ("h100-pcie", "how many"),
    ],
)
def test_machines_that_do_not_exist(topology, message):
    with pytest.raises(PlanError, match=message):
        machine(topology)


def test_more_devices_than_jax_has_started_with():
    assert jax.device_count() == 8
    with pytest.raises(PlanError, match="started with 8 CPU devices; plan in a fresh process"):
        devices_of(machine("h100:16"))


def test_a_refusal_says_how_much_was_asked_for():
    report = "RESOURCE_EXHAUSTED: the total memory required (20.28G) exceeds available (15.75G)."
    assert asked_for(report) == pytest.approx(20.28 * GIB, rel=1e-6)
    assert asked_for("RESOURCE_EXHAUSTED: (512.00M) exceeds it") == 2**29
    assert asked_for("RESOURCE_EXHAUSTED: no more") is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--config=configs/finetune_in1k.py"], "config.task = 'finetune' cannot be planned"),
        (
            ["--config=configs/detect.py:batch=8", "--topology=t4:8"],
            "detection is not estimated, and has to be compiled",
        ),
        (["--config=configs/quickstart.py", "--topology=k80:8"], "there is no chip 'k80'"),
        (
            ["--config=configs/quickstart.py", "--topology=t4:8", "--choose"],
            "--topology t4:8 has no compiler here: name a TPU slice",
        ),
        (
            ["--config=configs/quickstart.py", "--mfu=2"],
            "2.0 is not a number in the range [0.01, 1]",
        ),
    ],
)
def test_one_sentence_for_what_is_wrong(options, message):
    command = [sys.executable, "-m", "hpm_jax.plan", *options]
    root = Path(__file__).parent.parent
    found = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300)
    assert found.returncode == 1 and "Traceback" not in found.stderr
    assert found.stderr.strip().splitlines()[-1].startswith("error: ")
    assert message in found.stderr
