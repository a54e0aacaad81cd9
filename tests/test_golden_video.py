"""Videos: VideoMAE's numbers, and HPM's once more with its images as clips of one frame.

The cases of VideoMAE are every `*.npz` in `HPM_GOLDEN` that is one. Tolerances are relative to the
largest magnitude of what is compared.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import schedule, small_config
from test_golden import CASES, FOLDER, Case, assert_close, is_of_pixels

from hpm_jax.config.shared import IMAGENET_MEAN, IMAGENET_STD
from hpm_jax.convert.state_dict import from_state_dict
from hpm_jax.convert.weights import masked_autoencoder, masked_autoencoder_params
from hpm_jax.losses import squared_error
from hpm_jax.losses.ranking import absolute
from hpm_jax.models import MaskedAutoencoder
from hpm_jax.models.layouts import LAYOUTS
from hpm_jax.run.build import build_method, build_model
from hpm_jax.step.mask import choose_mask, run_networks
from hpm_jax.step.state import TrainState, param_shapes
from hpm_jax.step.step import Masked, student_pass, total_loss
from hpm_jax.targets import TARGETS, TargetContext
from hpm_jax.tokens import Mask, Tokenizer, gather, patchify

HPM_CASES = [path for path in CASES if is_of_pixels(path)]


def is_video_mae(path):
    with np.load(path) as case:
        return {"videos", "target_masked", "weights/encoder_to_decoder.weight"} <= set(case.files)


VIDEO_CASES = sorted(path for path in FOLDER.glob("*.npz") if is_video_mae(path))


def test_there_are_cases():
    assert VIDEO_CASES, f"no golden file of VideoMAE in {FOLDER}"


class VideoCase:
    """One file: its model, its weights, its arrays."""

    def __init__(self, path):
        with np.load(path) as file:
            self.arrays = dict(file)
        config = json.loads(str(self.arrays["config"]))
        _, channels, frames, height, width = self.arrays["videos"].shape
        patch, tubelet = config["patch_size"], config["tubelet"]
        self.patch_size = (tubelet, patch, patch)
        self.heads = {"heads": config["num_heads"], "decoder_heads": config["decoder_num_heads"]}
        self.model = MaskedAutoencoder(
            grid=(frames // tubelet, height // patch, width // patch),
            values=channels * tubelet * patch**2,
            width=config["embed_dim"],
            depth=config["depth"],
            decoder_width=config["decoder_embed_dim"],
            decoder_depth=config["decoder_depth"],
            loss_predictor=False,
            layout=LAYOUTS["videomae"],
            **self.heads,
        )
        weights = {k[8:]: v for k, v in self.arrays.items() if k.startswith("weights/")}
        self.weights = from_state_dict(
            weights, **self.heads, grid=self.model.grid[1:], frames=frames
        )
        self.params = masked_autoencoder_params(self.weights)
        self.patches = patchify(
            jnp.asarray(self.arrays["videos"].transpose(0, 2, 3, 4, 1)), self.patch_size
        )
        self.mask = as_mask(self.arrays["mask"])

    def __getitem__(self, name):
        return self.arrays[name]

    def target(self):
        """Videos are normalised by ImageNet's deviations, which the target divides by again."""
        tokenizer = Tokenizer(self.patch_size, IMAGENET_MEAN, IMAGENET_STD)
        context = TargetContext(self.patches, self.model.grid, tokenizer)
        return gather(TARGETS["channel_normalized_pixels"]()(context), self.mask.hide)


def as_mask(hidden):
    """Indices in raster order of a boolean mask, True where hidden."""
    order = np.argsort(hidden, axis=1, kind="stable").astype(np.int32)
    kept = order.shape[1] - int(hidden[0].sum())
    return Mask(jnp.asarray(order[:, :kept]), jnp.asarray(order[:, kept:]))


@pytest.fixture(scope="module", params=VIDEO_CASES, ids=lambda path: path.stem)
def video(request):
    return VideoCase(request.param)


def test_weights_are_those_of_the_model(video):
    assert masked_autoencoder(video.weights) == video.model
    expected = jax.tree.map(jnp.shape, param_shapes(video.model))
    assert jax.tree.map(np.shape, video.params) == expected


