"""How a search went: its trials in one picture and one table, and which settings mattered."""

from collections import Counter
from dataclasses import dataclass

from scalerec.report.attached import Study, Trial
from scalerec.report.origin import Part
from scalerec.report.plots import Plot
from scalerec.report.quality import Cell, Grid, GridRow
from scalerec.report.svg import ACCENT, MUTE, PAPER, new_chart, to_svg
from scalerec.report.words import duration, figure, metric_title, share, whole

__all__ = ["SearchView", "search_plot", "show_search"]

MAX_ROWS = 20
MAX_SHARES = 8
STATES = ("complete", "pruned", "failed")


@dataclass(frozen=True, slots=True)
class SearchView:
    """The section on a search.

    Args:
        words: What was done, in a sentence.
        plot: The trials by their values; none without any value.
        shares: How much each setting mattered.
        grid: The best trials.
        more: What the table leaves out, in words.
    """

    words: str
    plot: Plot | None
    shares: tuple[Part, ...]
    grid: Grid
    more: str


def show_search(study: Study | None) -> SearchView | None:
    """Describe a search; none if there was none."""
    if study is None:
        return None
    counts = Counter(trial.state for trial in study.trials)
    ended = f"{counts['complete']} ran to their end, {counts['pruned']} stopped early"
    failed = f", {counts['failed']} failed" if counts["failed"] else ""
    took = duration(sum(trial.seconds for trial in study.trials))
    words = (
        f"{len(study.trials)} trials, judged by {_title(study)} on the validation rows: {ended}"
        f"{failed}. They took {took}. This bundle is trial {study.best}."
    )
    ordered = sorted(study.trials, key=lambda trial: _order(study, trial))
    left = len(ordered) - MAX_ROWS
    return SearchView(
        words=words,
        plot=search_plot(study),
        shares=_shares(study),
        grid=_grid(study, ordered[:MAX_ROWS]),
        more=f"{whole(left)} more are in the attachment study.json." if left > 0 else "",
    )


def search_plot(study: Study) -> Plot | None:
    """Draw every trial's value, and the best so far as a line.

    Args:
        study: At least one complete trial has a value.
    """
    from matplotlib.ticker import MaxNLocator

    known = [(t.number, t.value, t.state) for t in study.trials if t.value is not None]
    complete = [(number, value) for number, value, state in known if state == "complete"]
    pruned = [(number, value) for number, value, state in known if state == "pruned"]
    if not complete:
        return None
    pick = max if study.higher_is_better else min
    line = [(n, pick(v for m, v in complete if m <= n)) for n, _ in complete]
    line.append((study.trials[-1].number, line[-1][1]))
    chart, axes = new_chart()
    axes.step([n for n, _ in line], [v for _, v in line], where="post", color=ACCENT, linewidth=1.6)
    for points, colour, size in ((pruned, MUTE, 22), (complete, ACCENT, 30)):
        xs, ys = [n for n, _ in points], [v for _, v in points]
        axes.scatter(xs, ys, s=size, color=colour, edgecolors=PAPER, zorder=3)
    axes.set_xlabel("trial")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.margins(x=0.04, y=0.12)
    axes.ticklabel_format(axis="y", useOffset=False)
    title = f"{_title(study)}, validation rows"
    best = line[-1][1]
    label = f"{title}, of {len(known)} trials; the best is {figure(best)}, trial {study.best}"
    stopped = " Grey dots were stopped early." if pruned else ""
    note = f"The line is the best so far: {figure(best)} in the end.{stopped}"
    return Plot(title, to_svg(chart, "search", label), note)


def _title(study: Study) -> str:
    return ", ".join(metric_title(name) for name in study.metric.split("+"))


def _order(study: Study, trial: Trial) -> tuple[int, float]:
    """Complete ones first, the best on top."""
    place = STATES.index(trial.state) if trial.state in STATES else len(STATES)
    value = 0.0 if trial.value is None else trial.value
    return place, -value if study.higher_is_better else value


def _grid(study: Study, trials: list[Trial]) -> Grid:
    several = len({trial.model for trial in study.trials}) > 1
    rows = []
    for trial in trials:
        model = f"{trial.model}: " if several and trial.model else ""
        drawn = ", ".join(f"{name} {_short(value)}" for name, value in trial.values.items())
        note = f"{model}{drawn or 'the defaults'}"
        own = trial.number == study.best
        cells = (
            Cell("" if trial.value is None else figure(trial.value), own),
            Cell(trial.reason or trial.state),
            Cell(figure(trial.epochs)),
            Cell(duration(trial.seconds)),
        )
        rows.append(GridRow(f"Trial {trial.number}", note, cells, own))
    return Grid("Trial", (_title(study), "End", "Epochs", "Time"), tuple(rows))


def _short(value: object) -> str:
    """A setting in few signs: three digits of a rate, no spaces in a list."""
    return f"{value:.3g}" if isinstance(value, float) else str(value).replace(" ", "")


def _shares(study: Study) -> tuple[Part, ...]:
    ordered = sorted(study.importance.items(), key=lambda item: -item[1])[:MAX_SHARES]
    return tuple(Part(name, "", share(value, 1.0), 100 * value) for name, value in ordered)
