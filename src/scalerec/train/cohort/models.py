"""A model as pure functions of many parties' parameters, and the data that all parties hold.

The batched engine sees a model through `PartyModel` alone: dense parameters by name, rows of
embedding tables as one matrix, examples by number. `RecommenderModel` shows a recommender of the
zoo so; `module_model.ModuleModel` any module without tables.

Shapes: P parties, B examples of each in a step, E = P B, K rows of all parties, W a row's width.
"""

from collections.abc import Mapping
from copy import copy, deepcopy
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, vmap

from scalerec.data.batches import Bag, Batch
from scalerec.data.schema import TaskKind
from scalerec.errors import ConfigError
from scalerec.models.dropout import Dropout
from scalerec.models.inputs import History
from scalerec.models.recommender import Recommender
from scalerec.train.cohort.moves import Moves
from scalerec.train.cohort.stacked import (
    TRIED,
    call_stacked,
    fits,
    linear_parameters,
    spread_examples,
    tried_parameters,
)
from scalerec.train.losses import row_losses

__all__ = ["Head", "PartyModel", "RecommenderModel"]

Tensors = Mapping[str, Tensor]


class PartyModel(Protocol):
    """A model, and the examples of all parties.

    Attributes:
        dense: Its parameters outside the tables, by name, as they start.
        num_examples: n, examples of all parties.
        draws: Whether losses depend on draws of torch's own generator, dropout say: parties must
            then be computed in one order.
    """

    dense: dict[str, Tensor]
    num_examples: int
    draws: bool

    def for_worker(self, number: int) -> "PartyModel":
        """The same model with modules of its own, for a thread of its own.

        Args:
            number: Of the worker, from 0; the same one gets the same modules again.
        """
        ...

    def take(self, examples: Tensor, shift: Tensor, mask: Tensor) -> Any:
        """Some examples, as `losses` wants them.

        Args:
            examples: Their numbers, ``[E]`` int64.
            shift: Where the rows of each one's party start among the cohort's, ``[E]`` int64.
            mask: Whether it counts, ``[E]`` bool; one that does not only fills a place.
        """
        ...

    def losses(
        self,
        dense: Tensors,
        rows_kw: Tensor,
        batch: Any,
        num_parties: int,
        *,
        moves: Moves | None = None,
    ) -> Tensor:
        """Each party's mean loss over its examples, ``[P]``.

        Args:
            dense: Each party's parameters, ``[P, ...]``.
            rows_kw: The cohort's rows, ``[K, W]``.
            batch: From `take`, the examples of each party in turn, B of each.
            num_parties: P.
            moves: Moves what it can while gradients are found; that of the rows is then a sparse
                tensor. Neither can be differentiated again. None for plain gradients.
        """
        ...

    def loss_of_one(self, dense: Tensors, rows_kw: Tensor, batch: Any) -> Tensor:
        """The mean loss of one party, computed without batching over parties: the reference.

        Args:
            dense: Its parameters.
            rows_kw: Its rows.
            batch: From `take`, of this party alone.
        """
        ...


class Head(nn.Module):
    """What of a recommender has dense parameters, under the names that they have there."""

    def __init__(self, recommender: Recommender) -> None:
        super().__init__()
        self.embedder, self.net = recommender.embedder, recommender.net
        self.dropout = recommender.dropout

    def forward(
        self,
        ids_bfw: Tensor,
        dense: Tensor,
        bags: list[Tensor],
        vectors: list[Tensor],
        histories: list[History],
    ) -> Tensor:
        """Logits ``[B, C]``; arguments as in `FieldEmbedder.assemble`."""
        inputs = self.embedder.assemble(ids_bfw, dense, bags, vectors, histories)
        if self.training and self.dropout.rate > 0:
            inputs = replace(inputs, fields=self.dropout(inputs.fields), pairs=None)
        logits: Tensor = self.net(inputs)
        return logits


class _Scorer(nn.Module):
    """A recommender as a module whose call is `Recommender.score`."""

    def __init__(self, recommender: Recommender) -> None:
        super().__init__()
        self.recommender = recommender

    def forward(self, rows_kw: Tensor, batch: Batch) -> Tensor:
        return self.recommender.score(rows_kw, batch)


