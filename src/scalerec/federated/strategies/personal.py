"""FedPer and Ditto: parties keep parameters of their own."""

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from scalerec.config import Config, require
from scalerec.errors import ConfigError
from scalerec.federated.cohorts import Cohort
from scalerec.federated.local import Local, Pull
from scalerec.federated.strategies.base import TABLE, FedAvg, FedAvgConfig, Ground, Traffic
from scalerec.federated.strategies.layers import last_layers
from scalerec.federated.strategies.stores import Store, joined, parted, row_keys
from scalerec.rounds import Parameters
from scalerec.rounds.cohort import CohortUpdate
from scalerec.train.cohort.models import PartyModel

__all__ = ["Ditto", "DittoConfig", "FedPer", "FedPerConfig"]

Tensors = Mapping[str, Tensor]
DITTO_ROUNDS = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class FedPerConfig(FedAvgConfig):
    """As `FedAvgConfig`.

    Args:
        personal: Patterns of the names of dense parameters that stay with their parties; `last`
            stands for the layers that the model ends with, as `last_layers` has them.
    """

    personal: tuple[str, ...] = ("last",)


class FedPer(FedAvg):
    """Some dense parameters never leave their party: each has a last layer of its own, say.

    A party that was never chosen has the initial ones. The server's model keeps those too.

    Paper: Federated Learning with Personalization Layers, Arivazhagan et al., 2019,
    https://arxiv.org/abs/1912.00818

    Raises:
        ConfigError: If a pattern fits no parameter, or all stay.
    """

    Config: ClassVar[type[Config]] = FedPerConfig

    def __init__(self, config: Any, ground: Ground) -> None:
        super().__init__(config, ground)
        own = _matching(config.personal, ground.model)
        require(
            len(own) < len(ground.model.dense),
            f"personal must leave some parameters to be shared; it takes all {len(own)}",
        )
        self.initial = {name: ground.model.dense[name].clone() for name in own}
        self.parties = Store(sum(tensor.numel() for tensor in self.initial.values()))

    def starts(self, parameters: Parameters, cohort: Cohort) -> dict[str, Tensor]:
        """The server's parameters, and each party's own."""
        shared = super().starts(parameters, cohort)
        return {**shared, **self._own(cohort)}

    def keep(self, parameters: Parameters, cohort: Cohort, local: Local, number: int) -> None:
        """Each party keeps its own."""
        del parameters, number
        ends = {name: own + local.moved[name] for name, own in self._own(cohort).items()}
        self.parties.put(cohort.parties, joined(ends))

    def traffic(self, cohort: Cohort) -> Traffic:
        """All but the parties' own, each way."""
        plain = super().traffic(cohort)
        own = self.parties.width
        return Traffic(down=plain.down - own, up=plain.up - own)

    def sent(self, cohort: Cohort, update: CohortUpdate, local: Local) -> CohortUpdate:
        """All but the parties' own."""
        del cohort, local
        shared = {name: t for name, t in update.dense.items() if name not in self.initial}
        return CohortUpdate(dense=shared, tables=update.tables, weights=update.weights)

    def personal(
        self, parameters: Parameters, cohort: Cohort
    ) -> tuple[dict[str, Tensor], Tensor] | None:
        """The server's parameters with each party's own."""
        num = len(cohort)
        found = self.starts(parameters, cohort)
        dense = {name: tensor.expand(num, *tensor.shape[1:]) for name, tensor in found.items()}
        return dense, _rows_of(parameters, cohort)

    def state(self) -> dict[str, Tensor]:
        """The server's state, and the parties' own parameters."""
        own = {f"parties/{name}": tensor for name, tensor in self.parties.state().items()}
        return {**super().state(), **own}

    def load_state(self, state: Tensors) -> None:
        """Go on from what `state` gave."""
        super().load_state(state)
        self.parties.load_state(_under("parties/", state))

    def _own(self, cohort: Cohort) -> dict[str, Tensor]:
        found, known = self.parties.get(cohort.parties)
        first = torch.cat([tensor.flatten() for tensor in self.initial.values()])
        return parted(torch.where(known[:, None], found, first), self.initial)


