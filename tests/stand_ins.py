"""A terminal on which the cloud's programs are stand-ins that write down what they are asked."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
LAUNCH = ROOT / "launch"
ARGUMENTS = ["--config", "configs/x.py:L", '--config.data.path=/a b/it\'s "here" $HOME;*']

# Notes its own name and arguments in calls.jsonl, and then does what `{body}` says.
STAND_IN = """#!{python}
import json, os, subprocess, sys
from pathlib import Path
here = Path({here!r})
arguments = sys.argv[1:]
with open(here / "calls.jsonl", "a") as file:
    file.write(json.dumps([Path(sys.argv[0]).name, *arguments]) + "\\n")
{body}
"""

# ssh and scp reach two workers, which are folders; buckets are folders too.
GCLOUD = """
import shutil
there = lambda path: here / path[5:] if path.startswith("gs://") else Path(path)
option = lambda name: next(a.split("=", 1)[1] for a in arguments if a.startswith(f"--{name}="))
if arguments[:2] == ["storage", "cp"]:
    *sources, target = arguments[2:]
    for source in sources:
        place = there(target) / Path(source).name if target.endswith("/") else there(target)
        place.parent.mkdir(parents=True, exist_ok=True)
        if source == "-":
            place.write_text(sys.stdin.read())
        else:
            shutil.copy(there(source), place)
elif arguments[:2] == ["storage", "cat"]:
    path = there(arguments[2])
    sys.exit(print(path.read_text().strip()) if path.exists() else 1)
elif "ssh" in arguments:
    workers = ["0", "1"] if option("worker") == "all" else [option("worker")]
    codes = []
    for worker in workers:
        home = here / f"worker{worker}"
        command = ["bash", "-c", option("command")]
        codes.append(subprocess.run(command, cwd=home, env=os.environ | {"HOME": home}).returncode)
    sys.exit(max(codes))
elif "scp" in arguments:
    for worker in "01":
        (here / f"worker{worker}").mkdir(exist_ok=True)
        shutil.copy(arguments[arguments.index("scp") + 1], here / f"worker{worker}")
elif "describe" in arguments:
    sys.exit(0 if (here / "worker0").exists() else "ERROR: NOT_FOUND")
elif "list" in arguments:
    answers = here / "states.txt"
    first, *rest = answers.read_text().splitlines()
    answers.write_text("\\n".join(rest or [first]))
    sys.exit(1) if first == "unreachable" else print(f"another\\tACTIVE\\n{first}")
elif "create" in arguments and "tpu-vm" in arguments:
    for worker in "01":
        (here / f"worker{worker}").mkdir(exist_ok=True)
elif "create" in arguments and "queued-resources" in arguments:
    shutil.copy(option("metadata-from-file").split("=", 1)[1], here / "booted.sh")
"""

# Makes an environment whose python writes down what it is asked to run, and runs until stopped.
UV = """
if arguments[0] == "venv":
    python = Path(arguments[-1]) / "bin" / "python"
    python.parent.mkdir(parents=True, exist_ok=True)
    python.write_text({python!r})
    python.chmod(0o755)
"""
RUN = """#!{python}
import json, signal, sys, time
from pathlib import Path
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
print(json.dumps(sys.argv[1:]), flush=True)
time.sleep(60)
"""


class Machine:
    """A terminal on which the cloud's programs are stand-ins."""

    def __init__(self, here):
        self.here = here
        self.env = {"HOME": str(here), "PATH": f"{here}/bin:{os.environ['PATH']}"}
        (here / "bin").mkdir()

    def stand_in(self, name, body=""):
        path = self.here / "bin" / name
        path.write_text(STAND_IN.format(python=sys.executable, here=str(self.here), body=body))
        path.chmod(0o755)

    def run(self, script, *arguments, code=0, cwd=ROOT, **variables):
        done = subprocess.run(
            ["bash", str(script), *arguments],
            env=self.env | variables,
            cwd=cwd,
            text=True,
            capture_output=True,
            timeout=30,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def calls(self, *words):
        """The calls so far that hold all of these words."""
        path = self.here / "calls.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [call for line in lines if set(words) <= set(call := json.loads(line))]


def until(condition):
    """What `condition` returns, as soon as it is true."""
    for _ in range(200):
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError("it did not happen")