def test_video_mae(video):
    prediction = jax.jit(video.model.apply)({"params": video.params}, video.patches, video.mask)
    assert prediction.loss is None
    assert_close(prediction.features, video["features"])
    assert_close(prediction.values, video["prediction_masked"])
    loss = squared_error(prediction.values, video.target()).mean()
    assert_close(loss, video["loss"])


def test_target(video):
    """Tighter: that the 1e-6 beside the deviation is one of [0, 1] shows in the sixth digit."""
    assert_close(video.target(), video["target_masked"], 1e-6)
    loss = squared_error(jnp.asarray(video["prediction_masked"]), video.target())
    assert_close(loss.mean(), video["loss"])


# --- HPM, its images as clips of one frame, with tubes for units


class ClipCase(Case):
    """A case of images whose model and method come from a config for videos."""

    def __init__(self, path):
        super().__init__(path)
        file = self.config
        _, channels, height, width = self["step0/images"].shape
        hidden = self.method.hidden
        config = small_config(
            data={
                "image_size": (height, width),
                "channels": channels,
                "frames": 1,
                # so that pixels in [0, 255] are divided by one
                "mean": (0.0,) * channels,
                "std": (1 / 255,) * channels,
            },
            model={
                "patch_size": file["patch_size"],
                "tubelet": 1,
                "width": file["embed_dim"],
                "depth": file["depth"],
                "heads": file["num_heads"],
                "decoder_width": file["decoder_embed_dim"],
                "decoder_depth": file["decoder_depth"],
                "decoder_heads": file["decoder_num_heads"],
            },
            mask={"unit": "tube", "ratio": (hidden + 0.5) / self["step0/mask"].shape[1]},
            losses=("ranking",),
            target="normalized_pixels" if file["norm_pix"] else "pixels",
        )
        self.model, self.method = build_model(config), build_method(config)
        assert self.method.unit.tube and self.method.hidden == hidden

    def patches(self, step=0):
        images = jnp.asarray(self[f"step{step}/images"].transpose(0, 2, 3, 1))
        return self.method.tokenizer.patchify(images[:, None])  # normalised floats, as they are


@pytest.fixture(scope="module", params=HPM_CASES, ids=lambda path: path.stem)
def clip(request):
    return ClipCase(request.param)


def state_of(clip):
    return TrainState(step=jnp.int32(0), params=clip.params, teacher=clip.teacher, optimizer=None)


def test_one_frame_student(clip):
    state = state_of(clip)

    @jax.jit
    def forward(params, patches):
        masked = Masked(patches, clip.mask())
        outputs = student_pass(clip.model, clip.method, state, params, masked)
        metrics = total_loss(clip.method, state, params, masked, outputs)[1]
        return outputs._replace(unit=None, sizes=None), metrics

    outputs, metrics = forward(clip.params, clip.patches())
    assert_close(outputs.features, clip["step0/features"])
    assert_close(outputs.values, clip["step0/pixels_masked"])
    assert_close(outputs.predicted, clip["step0/predicted_loss_masked"])
    assert_close(outputs.losses, clip["step0/patch_loss"])
    assert_close(metrics["reconstruction"], clip["step0/loss_reconstruction"])
    assert_close(metrics["ranking"], clip["step0/loss_relative"])
    assert_close(absolute(outputs.predicted, outputs.losses), clip["step0/loss_absolute"])


def test_one_frame_teacher(clip):
    """The losses it predicts for tubes of one frame, and which tubes are hidden if all are hard."""
    state = state_of(clip)
    patches, hidden = clip.patches(), clip.method.hidden
    features = clip.apply(clip.teacher, patches, "encode")
    assert_close(features, clip["step0/teacher_features"])
    seen = jax.jit(lambda x: run_networks(clip.model, clip.method, state, x))(patches)
    expected = clip["step0/teacher_predicted_loss"]
    assert_close(seen.units["teacher"]["predicted_loss"], expected)
    mask = jax.jit(
        lambda x: choose_mask(
            clip.model, clip.method, state, x, jax.random.key(0), schedule(hidden)
        )
    )(patches)
    hardest = np.sort(np.argsort(expected, axis=1)[:, -hidden:], axis=1)
    np.testing.assert_array_equal(mask.hide, hardest)
    both = np.sort(np.concatenate([mask.keep, mask.hide], axis=1), axis=1)
    np.testing.assert_array_equal(both, np.tile(np.arange(both.shape[1]), (len(both), 1)))
