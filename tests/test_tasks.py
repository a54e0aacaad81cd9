"""A task from a module of the user's own, by one entry of the registry."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hpm_jax import options
from hpm_jax.config import TASKS, ConfigError, Task, defaults, freeze, register_task
from hpm_jax.config.inherit import inherit
from hpm_jax.config.tasks import resolve
from hpm_jax.run.checkpoints import CheckpointError
from hpm_jax.run.load import load_run
from hpm_jax.run.workdir import read_config

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "docs" / "extend.md"
CONFIG = """
from hpm_jax.config import defaults


def get_config():
    config = defaults("count", modules=("my_tasks",))
    config.data.update(source="synthetic", synthetic_images=100)
    return config
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the module, which is on Python's path, and a config."""
    folder = tmp_path_factory.mktemp("modules")
    blocks = re.findall(r"```python\n(.+?)```", EXAMPLES.read_text(), re.S)
    (folder / "my_tasks.py").write_text(next(x for x in blocks if "register_task(" in x))
    (folder / "count.py").write_text(CONFIG)
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))
    sys.modules.pop("my_tasks", None)
    TASKS.pop("count", None)


def test_a_task_of_ones_own(folder, pretrained, tmp_path, capsys):
    config = defaults("count", modules=("my_tasks",))
    assert config.task == "count" and config.data.source is None and config.data.path == ""
    config.init_from = str(pretrained)
    frozen = freeze(inherit(config))
    assert frozen.data.source == "digits" and frozen.data.image_size == (16, 16)

    assert resolve(TASKS["count"].run)(frozen, tmp_path) == 0
    assert (tmp_path / "count.txt").read_text().endswith("of (16, 16)")
    assert read_config(tmp_path) == frozen
    with pytest.raises(CheckpointError, match="workdir of a count: it has no weights"):
        load_run(tmp_path)

    options.main(["count", "--modules", "my_tasks"])
    shown = capsys.readouterr().out
    assert "most = 0  [from 0]  the largest number to count" in shown and "strategy" not in shown

    config.most = -1
    with pytest.raises(ConfigError, match=r"config.most = -1: expected a number from 0"):
        freeze(inherit(config))
    config.update(most=0)
    config.data.source = "synthetic"
    with pytest.raises(ConfigError, match="expected images of a run"):
        freeze(inherit(config))


def test_the_command_runs_it(folder, tmp_path):
    command = [sys.executable, "-m", "hpm_jax.main", f"--config={folder / 'count.py'}"]
    command += [f"--workdir={tmp_path}", "--config.most=50"]
    environment = os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "count.txt").read_text() == "50 of (224, 224)"
    options = json.loads((tmp_path / "config.json").read_text())
    assert options["task"] == "count" and options["modules"] == ["my_tasks"]
    help = [*command, "--help"]
    shown = subprocess.run(help, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert "Options of count" in shown.stdout and "the largest number to count" in shown.stdout


def test_every_entry_names_functions_that_are_there():
    for name, task in TASKS.items():
        assert task.options().task == name or name == "count"
        for function in (task.run, task.check, task.complete, task.build):
            assert function is None or callable(resolve(function))


def test_a_task_whose_name_is_taken():
    with pytest.raises(ValueError, match=r"'pretrain' is the task hpm_jax.config.pretrain.Config"):
        register_task("pretrain", Task(TASKS["probe"].options, print))
    register_task("pretrain", TASKS["pretrain"])  # by its own module


def test_an_unknown_task():
    with pytest.raises(ConfigError, match=r"config.task = 'pretrian'.*did you mean 'pretrain'"):
        freeze({"task": "pretrian"})
    with pytest.raises(ConfigError, match=r"config.modules has 'my_tasksz', which cannot be imp"):
        defaults("count", modules=("my_tasksz",))
