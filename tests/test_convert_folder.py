"""Folders for other libraries, written without them: what stands there, and what is refused."""

import dataclasses
import json

import pytest
from small import small_config
from small_weights import DECODER, ENCODER, VIDEO_ENCODER, random_weights

from hpm_jax.convert import __main__ as command
from hpm_jax.convert.about import About, about
from hpm_jax.convert.card import read_scores
from hpm_jax.convert.folder import write_folder
from hpm_jax.convert.read import read_weights
from hpm_jax.convert.to_hugging_face import to_hugging_face
from hpm_jax.convert.weights import WeightsError
from hpm_jax.convert.write import write_weights
from hpm_jax.run.workdir import open_workdir
from hpm_jax.targets import TARGETS

SQUARE = dataclasses.replace(ENCODER, grid=(1, 4, 4))
ABOUT = About("runs/x", (0.4, 0.5, 0.6), (0.2,) * 3, 0.875, "bicubic")


def fails(*arguments):
    with pytest.raises(SystemExit) as caught:
        command.main([str(x) for x in arguments])
    said = str(caught.value.code)
    assert said.startswith("error: ") and "Traceback" not in said
    return said


@pytest.mark.parametrize("names", ["hugging_face", "timm"])
def test_a_run(pretrained, tmp_path, names, capsys):
    target = tmp_path / "model"
    (pretrained / "report.md").write_text(
        "# Run\n\n`python -m hpm_jax.main --config configs/tiny.py --workdir x`\n\n"
        "| | raw pixels | random weights |\n| --- | --- | --- |\n| kNN | 50.0% | 40.0% |\n\nmore\n"
    )
    command.main([str(pretrained), str(target), "--names", names, "--check"])
    assert "read again" in capsys.readouterr().out
    card = (target / "README.md").read_text()
    for line in (
        "    python -m hpm_jax.main --config configs/tiny.py --workdir x",
        "| kNN | 50.0% | 40.0% |",
        "| data | digits |",
        "# license: choose one",
        "Images are divided by 255, less 0.5, over 0.5 (each channel).",
    ):
        assert line in card.splitlines() or line in card, line
    assert "hard(" in card and "hpm_jax 0" in card
    config = json.loads((target / "config.json").read_text())
    if names == "timm":
        assert config["pretrained_cfg"]["mean"] == [0.5]
        assert config["model_args"]["img_size"] == [16, 16]
    else:
        assert config["model_type"] == "vit_mae" and config["mask_ratio"] == 0.75
        told = json.loads((target / "preprocessor_config.json").read_text())
        assert told["image_mean"] == [0.5] and told["size"] == {"shortest_edge": 16}
        assert not told["do_convert_rgb"]
    ours, again = read_weights(pretrained).architecture, read_weights(target).architecture
    assert (again.grid, again.heads, again.width) == (ours.grid, ours.heads, ours.width)
    assert bool(again.decoder_width) == (names == "hugging_face")


def test_an_export_is_replaced_and_its_card_kept(tmp_path):
    target = tmp_path / "model"
    write_folder(target, random_weights(SQUARE), "hugging_face", ABOUT)
    (target / "README.md").write_text("mine")
    notes = write_folder(target, random_weights(SQUARE, seed=1), "timm", ABOUT)
    assert "README.md stays as it is" in notes[0]
    assert (target / "README.md").read_text() == "mine"
    assert sorted(x.name for x in target.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]


def test_nothing_is_invented(tmp_path):
    weights = random_weights(dataclasses.replace(SQUARE, classes=2))
    write_folder(tmp_path / "model", weights, "hugging_face", ABOUT)
    card = (tmp_path / "model" / "README.md").read_text()
    assert "No results come with this model." in card and "%" not in card
    assert "How it was made" not in card and "license:" in card
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["id2label"] == {"0": "LABEL_0", "1": "LABEL_1"}


