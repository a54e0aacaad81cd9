"""A stranger's installation: wheel, sdist and git, each into an empty environment, run elsewhere.

One is complete, with everything that pip finds for it; the others borrow the dependencies of the
environment of the tests, so that only the package itself is in question.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHORT = (
    "--config.optimizer.epochs=1",
    "--config.optimizer.warmup_epochs=0.1",
    "--config.evaluation.every_epochs=0.0",
)
LEFT = (".git", ".venv*", "*.egg-info", "build", "dist", "runs", "*.so", "__pycache__", ".*_cache")
CONFIGS = {path.name for path in (ROOT / "configs").glob("*.py")}


def run(*command, cwd, **environment):
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=env | {"JAX_PLATFORMS": "cpu"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder with the wheel and the sdist of a copy of the checkout."""
    folder = tmp_path_factory.mktemp("built")
    checkout = folder / "checkout"
    shutil.copytree(ROOT, checkout, ignore=shutil.ignore_patterns(*LEFT))
    run(sys.executable, "-m", "venv", folder / "builder", cwd=folder)
    python = folder / "builder" / "bin" / "python"
    run(python, "-m", "pip", "install", "-q", "build", cwd=folder)
    run(python, "-m", "build", "--outdir", folder / "dist", checkout, cwd=folder)
    return folder


def environment(folder, *arguments):
    """An empty virtual environment with what pip installs of `arguments`; its python."""
    run(sys.executable, "-m", "venv", folder / "venv", cwd=folder)
    python = folder / "venv" / "bin" / "python"
    run(python, "-m", "pip", "install", "-q", *arguments, cwd=folder)
    return python


def borrow(python):
    """The dependencies of this environment, after the environment's own packages."""
    where = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    packages = Path(run(python, "-c", where, cwd="/").strip())
    (packages / "borrowed.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")


def trains(python, folder):
    """The quick start by its bare name from another folder, and two more commands."""
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    where = run(python, "-c", "import hpm_jax; print(hpm_jax.__file__)", cwd=elsewhere)
    assert not where.startswith(str(ROOT)), where
    command = python.parent / "hpm-jax"
    run(command, "--config", "quickstart", "--workdir", "run", *SHORT, cwd=elsewhere)
    assert (elsewhere / "run" / "report.md").exists()
    assert "encoder" in run(command, "convert", "run", "vit.safetensors", cwd=elsewhere)
    help_text = run(command, "--config", "hpm_cifar10:mae,epochs=10", "--help", cwd=elsewhere)
    assert "Options of pretrain" in help_text


def test_wheel_and_sdist_have_the_configs(built):
    (wheel,) = (built / "dist").glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"hpm_jax/configs/{name}" for name in CONFIGS} <= names
    files = ("py.typed", "visualize/page.css", "visualize/page.js", "demo/model.safetensors")
    assert {f"hpm_jax/{name}" for name in files} <= names
    assert not any(n.startswith("configs/") for n in names)
    if shutil.which("cc"):  # of one build for every Python
        assert "hpm_jax/data/_resize.abi3.so" in names and "-cp311-abi3-" in wheel.name
    (sdist,) = (built / "dist").glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        inside = {name.split("/", 1)[-1] for name in archive.getnames()}
    assert {f"configs/{name}" for name in CONFIGS} | {"setup.py", "README.md", "LICENSE"} <= inside
    assert {f"hpm_jax/data/{name}.c" for name in ("_resize", "_jpeg")} <= inside


def test_without_a_compiler(built, tmp_path):
    """The package is complete but for its extensions."""
    (sdist,) = (built / "dist").glob("*.tar.gz")
    run(sys.executable, "-m", "venv", tmp_path / "venv", cwd=tmp_path)
    python = tmp_path / "venv" / "bin" / "python"
    run(python, "-m", "pip", "install", "-q", "--no-deps", sdist, cwd=tmp_path, CC="/bin/false")
    borrow(python)
    asked = "from hpm_jax.extras import compiled; print(compiled('hpm_jax.data._resize'))"
    assert run(python, "-c", asked, cwd=tmp_path).strip() == "None"
    trains(python, tmp_path)


def test_a_complete_installation_of_the_wheel(built, tmp_path):
    """Into an environment with nothing in it; nothing optional comes along."""
    (wheel,) = (built / "dist").glob("*.whl")
    python = environment(tmp_path, wheel)
    installed = run(python, "-m", "pip", "list", "--format=freeze", cwd=tmp_path).lower()
    for optional in ("torch==", "tensorflow", "wandb==", "pytest==", "tensorboard==", "\nav=="):
        assert optional not in installed, optional
    run(python, "-m", "pip", "check", cwd=tmp_path)
    trains(python, tmp_path)


@pytest.mark.parametrize("kind", ["sdist", "git", "editable"])
def test_the_other_ways(built, tmp_path, kind):
    checkout = built / "checkout"
    if kind == "sdist":
        (what,) = (built / "dist").glob("*.tar.gz")
        arguments = [what]
    elif kind == "editable":
        arguments = ["--editable", checkout]
    elif not shutil.which("git"):
        pytest.skip("there is no git")
    else:
        who = ("-c", "user.name=test", "-c", "user.email=test@localhost")
        run("git", "init", "-q", cwd=checkout)
        run("git", "add", "-A", cwd=checkout)
        run("git", *who, "commit", "-q", "-m", "as it is", cwd=checkout)
        arguments = [f"git+file://{checkout}"]
    python = environment(tmp_path, "--no-deps", *arguments)
    borrow(python)
    trains(python, tmp_path)
