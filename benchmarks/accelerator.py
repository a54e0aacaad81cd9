"""All that an accelerator can tell in a few minutes, by one command, most valuable first.

    python -m benchmarks.accelerator --minutes 8
    python -m benchmarks.accelerator --minutes 8 --images imagenet_sample.tar --out h100.json
    python -m benchmarks.accelerator --tiny                # on a CPU, to see that it works

Golden numbers, the step of S, B and L with its parts, fused attention and unrolled blocks, cheaper
teachers, bfloat16 against float32, PyTorch's MAE and HPM in turns with ours, several seeds in one
step, a resumed run, the input pipeline. Each is a command in a process of its own, so that one that
fails, or runs out of memory or time, does not end the others. `--out` (accelerator.json) is written
after each, and the measurements that it has are not repeated. Last, all is printed as Markdown.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
ABOUT = "import jax; d = jax.devices(); print(d[0].platform, len(d), d[0].device_kind, sep='|')"
RESUMED = "tests/end_to_end/test_pretrain.py::test_a_killed_run_goes_on_bit_for_bit"
LEAST = 20.0  # seconds that a measurement needs to be worth starting
LINES = 15  # of what a command says that are kept
# PyTorch and JAX share the memory of the device, and commands their compiled programs
SHARED = {
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    "JAX_COMPILATION_CACHE_DIR": str(Path(tempfile.gettempdir()) / "hpm_jax_compiled"),
}
NUMBERS = ("images_per_second", "mfu", "step_seconds", "compile_seconds", "temporary_bytes")
SHARES = ("teacher", "forward", "backward", "update")


class Measurement(NamedTuple):
    """A command, and what it needs."""

    name: str
    command: list[str]  # after the Python interpreter
    needs: tuple[str, ...] = ()  # packages
    only_on: str = ""  # "gpu" or "tpu": runs nowhere else
    environment: tuple[tuple[str, str], ...] = ()


class Shapes(NamedTuple):
    """How large the steps are."""

    sizes: tuple[str, ...]
    side: int
    batch: int
    steps: int
    dtype: str
    config: str  # of a size

    def of_size(self, size: str) -> list[str]:
        """Arguments of the commands that take a size."""
        return [f"--size={size}", f"--batch={self.batch}", f"--dtype={self.dtype}"]

    def benchmark(self, size: str, teacher: str = "", **model: Any) -> list[str]:
        """The step and its parts; `teacher` as in `config.teacher`."""
        options = {"data.source": "synthetic", "optimizer.batch_size": self.batch}
        options |= {f"model.{name}": value for name, value in model.items()}
        options |= {"teacher": teacher} if teacher else {}
        return [
            *("-m", "hpm_jax.benchmark", "--config", self.config.format(size)),
            *(f"--config.{name}={value}" for name, value in options.items()),
            *("--steps", str(self.steps), "--json", "{json}"),
        ]


LARGE = Shapes(("B", "S", "L"), 224, 256, 10, "bfloat16", "configs/hpm_in1k.py:{}")
TINY = Shapes(("micro",), 32, 8, 1, "float32", "configs/hpm_cifar10.py:hpm,size={}")


def measurements(shapes: Shapes, images: Path | None) -> list[Measurement]:
    """What is measured, most valuable first."""
    first, *others = shapes.sizes
    golden = [f"tests/test_golden{part}.py" for part in ("", "_video", "_vit")]
    pytest = ["-m", "pytest", "-q", "-n", "0"]
    exact = (("JAX_DEFAULT_MATMUL_PRECISION", "highest"),)
    same = (("XLA_FLAGS", "--xla_gpu_deterministic_ops=true"),)
    turns = [*shapes.of_size(first), f"--side={shapes.side}", f"--steps={shapes.steps}"]
    fused = ["--attention=cudnn"]
    variants = ["-m", "benchmarks.step_variants", *shapes.of_size(first)[:2]]
    variants += ["--pairs", str(shapes.steps)]
    peer, official = "benchmarks.hugging_face_mae", "benchmarks.pytorch_hpm"
    cudnn = {"attention": "cudnn"}
    found = [
        Measurement("golden numbers", [*pytest, *golden], ("pytest",), environment=exact),
        Measurement(f"{first}, xla", shapes.benchmark(first)),
        Measurement(f"{first}, cudnn", shapes.benchmark(first, **cudnn), only_on="gpu"),
        Measurement(f"{first}, cudnn, unrolled", shapes.benchmark(first, **cudnn, unroll=0),
                    only_on="gpu"),
        Measurement(f"{first}, pallas", shapes.benchmark(first, attention="pallas"),
                    only_on="tpu"),
        Measurement(f"{first}, teacher=visible",
                    shapes.benchmark(first, "moving_average(view='visible')", attention="auto")),
        Measurement("cheaper teachers", ["-m", "benchmarks.teacher_steps", *turns]),
        Measurement("bfloat16 against float32", [*variants, "bfloat16", "--dtype=float32"]),
        Measurement("MAE of transformers", ["-m", peer, *turns], ("torch", "transformers")),
        Measurement("MAE of transformers, compiled", ["-m", peer, *turns, *fused, "--compile"],
                    ("torch", "transformers"), "gpu"),
        Measurement("HPM in PyTorch", ["-m", official, *turns], ("torch",)),
        Measurement("HPM in PyTorch, compiled", ["-m", official, *turns, *fused, "--compile"],
                    ("torch",), "gpu"),
        *(Measurement(f"{size}, xla", shapes.benchmark(size)) for size in others),
        *(Measurement(f"{size}, cudnn", shapes.benchmark(size, **cudnn), only_on="gpu")
          for size in others),
        Measurement("several seeds in one step",
                    ["-m", "benchmarks.seeds_together", "--turns", str(min(shapes.steps, 3)),
                     "--together", *("2" if shapes is TINY else "2 8 32").split()]),
        Measurement("a resumed run",
                    [*pytest, RESUMED], ("pytest",), environment=same),
    ]  # fmt: skip
    if images:
        command = ["-m", "benchmarks.input_pipeline", "--images", str(images), "--repeats", "3"]
        found.append(Measurement("input pipeline", command))
    return found


def measure(one: Measurement, seconds: float) -> dict[str, Any]:
    """Runs one command, for at most so many seconds: its numbers, or its last lines."""
    missing = [name for name in one.needs if importlib.util.find_spec(name) is None]
    if missing:
        return {"left out": f"{', '.join(missing)} is not installed"}
    with tempfile.TemporaryDirectory() as folder:
        numbers = Path(folder) / "numbers.json"
        command = [part.replace("{json}", str(numbers)) for part in one.command]
        environment = os.environ | SHARED | dict(one.environment)
        began = time.monotonic()
        try:
            done = subprocess.run(
                [sys.executable, *command], cwd=ROOT, env=environment, timeout=seconds,
                text=True, capture_output=True,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return {"left out": f"not done after {seconds:.0f} s"}
        found: dict[str, Any] = {"seconds": round(time.monotonic() - began, 1)}
        found["command"] = " ".join(["python", *(x for x in one.command if "json" not in x)])
        if done.returncode:
            return found | {"failed": (done.stdout + done.stderr).splitlines()[-LINES:]}
        if numbers.exists():
            return found | {"numbers": json.loads(numbers.read_text())}
        return found | {"output": done.stdout.splitlines()[-LINES:]}


def tables(results: dict[str, Any]) -> str:
    """All results as Markdown: a table of steps, and what the other commands said."""
    found = results["measurements"]
    lines = [
        f"On {results['device']}:", "",
        f"| step | {' | '.join(x.replace('_', ' ') for x in (*NUMBERS, *SHARES))} |",
        f"| --- |{' --: |' * len(NUMBERS + SHARES)}",
    ]  # fmt: skip
    for name, one in found.items():
        if numbers := one.get("numbers"):
            cells = [f"{numbers[x]:,.4g}" for x in NUMBERS]
            cells += [f"{numbers[f'share/{x}']:.0%}" for x in SHARES]
            lines.append(f"| {name} | {' | '.join(cells)} |")
    for name, one in found.items():
        said = one.get("output") or one.get("failed") or [one.get("left out", "")]
        if "numbers" not in one:
            state = "" if "output" in one else " (failed)" if "failed" in one else " (left out)"
            lines += ["", f"{name}{state}:", "", *(f"    {line}" for line in said)]
    return "\n".join(lines)


def options_of(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=8.0, help="when to stop, in minutes")
    parser.add_argument("--out", type=Path, default=Path("accelerator.json"), help="JSON file")
    parser.add_argument("--images", type=Path, help="folder or tar of JPEG files to decode")
    parser.add_argument("--only", nargs="+", help="names of measurements; default: all")
    parser.add_argument("--tiny", action="store_true", help="small models, one step each")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    """Measures until the time is over."""
    options = options_of(arguments)
    until = time.monotonic() + 60 * options.minutes
    plan = measurements(TINY if options.tiny else LARGE, options.images)
    if unknown := set(options.only or ()) - {one.name for one in plan}:
        known = ", ".join(repr(one.name) for one in plan)
        sys.exit(f"error: there is no measurement {sorted(unknown)[0]!r}: choose from {known}")
    about = subprocess.run(
        [sys.executable, "-c", ABOUT], capture_output=True, text=True, check=True
    )
    platform, count, kind = about.stdout.strip().splitlines()[-1].split("|")
    results = {"device": f"{count} x {kind}", "measurements": {}}
    if options.out.exists():
        before = json.loads(options.out.read_text())
        if before["device"] != results["device"]:
            sys.exit(f"error: {options.out} is of {before['device']}, and this is "
                     f"{results['device']}: choose another --out")  # fmt: skip
        results = before
    found = results["measurements"]
    for one in plan:
        done = "numbers" in found.get(one.name, {}) or "output" in found.get(one.name, {})
        chosen = options.only is None or one.name in options.only
        if done or not chosen or one.only_on not in ("", platform):
            continue
        left = until - time.monotonic()
        print(f"{one.name} ({left:.0f} s are left)", file=sys.stderr, flush=True)
        found[one.name] = measure(one, left) if left > LEAST else {"left out": "the time was over"}
        options.out.write_text(json.dumps(results, indent=1) + "\n")
    print(tables(results))


if __name__ == "__main__":
    main(sys.argv[1:])
