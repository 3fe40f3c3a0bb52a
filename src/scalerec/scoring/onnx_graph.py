"""A recommender as a module of plain tensors, which an exporter can trace.

Shapes: B rows, F fields, L length of a padded list, D embedding, W = D + 1, C columns of logits,
E size of a tower's vector.
"""

import copy
from collections.abc import Collection, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from scalerec.data.layout import BagField, Layout
from scalerec.data.schema import Role
from scalerec.models.inputs import History, Inputs
from scalerec.models.net import TwoTowers
from scalerec.models.recommender import Recommender
from scalerec.scoring.onnx_forms import table_lookups, traceable
from scalerec.scoring.onnx_inputs import graph_inputs
from scalerec.scoring.scores import predict, task_slices

__all__ = ["LOGITS", "SIDES", "ScoringGraph", "TowerGraph", "prediction_name"]

LOGITS = "logits"
# Side of a two-tower net to the roles of its fields.
SIDES: dict[str, tuple[Role, ...]] = {
    "user": (Role.USER, Role.CONTEXT),
    "item": (Role.ITEM,),
}


def prediction_name(task: str) -> str:
    """The name of the output that holds a task's predictions."""
    return f"prediction.{task}"


class _Graph(nn.Module):
    """What the graphs share: from named inputs to embedded fields.

    Args:
        recommender: In evaluation mode; its tables are shared, the rest is copied.
        roles: Whose fields are read; the others are zero.
    """

    def __init__(self, recommender: Recommender, roles: Collection[Role]) -> None:
        super().__init__()
        layout = recommender.narrow.layout
        self.layout = layout
        self.inputs = graph_inputs(layout, roles)
        self.names = [own.name for own in self.inputs]
        self.read = {own.field for own in self.inputs}
        fields = [(field.name, field.table) for field in layout.ids]
        fields += [(field.name, field.table) for field in layout.bags]
        read = {table for name, table in fields if name in self.read}
        self.tables = [table for table in layout.tables if table in read]
        lookups = table_lookups(recommender.tables, recommender.shaped)
        self.lookups = nn.ModuleList(lookups[name] for name in self.tables)
        self.embedder = copy.deepcopy(recommender.embedder)
        self.net = traceable(recommender.net)
        self.width = self.embedder.numbers.shape[1]

    @property
    def parameter_names(self) -> dict[str, str]:
        """A parameter's name here to its name in the bundle, for those of tables."""
        found = {}
        for number, table in enumerate(self.tables):
            for part in ("rows", "basis", "stored.weight", "stored.codes", "stored.halves"):
                own = part.removeprefix("stored.")
                found[f"lookups.{number}.{part}"] = f"tables.{table}.{own}"
        return found

    def embed(self, tensors: tuple[Tensor, ...]) -> Inputs:
        """What the net sees.

        Args:
            tensors: One for each of `inputs`.
        """
        given = dict(zip(self.names, tensors, strict=True))
        size = tensors[0].shape[0]
        numbers = [self._number(field.name, given, size) for field in self.layout.numbers]
        bags, histories = self._bags(given, size)
        return self.embedder.assemble(
            self._ids(given, size),
            torch.stack(numbers, 1) if numbers else tensors[0].new_zeros(size, 0).float(),
            bags,
            [self._vector(field.name, field.dim, given, size) for field in self.layout.vectors],
            histories,
        )

    def _lookup(self, table: str, ids: Tensor) -> Tensor:
        rows: Tensor = self.lookups[self.tables.index(table)](ids)
        return rows

    def _ids(self, given: Mapping[str, Tensor], size: int) -> Tensor:
        """The rows of id fields, ``[B, F, W]``."""
        fields = self.layout.ids
        rows = [
            self._lookup(field.table, given[field.name])
            if field.name in self.read
            else torch.zeros(size, self.width)
            for field in fields
        ]
        if not rows:
            return torch.zeros(size, 0, self.width)
        return torch.cat(rows, 1).view(size, len(fields), self.width)

    def _number(self, name: str, given: Mapping[str, Tensor], size: int) -> Tensor:
        return given[name] if name in self.read else torch.zeros(size)

    def _vector(self, name: str, dim: int, given: Mapping[str, Tensor], size: int) -> Tensor:
        if name not in self.read:
            return torch.zeros(size, dim)
        # Chosen and not multiplied: what stands in an absent vector may be anything.
        return torch.where(given[f"{name}.present"].unsqueeze(1), given[name], 0.0)

    def _bags(self, given: Mapping[str, Tensor], size: int) -> tuple[list[Tensor], list[History]]:
        """The mean of each bag, ``[B, 1, W]``, and the histories item by item."""
        means, histories = [], []
        for field in self.layout.bags:
            if field.name not in self.read:
                means.append(torch.zeros(size, 1, self.width))
                continue
            ids_bl, length_b = given[field.name], given[f"{field.name}.length"]
            mask_bl = torch.arange(ids_bl.shape[1]) < length_b.unsqueeze(1)
            rows_blw = self._lookup(field.table, ids_bl) * mask_bl.unsqueeze(-1).float()
            count_b1 = length_b.clamp(min=1).float().unsqueeze(-1)
            means.append((rows_blw.sum(1) / count_b1).unsqueeze(1))
            if field.history and self.embedder.histories:
                histories.append(self._history(field, rows_blw, mask_bl))
        return means, histories

    def _history(self, field: BagField, rows_blw: Tensor, mask_bl: Tensor) -> History:
        targets = self.layout.targets_of(field)
        return History(rows_blw[..., :-1], mask_bl, targets[0] if targets else None)


class ScoringGraph(_Graph):
    """From named inputs to predictions and logits.

    Args:
        recommender: In evaluation mode; it must not change while the graph is in use.
    """

    def __init__(self, recommender: Recommender) -> None:
        super().__init__(recommender, tuple(Role))
        self.calibration = copy.deepcopy(recommender.calibration)
        self.outputs = [*(prediction_name(task.name) for task in self.layout.tasks), LOGITS]
        self.eval()

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Predictions of each task, ``[B]`` or ``[B, classes]``, then the logits ``[B, C]``."""
        logits_bc: Tensor = self.net(self.embed(tensors)).float()
        if self.calibration is not None:
            logits_bc = self.calibration(logits_bc)
        return (*_by_task(self.layout, logits_bc), logits_bc)


class TowerGraph(_Graph):
    """From one side's inputs to that side's vector, ``[B, E]``.

    Args:
        recommender: A two-tower model in evaluation mode.
        side: One of `SIDES`.
    """

    def __init__(self, recommender: Recommender, side: str) -> None:
        super().__init__(recommender, SIDES[side])
        self.outputs = [f"{side}_vector"]
        self.place = list(SIDES).index(side)
        self.eval()

    def forward(self, *tensors: Tensor) -> tuple[Tensor]:
        """The vectors; the dot product of both sides' is the first task's logit.

        That is, before it is recalibrated.
        """
        net = self.net
        assert isinstance(net, TwoTowers)
        return (net.towers(self.embed(tensors))[self.place],)


def _by_task(layout: Layout, logits_bc: Tensor) -> list[Tensor]:
    """The predictions of each task, ``[B]`` or ``[B, classes]``."""
    found = []
    for task, columns in zip(layout.tasks, task_slices(layout), strict=True):
        # Where one task has all columns there is nothing to slice.
        own = logits_bc if task.num_outputs == layout.num_outputs else logits_bc[:, columns]
        values = predict(replace(layout, tasks=(task,)), own)
        found.append(values.squeeze(1) if task.num_outputs == 1 else values)
    return found
