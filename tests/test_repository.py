"""What tells other people's tools about this repository: workflows, hooks, the citation."""

import re
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version
from stand_ins import ROOT

import hpm_jax

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yaml"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def steps(path):
    jobs = yaml.safe_load(path.read_text())["jobs"]
    return [step for job in jobs.values() for step in job["steps"]]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows(path):
    workflow = yaml.safe_load(path.read_text())
    assert workflow[True], "YAML reads `on` as true: when it runs"
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"] and job["runs-on"] != "ubuntu-latest"
    for step in steps(path):
        if "uses" in step:
            assert re.fullmatch(r"[\w./-]+@(v\d+\.\d+\.\d+|[0-9a-f]{40})", step["uses"])
        else:
            for folder in re.findall(r"pytest (tests/\w+)", step["run"]):
                assert (ROOT / folder).is_dir()


def test_each_python_and_both_ends_of_the_range_of_jax():
    (path,) = (path for path in WORKFLOWS if path.stem == "tests")
    matrix = yaml.safe_load(path.read_text())["jobs"]["quick"]["strategy"]["matrix"]["include"]
    named = {c.split(" :: ")[-1] for c in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", c)}
    assert {row["python"] for row in matrix} == named
    assert min(named) in PROJECT["requires-python"]
    jax = next(r for r in map(Requirement, PROJECT["dependencies"]) if r.name == "jax").specifier
    low, high = (Version(next(s.version for s in jax if s.operator == o)) for o in (">=", "<"))
    tested = [Requirement(row["jax"]).specifier for row in matrix]
    assert all(
        any(s.contains(f"0.{minor}.0") for s in tested) for minor in (low.minor, high.minor - 1)
    )
    assert (
        SpecifierSet(f"=={low}.*") in tested and SpecifierSet(f"==0.{high.minor - 1}.*") in tested
    )


def test_hooks_run_what_ci_runs():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    entries = {hook["entry"].replace(" --force-exclude", "") for hook in hooks}
    assert entries == {"ruff check", "ruff format", "mypy"}
    ci = (ROOT / ".ci" / "run").read_text()
    assert all(entry in ci for entry in entries)


def test_one_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == hpm_jax.__version__
    assert citation["license"] == PROJECT["license"]
    assert PROJECT["dynamic"] == ["version"]


def test_links_of_the_guide_lead_somewhere():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    for target in re.findall(r"\]\(([^)]+)\)", text):
        assert (ROOT / target).exists(), target
    for folder in re.findall(r"pytest (tests/[\w/.]+)", text):
        assert (ROOT / folder).exists(), folder
