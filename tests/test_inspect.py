"""What python -m hpm_jax.data.inspect and .statistics say of a data set."""

import ast
import json

import numpy as np
import pytest
from PIL import Image
from small_images import encode, photo

from hpm_jax.data.inspect.__main__ import main
from hpm_jax.data.inspect.arguments import find_source
from hpm_jax.data.statistics import main as statistics


@pytest.fixture
def folder(tmp_path):
    """Photographs of two classes, and one of everything that is odd."""
    root = tmp_path / "data"
    for split, count in (("train", 12), ("test", 4)):
        for start, name in ((0, "cat"), (100, "dog")):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                seed = start + number + (50 if split == "test" else 0)
                (root / split / name / f"{number}.jpg").write_bytes(
                    encode(photo(40, 60, seed), "JPEG")
                )
    cat = root / "train" / "cat"
    (cat / "copy.jpg").write_bytes((root / "test" / "dog" / "1.jpg").read_bytes())
    (cat / "half.jpg").write_bytes((cat / "3.jpg").read_bytes()[:-200])
    (cat / "text.png").write_bytes(b"no image")
    Image.new("P", (90, 20)).save(cat / "thin.png")
    Image.new("RGB", (9, 9), "red").save(cat / "tiny.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    (cat / "turned.jpg").write_bytes(encode(photo(40, 60, 7), "JPEG", exif=exif))
    frames = [Image.fromarray(photo(30, 30, seed)) for seed in range(3)]
    frames[0].save(cat / "moves.gif", save_all=True, append_images=frames[1:])
    return root


def test_inspect(folder, tmp_path, capsys):
    main(["--path", str(folder), "--out", str(tmp_path / "out")])
    found = json.loads((tmp_path / "out" / "inspect.json").read_text())
    assert found["splits"]["train"] == {
        "images": 31,
        "looked_at": 31,
        "classes": {"cat": 19, "dog": 12},
    }
    assert found["formats"] == {"JPEG": 35, "PNG": 2, "GIF": 1}
    assert found["broken_count"] == 1 and found["broken"][0].endswith(
        "text.png: no image, or a damaged one"
    )
    assert {name: odd["images"] for name, odd in found["odd"].items()} == {
        "palette": 2,
        "thin (more than 4 times as long as wide)": 1,
        "tiny (short side below 16)": 1,
        "turned by EXIF": 1,
        "animated": 1,
    }
    copies = found["copies"]
    assert (copies["groups"], copies["between_train_and_test"]) == (1, 1)
    assert copies["examples"][0][0].endswith("copy.jpg")
    decoded = found["decoded"]
    assert decoded["sample"] == 29 and len(decoded["broken"]) == 2
    assert {name.split("/")[-1] for name in decoded["constant"]} == {"thin.png", "tiny.png"}
    assert "configs/hpm_folder.py" in found["command"] and str(folder) in found["command"]
    with Image.open(tmp_path / "out" / "contact_sheet.png") as sheet:
        assert sheet.width == 1024 and len(np.unique(np.asarray(sheet))) > 50
    shown = capsys.readouterr().out
    for part in ("1 turned by EXIF", "2 cannot be decoded", "1 of them between train and test"):
        assert part in shown


def test_statistics_are_lines_of_a_config(tmp_path, capsys):
    rng = np.random.default_rng(0)
    deep = rng.normal([100, 3000], [10, 200], (40, 16, 16, 2)).astype(np.float32)
    np.save(tmp_path / "images.npy", deep)
    statistics(["--path", str(tmp_path / "images.npy")])
    lines = dict(line.split("=", 1) for line in capsys.readouterr().out.splitlines()[1:])
    values = {name: ast.literal_eval(text.strip("'")) for name, text in lines.items()}
    low, high = values["--config.data.value_range"]
    assert values["--config.data.channels"] == 2 and 60 < low < 90 and 3400 < high < 3800
    scaled = (deep.reshape(-1, 2) - low) / (high - low)
    np.testing.assert_allclose(values["--config.data.mean"], scaled.mean(0), atol=2e-4)
    np.testing.assert_allclose(values["--config.data.std"], scaled.std(0), atol=2e-4)


def test_what_is_wrong_is_a_sentence(tmp_path):
    for command in (main, statistics):
        with pytest.raises(SystemExit, match=r"error: .* is not a folder"):
            command(["--path", str(tmp_path / "nowhere")])
        with pytest.raises(SystemExit, match="error: --holdout = 7"):
            command(["--path", str(tmp_path), "--holdout", "7"])


def test_the_source_is_found_by_the_files(tmp_path):
    assert find_source("/data/train-{000..003}.tar") == "webdataset"
    assert find_source("/data/x.npz") == "numpy"
    (tmp_path / "train").mkdir()
    assert find_source(str(tmp_path)) == "folder"
    (tmp_path / "train" / "a.parquet").touch()
    assert find_source(str(tmp_path)) == "parquet"
    (tmp_path / "dataset_dict.json").touch()
    assert find_source(str(tmp_path)) == "hugging_face"
