"""The official implementation's numbers, case by case, from every `*.npz` below `HPM_GOLDEN`.

A case says its target: pixels, features of the teacher ("ema"), or vectors that are given
("features"), as those of CLIP.

Tolerances are relative to the largest magnitude of what is compared. Forward values agree to 1e-5;
gradients pass through sums over all tokens, and weights after AdamW divide by small second moments,
so they are given more room, said where it is used.
"""

import dataclasses
import functools
import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hpm_jax.convert.official import from_official
from hpm_jax.losses.ranking import absolute, relative
from hpm_jax.losses.reconstruction import Cosine, SquaredError
from hpm_jax.losses.term import Own
from hpm_jax.masking.units import Unit
from hpm_jax.models import MaskedAutoencoder
from hpm_jax.step.mask import read_networks
from hpm_jax.step.method import Method
from hpm_jax.step.optimizer import decay_mask, make_optimizer
from hpm_jax.step.schedules import Schedule
from hpm_jax.step.state import TrainState
from hpm_jax.step.step import Masked, masked_loss, student_pass
from hpm_jax.step.update import make_update
from hpm_jax.targets import NormalizedPixels, RawPixels, Target, TeacherFeatures
from hpm_jax.tokens import Mask, Tokenizer, gather, patchify

FOLDER = Path(os.environ.get("HPM_GOLDEN") or Path(__file__).parent / "golden")


def _is_hpm(path):
    with np.load(path) as case:
        return "step0/teacher_predicted_loss" in case.files


CASES = sorted(path for path in FOLDER.rglob("*.npz") if _is_hpm(path))


def is_of_pixels(path):
    with np.load(path) as case:
        return "step0/pixels_masked" in case.files


@dataclasses.dataclass(frozen=True, repr=False)
class Given(Target):
    """Vectors that are given for the images of one step, as `frozen`."""

    size: int = 0

    def width(self, setting):
        return self.size

    def __call__(self, context):
        return context.frozen


def target_of(config):
    match config.get("target", "pixels"):
        case "pixels":
            return NormalizedPixels() if config["norm_pix"] else RawPixels()
        case "ema":
            return TeacherFeatures()
        case "features":
            return Given(config["target_width"])


def test_there_are_cases():
    assert CASES, f"no golden file of an HPM step in {FOLDER}"


def assert_close(actual, expected, rtol=1e-5, name=""):
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape, name
    error = np.abs(actual - expected).max()
    assert error <= rtol * max(np.abs(expected).max(), 1e-30), f"{name}: off by {error}"


