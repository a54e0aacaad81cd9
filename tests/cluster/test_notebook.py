"""The notebook of `launch/`, run from its first cell to its last."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
LAUNCH = ROOT / "launch"

# Runs its code cells in order, but for what only a notebook can run, with one epoch.
EXECUTE = """
import json, sys
names = {}
for cell in json.load(open("launch/colab.ipynb"))["cells"]:
    tags = cell["metadata"].get("tags", [])
    if cell["cell_type"] == "code" and "install" not in tags:
        exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
    if "parameters" in tags:
        names.update(EPOCHS=1, WORKDIR=sys.argv[1])
"""


def test_the_notebook_is_one():
    notebook = json.loads((LAUNCH / "colab.ipynb").read_text())
    assert notebook["nbformat"] == 4 and notebook["nbformat_minor"] >= 5  # cells have ids
    cells = notebook["cells"]
    ids = [cell["id"] for cell in cells]
    assert len(set(ids)) == len(ids) and all(re.fullmatch(r"[\w-]{1,64}", i) for i in ids)
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    shell = [cell["id"] for cell in code if re.search("^[!%]", "".join(cell["source"]), re.M)]
    assert shell == ["install"]


def test_the_notebook(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", EXECUTE, str(tmp_path / "run")],
        cwd=ROOT,
        text=True,
        capture_output=True,
        env=os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "JAX_PLATFORMS": "cpu"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    accuracies = [
        json.loads((tmp_path / f"run_{weights}" / "report.json").read_text())["rows"][0]["accuracy"]
        for weights in ("student", "random")
    ]
    assert all(0.1 < accuracy <= 1 for accuracy in accuracies)
    assert len(list((tmp_path / "run" / "pictures").glob("step_*.png"))) == 3
