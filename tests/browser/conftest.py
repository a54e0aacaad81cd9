"""A headless Chromium, and the workdirs of two small runs whose pages it opens."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

ROOT = Path(__file__).parents[2]
CONFIG = f"""
import sys

sys.path.insert(0, {str(ROOT / "tests")!r})
from small import small_options


def get_config():
    config = small_options()
    config.optimizer.update(epochs=2, batch_size=128)
    config.evaluation.update(every_epochs=1.0, test_images=64)
    return config
"""
ARGUMENTS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-dev-shm-usage", "--force-device-scale-factor=1"),
)


def train(folder: Path, name: str, *options: str) -> Path:
    """The workdir of a run that is trained here, in a process of its own."""
    config = folder / "tiny.py"
    config.write_text(CONFIG)
    workdir = folder / name
    done = subprocess.run(
        [
            *(sys.executable, "-m", "hpm_jax.main", f"--config={config}"),
            *(f"--workdir={workdir}", *options),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "JAX_PLATFORMS": "cpu"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return workdir


@pytest.fixture(scope="session")
def hpm_run(tmp_path_factory):
    return train(tmp_path_factory.mktemp("runs"), "hpm <b>run&lt;")


@pytest.fixture(scope="session")
def mae_run(tmp_path_factory):
    options = ("--config.mask.strategy=random", "--config.losses=()", "--config.teacher=none")
    return train(tmp_path_factory.mktemp("runs"), "mae", *options)


@pytest.fixture(scope="session")
def chromium(tmp_path_factory):
    """The browser itself, started once."""
    options = webdriver.ChromeOptions()
    # both are named, so selenium does not look for them on the network
    options.binary_location = shutil.which("chromium") or "/usr/bin/chromium"
    for argument in (*ARGUMENTS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = Service(shutil.which("chromedriver") or "/usr/bin/chromedriver")
    driver = webdriver.Chrome(options=options, service=service)
    yield driver
    driver.quit()
