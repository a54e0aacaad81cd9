"""Masks of squares, rectangles and cells."""

import jax
import numpy as np
import pytest
from small_masks import context, strategy, uniform_chance, visible

from hpm_jax.masking.frames import Frames


def cells(shown, size):
    """Units `[B, 1, h, w]` by cell: `[B, cells, size * size]`."""
    batch, _, h, w = shown.shape
    shown = shown.reshape(batch, h // size, size, w // size, size).swapaxes(2, 3)
    return shown.reshape(batch, -1, size * size)


def test_grid_shows_one_of_each_cell():
    shown = visible("grid", context(2000, (1, 6, 8)))
    assert (cells(shown, 2).sum(axis=2) == 1).all()
    assert uniform_chance(shown, 0.25)
    # cells are independent: two of them show the same corner in a quarter of the images
    corner = cells(shown, 2).argmax(axis=2)
    assert abs((corner[:, 0] == corner[:, 1]).mean() - 0.25) < 5 * np.sqrt(0.1875 / 2000)


@pytest.mark.parametrize("ratio, least, most", [(0.5, 2, 2), (0.4, 2, 3), (0.9, 0, 1)])
def test_grid_at_other_ratios(ratio, least, most):
    count = cells(visible("grid", context(50, (1, 6, 8), ratio)), 2).sum(axis=2)
    assert count.min() == least and count.max() == most


def test_grid_with_odd_sides():
    made = context(4000, (1, 7, 5), ratio=0.75)
    shown = visible("grid", made)
    assert (cells(shown[:, :, :6, :4], 2).sum(axis=2) <= 2).all()
    share = (made.shape[1] - made.hidden) / made.shape[1]
    assert np.abs(shown.mean(axis=0) - share).max() < 0.05, "the border is shown as often"


def test_block_reaches_every_offset():
    """Also the last row and column, unlike the official code."""
    shown = visible("block", context(4000, (1, 14, 14)))[:, 0]
    rows, columns = shown.any(axis=2), shown.any(axis=1)
    assert (rows.sum(axis=1) == 7).all() and (columns.sum(axis=1) == 7).all(), "a square of 49"
    offsets = rows.argmax(axis=1) * 8 + columns.argmax(axis=1)
    times = np.bincount(offsets, minlength=64)
    assert len(times) == 64 and np.abs(times - 4000 / 64).max() < 5 * np.sqrt(4000 / 64)


def test_the_remainder_is_around_the_block():
    """11 units of 6 x 6: a square of 3 x 3 and 2 of the ring around it."""
    shown = visible("block", context(200, (1, 6, 6), ratio=0.69))[:, 0]
    assert (shown.sum(axis=(1, 2)) == 11).all()
    for image in shown:
        squares = [(r, c) for r in range(4) for c in range(4) if image[r : r + 3, c : c + 3].all()]
        assert any(
            image[max(r - 1, 0) : r + 4, max(c - 1, 0) : c + 4].sum() == 11 for r, c in squares
        )


def test_the_block_of_a_narrow_grid():
    shown = visible("block", context(20, (1, 2, 18), ratio=0.5))[:, 0]
    for image in shown:  # 18 units: a square of 2 x 2, and rings that are cut off
        columns = np.flatnonzero(image.any(axis=0))
        assert (np.diff(columns) == 1).all() and image.sum() == 18


def beit(rng, h, w, hidden, smallest=16, low=0.3):
    """The algorithm of the paper in plain loops without a limit, up to the random remainder."""
    mask, rejected = np.zeros((h, w), bool), 0
    while mask.sum() < hidden and rejected < 10:
        remaining = hidden - mask.sum()
        area = rng.uniform(*sorted((smallest, remaining)))
        aspect = np.exp(rng.uniform(np.log(low), -np.log(low)))
        rows, columns = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
        rejected += 1
        if rows < h and columns < w:
            top, left = rng.integers(0, h - rows + 1), rng.integers(0, w - columns + 1)
            block = np.zeros_like(mask)
            block[top : top + rows, left : left + columns] = True
            if 1 <= (block & ~mask).sum() <= remaining:
                mask, rejected = mask | block, 0
    return mask


@pytest.mark.parametrize("hidden", [78, 147])
def test_beit_covers_as_its_algorithm(hidden):
    """The same distribution as plain loops: how much is covered, where, and how compactly."""
    number, rng = 3000, np.random.default_rng(0)
    plug = strategy("beit_block")
    frames = Frames(number, 14, 14, 196 - hidden, hidden)
    cover = jax.jit(lambda key: plug.cover(key, frames))
    ours = np.asarray(cover(jax.random.key(0)))
    theirs = np.stack([beit(rng, 14, 14, hidden) for _ in range(number)])
    assert ours.sum(axis=(1, 2)).max() <= hidden
    for measure in (
        lambda mask: mask.sum(axis=(1, 2)),  # how much is covered
        lambda mask: (mask[:, 1:] != mask[:, :-1]).sum(axis=(1, 2)),  # borders between rows
        lambda mask: (mask[:, :, 1:] != mask[:, :, :-1]).sum(axis=(1, 2)),  # and columns
        lambda mask: mask[:, 7, 7],
        lambda mask: mask[:, 0, 13],
        lambda mask: mask[:, 5, 0],
    ):
        one, other = measure(ours).astype(float), measure(theirs).astype(float)
        deviation = np.sqrt((one.var() + other.var()) / number)
        assert abs(one.mean() - other.mean()) < 5 * deviation


def test_what_beit_covers_is_hidden():
    made, plug = context(40, (1, 14, 14), ratio=0.4), strategy("beit_block")
    shown = visible("beit_block", made)[:, 0]
    frames = Frames(40, 14, 14, made.shape[1] - made.hidden, made.hidden)
    covered = np.asarray(plug.cover(jax.random.split(jax.random.key(0))[0], frames))
    assert covered.sum(axis=(1, 2)).mean() > 60 and not (shown & covered).any()


@pytest.mark.parametrize("cell", [2, 3])
def test_simmim_hides_whole_cells(cell):
    shown = visible(f"simmim(cell={cell})", context(2000, (1, 6, 6), ratio=0.6))
    count = cells(shown, cell).sum(axis=2)
    assert ((count > 0) & (count < cell**2)).sum(axis=1).max() <= 1, "one cell in part, at most"
    assert uniform_chance(shown, 14 / 36)


@pytest.mark.parametrize("size", [2, 4])
def test_large_blocks_at_every_offset(size):
    """Each image is made of whole blocks at exactly the offsets that are possible."""
    shown = visible(f"large_block(size={size})", context(400, (1, 8, 8), ratio=0.5))[:, 0]
    found = []
    for image in shown:
        padded = np.full((size + 8 + size, size + 8 + size), -1)
        padded[size : size + 8, size : size + 8] = image
        partial = {}
        for top in range(size):
            for left in range(size):
                part = padded[top : top + 8 + size, left : left + 8 + size]
                blocks = part.reshape(8 // size + 1, size, 8 // size + 1, size).swapaxes(1, 2)
                blocks = blocks.reshape(-1, size * size)
                mixed = (blocks == 0).any(axis=1) & (blocks == 1).any(axis=1)
                partial[top, left] = mixed.sum()
        offset = min(partial, key=partial.get)
        assert partial[offset] <= 1, "one block in part, at most"
        found.append(offset)
    assert len(set(found)) == size * size


def test_inverse_block_is_a_rolled_rectangle():
    shown = visible("inverse_block", context(3000, (1, 14, 14)))[:, 0]
    assert uniform_chance(shown, 0.25), "invariant to circular translation"
    rows, columns = shown.any(axis=2), shown.any(axis=1)
    aspects = []
    for image, row, column in zip(shown, rows, columns, strict=True):
        for side in (row, column):  # one interval on the circle
            assert (side != np.roll(side, 1)).sum() in (0, 2)
        # undo the roll: full rows, and the last of them cut off
        first = next(i for i in range(14) if row[i] and not row[i - 1]) if not row.all() else 0
        start = next(i for i in range(14) if column[i] and not column[i - 1])
        block = np.roll(image, (-first, -start), axis=(0, 1))[: row.sum(), : column.sum()]
        assert block.ravel()[:49].all(), "cut off in raster order"
        aspects.append(row.sum() / column.sum())
    assert 0.4 < min(aspects) < 0.6 and 1.7 < max(aspects) < 2.2
    assert abs(np.median(np.log(aspects))) < 0.15


@pytest.mark.parametrize(
    "call", ["grid", "block", "beit_block", "simmim", "large_block", "inverse_block"]
)
def test_frames_of_a_clip_are_drawn_by_themselves(call):
    """Each hides as many units as the others, or one more; the patterns differ."""
    shown = visible(call, context(100, (3, 6, 6), ratio=0.7))
    count = shown.sum(axis=(2, 3))
    assert (np.ptp(count, axis=1) <= 1).all() and (count.sum(axis=1) == 32).all()
    assert (count == 10).mean(axis=0).min() > 0.2, "any frame may hide one more"
    assert (shown[:, 0] != shown[:, 1]).any(axis=(1, 2)).mean() > 0.9
    if call == "block":
        for frame in shown.reshape(-1, 6, 6):
            assert np.ptp(np.flatnonzero(frame.any(axis=1))) <= 4
