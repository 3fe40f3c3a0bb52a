"""A round in which all parties compute as one: the same result as the loop, in batched operations.

Shapes: P parties, K rows that each touches, W a table's width.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from scalerec.errors import RoundError
from scalerec.rounds.loop import (
    Algorithm,
    RoundReport,
    RoundState,
    check_parties,
    finish_round,
)
from scalerec.rounds.parties import Parameters, Party, party_generators
from scalerec.rounds.update import TableRows, Update

__all__ = ["run_round_vectorised"]

Tensors = Mapping[str, Tensor]


def run_round_vectorised(
    state: RoundState,
    parties: Sequence[Party],
    algorithm: Algorithm,
    generator: torch.Generator,
    *,
    chunk_size: int | None = None,
) -> tuple[RoundState, RoundReport]:
    """Run one round with the parties' local updates as one computation under `torch.func.vmap`.

    It equals `run_round` but for the order of additions inside matrix products: to 1e-12 relative
    in float64, to 1e-5 in float32 over a few steps.

    Args:
        state: From `Algorithm.init` or the round before; it stays as it is.
        parties: Those who take part, all with the same shapes of rows and data.
        algorithm: The round's members.
        generator: Gives every party its own source of randomness, as in `run_round`.
        chunk_size: Parties that compute at once, at least 1; None for all. Fewer take less memory.

    Raises:
        RoundError: As `run_round`, and if the shapes of two parties differ.
    """
    check_parties(parties)
    generators = party_generators(generator, parties)
    draws = [
        algorithm.local_update.draw(party, own)
        for party, own in zip(parties, generators, strict=True)
    ]
    rows = _stack(parties, "rows", [party.rows for party in parties])
    data = _stack(parties, "data", [party.data for party in parties])
    drawn = _stack(parties, "draws", draws)
    gathered = state.parameters.gather({name: r.flatten() for name, r in rows.items()})
    tables = {name: t.unflatten(0, rows[name].shape) for name, t in gathered.tables.items()}

    def one(
        dense: Tensors, tables: Tensors, rows: Tensors, data: Tensors, drawn: Tensors
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
        # The name and weight mean nothing inside; the weight is put back below.
        party = Party(name="", rows=rows, data=data, weight=1.0)
        update = algorithm.local_update.apply(Parameters(dense=dense, tables=tables), party, drawn)
        return (
            dict(update.dense),
            {name: part.rows for name, part in update.tables.items()},
            {name: part.values for name, part in update.tables.items()},
        )

    together = torch.func.vmap(one, in_dims=(None, 0, 0, 0, 0), chunk_size=chunk_size)
    dense_p, rows_p, values_p = together(gathered.dense, tables, rows, data, drawn)
    updates = [
        Update(
            dense={name: tensor[p] for name, tensor in dense_p.items()},
            tables={
                name: TableRows(rows=rows_p[name][p], values=values[p])
                for name, values in values_p.items()
            },
            weight=party.weight,
        )
        for p, party in enumerate(parties)
    ]
    return finish_round(state, parties, updates, algorithm, generators)


def _stack(parties: Sequence[Party], kind: str, parts: Sequence[Tensors]) -> dict[str, Tensor]:
    """Stack the tensors of all parties, ``[P, ...]``, once it is sure that they fit."""
    first = {name: tensor.shape for name, tensor in parts[0].items()}
    for party, part in zip(parties, parts, strict=True):
        shapes = {name: tensor.shape for name, tensor in part.items()}
        if shapes != first:
            raise RoundError(
                f"{kind} of parties that compute at once must have the same shapes; "
                f"{parties[0].name!r} has {_words(first)}, {party.name!r} has {_words(shapes)}"
            )
    return {name: torch.stack([part[name] for part in parts]) for name in first}


def _words(shapes: Mapping[str, torch.Size]) -> str:
    return ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items()) or "none"
