"""The command that writes features: the same numbers as elsewhere, whole files, resumed ones."""

import dataclasses
import json
import re
import sys

import jax
import numpy as np
import pytest
from jax.sharding import AxisType
from PIL import Image
from small_videos import write_video
from small_weights import ENCODER, VIDEO_ENCODER, random_weights

from hpm_jax.convert.write import write_weights
from hpm_jax.data.views import test_view as view_for_test
from hpm_jax.embed import __main__ as command
from hpm_jax.embed import npz
from hpm_jax.embed.neighbours import nearest_neighbours
from hpm_jax.embed.records import records_to_encode
from hpm_jax.errors import ConfigError, UserError
from hpm_jax.evaluation.features import FeatureExtractor, pool
from hpm_jax.run.build import build_method
from hpm_jax.run.devices import Devices, all_devices
from hpm_jax.run.load import load_run

SMALL = ("--batch_size=8", "--part_size=8")


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "encoder.safetensors"
    write_weights(path, random_weights(ENCODER))
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Nine images of each of two classes, nine without a class, and one that cannot be read."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for number in range(27):
        place = folder / ("cat", "dog", ".")[number % 3]
        place.mkdir(exist_ok=True)
        pixels = rng.integers(0, 256, (14, 22, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"{number:02d}.png")
    (folder / "cat" / "broken.png").write_bytes(b"no image")
    return folder


def run(*words, out):
    command.embed(command._parser().parse_args([*map(str, words), f"--out={out}"]))
    return out


def expected(config, weights, devices=None, how="cls", split="all"):
    """What the extractor of reports gives of the same records."""
    records, _ = records_to_encode(config.data, split)
    extractor = FeatureExtractor(config, weights, devices or all_devices(), how)
    return extractor(records)


def config_of(*words):
    options = command._parser().parse_args([*map(str, words), "--out=x.npz"])
    weights = command.read_weights(options.init_from, options.weights)
    return command.make_config(options, weights), weights


def test_a_folder_as_a_report_would_encode_it(weights_file, photos, tmp_path, capsys):
    words = (f"--init_from={weights_file}", f"--path={photos}", "--block=1", "--pool=cls", *SMALL)
    out = run(*words, out=tmp_path / "f.npz")
    features, labels, unread = expected(*config_of(*words))
    with np.load(out) as found:
        np.testing.assert_array_equal(found["features"], features)
        np.testing.assert_array_equal(found["labels"], labels)
        assert found["classes"].tolist() == ["cat", "dog"]
        names = found["names"].tolist()
        notes = json.loads(str(found["notes"]))
    assert names[:2] == ["02.png", "05.png"]
    assert [names[i] for i in np.flatnonzero(labels == 0)][:2] == ["cat/00.png", "cat/03.png"]
    assert len(names) == 27 and len(unread) == 1 and not any("broken" in name for name in names)
    assert list(notes["left_out"].values()) == [str(photos / "cat" / "broken.png")]
    assert notes["block"] == 1 and notes["image_size"] == [12, 20] and notes["shape"] == [32]
    said = capsys.readouterr().out
    assert "broken.png: left out" in said and "1 of 28 cannot be read" in said
    assert [path.name for path in tmp_path.iterdir()] == ["f.npz"], "no parts stay behind"


def test_a_run_on_its_own_data_as_its_model_encodes(pretrained, tmp_path):
    """The labels are those of all digits, in their order."""
    out = run(f"--init_from={pretrained}", "--pool=both", "--split=test", out=tmp_path / "f.npz")
    loaded = load_run(pretrained)
    data = loaded.config.data
    records, _ = records_to_encode(data, "test")
    view = view_for_test(data)
    images = np.stack([view(records[index])["image"] for index in range(5)])
    patches = build_method(loaded.config).patches(images)
    tokens = loaded.model.apply({"params": loaded.state.params}, patches, method="encode")
    with np.load(out) as found:
        np.testing.assert_allclose(found["features"][:5], pool(tokens, "both"), atol=1e-5)
        assert found["labels"][:5].tolist() == [records[index]["label"] for index in range(5)]
        assert len(found["labels"]) == len(records) < 1797
    whole, classes = records_to_encode(data, "all")
    assert len(whole) == 1797 and [whole[i]["label"] for i in range(10)] == list(range(10))
    assert classes == tuple("0123456789")


def test_one_device_and_eight(weights_file, photos):
    config, weights = config_of(f"--init_from={weights_file}", f"--path={photos}", *SMALL)
    mesh = jax.make_mesh(
        (1, 1), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2, devices=jax.devices()[:1]
    )
    assert all_devices().count == 8
    one, eight = (expected(config, weights, x)[0] for x in (Devices(mesh), all_devices()))
    np.testing.assert_allclose(one, eight, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("ending", [".npz", ".parquet", ""])
def test_a_command_that_was_killed_goes_on(
    weights_file, photos, tmp_path, monkeypatch, capsys, ending
):
    if ending != ".npz":
        pytest.importorskip("pyarrow")
    words = (f"--init_from={weights_file}", f"--path={photos}", "--pool=mean", *SMALL)
    whole, out = (tmp_path / f"{name}{ending}" for name in ("whole", "resumed"))
    run(*words, out=whole)
    format, _ = command.format_of(str(out))
    written = []

    def killed(path, *others):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(path)
        return format.write_part(path, *others)

    with monkeypatch.context() as patch:
        stopping = {format.ending: format._replace(write_part=killed)}
        patch.setattr("hpm_jax.embed.formats.FORMATS", stopping)
        with pytest.raises(KeyboardInterrupt):
            run(*words, out=out)
    command.release_all()
    assert ending == "" or not out.exists()
    capsys.readouterr()
    with pytest.raises(ConfigError, match=r"other options: features.block is -1 there and 1 here"):
        run(*words, "--block=1", out=out)
    written[0].unlink()  # it is not only the last that may be missing
    run(*words, out=out)
    assert "1 of 4 parts are there: going on" in capsys.readouterr().out
    for path in sorted(whole.glob("part-*")) if ending == "" else [whole]:
        assert path.read_bytes() == (out / path.name if ending == "" else out).read_bytes()
    with pytest.raises(ConfigError, match=r"other options: dtype is 'float32' there"):
        run(*words, "--dtype=float16", out=out)


def test_parquet_as_others_read_it(weights_file, photos, tmp_path):
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    words = (f"--init_from={weights_file}", f"--path={photos}", *SMALL)
    tables = {}
    for dtype in ("float32", "float16"):
        out = run(*words, f"--dtype={dtype}", out=tmp_path / f"{dtype}.parquet")
        tables[dtype] = parquet.read_table(out)
    table, config = tables["float32"], config_of(*words)
    features, labels, _ = expected(*config, how="both")
    assert table.column_names == ["name", "label", "class", "features"]
    assert table.schema.field("features").type == arrow.list_(arrow.float32(), 64)
    assert table["label"].to_pylist() == labels.tolist()
    known = {-1: None, 0: "cat", 1: "dog"}
    assert table["class"].to_pylist() == [known[label] for label in labels.tolist()]
    np.testing.assert_array_equal(np.array(table["features"].to_pylist(), np.float32), features)
    notes = json.loads(table.schema.metadata[b"hpm_jax"])
    assert notes["pool"] == "both" and notes["mean"] == list(config[0].data.mean)
    half = np.array(tables["float16"]["features"].to_pylist(), np.float16)
    np.testing.assert_array_equal(half, features.astype(np.float16))
    assert parquet.ParquetFile(tmp_path / "float32.parquet").num_row_groups == 4


def test_neighbours_as_numpy_finds_them():
    rng = np.random.default_rng(0)
    features = rng.normal(3.0, 2.0, (40, 6)).astype(np.float32)
    features[7] = features[3]  # the same again: a row is never its own neighbour
    queries = np.array([3, 7, 20])
    cosines, rows = nearest_neighbours(features, queries, 5)
    z = (features - features.mean(0)) / features.std(0)
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    similar = z @ z.T
    np.fill_diagonal(similar, -np.inf)
    np.testing.assert_array_equal(rows, np.argsort(-similar[queries], axis=1)[:, :5])
    np.testing.assert_allclose(cosines, -np.sort(-similar[queries], axis=1)[:, :5], atol=1e-5)
    assert rows[0, 0] == 7 and rows[1, 0] == 3
    with pytest.raises(UserError, match="--neighbours=40: expected 1 to 39"):
        nearest_neighbours(features, queries, 40)


def test_a_contact_sheet(weights_file, photos, tmp_path):
    words = (f"--init_from={weights_file}", f"--path={photos}", *SMALL, "--neighbours=4")
    sheets, parts = [], tmp_path / "f.npz.parts"
    for queries in (2, 3):
        sheet = tmp_path / f"{queries}.png"
        options = (f"--queries={queries}", f"--contact_sheet={sheet}")
        run(*words, *options, out=tmp_path / "f.npz")  # the second time from the file
        sheets.append(Image.open(sheet))
        parts.mkdir(exist_ok=True)  # as a command leaves it that is killed when the file is there
        (parts / "notes.json").write_text("{}")
    assert (tmp_path / "f.npz").exists()
    assert sheets[0].width == sheets[1].width > 5 * 128 and sheets[0].height < sheets[1].height


def test_tokens(weights_file, photos, tmp_path):
    words = (f"--init_from={weights_file}", f"--path={photos}/02.png", "--pool=tokens")
    with np.load(run(*words, out=tmp_path / "f.npz")) as found:
        assert found["features"].shape == (1, 16, 32) and found["names"].tolist() == [
            f"{photos}/02.png"
        ]


def test_a_list(weights_file, photos, tmp_path):
    (tmp_path / "some.txt").write_text(f"{photos}/dog/01.png 3\n{photos}/02.png 8\n")
    words = (f"--init_from={weights_file}", f"--path={tmp_path}/some.txt")
    with np.load(run(*words, out=tmp_path / "f.npz")) as found:
        assert found["names"].tolist() == [f"{photos}/dog/01.png", f"{photos}/02.png"]
        assert found["classes"][found["labels"]].tolist() == ["3", "8"]


@pytest.fixture(scope="module")
def video_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("video_weights") / "encoder.safetensors"
    architecture = dataclasses.replace(VIDEO_ENCODER, layout="mae_st")
    write_weights(path, random_weights(architecture))
    return path


def test_a_folder_of_videos(video_file, tmp_path):
    for name in ("run", "walk"):
        (tmp_path / "clips" / name).mkdir(parents=True)
        write_video(tmp_path / "clips" / name / "a.mp4")
    (tmp_path / "clips" / "walk" / "b.mp4").write_bytes(b"no video")
    words = (f"--init_from={video_file}", f"--path={tmp_path}/clips", "--neighbours=1")
    sheet = tmp_path / "sheet.png"
    with np.load(run(*words, f"--contact_sheet={sheet}", out=tmp_path / "f.npz")) as found:
        assert found["names"].tolist() == ["run/a.mp4", "walk/a.mp4"]
        np.testing.assert_array_equal(*found["features"])  # the same video twice
    assert Image.open(sheet).width > 2 * 128


def test_moving_digits(video_file, tmp_path):
    words = (f"--init_from={video_file}", "--source=moving_digits", "--name=digit", "--split=test")
    with np.load(run(*words, "--batch_size=64", out=tmp_path / "f.npz")) as found:
        assert found["features"].shape == (720, 64) and np.isfinite(found["features"]).all()
        assert set(found["labels"].tolist()) == set(range(10))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--path={empty}"], "holds no images: expected files that end in"),
        (["--path={empty}/none"], "--path = '.*none' does not exist: give a folder"),
        ([], "nothing to encode: give --path=FOLDER"),
        (["--path={clips}"], r"--path = '.*clips' holds videos, and the encoder is of images"),
        (["--source=moving_digits"], "gives videos, and the encoder is of images"),
        (["--path={photos}", "--init_from={video}"], "holds images, and the encoder is of videos"),
        (["--source=digits", "--init_from={video}"], "gives images, and the encoder is of videos"),
        (["--path={photos}", "--block=7"], "--block = 7 does not exist: the encoder has 2"),
        (["--path={photos}", "--out={empty}/f.csv"], "the ending .csv is unknown"),
        (["--path={photos}", "--out={file}/f.npz"], "cannot write .*Not a directory"),
        (["--path={photos}", "--image_size=13"], "is not a multiple"),
        (["--path={photos}", "--contact_sheet=x.gif"], "expected a file that ends in"),
        (["--path={broken}"], "1 of 1 images cannot be read, and no image is left"),
        (["--path={photos}", "--init_from={empty}/w.pth"], "there is no .*w.pth"),
    ],
)
def test_bad_input_is_one_sentence(
    weights_file, video_file, photos, tmp_path, capsys, monkeypatch, words, says
):
    monkeypatch.setitem(sys.modules, "av", sys)  # PyAV itself is not asked
    for name in ("empty", "clips", "broken"):
        (tmp_path / name).mkdir()
    (tmp_path / "clips" / "a.mp4").write_bytes(b"")
    (tmp_path / "broken" / "a.png").write_bytes(b"no")
    (tmp_path / "file").write_bytes(b"")
    places = {"photos": photos, "video": video_file}
    places |= {name: tmp_path / name for name in ("empty", "clips", "broken", "file")}
    given = [f"--init_from={weights_file}", f"--out={tmp_path}/out.npz"]
    with pytest.raises(SystemExit) as ended:
        command.main([*given, *(word.format(**places) for word in words)])
    said = capsys.readouterr()
    text = said.err or f"error: {ended.value}"
    assert re.search(says, text), text
    assert text.count("error:") == 1 and "config." not in text and ended.value.code


def test_without_pyarrow(weights_file, photos, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r'\.parquet needs the extra "parquet": pip install pya'):
        run(f"--init_from={weights_file}", f"--path={photos}", out=tmp_path / "f.parquet")


def test_parts_of_npz_are_read_by_numpy_alone(tmp_path):
    features = np.arange(12, dtype=np.float16).reshape(3, 2, 2)
    rows = npz.Rows(["a", "bc", "ü"], np.array([0, 1, -1], np.int32), features, {3: "d"})
    parts = [tmp_path / "0.npz", tmp_path / "1.npz"]
    for part in parts:
        npz.write_part(part, rows, ("x", "y"))
    npz.join(tmp_path / "f.npz", parts, ("x", "y"), {"left_out": {}})
    with np.load(tmp_path / "f.npz", allow_pickle=False) as found:
        np.testing.assert_array_equal(found["features"], np.concatenate([features, features]))
        assert found["names"].tolist() == ["a", "bc", "ü"] * 2 and found["labels"].dtype == np.int32
