"""The tables of docs/scaling.md are what `scalerec plan` tells."""

import pytest
from benchmarks.plan_tables import PAGE, filled, sizes


def test_the_page_is_current() -> None:
    # One table tells: all are made from the same model and constants.
    assert sizes() in PAGE.read_text("utf-8"), "run `python benchmarks/plan_tables.py`"


def test_a_page_without_its_comments_is_refused() -> None:
    with pytest.raises(ValueError, match="needs <!-- table sizes -->"):
        filled("no table here")
