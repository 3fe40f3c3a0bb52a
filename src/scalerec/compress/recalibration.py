"""Recalibration: a scale and a shift of a task's logits, fitted where other steps moved them.

Probabilistic Outputs for Support Vector Machines and Comparisons to Regularized Likelihood Methods
(Platt, 1999, https://www.cs.colorado.edu/~mozer/Teaching/syllabi/6622/papers/Platt1999.pdf),
equation 1, on logits, with the labels as they are: rows are many, and two numbers do not overfit.
The order of the rows stays, and so does AUC.

Shapes: B rows.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from scalerec.data.dataset import Dataset
from scalerec.data.schema import TaskKind
from scalerec.errors import DataError
from scalerec.metrics import ece
from scalerec.models.forming import formed
from scalerec.models.recommender import Recommender
from scalerec.scoring.crew import Alone
from scalerec.scoring.scores import check_scores, score_events, task_slices

__all__ = [
    "Calibration",
    "calibrate",
    "ece_noise",
    "fit_logits",
    "logit_loss",
    "ne_move",
    "recalibrated",
]

Numbers = NDArray[np.float64]

MOST_STEPS = 50
# Newton's steps end where the gradient of the mean loss is below this.
EXACT = 1e-12
# Twice the gain in log likelihood is above this by chance once in a thousand fits of two numbers
# (chi-squared with two degrees of freedom).
CHANCE = 13.8155
# A move of so many standard errors is no noise.
ERRORS = 3.0
# Nor does a smaller move of NE or ECE matter, however sure it is.
LEAST = 0.001
BINS = 10


@dataclass(frozen=True, slots=True)
class Calibration:
    """What was found for one task.

    Args:
        task: Its name.
        scale: What logits are multiplied by; 1 where nothing is changed.
        shift: What is added to them; 0 where nothing is changed.
        changed: Whether the fit is to be applied.
        reason: In words, why or why not.
        before: Mean log loss on the rows of the fit, before.
        after: And after it.
    """

    task: str
    scale: float
    shift: float
    changed: bool
    reason: str
    before: float
    after: float


def logit_loss(labels: Numbers, logits: Numbers) -> Numbers:
    """Each row's log loss, ``[B]`` float64, from logits and without a clip."""
    found: Numbers = np.logaddexp(0.0, logits) - labels * logits
    return found


def fit_logits(labels: Numbers, logits: Numbers, weights: Numbers) -> tuple[float, float]:
    """The scale and shift of logits with the least log loss, by Newton's steps in float64.

    Args:
        labels: ``[B]``, 0 or 1.
        logits: ``[B]``, finite.
        weights: ``[B]``, at least 0.

    Returns:
        Scale and shift.

    Raises:
        DataError: If there is no least one: a label is missing, all logits are equal, or they tell
            the labels apart without a fault.

    Example:
        >>> labels = np.array([0.0, 1.0, 0.0, 1.0, 1.0])
        >>> scale, shift = fit_logits(labels, np.array([-1.0, -1.0, 1.0, 1.0, 1.0]), np.ones(5))
        >>> round(scale, 6), round(shift, 6)        # log odds 0 at -1, log 2 at 1
        (0.346574, 0.346574)
    """
    total = weights.sum()
    rate = float((weights * labels).sum() / total) if total > 0 else 0.0
    if not 0 < rate < 1:
        raise DataError("a calibration needs rows with label 0 and rows with label 1")
    # On logits of mean 0 and deviation 1 both numbers are of one size, and Newton goes straight.
    share = weights / total
    mean = float((share * logits).sum())
    deviation = math.sqrt(float((share * (logits - mean) ** 2).sum()))
    if deviation <= 1e-9 * max(1.0, abs(mean)):
        raise DataError("a calibration needs logits that differ; all are equal")
    x = (logits - mean) / deviation
    at = _newton(labels, x, share, np.array([1.0, math.log(rate / (1 - rate))]))
    scale = float(at[0]) / deviation
    return scale, float(at[1]) - scale * mean