def by_name(actual, expected):
    """Pairs of leaves of two trees, with their names."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    leaves = jax.tree_util.tree_leaves_with_path(actual)
    for (path, value), wanted in zip(leaves, jax.tree.leaves(expected), strict=True):
        yield jax.tree_util.keystr(path), np.asarray(value), np.asarray(wanted)


def assert_trees_close(actual, expected, rtol):
    for name, value, wanted in by_name(actual, expected):
        assert_close(value, wanted, rtol, name)


class Case:
    """One file: its model, its method, its arrays."""

    def __init__(self, path):
        with np.load(path) as file:
            self.arrays = dict(file)
        self.config = config = json.loads(str(self.arrays["config"]))
        patch = config["patch_size"]
        self.patch_size = (1, patch, patch)
        channels, height, width = self.arrays["step0/images"].shape[1:]
        self.model = MaskedAutoencoder(
            grid=(1, height // patch, width // patch),
            values=channels * patch**2,
            width=config["embed_dim"],
            depth=config["depth"],
            heads=config["num_heads"],
            decoder_width=config["decoder_embed_dim"],
            decoder_depth=config["decoder_depth"],
            decoder_heads=config["decoder_num_heads"],
            target_values=config.get("target_width", 0),
        )
        self.method = Method(
            tokenizer=Tokenizer(self.patch_size, (0.0,) * channels, (1.0,) * channels),
            unit=Unit(self.model.grid),
            hidden=int(self.arrays["step0/mask"].sum(1)[0]),
            width=config["embed_dim"],
            target=target_of(config),
            objective=Cosine() if "target_width" in config else SquaredError(),
        )
        self.given = {"target": self.arrays.get("step0/target_features")}
        self.values = "values_masked" if "target_width" in config else "pixels_masked"
        self.params = self.tree("weights/")
        self.teacher = self.tree("teacher_weights/")

    def tree(self, prefix):
        found = {k[len(prefix) :]: v for k, v in self.arrays.items() if k.startswith(prefix)}
        return from_official(found)

    def __getitem__(self, name):
        return self.arrays[name]

    @functools.partial(jax.jit, static_argnums=(0, 3))
    def apply(self, params, patches, method):
        return self.model.apply({"params": params}, patches, method=method)

    def student(self, params, patches, mask):
        """The student's pass, jitted; nothing of the state but the parameters is used."""
        state = TrainState(jnp.int32(0), params, self.teacher, None, frozen=self.given)
        unit = self.method.unit

        @jax.jit
        def run(params, patches, mask):
            found = student_pass(self.model, self.method, state, params, Masked(patches, mask))
            return found._replace(unit=None, sizes=None)

        return run(params, patches, mask)._replace(unit=unit)

    def patches(self, step=0):
        images = jnp.asarray(self[f"step{step}/images"].transpose(0, 2, 3, 1))
        return patchify(images, self.patch_size)

    def mask(self, step=0):
        order = np.argsort(self[f"step{step}/mask"], axis=1, kind="stable").astype(np.int32)
        kept = order.shape[1] - self.method.hidden
        return Mask(jnp.asarray(order[:, :kept]), jnp.asarray(order[:, kept:]))


@pytest.fixture(scope="module", params=CASES, ids=lambda path: path.stem)
def case(request):
    return Case(request.param)


def test_student(case):
    losses = case.student(case.params, case.patches(), case.mask())
    assert_close(losses.features, case["step0/features"])
    assert_close(losses.values, case[f"step0/{case.values}"])
    assert_close(losses.predicted, case["step0/predicted_loss_masked"])
    assert_close(losses.losses, case["step0/patch_loss"])
    assert_close(losses.losses.mean(), case["step0/loss_reconstruction"])
    assert_close(relative(losses.predicted, losses.losses), case["step0/loss_relative"])
    assert_close(absolute(losses.predicted, losses.losses), case["step0/loss_absolute"])


def test_objective(case):
    """The losses from the official predictions alone, so that nothing else can hide an error."""
    readings = {"features": jnp.asarray(case["step0/teacher_features"])[:, 1:]}
    target = case.method.target_of(case.patches(), Own(frozen=case.given["target"]), readings)
    target = gather(target, case.mask().hide)
    loss = case.method.objective(jnp.asarray(case[f"step0/{case.values}"]), target)
    assert_close(loss, case["step0/patch_loss"])
    predicted = jnp.asarray(case["step0/predicted_loss_masked"])
    assert_close(relative(predicted, loss), case["step0/loss_relative"])
    assert_close(absolute(predicted, loss), case["step0/loss_absolute"])


def test_teacher(case):
    features = case.apply(case.teacher, case.patches(), "encode")
    assert_close(features, case["step0/teacher_features"])
    predicted = case.apply(case.teacher, case.patches(), "predict_loss")
    assert_close(predicted, case["step0/teacher_predicted_loss"])


def test_teacher_features_as_a_target(case):
    """One pass gives what the masks and the target read, and the target is the official one."""
    if not case.method.target.reads:
        pytest.skip("the target reads no teacher")
    state = TrainState(jnp.int32(0), case.params, case.teacher, None)
    read = jax.jit(functools.partial(read_networks, case.model, case.method))
    found = read(state, case.patches(), jnp.int32(3))
    expected = case["step0/teacher_predicted_loss"]
    assert_close(found.units["teacher"]["predicted_loss"], expected)
    raw = dataclasses.replace(case.method, target=TeacherFeatures(normalize="none"))
    target = raw.target_of(case.patches(), readings=found.target)
    assert_close(target, case["step0/target_features"])
    alone = read(state, case.patches(), jnp.int32(0))
    assert_close(alone.target["features"], case["step0/target_features"])
    assert not alone.units["teacher"]["predicted_loss"].any()


