"""Terms and objectives against plain formulas in float64, and cases computed by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import small_config

from hpm_jax.config import ConfigError
from hpm_jax.evaluation.knn import rank_me
from hpm_jax.evaluation.sanity import check_training
from hpm_jax.losses import Objective, Term
from hpm_jax.losses.fourier import focal_frequency
from hpm_jax.losses.heads import init_perceptron, perceptron
from hpm_jax.losses.morphing import merged
from hpm_jax.losses.spread import dispersion, epps_pulley, variance_covariance
from hpm_jax.losses.term import Outputs, Own
from hpm_jax.losses.visible import distance_to_hidden
from hpm_jax.masking.units import Unit
from hpm_jax.targets.clusters import assignments
from hpm_jax.tokens import Mask, Tokenizer

GRID, TOKENIZER = (1, 3, 4), Tokenizer((1, 2, 2), (0.5,) * 3, (0.5,) * 3)


def normal(*shape, seed=0, scale=1.0):
    return (scale * np.random.default_rng(seed).normal(size=shape)).astype(np.float32)


def outputs_of(**changes):
    """Random outputs of three images of 12 patches, of which 8 are hidden."""
    rng = np.random.default_rng(1)
    order = np.stack([rng.permutation(12) for _ in range(3)]).astype(np.int32)
    mask = Mask(np.sort(order[:, :4]), np.sort(order[:, 4:]))
    whole = normal(3, 12, 12, seed=2)
    target = np.take_along_axis(whole, mask.hide[..., None], axis=1)
    found = Outputs(
        losses=normal(3, 8), predicted=None, values=normal(3, 8, 12, seed=3), target=target,
        features=normal(3, 5, 16, seed=4), patches=normal(3, 12, 12, seed=5), mask=mask,
        unit=Unit(GRID), whole_target=whole, tokenizer=TOKENIZER,
        readings={"features": normal(3, 12, 16, seed=6)},
    )  # fmt: skip
    return found._replace(**changes)


def spectrum(difference):
    """The orthonormal 2D transform by matrices, of `[..., H, W, C]` float64."""
    h, w = difference.shape[-3:-1]
    f, g = (np.exp(-2j * np.pi * np.outer(range(n), range(n)) / n) / np.sqrt(n) for n in (h, w))
    return np.einsum("ih,...hwc,jw->...ijc", f, np.float64(difference), g)


@pytest.mark.parametrize("average", [False, True])
@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("batch", [False, True])
def test_focal_frequency(average, log, batch):
    difference = normal(2, 1, 6, 8, 3)
    found = spectrum(difference)
    found = found.mean(axis=0, keepdims=True) if average else found
    weight = np.abs(found) ** 1.5
    weight = np.log(1 + weight) if log else weight
    weight /= weight.max() if batch else weight.max(axis=(2, 3), keepdims=True)
    expected = np.mean(weight * np.abs(found) ** 2)
    got = focal_frequency(difference, 1.5, average, log, batch)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_fourier_is_of_the_image():
    """Hidden patches are pasted at their places; a perfect image costs 0, gradient included."""
    outputs, term = outputs_of(), Term.parse_call("fourier", "x")
    image = np.zeros((3, 12, 12))
    for row in range(3):
        image[row, outputs.mask.hide[row]] = outputs.values[row] - outputs.target[row]
    image = image.reshape(3, 3, 4, 2, 2, 3).transpose(0, 1, 3, 2, 4, 5).reshape(3, 1, 6, 8, 3)
    expected = focal_frequency(np.float32(image))
    np.testing.assert_allclose(term(outputs)[0], expected, rtol=1e-5)
    same = outputs._replace(values=jnp.asarray(outputs.target))
    loss, slope = jax.value_and_grad(lambda v: term(same._replace(values=v))[0])(same.values)
    assert loss == 0 and not slope.any()
    none = outputs.mask._replace(counted=np.zeros((3, 8), bool))
    assert term(outputs._replace(mask=none))[0] == 0


def test_dispersion():
    z = normal(5, 7)
    distance = np.square(np.float64(z)[:, None] - z[None]).mean(axis=-1)
    expected = np.log(np.exp(-distance / 0.5).mean())
    np.testing.assert_allclose(dispersion(z, 0.5), expected, rtol=1e-5)
    np.testing.assert_allclose(dispersion(np.ones((5, 7), np.float32), 0.5), 0, atol=1e-6)
    far = np.float32(100 * np.eye(5))
    np.testing.assert_allclose(dispersion(far, 0.5), -np.log(5), rtol=1e-6)


def test_epps_pulley():
    """The sum over the points; what is expected of normal values; a constant costs the most."""
    x, t = normal(40, 3), np.linspace(-5, 5, 17)
    error = np.abs(np.exp(1j * np.float64(x)[..., None] * t).mean(axis=0) - np.exp(-(t**2) / 2))
    integrand = error**2 * np.exp(-(t**2) / 2)
    np.testing.assert_allclose(epps_pulley(x), 40 * np.trapezoid(integrand, t), rtol=1e-5)
    # E N |mean exp(itx) - phi|^2 = 1 - phi^2, whose integral is sqrt(2 pi) (1 - 1 / sqrt(3))
    expected = np.sqrt(2 * np.pi) * (1 - 3**-0.5)
    gaussian = epps_pulley(normal(1000, 400, seed=1)).mean()
    np.testing.assert_allclose(gaussian, expected, rtol=0.1)
    shifted = epps_pulley(normal(1000, 20, seed=2) + 1).mean()
    constant = epps_pulley(np.ones((1000, 1), np.float32)).mean()
    assert 100 * gaussian < shifted < constant


def test_sigreg_draws_directions():
    """Unit vectors, others in each step, the same in each row of a batch."""
    term, outputs = Term.parse_call("sigreg(directions=6, pool='tokens')", "x"), outputs_of()
    drawn = [term.draw(jax.random.key(step), outputs.mask) for step in (0, 1)]
    assert (drawn[0] == drawn[0][:1]).all() and (drawn[0] != drawn[1]).any()
    losses = [term(outputs._replace(own=Own(drawn=x)))[0] for x in drawn]
    assert losses[0] != losses[1]
    directions = jax.random.normal(jax.random.wrap_key_data(drawn[0][0]), (16, 6))
    directions = np.float64(directions) / np.linalg.norm(directions, axis=0)
    projected = np.float32(outputs.features[:, 1:].reshape(-1, 16) @ directions)
    np.testing.assert_allclose(losses[0], epps_pulley(projected).mean(), rtol=1e-4)


def test_variance_covariance():
    z = normal(6, 4, scale=0.7)
    covariance = np.cov(np.float64(z), rowvar=False)
    short = np.maximum(0, 1 - np.sqrt(np.diag(covariance) + 1e-4)).mean()
    off = (np.square(covariance).sum() - np.square(np.diag(covariance)).sum()) / 4
    found = variance_covariance(z, 1.0)
    np.testing.assert_allclose(found, (short, off), rtol=1e-5)
    collapsed = variance_covariance(np.ones((6, 4), np.float32), 1.0)
    np.testing.assert_allclose(collapsed, (0.99, 0), atol=1e-6)


def test_pools():
    """The mean, the cls token, or every visible patch."""
    outputs = outputs_of()
    for pool, rows in (
        ("mean", outputs.features[:, 1:].mean(axis=1)),
        ("cls", outputs.features[:, 0]),
        ("tokens", outputs.features[:, 1:].reshape(-1, 16)),
    ):
        term = Term.parse_call(f"dispersive(pool={pool!r})", "x")
        np.testing.assert_allclose(term(outputs)[0], dispersion(rows, 0.5), rtol=1e-5)


def test_perceptron():
    params = init_perceptron(jax.random.key(0), (5, 6, 3))
    x = normal(2, 4, 5)
    middle = np.float64(x) @ np.float64(params["layer_0"]["kernel"])
    middle -= middle.mean(axis=-1, keepdims=True)
    middle /= np.sqrt(np.square(middle).mean(axis=-1, keepdims=True) + 1e-6)
    middle = middle * np.array(0.5 * (1 + jax.lax.erf(np.float32(middle / np.sqrt(2)))))
    expected = middle @ np.float64(params["layer_1"]["kernel"])
    np.testing.assert_allclose(perceptron(params, x), expected, rtol=1e-4, atol=1e-5)


def test_distance_to_hidden():
    """A 3 x 4 grid whose corner is hidden: 0 1 2 3 / 4 5 6 7 / 8 9 10 11."""
    found = distance_to_hidden(np.int32([[1, 4, 5, 11]]), np.int32([[0, 3]]), GRID)
    np.testing.assert_allclose(found, [[1, 1, 2**0.5, 2]], rtol=1e-6)
    clip = distance_to_hidden(np.int32([[0, 4]]), np.int32([[8]]), (3, 2, 2))
    np.testing.assert_allclose(clip, [[2, 1]], rtol=1e-6)


@pytest.mark.parametrize(("beta", "power"), [(0.0, 0.5), (2.0, 0.0), (0.5, 1.0)])
def test_visible(beta, power):
    outputs = outputs_of()
    term = Term.parse_call(f"visible(beta={beta}, power={power}, layers=0)", "x")
    params = {"layer_0": {"kernel": normal(16, 12, seed=7), "bias": normal(12, seed=8)}}
    losses = []
    for row in range(3):
        for place, patch in enumerate(outputs.mask.keep[row]):
            found = np.float64(outputs.features[row, 1 + place]) @ params["layer_0"]["kernel"]
            error = np.abs(found + params["layer_0"]["bias"] - outputs.whole_target[row, patch])
            if beta:
                error = np.where(error < beta, error**2 / (2 * beta), error - beta / 2)
            other = [np.hypot(*np.subtract(divmod(patch, 4), divmod(x, 4)))
                     for x in outputs.mask.hide[row]]  # fmt: skip
            losses.append(min(other) ** -power * error.mean())
    found, _ = term(outputs._replace(own=Own(params=params)))
    np.testing.assert_allclose(found, np.mean(losses), rtol=1e-5)


def test_global_consistency():
    """Between the student's visible mean and the teacher's mean of all; from 0 to 4."""
    outputs, term = outputs_of(), Term.parse_call("global_consistency(width=7, values=5)", "x")
    setting = small_config().setting  # of the same width, 16
    mine, other = (term.init(jax.random.key(seed), setting) for seed in (0, 1))
    q = perceptron(mine["head"], outputs.features[:, 1:].mean(axis=1))
    q = np.float64(perceptron(mine["predictor"], q))
    z = np.float64(perceptron(other["head"], outputs.readings["features"].mean(axis=1)))
    cosine = (q * z).sum(axis=1) / np.linalg.norm(q, axis=1) / np.linalg.norm(z, axis=1)
    found, _ = term(outputs._replace(own=Own(params=mine, teacher=other)))
    np.testing.assert_allclose(found, np.mean(2 - 2 * cosine), rtol=1e-5)


def test_assignments():
    """At each position: equal masses of clusters, then of images; the rows sum to 1."""
    logits = normal(6, 2, 3, scale=3.0)
    share = np.exp(np.float64(logits))
    for _ in range(3):
        share /= share.sum(axis=0, keepdims=True)
        share /= share.sum(axis=2, keepdims=True)
    np.testing.assert_allclose(assignments(logits, 3), share, rtol=1e-4)
    many = np.asarray(assignments(logits * 20, 200))  # exp would overflow
    np.testing.assert_allclose(many.sum(axis=2), 1, rtol=1e-4)
    np.testing.assert_allclose(many.sum(axis=0), 2, rtol=0.05)


def test_clustering():
    """The head learns its own assignments; equal masses use all clusters."""
    outputs = outputs_of(whole_target=np.full((3, 12, 4), 0.25, np.float32))
    head = {"kernel": normal(16, 4, seed=9), "bias": normal(4, seed=10)}
    features = np.float64(outputs.readings["features"])
    features /= np.linalg.norm(features, axis=-1, keepdims=True)
    x = (features @ head["kernel"] + head["bias"]) / 0.12
    log_share = x - np.log(np.exp(x).sum(axis=-1, keepdims=True))
    found, others = Term.parse_call("clustering", "x")(outputs._replace(own=Own(params=head)))
    np.testing.assert_allclose(found, -(0.25 * log_share).sum(axis=-1).mean(), rtol=1e-5)
    np.testing.assert_allclose(others["clusters_used"], 4, rtol=1e-5)


def matched(features, each, rounds):
    """Groups of one image, merged pair by pair as ToMe does: lists of patches."""
    groups = [[patch] for patch in range(len(features))]
    for _ in range(rounds):
        groups.sort(key=lambda members: members[0])
        mean = [np.float64(features)[members].mean(axis=0) for members in groups]
        mean = [x / np.linalg.norm(x) for x in mean]
        first, second = range(0, len(groups), 2), range(1, len(groups), 2)
        if not second:
            break
        best = [(max((mean[a] @ mean[b], -b) for b in second), a) for a in first]
        most = min(each, len(groups) // 2)
        moves = {a: -b for (_, b), a in sorted(best, reverse=True)[:most]}
        for a, b in moves.items():
            groups[b] = [groups[b][0], *groups[b][1:], *groups[a]]  # its name stays
        groups = [members for number, members in enumerate(groups) if number not in moves]
    return {frozenset(members) for members in groups}


@pytest.mark.parametrize(("each", "rounds"), [(0, 3), (1, 1), (2, 3), (5, 2), (12, 14)])
def test_merged(each, rounds):
    features = normal(3, 12, 5)
    found = jax.jit(merged)(features, np.int32(each), np.int32(rounds))
    for row, groups in zip(features, np.asarray(found), strict=True):
        by_name = {frozenset(np.flatnonzero(groups == name)) for name in set(groups)}
        assert by_name == matched(row, each, rounds)


def test_morphed_tokens():
    """Without merges the loss is that of the patches, with all merged that of the mean."""
    outputs, term = outputs_of(), Term.parse_call("morphed_tokens(levels=1, rounds=20)", "x")
    params = {"layer_0": {"kernel": normal(16, 12, seed=7), "bias": normal(12, seed=8)}}
    predicted = np.zeros((3, 12, 12))
    rows = np.arange(3)[:, None]
    predicted[rows, outputs.mask.keep] = perceptron(params, outputs.features[:, 1:])
    predicted[rows, outputs.mask.hide] = outputs.values

    def smooth(x, t):
        d = np.abs(x - t)
        return np.where(d < 2, d**2 / 4, d - 1).mean()

    whole = outputs.whole_target
    drawn = term.draw(jax.random.key(0), outputs.mask)
    assert drawn.shape == (3, 1, 2) and (drawn == drawn[:1]).all()
    for numbers, expected in (
        ((0.0, 0.99), smooth(predicted, whole)),
        ((0.999, 0.5), smooth(predicted.mean(axis=1), whole.mean(axis=1))),
    ):
        own = Own(params=params, drawn=jnp.full((3, 1, 2), jnp.float32(numbers)))
        rounds = 1 + int(numbers[1] * 20)
        if numbers[0]:  # 12 merges in 11 rounds of one leave one group
            assert (rounds, round(12 / rounds)) == (11, 1)
        found, _ = term(outputs._replace(own=own))
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_cross_entropy():
    prediction, share = normal(2, 3, 5), np.abs(normal(2, 3, 5, seed=1))
    share /= share.sum(axis=-1, keepdims=True)
    x = np.float64(prediction) / 0.5
    expected = -(share * (x - np.log(np.exp(x).sum(axis=-1, keepdims=True)))).sum(axis=-1)
    objective = Objective.parse_call("cross_entropy(temperature=0.5)", "x")
    np.testing.assert_allclose(objective(prediction, share), expected, rtol=1e-5)


def test_frequency():
    prediction, target = normal(2, 3, 48), normal(2, 3, 48, seed=1)
    found = spectrum((np.float64(prediction) - target).reshape(2, 3, 4, 4, 3))
    objective = Objective.parse_call("frequency(gamma=1.5)", "x")
    expected = ((np.abs(found) ** 2 + 1e-12) ** 0.75).mean(axis=(2, 3, 4))
    np.testing.assert_allclose(objective(prediction, target), expected, rtol=1e-5)
    slope = jax.grad(lambda p: objective(p, target).sum())(jnp.asarray(target))
    assert np.isfinite(slope).all()


def test_collapse_is_seen():
    """Features that are equal, but for rounding or all 0, have a RankMe near 1: a warning."""
    equal = np.ones((64, 16), np.float32)
    for features in (equal, 0 * equal, equal + normal(64, 16, scale=1e-7)):
        (sentence,) = check_training({"rank_me": rank_me(features)})
        assert "has collapsed" in sentence
    assert not list(check_training({"rank_me": rank_me(normal(64, 16))}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"losses": ("fourier",), "target": "hog(cell=4)"}, "compares images, and config.target"),
        ({"losses": ("ranking", "dispersive(pool='cls')"), "model": {"layout": "videomae"},
          "evaluation": {"pool": "mean"}},
         "has no cls token: pool="),
        ({"losses": ("sigreg(points=8)",)}, "points = 8: expected an odd number"),
        ({"losses": ("sigreg",), "optimizer": {"accumulation": 64}}, "there is 1 in each part"),
        ({"losses": ("global_consistency",), "teacher": "none", "mask": {"strategy": "random"}},
         "global_consistency', which asks the teacher, and config.teacher = 'none' keeps none"),
        ({"losses": ("ranking", "global_consistency"), "teacher": "moving_average(every_steps=2)"},
         "which reads features of the teacher, and features are not kept from step to step"),
        ({"losses": ("distillation",)}, "path is empty: expected a file of weights"),
        ({"objective": "cross_entropy"}, "compares distributions, and config.target"),
        ({"objective": "frequency"}, "expected the same, channels=1"),
        ({"objective": "frequency(channels=1)", "target": "hog(cell=4)"}, "expected a target of p"),
        ({"losses": ("ranking", "morphed_tokens"), "mask": {"counted": 0.5}}, "leaves some out"),
        ({"target": "online_clusters"}, "a head that no term of config.losses"),
        ({"losses": ("ranking", "clustering")}, "trains the head of the target online_clusters"),
        ({"target": "codes"}, "path is empty: expected a .npz file"),
        ({"target": "codes(path='gone.npz')"}, "of gone.npz .there is no such file.: python -m"),
        ({"target": "low_variance_pixels(path='gone.npz')"}, "there is no such file"),
        ({"target": "codes(of='hgo')"}, "did you mean 'hog'"),
    ],
)  # fmt: skip
def test_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        small_config(**changes)