def _newton(labels: Numbers, x: Numbers, share: Numbers, at: Numbers) -> Numbers:
    """The scale and shift of `x` where the mean loss is least; a step that does not gain is cut."""

    def mean_loss(point: Numbers) -> float:
        return float((share * logit_loss(labels, point[0] * x + point[1])).sum())

    loss = mean_loss(at)
    for _ in range(MOST_STEPS):
        rate = _sigmoid(at[0] * x + at[1])
        gap, bend = share * (rate - labels), share * rate * (1 - rate)
        gradient = np.array([(gap * x).sum(), gap.sum()])
        if np.abs(gradient).max() < EXACT:
            return at
        mixed = (bend * x).sum()
        hessian = np.array([[(bend * x * x).sum(), mixed], [mixed, bend.sum()]])
        if np.linalg.det(hessian) <= 1e-18:
            break
        step = np.linalg.solve(hessian, gradient)
        while (now := mean_loss(at - step)) > loss and np.abs(step).max() > EXACT:
            step = step / 2
        at, gained, loss = at - step, loss - now, now
        if np.abs(step).max() < EXACT or (gained <= 0 and np.abs(gradient).max() < 1e-9):
            return at
    raise DataError("a calibration needs rows of both labels with logits alike; none are")


def ne_move(
    labels: Numbers, before: Numbers, after: Numbers, weights: Numbers
) -> tuple[float, float]:
    """How far the normalised entropy rose, and the standard error of that.

    The rows are the same, so only what differs in their losses is noise.

    Args:
        labels: ``[B]``, 0 or 1; both occur.
        before: Logits, ``[B]``.
        after: Logits, ``[B]``.
        weights: ``[B]``.
    """
    share = weights / weights.sum()
    gaps = logit_loss(labels, after) - logit_loss(labels, before)
    mean = float((share * gaps).sum())
    error = math.sqrt(float((share**2 * (gaps - mean) ** 2).sum()))
    rate = float((share * labels).sum())
    entropy = -rate * math.log(rate) - (1 - rate) * math.log(1 - rate)
    return mean / entropy, error / entropy


def ece_noise(logits: Numbers, weights: Numbers) -> tuple[float, float]:
    """The calibration error that a perfectly calibrated model would show by chance.

    A bin's gap is then about normal around 0, with the variance of its rows' labels.

    Args:
        logits: ``[B]``.
        weights: ``[B]``.

    Returns:
        Its mean and its standard deviation.
    """
    rate, share = _sigmoid(logits), weights / weights.sum()
    bins = np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], rate, side="left")
    spread = np.bincount(bins, share**2 * rate * (1 - rate), minlength=BINS)
    mean = math.sqrt(2 / math.pi) * np.sqrt(spread).sum()
    return float(mean), math.sqrt(float(spread.sum()) * (1 - 2 / math.pi))


def calibrate(
    recommender: Recommender,
    dataset: Dataset,
    reference: Recommender | None = None,
    split: str = "valid",
) -> tuple[Calibration, ...]:
    """Fit the binary tasks whose calibration is off; nothing is changed yet.

    A task is fitted where its normalised entropy or its calibration error rose against the
    reference beyond noise, and where the fit itself gains more than chance gives.

    Args:
        recommender: The model.
        dataset: Its validation part is scored.
        reference: The model before the steps that may have moved it; without one, only what the fit
            gains counts.
        split: The part that is scored.

    Returns:
        One a binary task.

    Raises:
        DataError: If the part has no rows.
        TrainError: If a score is not finite.
    """
    own = _scored(recommender, dataset, split)
    other = None if reference is None else _scored(reference, dataset, split)
    found = []
    for name, (labels, logits, weights) in own.items():
        before = None if other is None else other[name][1]
        found.append(_judge(name, labels, logits, weights, before))
    return tuple(found)