def test_steps(case):
    """Losses, gradients, and the weights of student and teacher after all steps of the file."""
    config = case.config
    optimizer = make_optimizer(
        *config["betas"], config["adam_eps"], config["weight_decay"], config["clip_global_norm"]
    )
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        params=case.params,
        teacher=case.teacher,
        optimizer=optimizer.init(case.params),
        frozen=case.given,
    )
    update = jax.jit(make_update(masked_loss(case.model, case.method, state), optimizer))
    read = jax.jit(functools.partial(read_networks, case.model, case.method))
    schedule = Schedule(np.float32(config["lr"]), np.float32(1 - config["ema_decay"]), np.int32(0))
    steps = config.get("steps", 1)
    for step in range(steps):
        predicted = case.apply(state.teacher, case.patches(step), "predict_loss")
        # later steps start from weights that AdamW has moved by noise, see below
        rtol = 1e-5 if step == 0 else 1e-3
        assert_close(predicted, case[f"step{step}/teacher_predicted_loss"], rtol)
        readings = read(state, case.patches(step), schedule.n_hard).target
        masked = Masked(case.patches(step), case.mask(step), readings=readings)
        state, (metrics, _) = update(state, masked, schedule)
        for ours, theirs in (
            ("reconstruction", "loss_reconstruction"),
            ("ranking", "loss_relative"),
            ("gradient_norm", "grad_norm"),
        ):
            assert_close(metrics[ours], case[f"step{step}/{theirs}"], rtol, ours)
    moved = config["lr"] * steps
    assert_weights_close(state.params, case.tree("final_weights/"), moved, steps)
    moved *= 1 - config["ema_decay"]
    assert_weights_close(state.teacher, case.tree("final_teacher_weights/"), moved, steps)


def assert_weights_close(actual, expected, moved, steps):
    """Within a thousandth of how far AdamW may have `moved` a weight, but for one in 100.

    AdamW divides a gradient by its own size: where that is near its rounding error, an update of
    full size carries the error's relative size. So single weights are bounded by the learning
    rate, and all are within float32's rounding of their tensor.
    """
    for name, ours, theirs in by_name(_without_noise(actual), _without_noise(expected)):
        difference, rounding = np.abs(ours - theirs), 2e-7 * (steps + 1) * np.abs(theirs).max()
        assert np.sum(difference > 1e-3 * moved + rounding) <= 1 + 0.01 * difference.size, name
        assert difference.max() <= 2 * moved + rounding, name


def test_clipped_gradients(case):
    def loss(params):
        losses = case.student(params, case.patches(), case.mask())
        return losses.losses.mean() + relative(losses.predicted, losses.losses)

    grads = jax.jit(jax.grad(loss))(case.params)
    norm = float(np.sqrt(sum(np.square(g).sum() for g in jax.tree.leaves(grads))))
    assert_close(norm, case["step0/grad_norm"])
    clipped = jax.tree.map(lambda g: g * min(1, case.config["clip_global_norm"] / norm), grads)
    expected = case.tree("step0/clipped_grads/")
    assert_trees_close(_without_noise(clipped), _without_noise(expected), 1e-5)


def test_decayed_parameters(case):
    sizes = [p.size for p in jax.tree.leaves(case.params)]
    decays = jax.tree.leaves(decay_mask(case.params))
    decayed = sum(size for size, decay in zip(sizes, decays, strict=True) if decay)
    assert [sum(sizes) - decayed, decayed] == list(case["n_decay_params"])


def _without_noise(params):
    """Without the parameters whose gradient is exactly zero: key biases and the ranking's shift."""
    params = jax.tree.map(np.array, params)
    for stack in ("encoder", "reconstructor", "predictor"):
        bias = params[stack]["transformer"]["blocks"]["attention"]["qkv"]["bias"]
        third = bias.shape[-1] // 3
        bias[:, third : 2 * third] = 0
    params["predictor"]["transformer"]["norm"]["bias"][:] = 0
    params["predictor"]["head_bias"][:] = 0
    return params