@dataclass(frozen=True, kw_only=True, slots=True)
class DittoConfig(FedAvgConfig):
    """As `FedAvgConfig`.

    Args:
        strength: How strongly a party's own model is drawn to the server's, lambda in the paper, at
            least 0; the paper tries 0.1 to 2.
    """

    strength: float = 0.5

    def __post_init__(self) -> None:
        FedAvgConfig.__post_init__(self)
        require(self.strength >= 0, f"strength must be at least 0; got {self.strength}")


class Ditto(FedAvg):
    """Each party also trains a whole model of its own, held near the server's.

    What it sends is as in FedAvg; its own model never leaves it, rows of tables included. A party
    that was never chosen has the server's. A round costs twice FedAvg's computation.

    Paper: Ditto: Fair and Robust Federated Learning Through Personalization, Li et al., 2021,
    algorithm 1, https://arxiv.org/abs/2012.04221
    """

    Config: ClassVar[type[Config]] = DittoConfig

    def __init__(self, config: Any, ground: Ground) -> None:
        super().__init__(config, ground)
        self.like = dict(ground.model.dense)
        self.parties = Store(sum(tensor.numel() for tensor in self.like.values()))
        self.party_rows: Store | None = None

    def keep(self, parameters: Parameters, cohort: Cohort, local: Local, number: int) -> None:
        """Train the parties' own models."""
        del local
        dense, rows = self._own(parameters, cohort)
        near = {n: t.expand(len(cohort), *t.shape) for n, t in parameters.dense.items()}
        pull = Pull(near, _rows_of(parameters, cohort), self.config.strength)
        # Another order of the examples than that of the shared model.
        found = self.run(cohort, dense, rows, number + DITTO_ROUNDS, pull)
        ends = {name: own + found.moved[name] for name, own in dense.items()}
        self.parties.put(cohort.parties, joined(ends))
        if len(rows):
            self._rows(rows.shape[1]).put(self._keys(cohort), rows + found.moved_rows)

    def personal(
        self, parameters: Parameters, cohort: Cohort
    ) -> tuple[dict[str, Tensor], Tensor] | None:
        """The parties' own models."""
        return self._own(parameters, cohort)

    def state(self) -> dict[str, Tensor]:
        """The server's state, and the parties' models."""
        found = super().state()
        for head, store in (("parties/", self.parties), ("party_rows/", self.party_rows)):
            own = store.state() if store is not None else {}
            found |= {head + name: tensor for name, tensor in own.items()}
        return found

    def load_state(self, state: Tensors) -> None:
        """Go on from what `state` gave."""
        super().load_state(state)
        self.parties.load_state(_under("parties/", state))
        rows = _under("party_rows/", state)
        self.party_rows = None
        if rows:
            self._rows(rows["values"].shape[1]).load_state(rows)

    def _own(self, parameters: Parameters, cohort: Cohort) -> tuple[dict[str, Tensor], Tensor]:
        found, known = self.parties.get(cohort.parties)
        server = torch.cat([parameters.dense[name].flatten() for name in self.like])
        dense = parted(torch.where(known[:, None], found, server), self.like)
        rows = _rows_of(parameters, cohort)
        if not len(rows):
            return dense, rows
        own, has = self._rows(rows.shape[1]).get(self._keys(cohort))
        return dense, torch.where(has[:, None], own, rows)

    def _rows(self, width: int) -> Store:
        if self.party_rows is None:
            self.party_rows = Store(width)
        return self.party_rows

    def _keys(self, cohort: Cohort) -> Any:
        return row_keys(cohort, len(self.ground.private))


def _rows_of(parameters: Parameters, cohort: Cohort) -> Tensor:
    matrix = parameters.tables.get(TABLE)
    return torch.zeros(0, 1) if matrix is None else matrix[cohort.rows]


def _matching(patterns: tuple[str, ...], model: PartyModel) -> list[str]:
    """The names that patterns fit; `last` stands for the last layers."""
    names = list(model.dense)
    found: dict[str, None] = {}
    for pattern in patterns:
        own = last_layers(model) if pattern == "last" else fnmatch.filter(names, pattern)
        if not own:
            raise ConfigError(
                f"personal: no parameter fits {pattern!r}; there are {', '.join(names)}"
            )
        found |= dict.fromkeys(own)
    return list(found)


def _under(head: str, tensors: Tensors) -> dict[str, Tensor]:
    return {n[len(head) :]: tensor for n, tensor in tensors.items() if n.startswith(head)}
