"""Parameters and parties: gathering rows, numbering ids anew, and sources of randomness."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scalerec.errors import RoundError
from scalerec.rounds import Parameters, Party, localise, party_generators

TABLE = torch.arange(8.0).reshape(4, 2)
PARAMETERS = Parameters(dense={"w.0": torch.ones(2)}, tables={"user/id": TABLE})


def test_flat_and_back() -> None:
    flat = PARAMETERS.flat()
    assert list(flat) == ["dense/w.0", "tables/user/id"]
    assert Parameters.from_flat(flat) == PARAMETERS


def test_gather_gives_the_rows_asked_for() -> None:
    gathered = PARAMETERS.gather({"user/id": torch.tensor([3, 0])})
    assert gathered.tables["user/id"].tolist() == [[6, 7], [0, 1]]
    assert gathered.dense == PARAMETERS.dense
    assert PARAMETERS.gather({}).tables == {}
    assert PARAMETERS.gather({"user/id": torch.tensor([], dtype=torch.int64)}).tables


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ({"shop": torch.tensor([0])}, r"there is no table 'shop'; allowed: \['user/id'\]"),
        ({"user/id": torch.tensor([0, 4])}, r"rows of table 'user/id' .*\[0, 4\); got 0 to 4"),
        ({"user/id": torch.tensor([-1, 2])}, r"rows of table 'user/id' .*\[0, 4\); got -1 to 2"),
    ],
)
def test_gather_refuses_what_is_not_there(rows: dict[str, torch.Tensor], words: str) -> None:
    with pytest.raises(RoundError, match=words):
        PARAMETERS.gather(rows)


@settings(deadline=None)  # a slow machine is no failure
@given(st.lists(st.integers(0, 20), min_size=1))
def test_localise_round_trips(ids: list[int]) -> None:
    rows, positions = localise(torch.tensor(ids))
    assert rows.tolist() == sorted(set(ids))
    assert rows[positions].tolist() == ids


def party(name: str) -> Party:
    return Party(name=name, rows={}, data={"x": torch.zeros(3)}, weight=3)


def test_num_examples() -> None:
    assert party("a").num_examples == 3
    assert Party(name="b", rows={}, data={}, weight=0).num_examples == 0


def test_each_party_draws_for_itself(generator: torch.Generator) -> None:
    parties = [party(name) for name in "abc"]
    seed = generator.initial_seed()
    first = party_generators(torch.Generator().manual_seed(seed), parties)
    second = party_generators(torch.Generator().manual_seed(seed), parties)
    torch.rand(100, generator=second[0])  # how much one draws is nothing to the next
    draws = [torch.rand(2, generator=g) for g in first]
    assert torch.equal(draws[1], torch.rand(2, generator=second[1]))
    assert not torch.equal(draws[0], draws[1])