class RecommenderModel:
    """A recommender and the training rows of all parties.

    Args:
        recommender: Its dense parameters are where all parties start.
        local: All training rows; ids in it are positions among the rows of the own party.

    Raises:
        ConfigError: If it has a retrieval task, whose negatives would be the own items of a party,
            or keeps running means, which no round aggregates.
    """

    def __init__(self, recommender: Recommender, local: Batch) -> None:
        kinds = {task.kind for task in recommender.layout.tasks}
        if TaskKind.RETRIEVAL in kinds:
            raise ConfigError(
                "a retrieval task takes the other rows of a batch as negatives, and a party's "
                "batch holds what it liked alone; federate a binary, multiclass or regression task"
            )
        if recommender.spec.forms:
            raise ConfigError(
                "federation needs a recommender whose parts are as its net has them; got forms "
                f"{recommender.spec.forms.to_dict()}: federate first, then compress"
            )
        buffers = [name for name, _ in recommender.net.named_buffers()]
        if buffers:
            raise ConfigError(
                f"federation needs a model without running means; got {', '.join(buffers)}: "
                "set batch_norm=false"
            )
        self.recommender, self.layout, self.local = recommender, recommender.layout, local
        self.num_examples = len(local)
        self.dense = {
            name: tensor.detach().clone() for name, tensor in recommender.dense_parameters().items()
        }
        rates = [m.rate for m in recommender.modules() if isinstance(m, Dropout)]
        self.draws = max(rates, default=0.0) > 0
        self._heads: dict[int, Head] = {}
        self._head, self._scorer = Head(recommender), _Scorer(recommender)
        self._head.train()
        self._linear = linear_parameters(self._head)
        self._task_weights = torch.tensor([task.weight for task in self.layout.tasks])
        self.stacked = self._fits()

    def _fits(self) -> bool:
        """Whether the net computes many parties by its own code; tried on a few examples."""
        if not self.num_examples:
            return False
        batch = self.local.take(spread_examples(self.num_examples))
        last = max(int(values.max(initial=0)) for values in _places(batch))
        width = self.recommender.tables.matrix.shape[1]
        dense, rows = (
            tried_parameters(self.dense),
            tried_parameters({"": torch.empty(last + 1, width)}, 1)[""][0],
        )
        self._head.eval()
        try:
            return fits(
                lambda: self._logits(dense, rows, batch, TRIED, None, stacked=False),
                lambda: self._logits(dense, rows, batch, TRIED, None, stacked=True),
            )
        finally:
            self._head.train()

    def with_examples(self, local: Batch) -> "RecommenderModel":
        """The same model with other examples."""
        other = copy(self)
        other.local, other.num_examples = local, len(local)
        return other

    def for_worker(self, number: int) -> "RecommenderModel":
        """The same model with modules of its own; see `PartyModel`."""
        other = copy(self)
        if number not in self._heads:
            self._heads[number] = deepcopy(self._head)
        other._head = self._heads[number]
        return other

    def take(self, examples: Tensor, shift: Tensor, mask: Tensor) -> Batch:
        """Some examples; ids become positions among the cohort's rows."""
        batch = self.local.take(examples)
        bags = tuple(
            Bag(bag.values + torch.repeat_interleave(shift, bag.lengths), bag.offsets)
            for bag in batch.bags
        )
        return replace(batch, ids=batch.ids + shift, bags=bags, weights=batch.weights * mask)

    def logits(
        self,
        dense: Tensors,
        rows_kw: Tensor,
        batch: Batch,
        num_parties: int,
        *,
        moves: Moves | None = None,
    ) -> Tensor:
        """Logits ``[E, C]``; the tables' part is computed flat, and the net's where it fits.

        Args:
            dense: As in `losses`.
            rows_kw: As in `losses`.
            batch: As in `losses`.
            num_parties: P.
            moves: As in `losses`.
        """
        return self._logits(dense, rows_kw, batch, num_parties, moves, stacked=self.stacked)

    def _logits(
        self,
        dense: Tensors,
        rows_kw: Tensor,
        batch: Batch,
        num_parties: int,
        moves: Moves | None,
        *,
        stacked: bool,
    ) -> Tensor:
        num_ids, width = len(self.layout.ids), rows_kw.shape[1]
        looked = _look_up(rows_kw, batch, sparse=moves is not None)
        own, rest = looked.split([num_ids * len(batch), len(looked) - num_ids * len(batch)])
        ids = own.view(num_ids, len(batch), width).transpose(0, 1)
        bags, histories = self._head.embedder.pool(rest, batch)
        if stacked:
            vectors = [field.values for field in batch.vectors]
            args = (ids, batch.dense, bags, vectors, histories)
            size = len(batch) // num_parties
            return call_stacked(self._head, dense, args, num_parties, size, moves, self._linear)
        return self._mapped(dense, ids, batch, bags, histories, num_parties)

    def _mapped(
        self,
        dense: Tensors,
        ids_efw: Tensor,
        batch: Batch,
        bags: list[Tensor],
        histories: list[History],
        num_parties: int,
    ) -> Tensor:
        """Logits by `vmap` over parties."""
        num, size = num_parties, len(batch) // num_parties

        def parted(tensor: Tensor) -> Tensor:
            own: Tensor = tensor.unflatten(0, (num, size))
            return own

        def one(
            parameters: Tensors,
            ids_bfw: Tensor,
            dense_bn: Tensor,
            bags: list[Tensor],
            vectors: list[Tensor],
            values: list[Tensor],
            masks: list[Tensor],
        ) -> Tensor:
            own = [
                History(value, mask, history.target)
                for value, mask, history in zip(values, masks, histories, strict=True)
            ]
            args = (ids_bfw, dense_bn, bags, vectors, own)
            logits: Tensor = functional_call(self._head, dict(parameters), args)
            return logits

        found: Tensor = vmap(one, randomness="different")(
            dict(dense),
            parted(ids_efw),
            parted(batch.dense),
            [parted(bag) for bag in bags],
            [parted(own.values) for own in batch.vectors],
            [parted(history.values) for history in histories],
            [parted(history.mask) for history in histories],
        )
        flat: Tensor = found.flatten(0, 1)
        return flat

    def score(self, dense: Tensors, rows_kw: Tensor, batch: Batch, num_parties: int) -> Tensor:
        """As `logits`, without dropout."""
        self._head.eval()
        try:
            return self.logits(dense, rows_kw, batch, num_parties)
        finally:
            self._head.train()

    def losses(
        self,
        dense: Tensors,
        rows_kw: Tensor,
        batch: Batch,
        num_parties: int,
        *,
        moves: Moves | None = None,
    ) -> Tensor:
        """Each party's mean loss: the sum over tasks of weight times mean loss."""
        logits = self.logits(dense, rows_kw, batch, num_parties, moves=moves)
        losses_bt, weights_bt = row_losses(self.layout, logits, batch)
        parted = (num_parties, len(batch) // num_parties, -1)
        totals, weights = (
            (losses_bt * weights_bt).view(parted).sum(1),
            weights_bt.view(parted).sum(1),
        )
        return totals / weights.clamp(min=1e-12) @ self._task_weights.to(totals)

    def loss_of_one(self, dense: Tensors, rows_kw: Tensor, batch: Batch) -> Tensor:
        """The mean loss of one party, by `Recommender.score`."""
        named = {f"recommender.{name}": tensor for name, tensor in dense.items()}
        self._scorer.train()
        logits = functional_call(self._scorer, named, (_look_up(rows_kw, batch), batch))
        losses_bt, weights_bt = row_losses(self.layout, logits, batch)
        totals, weights = (losses_bt * weights_bt).sum(0), weights_bt.sum(0)
        return totals / weights.clamp(min=1e-12) @ self._task_weights.to(totals)


def _look_up(rows_kw: Tensor, batch: Batch, *, sparse: bool = False) -> Tensor:
    places = torch.cat([batch.ids.flatten(), *(bag.values for bag in batch.bags)])
    if sparse:
        return nn.functional.embedding(places, rows_kw, sparse=True)
    return rows_kw.index_select(0, places)


def _places(batch: Batch) -> list[NDArray[np.int64]]:
    """Positions of rows that a batch reads."""
    return [batch.ids.numpy(), *(bag.values.numpy() for bag in batch.bags)]
