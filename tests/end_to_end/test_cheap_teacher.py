"""The benchmark of cheaper teachers, on a run that has not been trained."""

import json
import sys

from benchmarks import cheap_teacher


def test_it_measures_each_teacher_and_goes_on_from_its_file(pretrained, tmp_path, monkeypatch):
    out = tmp_path / "teacher.json"
    common = ["cheap_teacher", "--workdir", str(pretrained), "--size", "S", "--out", str(out)]
    common += ["--images", "8", "--turns", "1"]
    for names in (["whole", "int8"], ["visible"]):
        monkeypatch.setattr(sys, "argv", [*common, *names])
        cheap_teacher.main()
    found = json.loads(out.read_text())
    assert list(found["run"]) == ["whole", "int8", "visible"]
    assert found["run"]["whole"]["same_patches"] == 1.0
    assert -1 <= found["run"]["whole"]["true_correlation"] <= 1
    assert found["run"]["int8"]["same_patches"] > 0.8
    steps = {name: row["step"] for name, row in found["operations"].items()}
    assert steps["visible"] < steps["int8"] == steps["whole"]
