"""A run, a report of it and its weights in another format: none of them asks the network."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Python reads this file first, in every process that a command starts.
CLOSED = """
import socket

connect, resolve = socket.socket.connect, socket.getaddrinfo


def refuse(address):
    host = address[0] if isinstance(address, tuple) else "localhost"
    if host not in ("localhost", "127.0.0.1", "::1"):
        open({log!r}, "a").write(f"{{host}}\\n")
        raise OSError(f"{{host}}: the network is closed")


def checked_connect(self, address):
    refuse(address)
    return connect(self, address)


def checked_resolve(host, *arguments, **options):
    refuse((host,))
    return resolve(host, *arguments, **options)


socket.socket.connect, socket.getaddrinfo = checked_connect, checked_resolve
"""
CONFIG = f"""
import sys

sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from small import small_options


def get_config():
    config = small_options()
    config.optimizer.epochs = 2
    return config
"""


def test_nothing_connects(tmp_path):
    log = tmp_path / "asked.txt"
    (tmp_path / "sitecustomize.py").write_text(CLOSED.format(log=str(log)))
    (tmp_path / "tiny.py").write_text(CONFIG)
    env = os.environ | {"PYTHONPATH": f"{tmp_path}", "JAX_PLATFORMS": "cpu"}

    def python(*arguments):
        command = [sys.executable, *arguments]
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    # what closes the network can fail
    code, said = python("-c", "import socket; socket.create_connection(('example.com', 80))")
    assert code == 1 and "the network is closed" in said and log.read_text() == "example.com\n"
    log.unlink()

    run = tmp_path / "run"
    for command in (
        ("-m", "hpm_jax.main", f"--config={tmp_path / 'tiny.py'}", f"--workdir={run}"),
        ("-m", "hpm_jax.convert", str(run), str(tmp_path / "out.safetensors"), "--names=timm"),
    ):
        code, said = python(*command)
        assert code == 0, said
    assert not log.exists(), log.read_text()
