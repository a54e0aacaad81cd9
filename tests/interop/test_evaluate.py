"""Classifiers scored here and in their own libraries, on photographs: the same scores."""

import json

import jax
import numpy as np
import pytest
import timm
import torch
import transformers
from PIL import Image
from safetensors.torch import save_file
from scipy.special import log_softmax, logsumexp, softmax
from sklearn.datasets import load_sample_images
from small import task_options
from small_videos import decode_all, write_video
from timm.data import create_transform, resolve_data_config

from hpm_jax.config import freeze
from hpm_jax.config.inherit import inherit
from hpm_jax.convert.read import read_weights
from hpm_jax.data.pipeline import evaluation_batches
from hpm_jax.data.scored import scored_split
from hpm_jax.evaluation.accuracy import AccuracyMeter
from hpm_jax.run.devices import all_devices
from hpm_jax.tasks.evaluate import evaluate, load_classifier

PHOTOS = dict(zip(("china", "flower"), load_sample_images().images, strict=True))


def randomized(model, std=0.2):
    """Weights of a size at which photographs give different scores."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=std)
    return model.eval()


def in_folders(folder, photos, places):
    """JPEG files in folders named after the places of their classes."""
    for (name, pixels), place in zip(photos.items(), places, strict=True):
        (folder / f"{place:04d}").mkdir(parents=True)
        Image.fromarray(pixels).save(folder / f"{place:04d}" / f"{name}.jpg", quality=95)


def read(folder):
    return [Image.open(path) for path in sorted(folder.rglob("*.jpg"))]


def options(init_from, path, **changes):
    data = {"source": "folder", "path": str(path)} | changes.pop("data", {})
    changed = {"evaluation": {"batch_size": 8}, "restrict": False} | changes
    return freeze(inherit(task_options("evaluate", init_from, data=data, **changed)))


def our_logits(config):
    """Of every record, by the same functions as the task's."""
    weights, devices = read_weights(config.init_from), all_devices()
    model, params = load_classifier(config, weights)
    records, _ = scored_split(config.data, config.split)
    meter = AccuracyMeter(config, model, records, devices, weights.architecture.patch)
    batches = list(evaluation_batches(records, config.data, config.run, 8))
    assert len(batches) == 1 and batches[0]["weight"].sum() == len(records)
    images = devices.put_whole(batches[0]["image"])
    return np.asarray(meter.logits(params, images))[: len(records)]


def assert_close(actual, expected):
    assert np.abs(expected).max() > 0.5 and np.abs(expected[0] - expected[1]).max() > 0.1
    np.testing.assert_allclose(actual, expected, atol=2e-4 * np.abs(expected).max())
    np.testing.assert_array_equal(actual.argmax(axis=1), expected.argmax(axis=1))


def numbers_of(workdir):
    return json.loads((workdir / "evaluate.json").read_text())


def in_timm(model, images):
    transform = create_transform(**resolve_data_config({}, model=model))
    with torch.no_grad():
        return model(torch.stack([transform(image) for image in images])).numpy()


def save_for_timm(model, folder):
    """As timm's `save_for_hf` writes it, without the hub's client."""
    folder.mkdir()
    save_file(model.state_dict(), folder / "model.safetensors")
    about = {"architecture": model.default_cfg["architecture"], "num_classes": model.num_classes}
    config = about | {"pretrained_cfg": model.pretrained_cfg}
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "deit_tiny_patch16_224"])
def test_timm_from_its_folder(tmp_path, name):
    """Mean, standard deviation and crop come from the folder; cls token, 1,000 classes."""
    theirs = randomized(timm.create_model(name))
    save_for_timm(theirs, tmp_path / "timm")
    in_folders(tmp_path / "photos", PHOTOS, (0, 1))
    expected = in_timm(theirs, read(tmp_path / "photos"))
    config = options(tmp_path / "timm", tmp_path / "photos")
    assert config.data.mean == theirs.pretrained_cfg["mean"]
    assert_close(our_logits(config), expected)


@pytest.mark.parametrize("ending", ["safetensors", "pth"])
@pytest.mark.parametrize(("pixels", "crop"), [(224, 0.875), (288, 1.0)])
def test_timm_from_a_file(tmp_path, ending, pixels, crop):
    """Average pooling with a norm after it, and positions resized by both."""
    sizes = {"global_pool": "avg", "fc_norm": True, "num_classes": 20, "patch_size": 16}
    sizes |= {"embed_dim": 192, "depth": 2, "num_heads": 3}
    vit = timm.models.vision_transformer.VisionTransformer
    small = randomized(vit(**sizes))
    path = tmp_path / f"timm.{ending}"
    if ending == "pth":
        torch.save({"state_dict": small.state_dict()}, path)
    else:
        save_file(small.state_dict(), path)
    theirs = vit(**sizes, img_size=pixels).eval()
    resized = timm.models.vision_transformer.checkpoint_filter_fn(small.state_dict(), theirs)
    theirs.load_state_dict(resized, strict=True)
    normal = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    theirs.pretrained_cfg = {"input_size": (3, pixels, pixels), "crop_pct": crop} | normal
    theirs.pretrained_cfg |= {"interpolation": "bicubic"}
    in_folders(tmp_path / "photos", PHOTOS, (0, 1))
    expected = in_timm(theirs, read(tmp_path / "photos"))
    config = options(path, tmp_path / "photos", data={"image_size": (pixels, pixels)})
    assert config.data.test_crop == crop, "by default, as MAE's evaluation"
    assert_close(our_logits(config), expected)


