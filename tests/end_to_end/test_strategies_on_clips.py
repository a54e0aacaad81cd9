"""Every mask strategy on clips, by tubes and by free tokens: it trains and resumes."""

import pytest
from small_strategies import NAMES, assert_trains_and_resumes


@pytest.mark.parametrize("kind", ["tubes", "free"])
@pytest.mark.parametrize("name", NAMES)
def test_clips(name, kind, monkeypatch, tmp_path):
    assert_trains_and_resumes(monkeypatch, name, kind, tmp_path)
