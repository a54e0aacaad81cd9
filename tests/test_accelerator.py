"""The measurements of an accelerator: which are made, and what becomes of those that fail."""

import json
import subprocess

import pytest

from benchmarks import accelerator
from benchmarks.accelerator import LARGE, TINY, Measurement, main, measure, measurements, tables


def test_the_most_valuable_come_first():
    names = [one.name for one in measurements(LARGE, None)]
    assert names[:2] == ["golden numbers", "B, xla"] and len(set(names)) == len(names)
    assert "input pipeline" not in names
    assert measurements(LARGE, "photographs.tar")[-1].name == "input pipeline"
    assert "micro, xla" in [one.name for one in measurements(TINY, None)]
    file, test = accelerator.RESUMED.split("::")
    assert f"def {test}(" in (accelerator.ROOT / file).read_text()


def test_a_command_gives_numbers_or_what_it_said():
    script = "import json, sys; open(sys.argv[1], 'w').write(json.dumps({'mfu': 0.5})); print('x')"
    assert measure(Measurement("", ["-c", script, "{json}"]), 60)["numbers"] == {"mfu": 0.5}
    said = measure(Measurement("", ["-c", "import sys; print('fast'); sys.stderr.write('!')"]), 60)
    assert said["output"] == ["fast"]


def test_what_fails_is_said():
    broken = measure(Measurement("", ["-c", "print('before'); raise SystemExit('no memory')"]), 60)
    assert broken["failed"] == ["before", "no memory"]
    late = measure(Measurement("", ["-c", "import time; time.sleep(60)"]), 0.5)
    assert late == {"left out": "not done after 0 s"}
    missing = measure(Measurement("", [], needs=("no_such_package",)), 60)
    assert missing == {"left out": "no_such_package is not installed"}


@pytest.fixture
def on_a_gpu(monkeypatch):
    """Commands are not run, and the device is said to be a GPU."""
    run = []
    monkeypatch.setattr(
        subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, "gpu|1|H100", "")
    )
    numbers = dict.fromkeys(accelerator.NUMBERS, 1.0)
    numbers |= {f"share/{name}": 0.25 for name in accelerator.SHARES}

    def fake(one, seconds):
        run.append(one.name)
        return {"output": ["fine"]} if "seeds" in one.name else {"numbers": numbers}

    monkeypatch.setattr(accelerator, "measure", fake)
    return run


def test_results_are_kept_and_not_measured_again(tmp_path, on_a_gpu, capsys):
    out = tmp_path / "h100.json"
    chosen = ["--only", "B, cudnn", "several seeds in one step", "--out", str(out)]
    main(chosen)
    first = json.loads(out.read_text())
    assert first["device"] == "1 x H100" and list(first["measurements"]) == on_a_gpu
    assert "| B, cudnn | 1 | 1 | 1 | 1 | 1 | 25% | 25% | 25% | 25% |" in capsys.readouterr().out
    main(chosen)
    assert len(on_a_gpu) == 2 and json.loads(out.read_text()) == first


def test_kernels_are_measured_where_they_run(tmp_path, on_a_gpu, monkeypatch):
    main(["--out", str(tmp_path / "gpu.json")])
    there = set(on_a_gpu)
    on_a_gpu.clear()
    monkeypatch.setattr(
        subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, "tpu|4|v5e", "")
    )
    main(["--out", str(tmp_path / "tpu.json")])
    assert {"B, cudnn", "L, cudnn"} < there - set(on_a_gpu)
    assert set(on_a_gpu) - there == {"B, pallas"}
    assert {"cheaper teachers", "B, teacher=visible"} < there & set(on_a_gpu)


def test_the_time_and_the_device_are_heeded(tmp_path, on_a_gpu):
    out = tmp_path / "x.json"
    main(["--minutes", "0.1", "--out", str(out)])
    found = json.loads(out.read_text())["measurements"]
    assert not on_a_gpu and all(x == {"left out": "the time was over"} for x in found.values())
    out.write_text(json.dumps({"device": "8 x A100", "measurements": {}}))
    with pytest.raises(SystemExit, match=r"x.json is of 8 x A100, and this is 1 x H100"):
        main(["--out", str(out)])
    with pytest.raises(SystemExit, match="there is no measurement 'B, warp': choose from 'golden"):
        main(["--only", "B, warp"])


def test_the_tables_show_what_failed():
    found = {"a": {"failed": ["no memory"]}, "b": {"left out": "the time was over"}}
    text = tables({"device": "1 x H100", "measurements": found})
    assert "a (failed):\n\n    no memory" in text
    assert "b (left out):\n\n    the time was over" in text