def test_scores_of_a_report(tmp_path):
    rows = [{"title": "kNN, k = 20", "accuracy": 0.5, "note": "standardised"}]
    rows += [{"title": "raw pixels, kNN, k = 20", "accuracy": 0.25, "note": "standardised"}]
    there = tmp_path / "report.json"
    there.write_text(json.dumps({"init_from": "runs/x", "rows": rows}))
    assert read_scores(tmp_path, "/elsewhere/runs/x")[2:] == [
        "| kNN, k = 20 | 50.00% | standardised |",
        "| raw pixels, kNN, k = 20 | 25.00% | standardised |",
    ]
    with pytest.raises(WeightsError, match=r"report.json measures runs/x, expected runs/y"):
        read_scores(tmp_path, "runs/y")
    there.write_text(json.dumps({"init_from": "runs/x", "rows": [{}]}))
    with pytest.raises(WeightsError, match=r"report.json is damaged"):
        read_scores(tmp_path, "runs/x")
    with pytest.raises(WeightsError, match=r"has no report.json: run configs/report.py"):
        read_scores(tmp_path / "none", "runs/x")


MEAN = {"classes": 3, "pool": "mean"}
REFUSED = {
    "mae_st": (dataclasses.replace(VIDEO_ENCODER, layout="mae_st"), "config.model.layout = 'mae_s"),
    "frames": (dataclasses.replace(VIDEO_ENCODER, layout="mae"), "config.data.frames = 4"),
    "mean": (dataclasses.replace(ENCODER, **MEAN), "config.model.pool = 'mean' with images"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_transformers_cannot_express(kind):
    from hpm_jax.convert.weights import Weights

    architecture, says = REFUSED[kind]
    with pytest.raises(WeightsError, match=says):
        to_hugging_face(Weights(architecture, {}), ABOUT)


@pytest.mark.parametrize(
    ("changes", "target", "says"),
    [
        ({"grid": (1, 3, 5)}, None, "ViT-MAE rebuilds square images alone"),
        ({}, "channel_normalized_pixels", "transformers rebuilds pixels or normalized_pixels"),
        ({"target_values": 7}, None, "it rebuilds 7 values of a patch"),
    ],
)
def test_a_decoder_that_stays_behind(changes, target, says):
    a = dataclasses.replace(SQUARE, **DECODER, **changes)
    known = ABOUT._replace(target=TARGETS[target]() if target else None)
    found = to_hugging_face(random_weights(a), known)
    assert says in found.notes[-1] and found.config["architectures"] == ["ViTMAEModel"]
    assert not any("decoder" in name for name in found.state)


def test_targets_that_are_refused(tmp_path, pretrained):
    source = tmp_path / "source.safetensors"
    write_weights(source, random_weights(SQUARE), "timm")
    full, file = tmp_path / "full", tmp_path / "file"
    full.mkdir()
    (full / "holiday.jpg").write_text("x")
    file.write_text("x")
    for names in ("hugging_face", "timm"):
        assert "holds other things (holiday.jpg)" in fails(source, full, "--names", names)
    assert "file is a file: name a folder" in fails(source, file, "--names", "hugging_face")
    said = fails(source, tmp_path / "vit.safetensors", "--names", "hugging_face")
    assert "--names hugging_face writes a folder" in said
    said = fails(source, tmp_path / "vit.safetensors", "--report", tmp_path)
    assert "is for the model card of a folder" in said
    grey = tmp_path / "grey.safetensors"
    write_weights(grey, random_weights(dataclasses.replace(SQUARE, channels=1)), "timm")
    said = fails(grey, tmp_path / "a", "--names", "timm")
    assert "does not tell how its images of 1 channel(s) were normalised" in said
    assert sorted(x.name for x in full.iterdir()) == ["holiday.jpg"]
    assert not (tmp_path / "a").exists()


def test_a_run_without_checkpoints(tmp_path):
    workdir = open_workdir(tmp_path / "run", small_config())
    assert "has no checkpoint yet" in fails(workdir, tmp_path / "a", "--names", "hugging_face")
    assert not (tmp_path / "a").exists()


def test_what_a_workdir_tells(pretrained):
    known = about(pretrained, read_weights(pretrained))
    assert (known.mean, known.std, known.test_crop) == ((0.5,), (0.5,), 1.0)
    assert known.mask_ratio == 0.75 and known.interpolation == "bicubic"
    assert dict(known.versions)["hpm_jax"]
