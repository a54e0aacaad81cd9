"""Damaged and hostile files for everything that reads files of others, guided by coverage.

    pip install atheris
    python tests/fuzz/fuzz.py image --runs 10000     # one reader; without a name, all of them

A reader may answer any bytes with its result, or with the error that it promises. Everything else
is found: another exception, more than 4 GB of memory, more than ten seconds. What is found is
written to tests/fuzz/corpus/<reader>, where the tests of every day read it again.
"""

import argparse
import hashlib
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
CORPUS = HERE / "corpus"
sys.path[:0] = [str(HERE), str(HERE.parents[1])]


def fuzz(name: str, runs: int, seed: int) -> None:
    """Never returns: atheris ends the process."""
    import atheris

    with atheris.instrument_imports(include=["hpm_jax", "PIL"], enable_loader_override=False):
        from readers import READERS
    reader = READERS[name]
    seeds = Path(f"/tmp/hpm_jax_fuzz_{name}")
    seeds.mkdir(exist_ok=True)
    for data in reader.seeds():
        (seeds / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)

    def one(data: bytes) -> None:
        try:
            reader.read(data)
        except reader.refuses:
            return

    options = [f"-runs={runs}", f"-seed={seed + 1}", "-rss_limit_mb=4096", "-timeout=10"]
    found = CORPUS / name
    found.mkdir(parents=True, exist_ok=True)
    options += [f"-artifact_prefix={found}/", "-verbosity=0", "-max_len=65536", str(seeds)]
    atheris.Setup([sys.argv[0], *options], one)
    atheris.Fuzz()


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if len(options.names) == 1:
        fuzz(options.names[0], options.runs, options.seed)
    from readers import READERS

    bad = []
    for name in options.names or READERS:
        began = time.monotonic()
        command = [sys.executable, __file__, name, f"--runs={options.runs}"]
        done = subprocess.run([*command, f"--seed={options.seed}"], capture_output=True, text=True)
        seconds = time.monotonic() - began
        result = "nothing found" if done.returncode == 0 else "found:"
        print(f"{name:12} {options.runs} inputs, {seconds:.0f} s: {result}", flush=True)
        if done.returncode:
            bad.append(name)
            print(done.stdout[-3000:], done.stderr[-3000:], flush=True)
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
