"""Which file `--config` names, from every folder, for every command that takes it."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from hpm_jax import __main__ as command
from hpm_jax import config_files

ROOT = Path(__file__).parent.parent


def test_shipped_configs_are_those_of_the_checkout():
    assert config_files.shipped() == {p.stem: p for p in (ROOT / "configs").glob("*.py")}


@pytest.mark.parametrize("value", ["quickstart", "quickstart.py", "configs/quickstart.py"])
@pytest.mark.parametrize("variant", ["", ":hpm,epochs=10"])
def test_a_shipped_config_from_another_folder(value, variant, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quickstart").mkdir()  # a folder is no config
    expected = f"{ROOT / 'configs' / 'quickstart.py'}{variant}"
    assert config_files.find(value + variant) == expected
    words = ["main", "--workdir", "quickstart", "--config.seed=1"]
    assert config_files.find_all([*words, "--config", value + variant]) == [
        *words,
        "--config",
        expected,
    ]
    assert config_files.find_all([*words, f"--config={value}{variant}"])[-1].endswith(expected)


def test_a_file_that_is_there_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quickstart.py").write_text("")
    assert config_files.find("quickstart.py:x") == "quickstart.py:x"
    assert config_files.find("quickstart") == str(ROOT / "configs" / "quickstart.py")
    for other in ("elsewhere/quickstart.py", "mine", "/quickstart.py", "quickstart.json", ""):
        assert config_files.find(other) == other


def test_a_wrong_name_lists_the_right_ones():
    told = config_files.missing("quikstart:hpm")
    assert told.startswith("there is no config quikstart: did you mean 'quickstart'?")
    for name in config_files.shipped():
        assert name in told and name in config_files.missing("zzz")
    assert "did you mean" in config_files.missing(f"{ROOT}/configs/quikstart.py")
    assert config_files.missing("nowhere/x.py") == "there is no config file nowhere/x.py"


@pytest.mark.parametrize("module", ["main", "compare", "plan", "benchmark", "continue_official"])
def test_every_command_finds_them(module, tmp_path):
    line = [sys.executable, "-m", f"hpm_jax.{module}", "--config=quikstart"]
    done = subprocess.run(
        line, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: there is no config quikstart: did you mean 'quickstart'?")


def environment():
    return os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}


def test_each_command_is_a_module(monkeypatch):
    ran = []
    monkeypatch.setattr(runpy, "run_module", lambda name, **_: ran.append((name, sys.argv[1:])))
    for words, module, rest in (
        (["--config", "x"], "main", ["--config", "x"]),
        (["train", "--config", "x"], "main", ["--config", "x"]),
        (["convert", "runs/a", "b.npz"], "convert", ["runs/a", "b.npz"]),
    ):
        monkeypatch.setattr(sys, "argv", ["hpm-jax", *words])
        command.main()
        assert ran.pop() == (f"hpm_jax.{module}", rest)
    for module, _ in command.COMMANDS.values():
        path = ROOT / "hpm_jax" / module.replace(".", "/")
        source = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
        assert '__name__ == "__main__"' in source.read_text(), module


def test_a_wrong_command(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["hpm-jax", "convrt"])
    with pytest.raises(SystemExit, match=r"^error: no command 'convrt': did you mean 'convert'\?"):
        command.main()
    monkeypatch.setattr(sys, "argv", ["hpm-jax"])
    command.main()
    assert "continue-official" in capsys.readouterr().out
