"""How far a student's outputs are from a teacher's: the losses of distillation.

Distilling the Knowledge in a Neural Network (Hinton, Vinyals, Dean, 2015,
https://arxiv.org/abs/1503.02531), section 2: both sides' logits are divided by a temperature, and
the loss is multiplied by its square, so that gradients keep their size. Where the paper takes the
cross-entropy, these take the Kullback-Leibler divergence: it differs by what the student cannot
change, has the same gradient, and is 0 where both agree.

Shapes: B rows, C columns of logits, K classes, T tasks.
"""

import torch
from torch import Tensor
from torch.nn import functional

from scalerec.config import require
from scalerec.data.layout import Layout
from scalerec.data.schema import TaskKind
from scalerec.scoring import task_slices

__all__ = ["soft_binary", "soft_classes", "soft_losses", "soft_numbers"]


def soft_binary(student_b: Tensor, teacher_b: Tensor, temperature: float = 1.0) -> Tensor:
    """The divergence of two Bernoulli distributions given by logits, ``[B]``.

    Args:
        student_b: Logits, ``[B]`` float.
        teacher_b: Logits, ``[B]`` float; no gradient flows there.
        temperature: What both are divided by, above 0.

    Example:
        >>> soft_binary(torch.tensor([0.0]), torch.tensor([0.0])).item()
        0.0
    """
    _check(temperature)
    cool_b, target_b = student_b / temperature, teacher_b.detach() / temperature
    share_b = target_b.sigmoid()
    cross_b = functional.binary_cross_entropy_with_logits(cool_b, share_b, reduction="none")
    own_b = functional.binary_cross_entropy_with_logits(target_b, share_b, reduction="none")
    return (cross_b - own_b) * temperature**2


def soft_classes(student_bk: Tensor, teacher_bk: Tensor, temperature: float = 1.0) -> Tensor:
    """The divergence of two distributions over classes given by logits, ``[B]``.

    Args:
        student_bk: Logits, ``[B, K]`` float.
        teacher_bk: Logits, ``[B, K]`` float; no gradient flows there.
        temperature: What both are divided by, above 0.
    """
    _check(temperature)
    own_bk = (student_bk / temperature).log_softmax(-1)
    target_bk = (teacher_bk.detach() / temperature).log_softmax(-1)
    gaps_bk = functional.kl_div(own_bk, target_bk, reduction="none", log_target=True)
    return gaps_bk.sum(-1) * temperature**2


def soft_numbers(student_b: Tensor, teacher_b: Tensor) -> Tensor:
    """The squared error against a teacher's numbers, ``[B]``; a temperature would not change it."""
    return (student_b - teacher_b.detach()).square()


def soft_losses(
    layout: Layout, student_bc: Tensor, teacher_bc: Tensor, temperature: float = 1.0
) -> Tensor:
    """Every row's loss against the teacher for every task, ``[B, T]``.

    Args:
        layout: Names the tasks.
        student_bc: Logits, ``[B, C]``.
        teacher_bc: Logits, ``[B, C]``.
        temperature: Of binary and multiclass tasks, above 0.

    Raises:
        ConfigError: If a task is one of retrieval, or the temperature is not positive.
    """
    columns = []
    for task, own in zip(layout.tasks, task_slices(layout), strict=True):
        student, teacher = student_bc[:, own], teacher_bc[:, own]
        if task.kind is TaskKind.BINARY:
            columns.append(soft_binary(student[:, 0], teacher[:, 0], temperature))
        elif task.kind is TaskKind.MULTICLASS:
            columns.append(soft_classes(student, teacher, temperature))
        else:
            is_number = task.kind is TaskKind.REGRESSION
            require(
                is_number,
                f"a teacher's scores are learned from for binary, multiclass and regression tasks; "
                f"got {task.kind.value} {task.name!r}",
            )
            columns.append(soft_numbers(student[:, 0], teacher[:, 0]))
    return torch.stack(columns, 1)


def _check(temperature: float) -> None:
    require(temperature > 0, f"temperature must be above 0; got {temperature}")