def test_accuracies_are_those_of_timm_s_scores(tmp_path):
    """The first photograph's label is timm's first choice, the second's its third."""
    theirs = randomized(timm.create_model("vit_tiny_patch16_224"))
    save_for_timm(theirs, tmp_path / "timm")
    in_folders(tmp_path / "first", PHOTOS, (0, 1))
    logits = in_timm(theirs, read(tmp_path / "first"))
    labels = [int(np.argsort(-logits[0])[0]), int(np.argsort(-logits[1])[2])]
    if labels[0] > labels[1]:  # in the order of the folders
        logits = logits[::-1]
    in_folders(tmp_path / "second", PHOTOS, labels)
    names = tmp_path / "classes.txt"
    names.write_text("".join(f"{number:04d} any other words\n" for number in range(1000)))
    labels = sorted(labels)
    config = options(tmp_path / "timm", tmp_path / "second", classes=str(names))
    assert evaluate(config, tmp_path / "all") == 0
    found = numbers_of(tmp_path / "all")
    assert (found["top1"], found["top5"], found["count"]) == (0.5, 1.0, 2)
    loss = -log_softmax(logits, axis=1)[[0, 1], labels].mean()
    assert found["loss"] == pytest.approx(loss, rel=1e-3)

    config = options(tmp_path / "timm", tmp_path / "second", classes=str(names), restrict=True)
    assert evaluate(config, tmp_path / "two") == 0
    found, of_two = numbers_of(tmp_path / "two"), logits[:, labels]
    assert found["top1"] == np.mean(of_two.argmax(axis=1) == [0, 1])
    loss = -log_softmax(of_two, axis=1)[[0, 1], [0, 1]].mean()
    assert found["loss"] == pytest.approx(loss, rel=1e-3)
    text = (tmp_path / "two" / "report.md").read_text()
    assert "chosen among 2 of 1000 classes" in text


def test_hugging_face_vit(tmp_path):
    """Square photographs, since its processor resizes both sides to 224."""
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"intermediate_size": 256, "layer_norm_eps": 1e-6, "num_labels": 11}
    config = transformers.ViTConfig(**sizes)
    theirs = randomized(transformers.ViTForImageClassification(config))
    theirs.save_pretrained(tmp_path / "vit")
    processor = transformers.ViTImageProcessor(resample=Image.Resampling.BICUBIC)
    processor.save_pretrained(tmp_path / "vit")
    square = {name: pixels[:420, 100:520] for name, pixels in PHOTOS.items()}
    in_folders(tmp_path / "photos", square, (0, 1))
    with torch.no_grad():
        inputs = processor(read(tmp_path / "photos"), return_tensors="pt")
        expected = theirs(**inputs).logits.numpy()
    found = options(tmp_path / "vit", tmp_path / "photos")
    assert (found.data.mean, found.data.std) == ((0.5,) * 3, (0.5,) * 3)
    actual = our_logits(found)
    np.testing.assert_array_equal(actual.argmax(axis=1), expected.argmax(axis=1))
    # its processor may resize by torch, which rounds other pixels than Pillow
    np.testing.assert_allclose(actual, expected, atol=0.02 * np.abs(expected).max())


@pytest.mark.parametrize("crops", [1, 3])
def test_hugging_face_video_mae(tmp_path, crops):
    """Pans over two photographs; of several crops the probabilities are averaged."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"intermediate_size": 128, "layer_norm_eps": 1e-6, "num_labels": 9}
    config = transformers.VideoMAEConfig(**sizes)
    theirs = randomized(transformers.VideoMAEForVideoClassification(config))
    theirs.save_pretrained(tmp_path / "videomae")
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.3, 0.25]
    processor = transformers.VideoMAEImageProcessor(image_mean=mean, image_std=std)
    processor.save_pretrained(tmp_path / "videomae")
    clips = []
    for number, photo in enumerate(PHOTOS.values()):
        folder = tmp_path / "videos" / f"{number}"
        folder.mkdir(parents=True)
        pan = [np.ascontiguousarray(photo[4 * t :][:224, 8 * t :][:, :320]) for t in range(16)]
        clips.append(decode_all(write_video(folder / "pan.mp4", 16, size=(224, 320), frames=pan)))

    def logits(left):
        cropped = np.stack(clips)[:, :, :, left : left + 224]
        pixels = (cropped / 255 - np.array(mean)) / np.array(std)
        pixels = torch.from_numpy(pixels.transpose(0, 1, 4, 2, 3).astype(np.float32))
        with torch.no_grad():
            return theirs(pixels).logits.numpy()

    if crops == 1:
        expected = logits(48)
    else:
        views = np.stack([log_softmax(logits(left), axis=1) for left in (0, 48, 96)])
        expected = logsumexp(views, axis=0) - np.log(3)
        np.testing.assert_allclose(
            np.exp(expected), np.mean([softmax(v, axis=1) for v in views], axis=0), atol=1e-6
        )
    data = {"source": "video_folder", "frame_stride": 1, "test_crops": crops}
    config = options(tmp_path / "videomae", tmp_path / "videos", data=data)
    assert config.data.frames == 16 and config.data.test_crop == 1.0
    assert_close(our_logits(config), expected)
    jax.clear_caches()
