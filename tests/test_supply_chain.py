"""What is installed: ranges, exact versions, and how machines and images get them."""

import re
import tomllib

from packaging.requirements import Requirement
from stand_ins import LAUNCH, ROOT


def requirements(path="requirements.txt"):
    lines = (ROOT / path).read_text().splitlines()
    return [Requirement(line.split("#")[0]) for line in lines if line.split("#")[0].strip()]


def normalised(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def locked():
    text = (ROOT / "requirements.lock").read_text()
    return {normalised(name): version for name, version in re.findall(r"(?m)^(\S+)==(\S+)", text)}


def test_the_lock_file_has_what_the_ranges_allow():
    versions = locked()
    for wanted in requirements():
        assert versions[normalised(wanted.name)] in wanted.specifier, wanted


def test_every_locked_file_has_a_hash():
    entries = (ROOT / "requirements.lock").read_text().split("\n")
    text = "\n".join(line for line in entries if not line.startswith("#"))
    for entry in re.split(r"(?m)^(?=\S+==)", text):
        assert not entry.strip() or "--hash=sha256:" in entry, entry


def test_nothing_from_the_network_is_run_unseen():
    for path in LAUNCH.iterdir():
        if path.is_file():
            assert not re.search(r"(curl|wget)[^\n]*\|\s*(ba)?sh", path.read_text()), path


def test_the_container_is_no_root():
    lines = (LAUNCH / "Dockerfile").read_text().splitlines()
    users = [line.split()[1] for line in lines if line.startswith("USER")]
    assert users and users[-1] not in ("root", "0")
    # what is installed is installed before, for all users
    assert max(i for i, x in enumerate(lines) if "pip install" in x) < lines.index("USER trainer")


def test_the_readmes_line_installs_what_the_package_declares():
    """requirements.txt: the dependencies, and the extras that tests need, with their ranges."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    declared = list(project["dependencies"])
    for extra in ("video", "tensorboard", "tfds", "gcs", "test"):
        declared += extras[extra]
    assert sorted(map(str, map(Requirement, declared))) == sorted(map(str, requirements()))


def test_the_site_is_built_with_the_extra_docs():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = map(Requirement, project["optional-dependencies"]["docs"])
    assert sorted(map(str, declared)) == sorted(map(str, requirements("docs/requirements.txt")))


def test_extras_repeat_the_ranges_of_what_they_extend():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    jax = next(x for x in map(Requirement, project["dependencies"]) if x.name == "jax")
    for extra in ("tpu", "cuda13"):
        (wanted,) = map(Requirement, extras[extra])
        assert (wanted.name, wanted.extras, wanted.specifier) == ("jax", {extra}, jax.specifier)
    (everything,) = map(Requirement, extras["all"])
    assert everything.extras == extras.keys() - {"all", "test", "docs", "tpu", "cuda13"}
