"""Error feedback: what a step loses of an update is added to the party's next one.

Shapes: P parties, K rows of all of them together, W a table's width.
"""

import torch
from torch import Tensor

from scalerec.rounds.codecs.messages import (
    ROWS,
    TABLES,
    VALUES,
    CohortMessage,
    Part,
    offsets_of,
)
from scalerec.rounds.codecs.steps import Step

__all__ = ["with_feedback"]


def with_feedback(step: Step) -> Step:
    """Remember what a step misses of an update, and add it to the party's next one.

    What has arrived and what is kept sum to what came in, to rounding. A row of a table waits until
    the party touches it again, so no row is sent that the update does not hold. An update with a
    number that is not finite goes its way to be counted, and what was kept before it stays.

    The state has the names of a message: ``dense/NAME``, ``tables/NAME/rows`` and ``.../values``;
    rows of which nothing is missed are left out.

    Papers: 1-Bit Stochastic Gradient Descent, Seide et al., 2014,
    https://www.isca-archive.org/interspeech_2014/seide14_interspeech.html; Sparsified SGD with
    Memory, Stich et al., 2018, algorithm 1, https://arxiv.org/abs/1809.07599

    Args:
        step: Gets whole updates, and may lose a part of them, but no more than a part: of a step
            that can miss by more than the update itself what is kept would grow without end.
    """

    def encode(
        message: CohortMessage, state: CohortMessage, seeds: Tensor
    ) -> tuple[dict[str, Part], dict[str, Part]]:
        whole = {name: _with_kept(name, message, state) for name in message}
        sent, _ = step.encode(whole, {}, seeds)
        arrived = step.decode(sent)
        fine = _are_finite(message)
        after: dict[str, Part] = {}
        for name, part in whole.items():
            if name.startswith("dense/"):
                kept = state[name].values if name in state else torch.zeros_like(part.values)
                mask = fine.view(-1, *[1] * len(part.shape))
                missed = torch.where(mask, part.values - arrived[name].values, kept)
                after[name] = Part(values=missed)
            elif name.startswith(TABLES) and name.endswith(VALUES):
                table = name.removesuffix(VALUES)
                after |= _missed_rows(table, whole, arrived, state, fine)
        gone = {n: p for n, p in state.items() if n not in after}
        return sent, after | gone

    return Step(encode, step.decode, step.is_random)


def _with_kept(name: str, message: CohortMessage, state: CohortMessage) -> Part:
    part, kept = message[name], state.get(name)
    if kept is None or name.endswith(ROWS):
        return part
    if part.offsets is None:
        return part.like(part.values + kept.values)
    rows = name.removesuffix(VALUES) + ROWS
    places, found = _find(message[rows], state[rows])
    if not len(kept.values):
        return part
    return part.like(part.values + kept.values[places] * found[:, None])


def _find(wanted: Part, among: Part) -> tuple[Tensor, Tensor]:
    """Where a party's rows are among other rows of the same party, and whether, ``[K]`` each."""
    if not len(among.values) or not len(wanted.values):
        return torch.zeros_like(wanted.values), torch.zeros_like(wanted.values, dtype=torch.bool)
    stride = int(torch.maximum(wanted.values.max(), among.values.max())) + 1
    keys, sought = (p.owners * stride + p.values for p in (among, wanted))
    places = torch.searchsorted(keys, sought).clamp(max=len(keys) - 1)
    return places, keys[places] == sought


def _missed_rows(
    table: str,
    whole: CohortMessage,
    arrived: CohortMessage,
    state: CohortMessage,
    fine: Tensor,
) -> dict[str, Part]:
    rows, values = whole[table + ROWS], whole[table + VALUES].values
    came = arrived[table + ROWS]
    places, found = _find(came, rows)
    missed = values.index_add(0, places[found], -arrived[table + VALUES].values[found])
    owners = rows.owners
    keep = fine[owners] & (missed != 0).any(1)
    parts = [(owners[keep], rows.values[keep], missed[keep])]
    if table + ROWS in state:
        before = state[table + ROWS]
        _, again = _find(before, rows)
        still = ~again | ~fine[before.owners]
        kept = state[table + VALUES].values
        parts.append((before.owners[still], before.values[still], kept[still]))
    all_owners, all_rows, all_values = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    stride = int(all_rows.max()) + 1 if len(all_rows) else 1
    order = torch.argsort(all_owners * stride + all_rows)
    offsets = offsets_of(torch.bincount(all_owners, minlength=rows.num_parties))
    return {
        table + ROWS: Part(values=all_rows[order], offsets=offsets),
        table + VALUES: Part(values=all_values[order], offsets=offsets),
    }


def _are_finite(message: CohortMessage) -> Tensor:
    """Whether each party's numbers are, ``[P]`` bool."""
    fine = torch.ones(next(iter(message.values())).num_parties, dtype=torch.bool)
    for part in message.values():
        if part.offsets is None:
            fine &= (
                part.values.flatten(1).isfinite().all(1) if part.shape else part.values.isfinite()
            )
        else:
            odd = (
                ~part.values.flatten(1).isfinite().all(1) if part.shape else ~part.values.isfinite()
            )
            fine[part.owners[odd]] = False
    return fine
