"""Views of one image that show disjoint units."""

import numpy as np
import pytest
from small_masks import context, uniform_chance, visible


@pytest.mark.parametrize("grid", [(1, 6, 6), (2, 4, 4)])
@pytest.mark.parametrize("views, ratio", [(2, 0.5), (2, 0.75), (4, 0.75), (3, 0.9)])
def test_views_are_disjoint(grid, views, ratio):
    made = context(5 * views, grid, ratio, views=views)
    shown = visible("disjoint", made).reshape(5, views, -1)
    kept = made.shape[1] - made.hidden
    assert (shown.sum(axis=2) == kept).all()
    assert (shown.sum(axis=1) <= 1).all(), "no unit is shown twice"
    assert (shown.any(axis=1).sum(axis=1) == kept * views).all()


def test_the_order_starts_again():
    """Three views of half of the units: everything once, and half of it again."""
    shown = visible("disjoint", context(15, (1, 6, 6), 0.5, views=3)).reshape(5, 3, -1)
    assert (shown[:, 0] != shown[:, 1]).all() and (shown[:, 0] == shown[:, 2]).all()
    shown = visible("disjoint", context(10, (1, 6, 6), 0.25, views=2)).reshape(5, 2, -1)
    assert shown.any(axis=1).all() and (shown.all(axis=1).sum(axis=1) == 18).all()


def test_orders_are_uniform_and_of_each_image():
    shown = visible("disjoint", context(6000, (1, 4, 4), views=2)).reshape(3000, 2, 16)
    assert uniform_chance(shown[:, 0], 0.25) and uniform_chance(shown[:, 1], 0.25)
    # which unit the second view shows says nothing of another image
    assert uniform_chance(shown[:-1, 0, 0, None] & shown[1:, 1], 1 / 16)


def test_one_view_is_a_random_mask():
    shown = visible("disjoint", context(4000, (1, 4, 4)))
    assert uniform_chance(shown, 0.25)
    together = (shown[:, 0, 0, 0] & shown[:, 0, 3, 1]).mean()
    assert abs(together - 0.25 * 3 / 15) < 5 * np.sqrt(0.05 / 4000)
