"""The algorithms: one file each, one row of `ALGORITHMS` each.

To add one, write a function from a `Lesson` to what was `Learned`, an `Update` of
`scalerec.rounds` with each task's loss, and add its row: the command line and the tests pick it up
from here.
"""

from scalerec.meta.algorithms.base import (
    OWN_ROWS,
    RATES,
    ROWS,
    Algorithm,
    Learned,
    Lesson,
    with_own_rows,
)
from scalerec.meta.algorithms.maml import query_gradient
from scalerec.meta.algorithms.reptile import displacement

__all__ = [
    "ALGORITHMS",
    "OWN_ROWS",
    "RATES",
    "ROWS",
    "Algorithm",
    "Learned",
    "Lesson",
    "with_own_rows",
]

ALGORITHMS: dict[str, Algorithm] = {
    "maml": Algorithm(
        "Model-Agnostic Meta-Learning, Finn et al., 2017", query_gradient, second_order=True
    ),
    "fomaml": Algorithm("First-order MAML, Finn et al., 2017, section 5.2", query_gradient),
    "anil": Algorithm(
        "Rapid Learning or Feature Reuse?, Raghu et al., 2020",
        query_gradient,
        second_order=True,
        adapt="head",
    ),
    "reptile": Algorithm(
        "On First-Order Meta-Learning Algorithms, Nichol et al., 2018", displacement
    ),
    "meta-sgd": Algorithm(
        "Meta-SGD, Li et al., 2017", query_gradient, second_order=True, rates="number"
    ),
}