def recalibrated(recommender: Recommender, found: Sequence[Calibration]) -> Recommender:
    """Apply what was found, on top of an earlier calibration if there is one.

    Args:
        recommender: The model that was looked at; it stays as it is.
        found: What `calibrate` gave for it.

    Returns:
        A recommender in evaluation mode; the same one if nothing is to be changed.
    """
    if not any(own.changed for own in found):
        return recommender
    layout, before = recommender.layout, recommender.calibration
    scale = torch.ones(layout.num_outputs) if before is None else before.scale.clone()
    shift = torch.zeros(layout.num_outputs) if before is None else before.shift.clone()
    fits = {own.task: own for own in found if own.changed}
    for task, columns in zip(layout.tasks, task_slices(layout), strict=True):
        if fit := fits.get(task.name):
            scale[columns] *= fit.scale
            shift[columns] = shift[columns] * fit.scale + fit.shift
    forms = recommender.spec.forms.replace(recalibrated=True)
    return formed(recommender, forms, {"calibration.scale": scale, "calibration.shift": shift})


def _judge(
    name: str, labels: Numbers, logits: Numbers, weights: Numbers, before: Numbers | None
) -> Calibration:
    loss = float(np.average(logit_loss(labels, logits), weights=weights)) if len(labels) else 0.0

    def same(reason: str) -> Calibration:
        return Calibration(name, 1.0, 0.0, False, reason, loss, loss)

    try:
        scale, shift = fit_logits(labels, logits, weights)
    except DataError as error:
        return same(str(error))
    if scale <= 0:
        return same("the logits tell nothing of the labels")
    if before is not None and not (reason := _moved(labels, before, logits, weights)):
        return same("neither NE nor ECE moved beyond noise")
    after = float(np.average(logit_loss(labels, scale * logits + shift), weights=weights))
    # Rows that count more than others are fewer than they look.
    size = float(weights.sum() ** 2 / (weights**2).sum())
    if 2 * size * (loss - after) <= CHANCE:
        return same("a scale and a shift gain no more than chance")
    why = "the fit gains" if before is None else reason
    return Calibration(name, scale, shift, True, why, loss, after)


def _moved(labels: Numbers, before: Numbers, after: Numbers, weights: Numbers) -> str:
    """Which of NE and ECE rose beyond noise, in words; empty if none did."""
    rise, error = ne_move(labels, before, after, weights)
    if rise > max(LEAST, ERRORS * error):
        return f"NE rose by {rise:.2g}"
    gaps = [_ece(labels, logits, weights) for logits in (before, after)]
    _, deviation = ece_noise(after, weights)
    if gaps[1] - gaps[0] > max(LEAST, ERRORS * deviation):
        return f"ECE rose by {gaps[1] - gaps[0]:.2g}"
    return ""


def _ece(labels: Numbers, logits: Numbers, weights: Numbers) -> float:
    found = ece(labels, _sigmoid(logits), weights, num_bins=BINS)
    return 0.0 if found is None else found


def _scored(
    recommender: Recommender, dataset: Dataset, split: str
) -> dict[str, tuple[Numbers, Numbers, Numbers]]:
    """Labels, logits and weights of the rows whose label is known, by binary task."""
    layout, parts = (
        recommender.layout,
        list(score_events(recommender, dataset.split(split), Alone())),
    )
    found = {}
    for i, (task, columns) in enumerate(zip(layout.tasks, task_slices(layout), strict=True)):
        if task.kind is not TaskKind.BINARY:
            continue
        known = [part.label_mask[:, i] for part in parts]
        rows = (
            [part.labels[own, i] for part, own in zip(parts, known, strict=True)],
            [
                check_scores(part.logits[own, columns][:, 0])
                for part, own in zip(parts, known, strict=True)
            ],
            [part.weights[own] for part, own in zip(parts, known, strict=True)],
        )
        labels, logits, weights = (
            np.concatenate([t.double().numpy() for t in own]) for own in rows
        )
        found[task.name] = labels, logits, weights
    return found


def _sigmoid(x: Numbers) -> Numbers:
    found: Numbers = 0.5 * (1.0 + np.tanh(0.5 * x))
    return found
