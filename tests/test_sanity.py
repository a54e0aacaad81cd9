"""What is silently wrong is said, and what is right is not."""

import numpy as np
import pytest

from hpm_jax.evaluation.sanity import (
    check_images,
    check_labels_tell,
    check_teacher,
    check_training,
)

MEAN, STD = (0.5, 0.5, 0.5), (0.29, 0.29, 0.29)


def noise(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)


def said_of(test, train, mean=MEAN, std=STD):
    return list(check_images(test, train, mean, std))


def test_different_images_are_fine():
    assert said_of(noise(40), noise(40, seed=1)) == []
    assert said_of(noise(40), noise(0)) == []


def test_training_images_in_the_test_split():
    train = noise(40, seed=1)
    (text,) = said_of(np.concatenate([noise(40), train[7:10]]), train)
    assert text.startswith("3 of 43 test images are also among 40 training images")


def test_copies():
    (text,) = said_of(np.repeat(noise(10), 2, axis=0), noise(40, seed=1))
    assert text.startswith("10 of 20 test images are copies")
    (text,) = said_of(noise(10), np.repeat(noise(10, seed=1), 2, axis=0))
    assert text.startswith("10 of 20 training images are copies")


def test_images_of_one_colour_are_no_copies():
    black = np.zeros((10, 8, 8, 3), np.uint8)
    (text,) = said_of(np.concatenate([noise(40), black]), black)
    assert text.startswith("20% of 50 test images are of one colour")


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        ((0.0,) * 3, (1 / 255,) * 3),  # as if the pixels went to 255
        ((2.0, 0.5, 0.5), STD),  # one channel
        (MEAN, (2.0,) * 3),
    ],
)
def test_a_normalisation_that_is_not_the_data_s(mean, std):
    (text,) = said_of(noise(40), noise(0), mean, std)
    assert "--config.data.mean='(0.4" in text or "--config.data.mean='(0.5" in text
    assert "--config.data.std='(0.2" in text
    # what is advised is a pair of tuples that is then accepted
    advised = [eval(part.split("='")[1].split("'")[0]) for part in text.split("--config")[1:]]
    assert said_of(noise(40), noise(0), *advised) == []


def test_imagenets_constants_are_fine_for_photographs_of_any_kind():
    dark = (noise(40) * 0.4).astype(np.uint8)
    assert said_of(dark, noise(0), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)) == []


def numbers(best):
    return {"logistic": best, "knn": 0.1, "raw_pixels/logistic": 0.1, "raw_pixels/knn": 0.1}


def test_labels():
    rng = np.random.default_rng(0)
    train, test = rng.integers(0, 10, 500), np.arange(1000) % 10
    assert list(check_labels_tell(numbers(0.2), train, test)) == []
    (text,) = check_labels_tell(numbers(0.12), train, test)  # 0.1 + 3 * 0.0095
    assert "by chance 10.0%" in text
    (text,) = check_labels_tell(numbers(1.0), np.zeros(500, int), test)
    assert "one label" in text


def test_training():
    good = {"rank_me": 2.0, "held_out/ranked_correctly": 0.6}
    assert list(check_training(good)) == []
    assert list(check_training({"rank_me": 9.0})) == []  # of MAE, which ranks nothing
    assert "collapsed" in next(check_training(good | {"rank_me": 1.1}))
    assert "chance" in next(check_training(good | {"held_out/ranked_correctly": 0.5}))


def test_a_teacher():
    now = np.array([1, 2], np.uint32)
    assert list(check_teacher(now, now + np.uint32(1), 1e-3)) == []
    assert "1e-09" in next(check_teacher(now, now.copy(), 1e-9))
