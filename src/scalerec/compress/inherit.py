"""A student that starts from its teacher's embedding tables, narrowed to its own size.

A factorisation machine, and whatever reads products of embeddings, sees them through their inner
products alone. Of all projections to d dimensions the principal ones keep these best (Eckart and
Young, 1936, https://doi.org/10.1007/BF02288367), so rows are turned into the teacher's d principal
directions, in which each row counts as often as it is read.

Shapes: R rows of all tables, D the teacher's embedding size, d the student's.
"""

import torch
from torch import Tensor

from scalerec.config import require
from scalerec.data.dataset import Dataset
from scalerec.data.loading import read_in_order
from scalerec.models.recommender import ModelSpec, Recommender, build_recommender
from scalerec.scoring.scores import SCORE_BATCH

__all__ = ["count_reads", "inherit_tables", "principal_directions"]

# Rows of data that tell how often a row is read; more change little.
MOST_ROWS = 1_000_000


def principal_directions(rows_rd: Tensor, weights_r: Tensor, dim: int) -> Tensor:
    """The directions in which rows differ most from zero, ``[D, d]`` float32, orthonormal.

    Args:
        rows_rd: ``[R, D]``.
        weights_r: How much each counts, ``[R]``, at least 0.
        dim: d, at most D.

    Raises:
        ConfigError: If there are fewer columns than directions asked for.
    """
    size = rows_rd.shape[1]
    require(1 <= dim <= size, f"dim must be from 1 to the teacher's {size}; got {dim}")
    exact = rows_rd.double()
    _, vectors = torch.linalg.eigh(exact.T @ (exact * weights_r.double().unsqueeze(1)))
    found: Tensor = vectors.flip(1)[:, :dim].float()
    return found


def count_reads(recommender: Recommender, dataset: Dataset) -> Tensor:
    """How often training rows read each row of the tables, ``[R]`` float64; of many, the first."""
    tables = recommender.tables
    counts: Tensor = torch.zeros(len(tables.matrix), dtype=torch.float64)
    seen = 0
    for batch in read_in_order(dataset.split("train"), SCORE_BATCH):
        counts += torch.bincount(tables.rows_of(batch), minlength=len(counts)).double()
        seen += len(batch)
        if seen >= MOST_ROWS:
            break
    return counts


@torch.no_grad()
def inherit_tables(
    teacher: Recommender, spec: ModelSpec, dataset: Dataset, seed: int
) -> Recommender:
    """Build a student with its teacher's embeddings, of ids, numbers and vectors; the rest drawn.

    Args:
        teacher: On the CPU; its tables may share rows, the student's do not.
        spec: The student's; its `dim` is at most the teacher's.
        dataset: Of the teacher's layout; its training rows say which rows count how much.
        seed: Of the student's other weights.

    Raises:
        ConfigError: If the student's embeddings are wider than the teacher's, or tables of either
            have another form.
    """
    size, dim = teacher.spec.net_config().dim, spec.net_config().dim
    require(
        dim <= size, f"tables = 'teacher' needs a dim of at most the teacher's {size}; got {dim}"
    )
    plain = not any(own.forms.tables or own.forms.fields for own in (teacher.spec, spec))
    require(plain, "tables = 'teacher' needs tables without other forms, of all fields")
    student = build_recommender(dataset.layout, spec, seed)
    counts = count_reads(teacher, dataset)
    rows = teacher.tables.matrix.float()
    turn = torch.eye(size)
    if dim < size:
        turn = principal_directions(rows[:, :-1], counts, dim)
    for name, num_ids in dataset.layout.tables.items():
        places = teacher.tables.maps[name](torch.arange(num_ids)) + teacher.tables.start[name]
        student.tables.table(name).copy_(_turned(rows[places], turn))
    theirs = [teacher.embedder.numbers, *teacher.embedder.vectors]
    own = [student.embedder.numbers, *student.embedder.vectors]
    for one, other in zip(own, theirs, strict=True):
        one.copy_(_turned(other, turn))
    student.tables.keep_padding_zero()
    return student


def _turned(rows_kw: Tensor, turn_dd: Tensor) -> Tensor:
    """Embeddings in other directions, with their first-order weights as they were."""
    return torch.cat([rows_kw[:, :-1] @ turn_dd, rows_kw[:, -1:]], 1)
