"""Which metrics are shown where."""

from scalerec.report.attached import Baseline, Evaluation
from scalerec.report.quality import Cell, compare, main_figures, show_evaluation


def _evaluation(metrics: dict[str, float | None], name: str = "test") -> Evaluation:
    return Evaluation(name, "test", 1000, metrics, {"undefined_groups": 2.0})


FILMS: dict[str, float | None] = {"log_loss": 0.5, "ece": 0.02, "auc": 0.75, "gauc": None}
FILMS |= {f"{name}@{k}": k / 100 for name in ("ndcg", "hit_rate") for k in (5, 10, 20)}


def test_main_figures_say_most() -> None:
    rows = [
        Baseline("popularity", {"ndcg@10": 0.07, "log_loss": 0.6}),
        Baseline("ItemKNN", {"ndcg@10": 0.09, "log_loss": None}),
        Baseline("mean", {"log_loss": 0.55}),
    ]
    figures = main_figures(_evaluation(FILMS), rows)
    assert [(one.title, one.value, one.beside) for one in figures] == [
        ("AUC", "0.7500", ""),
        ("NDCG@10", "0.1000", "ItemKNN: 0.0900"),
        ("Hit rate@10", "0.1000", ""),
        ("Log loss", "0.5000", "mean: 0.5500"),
    ]


def test_main_figures_of_other_evaluations() -> None:
    tasks: dict[str, float | None] = {
        f"{task}.{name}": 0.5 for task in ("income", "marital") for name in ("ece", "auc")
    }
    titles = [one.title for one in main_figures(_evaluation(tasks), [])]
    assert titles[:2] == ["AUC, income", "AUC, marital"]
    lengths: dict[str, float | None] = {"ndcg@50": 0.5, "ndcg@100": 0.6}
    assert [one.title for one in main_figures(_evaluation(lengths), [])] == ["NDCG@50"]
    own: dict[str, float | None] = {"surprise": 3.0, "auc": None}
    assert [one.title for one in main_figures(_evaluation(own), [])] == ["surprise"]


def test_tables_of_an_evaluation() -> None:
    view = show_evaluation(_evaluation(FILMS), with_words=False)
    plain, lists = view.grids
    assert view.title == "Test part"
    assert view.counts == (("rows", "1,000"), ("undefined groups", "2"))
    assert plain.columns == ("Value",)
    assert [(row.name, row.cells[0].text) for row in plain.rows] == [
        ("Log loss", "0.5000"),
        ("Calibration error", "0.0200"),
        ("AUC", "0.7500"),
        ("GAUC", "undefined"),
    ]
    assert lists.columns == ("first 5", "first 10", "first 20")
    assert [cell.text for cell in lists.rows[0].cells] == ["0.0500", "0.1000", "0.2000"]


def test_tasks_are_columns() -> None:
    metrics: dict[str, float | None] = {"income.auc": 0.94, "marital.auc": 0.99, "income.rmse": 2.5}
    (grid,) = show_evaluation(_evaluation(metrics, "late"), with_words=True).grids
    assert grid.columns == ("income", "marital")
    assert [[cell.text for cell in row.cells] for row in grid.rows] == [
        ["0.9400", "0.9900"],
        ["2.500", ""],
    ]
    assert grid.rows[0].note.startswith("How often")
    assert show_evaluation(_evaluation(metrics, "late"), with_words=True).title == (
        "Test part (late)"
    )


def test_comparison_has_the_best_on_top() -> None:
    rows = [
        Baseline("popularity", {"auc": 0.8, "ndcg@10": 0.07, "ndcg@5": 0.05}),
        Baseline("ItemKNN", {"auc": None, "ndcg@10": 0.12}),
    ]
    found = compare("DeepFM", _evaluation(FILMS), rows)
    assert found is not None
    assert [plot.title for plot in found.plots] == ["NDCG@10", "AUC"]
    assert found.grid.columns == ("NDCG@10", "AUC")
    assert [(row.name, row.own) for row in found.grid.rows] == [
        ("ItemKNN", False),
        ("DeepFM", True),
        ("popularity", False),
    ]
    assert [row.cells for row in found.grid.rows] == [
        (Cell("0.1200", best=True), Cell("undefined")),
        (Cell("0.1000"), Cell("0.7500")),
        (Cell("0.0700"), Cell("0.8000", best=True)),
    ]


def test_comparison_without_one_side() -> None:
    assert compare("DeepFM", _evaluation(FILMS), []) is None
    found = compare("DeepFM", None, [Baseline("popularity", {"own": 1.0})])
    assert found is not None
    assert found.plots == ()
    assert [row.name for row in found.grid.rows] == ["popularity"]
