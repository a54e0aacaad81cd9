"""Every term, objective and target: some steps, a checkpoint between them, and eight devices."""

import chex
import jax
import numpy as np
import pytest
from small import Parts, schedule, small_config
from small_weights import random_weights

from hpm_jax.convert.weights import Architecture
from hpm_jax.convert.write import write_weights
from hpm_jax.losses import Objective, Term
from hpm_jax.run.build import Start, build_init, build_method, build_model, build_optimizer
from hpm_jax.run.checkpoints import checkpoints
from hpm_jax.run.devices import all_devices
from hpm_jax.step.state import abstract_state, on_one_device
from hpm_jax.step.step import make_train_step
from hpm_jax.targets import Target
from hpm_jax.targets.codes import fit_codebook
from hpm_jax.targets.fitted import write_arrays
from hpm_jax.targets.low_variance import fit_components

ENCODER = Architecture((1, 4, 4), patch_size=4, channels=1, width=24, depth=2, heads=4)
CODES = "codes(path='codes.npz', of='frozen_features(path=\"e.npz\", mean=(0.5,), std=(0.5,))')"
CASES = {  # as many plugs in one step as go together, so that few are compiled
    "terms": {
        "losses": (
            "ranking", "fourier", "dispersive", "sigreg(directions=8)", "variance_covariance",
            "visible", "supervised(classes=10)", "global_consistency(width=8, values=4)",
        ),
        "mask": {"strategy": "disjoint", "views": 2},
    },
    "codes": {
        "target": CODES,
        "objective": "cross_entropy(temperature=0.5)",
        "losses": (
            "ranking", "visible(beta=2.0, power=0.0, layers=2)",
            "distillation(path='e.npz', block=1, student_block=1, mean=(0.5,), std=(0.5,))",
            "token_relations(path='e.npz', block=1, parts=2, mean=(0.5,), std=(0.5,))",
            "intl(width=8, values=4)", "w_mse(width=8, values=4, group=8)",
        ),
        "mask": {"views": 2},
    },
    "clusters": {
        "target": "online_clusters(clusters=8)",
        "objective": "cross_entropy(temperature=0.12)",
        "losses": ("ranking", "clustering", "morphed_tokens(rounds=3)"),
    },
    "local": {
        "model": {"depth": 3},
        "decoder": "self_attention(block=2)",
        "target": "hog(cell=4, window=0)",
        "losses": ("ranking", "multi_scale(blocks=(1, 2, 3), cells=(1, 2, 8), bins=3)"),
    },
    "alignment": {
        "model": {"depth": 2},
        "decoder": "no_decoder",
        "teacher": "frozen(path='e.npz', mean=(0.5,), std=(0.5,))",
        "mask": {"strategy": "attention(high=False, noise=1.0)"},
        "losses": ("dynamic_alignment(layers=2, blocks=(1, 2))", "visible"),
    },
    "latents": {
        "decoder": "latent_regressor(depth=1)",
        "mask": {"counted": 0.5},
        "losses": ("ranking", "latent_alignment", "masked_frequencies(radius=4.0)"),
    },
    "low_variance": {
        "target": "low_variance_pixels(path='pca.npz')",
        "objective": "frequency(channels=1)",
        "losses": ("ranking", "sigreg(pool='tokens', directions=8)", "fourier(average=False)"),
        "optimizer": {"accumulation": 2},
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The files that the plugs name."""
    folder = tmp_path_factory.mktemp("fitted")
    write_weights(folder / "e.npz", random_weights(ENCODER), "timm")
    rng = np.random.default_rng(0)
    features = rng.normal(size=(300, 24)).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    write_arrays(folder / "codes.npz", codebook=fit_codebook(features, 6)[0])
    patches = rng.normal(size=(300, 16)).astype(np.float32) * np.linspace(3, 0.1, 16)
    components, variances = fit_components(patches.astype(np.float32))
    write_arrays(folder / "pca.npz", components=components, variances=variances)
    return folder


@pytest.mark.parametrize("case", CASES)
def test_trains_resumes_and_is_the_same_anywhere(case, folder, monkeypatch, tmp_path):
    monkeypatch.chdir(folder)
    changes = CASES[case]
    optimizer = {"batch_size": 16} | changes.get("optimizer", {})
    config = small_config(**changes | {"optimizer": optimizer})
    parts = Parts(config)
    images = parts.images
    step = make_train_step(
        parts.model, parts.method, parts.optimizer, optimizer.get("accumulation", 1)
    )
    labels = np.arange(-2, 14, dtype=np.int32).clip(-1, 9)  # two have none
    examples = (images, *(labels for _ in parts.method.annotations))
    counted = np.float32(config.mask.counted) if config.mask.some_count else None
    inputs = *examples, parts.key, schedule(n_hard=4)._replace(counted=counted)
    one = jax.jit(step).lower(parts.state, *inputs).compile()
    second, first_metrics = one(parts.state, *inputs)
    third, metrics = one(second, *inputs)
    for term in config.terms:
        assert getattr(term, "reported", term.name) in metrics
    assert np.isfinite([float(x) for x in (first_metrics | metrics).values()]).all()
    chex.assert_tree_all_finite(third.params)
    if case == "clusters":
        assert 7 < float(metrics["clusters_used"]) < 8.01, "all are used"
    for slot, tree in parts.state.params.get("terms", {}).items():
        after = jax.tree.leaves(third.params["terms"][slot])
        for old, new in zip(jax.tree.leaves(tree), after, strict=True):
            assert (old != new).any(), f"{slot} learns"

    with checkpoints(tmp_path, keep=1) as saved:
        saved.save(second)
    with checkpoints(tmp_path, keep=1) as saved:
        abstract = abstract_state(lambda: second, place=on_one_device)
        restored = saved.restore(abstract, print, second.frozen)
    chex.assert_trees_all_equal(one(restored, *inputs), (third, metrics))

    devices = all_devices()
    placement = devices.shardings(parts.state)
    there = jax.jit(step, out_shardings=(placement, devices.replicated))(
        jax.device_put(parts.state, placement), *map(devices.put, examples), *inputs[-2:]
    )
    for name, value in first_metrics.items():
        np.testing.assert_allclose(there[1][name], value, rtol=1e-4, atol=1e-6, err_msg=name)
    moments = (jax.tree.leaves(state.optimizer) for state in (there[0], second))
    for ours, theirs in zip(*moments, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=5e-4 * np.abs(theirs).max() + 1e-7)


@pytest.mark.parametrize("seeds", [0, 2])
def test_clips(seeds):
    """Traced on clips of tubes, in bfloat16, with all that a mask has; and for several seeds."""
    losses = (*CASES["terms"]["losses"][1:], "ranking(pairs='tubes')")
    config = small_config(
        losses=losses,
        data={"source": "synthetic", "frames": 4, "image_size": (32, 32)},
        model={"patch_size": 8, "tubelet": 2, "layout": "videomae", "dtype": "bfloat16"},
        mask={"unit": "tube", "ratio_end": 0.5, "counted": 0.5, "replaced": 0.25},
        optimizer={"batch_size": 4, "accumulation": 2},
        evaluation={"pool": "mean"},
    )
    model, method, optimizer = build_model(config), build_method(config), build_optimizer(config)
    step = make_train_step(model, method, optimizer, 2)
    init = build_init(config, model, method, optimizer)
    scalars = schedule(4)._replace(hidden=np.int32(10), counted=np.float32(0.5))
    images, key = np.zeros((4, *config.data.train_shape), np.uint8), jax.random.key(0)
    labels = np.zeros(4, np.int32)
    with jax.numpy_dtype_promotion("standard"):  # flax's layer norm mixes dtypes in bfloat16
        if seeds:
            step = jax.vmap(step, in_axes=(0, 0, 0, 0, None))
            init = jax.vmap(init, in_axes=(0, None))
            images, labels = np.stack([images] * seeds), np.stack([labels] * seeds)
            key = jax.random.split(key, seeds)
        state = jax.eval_shape(init, key, Start())
        after, metrics = jax.eval_shape(step, state, images, labels, key, scalars)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(
        lambda x: (x.shape, x.dtype), state
    )
    assert {x.dtype for x in metrics.values()} == {np.dtype(np.float32)}


def test_none_is_forgotten():
    """Every plug of this page is in a case; the others have tests of their own."""
    named = str(CASES)
    others = {"ranking", "absolute", "reconstruction", "squared_error", "absolute_error"}
    others |= {"smooth_l1", "cosine", "info_nce", "teacher_features", "hog"}
    others |= {"pixels", "normalized_pixels", "channel_normalized_pixels", "frozen_features"}
    for family in (Term, Objective, Target):
        for plug in family.plugs.values():
            if plug.__module__.startswith("hpm_jax."):
                assert plug.name in named or plug.name in others, plug.name
