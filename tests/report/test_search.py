"""The section on a search: its words, its table, its picture."""

from collections.abc import Callable
from typing import Any

import pytest

from scalerec.bundle import Bundle
from scalerec.errors import BundleError
from scalerec.report.attached import Study, read_study
from scalerec.report.search import search_plot, show_search

MakeBundle = Callable[..., Bundle]
Attachments = dict[str, dict[str, Any]]


@pytest.fixture
def study(make_bundle: MakeBundle, attachments: Attachments) -> Study:
    bundle = make_bundle()
    bundle.attach("study.json", attachments["study.json"])
    found = read_study(bundle)
    assert found is not None
    return found


def test_the_words_count_what_happened(study: Study) -> None:
    view = show_search(study)
    assert view is not None
    assert view.words == (
        "4 trials, judged by AUC on the validation rows: 2 ran to their end, 1 stopped early, "
        "1 failed. They took 4 min. This bundle is trial 3."
    )
    assert view.more == ""


def test_the_best_is_on_top_and_marked(study: Study) -> None:
    view = show_search(study)
    assert view is not None
    assert [row.name for row in view.grid.rows] == ["Trial 3", "Trial 1", "Trial 2", "Trial 4"]
    assert [row.own for row in view.grid.rows] == [True, False, False, False]
    assert [row.note for row in view.grid.rows] == [
        "dense.lr 0.002, model.hidden [64,32]",
        "the defaults",
        "dense.lr 0.000123",
        "dense.lr 1",
    ]
    ends = [row.cells[1].text for row in view.grid.rows]
    assert ends == ["complete", "complete", "pruned", "step 3: the loss is nan"]
    assert [part.name for part in view.shares] == ["dense.lr", "model.dim"]


def test_of_errors_the_smallest_is_on_top(
    make_bundle: MakeBundle, attachments: Attachments
) -> None:
    bundle = make_bundle()
    table = {**attachments["study.json"], "higher_is_better": False, "metric": "log_loss"}
    bundle.attach("study.json", table)
    study = read_study(bundle)
    view = show_search(study)
    assert view is not None
    assert view.grid.rows[0].name == "Trial 1"
    assert view.plot is not None
    assert "the best is 0.6000" in view.plot.svg


def test_a_long_search_is_cut_and_says_so(
    make_bundle: MakeBundle, attachments: Attachments
) -> None:
    bundle = make_bundle()
    row = attachments["study.json"]["rows"][0]
    rows = [{**row, "trial": number} for number in range(1, 31)]
    bundle.attach("study.json", {**attachments["study.json"], "rows": rows})
    view = show_search(read_study(bundle))
    assert view is not None
    assert len(view.grid.rows) == 20
    assert view.more == "10 more are in the attachment study.json."


def test_no_picture_without_a_result(study: Study) -> None:
    failed = tuple(trial for trial in study.trials if trial.state == "failed")
    none = Study(study.metric, True, 0, {}, failed)
    assert search_plot(none) is None
    view = show_search(none)
    assert view is not None
    assert view.plot is None


def test_no_section_without_a_search(make_bundle: MakeBundle) -> None:
    assert show_search(read_study(make_bundle())) is None


def test_a_study_of_another_form_is_refused(make_bundle: MakeBundle) -> None:
    bundle = make_bundle()
    bundle.attach("study.json", {"rows": [{"trial": 1, "values": 3}]})
    with pytest.raises(BundleError, match=r"rows\[0\]: values must be a table; got 3"):
        read_study(bundle)
