"""Rows that ids share: which ones, what they give, and that they are learned by every engine."""

from typing import Any

import pytest
import torch
from tests.models.test_recommender import spec
from tests.models.toys import LAYOUTS, draw_batch
from torch import Tensor

from scalerec.errors import ConfigError
from scalerec.models.compiled import COMPILED_OPTIMISERS
from scalerec.models.fbgemm import fbgemm_is_available
from scalerec.models.forms import Forms, TableForm
from scalerec.models.recommender import Recommender, build_recommender
from scalerec.models.sharing import plan_shares
from scalerec.models.tables import Tables
from scalerec.optim import Sgd

LAYOUT = LAYOUTS["mixed"]
FORMS = Forms(
    tables={
        "user": TableForm(rows=6, sharing="hash"),
        "item": TableForm(rows=10, sharing="quotient", dim=2),
        "day": TableForm(dim=3),
    }
)
needs_fbgemm = pytest.mark.skipif(not fbgemm_is_available(), reason="FBGEMM is not installed")


def make(seed: int = 1, forms: Forms = FORMS) -> Recommender:
    return build_recommender(LAYOUT, spec("deepfm").replace(forms=forms), seed).eval()


def test_quotients_and_remainders_by_hand() -> None:
    shares = plan_shares("t", TableForm(rows=9, sharing="quotient"), num_ids=12)
    assert shares is not None
    # Ten ids over five remainders (rows 2 to 6) and two quotients (7 and 8).
    assert shares.divisor == 5
    ids = torch.arange(12)
    assert shares.first(ids).tolist() == [0, 1, 2, 3, 4, 5, 6, 2, 3, 4, 5, 6]
    assert shares.second(ids).tolist() == [0, 0, 7, 7, 7, 7, 7, 8, 8, 8, 8, 8]
    # An id beyond what the rows tell apart is out-of-vocabulary.
    late = torch.tensor([12, 100])
    assert (shares.first(late).tolist(), shares.second(late).tolist()) == ([1, 1], [0, 0])
    one, other = torch.tensor([[2.0, 3.0]]), torch.tensor([[0.5, -1.0]])
    assert shares.join(one, other).tolist() == [[3.0, 0.0]]


def test_two_hashes_spread_and_leave_padding_and_unknown_alone() -> None:
    shares = plan_shares("t", TableForm(rows=102, sharing="hash"), num_ids=50_000)
    assert shares is not None
    ids = torch.arange(50_000)
    first, second = shares.first(ids), shares.second(ids)
    assert (first[:2].tolist(), second[:2].tolist()) == ([0, 1], [0, 0])
    for found in (first[2:], second[2:]):
        counts = torch.bincount(found, minlength=102)
        assert counts[:2].tolist() == [0, 0]
        # 500 each on average, with a deviation of 22.
        assert 400 < int(counts[2:].min()) <= int(counts[2:].max()) < 600
    pairs = torch.unique(first[2:] * 102 + second[2:])
    # Of 10,000 pairs all but 1 in 150 are met by 50,000 draws.
    assert len(pairs) > 9_800
    same = (first[2:] == second[2:]).float().mean()
    assert 0.005 < float(same) < 0.02


def plain_rows(recommender: Recommender, name: str, ids: Tensor) -> Tensor:
    """The embeddings of ids, from what is stored and the form alone."""
    form, weight = recommender.spec.forms.tables[name], recommender.to_tensors()
    rows, shares = weight[f"tables.{name}.weight"], recommender.tables.shares.get(name)
    out = []
    for id_ in ids:
        row = rows[id_] if shares is None else rows[shares.first(id_.view(1))[0]]
        if shares is not None:
            other = rows[shares.second(id_.view(1))[0]]
            row = row + other if form.sharing == "hash" else row * (1 + other)
        if form.dim:
            assert recommender.shaped is not None
            basis = recommender.shaped.basis(name)
            assert basis is not None
            row = torch.cat([row[: form.dim] @ basis, row[-1:]])
        out.append(row)
    return torch.stack(out)


def test_looked_up_rows_are_those_of_the_formulas(generator: torch.Generator) -> None:
    recommender, batch = make(), draw_batch(LAYOUT, 5, generator)
    batch.ids[:, 0] = 0
    assert recommender.shaped is not None
    with torch.no_grad():
        found = recommender.shaped(recommender.tables(batch), batch)
        parts = [
            plain_rows(recommender, f.table, i) for f, i in zip(LAYOUT.ids, batch.ids, strict=True)
        ]
        torch.testing.assert_close(found[:15], torch.cat(parts), rtol=1e-5, atol=1e-6)
        seen = plain_rows(recommender, "item", batch.bags[1].values)
        torch.testing.assert_close(found[-len(seen) :], seen, rtol=1e-5, atol=1e-6)
    assert not found[:15].view(3, 5, -1)[:, 0].any()
    stored = recommender.to_tensors()
    widths = {n: tuple(stored[f"tables.{n}.weight"].shape) for n in LAYOUT.tables}
    assert widths == {"user": (6, 5), "item": (10, 3), "day": (5, 4), "genre": (6, 5)}
    assert recommender.tables.num_weights == 30 + 30 + 20 + 30


def test_gradients_by_finite_differences(generator: torch.Generator) -> None:
    recommender = make().double()
    batch = draw_batch(LAYOUT, 4, generator)
    assert recommender.shaped is not None
    shaped, rows = recommender.shaped, recommender.tables(batch).double().detach()
    bases = [basis.detach() for basis in shaped.bases]

    def score(rows_kp: Tensor, *own: Tensor) -> Tensor:
        named = {f"bases.{number}": basis for number, basis in enumerate(own)}
        return torch.func.functional_call(shaped, named, (rows_kp, batch))  # type: ignore[no-any-return]

    args = tuple(tensor.clone().requires_grad_() for tensor in (rows, *bases))
    assert torch.autograd.gradcheck(score, args)


ENGINES = [
    "dense",
    "torch",
    pytest.param("numba", marks=pytest.mark.skipif("sgd" not in COMPILED_OPTIMISERS, reason="")),
    pytest.param("fbgemm", marks=needs_fbgemm),
]


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_learns_the_same(engine: str, generator: torch.Generator) -> None:
    recommender, batch = make().train(), draw_batch(LAYOUT, 6, generator)
    batch.ids[:, 0] = 0
    reference = make().train()
    before = {name: t.clone() for name, t in reference.to_tensors().items()}
    for own, kind in ((reference, "torch"), (recommender, engine)):
        tables = own.tables
        tables.use(kind, Sgd(), "sgd")
        tables.engine.lr = 0.1
        dense = [tables.engine.get_parameter("weight")] if kind == "dense" else []
        mover = torch.optim.SGD([*own.dense_parameters().values(), *dense], lr=0.1)
        for _ in range(2):
            mover.zero_grad()
            own(batch).square().sum().backward()
            mover.step()
            tables.keep_padding_zero()
    found, expected = recommender.to_tensors(), reference.to_tensors()
    for name, tensor in expected.items():
        # Another order of float32 sums of gradients.
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-5)
        moved = not torch.equal(tensor, before[name])
        assert moved or name.endswith(("genre.weight", "out.bias")), name
    assert not recommender.tables.read(recommender.tables.get_buffer("padding")).any()


def test_a_row_map_comes_before_sharing(generator: torch.Generator) -> None:
    recommender, batch = make(), draw_batch(LAYOUT, 5, generator)
    tensors: dict[str, Any] = dict(recommender.to_tensors())
    for name in ("user", "item", "day"):
        rows = torch.arange(LAYOUT.tables[name], dtype=torch.int16)
        rows[3] = 2
        tensors[f"tables.{name}.rows"] = rows
    other = make(2)
    other.load_tensors(tensors)
    assert other.to_tensors()["tables.day.rows"].dtype is torch.int16
    batch.ids[:] = torch.where(batch.ids == 3, 2, batch.ids)
    seen = batch.bags[1].values
    seen[seen == 3] = 2
    expected = recommender(batch)
    assert torch.equal(other(batch), expected)
    batch.ids[:] = torch.where(batch.ids == 2, 3, batch.ids)
    seen[seen == 2] = 3
    assert torch.equal(other(batch), expected)


def test_what_several_processes_cannot_hold() -> None:
    def make_elsewhere(*args: Any) -> Tables:
        return Tables(*args)

    mixed = spec("deepfm").replace(forms=FORMS)
    with pytest.raises(ConfigError, match=r"must store as many columns each; got {'user': 4, 'it"):
        build_recommender(LAYOUT, mixed, 1, make_elsewhere)
    packed = spec("deepfm").replace(forms=Forms(tables={"day": TableForm(bits=8)}))
    with pytest.raises(ConfigError, match=r"of 16, 8 or 4 bits are looked up in one process alone"):
        build_recommender(LAYOUT, packed, 1, make_elsewhere)
    equal = Forms(tables={name: TableForm(dim=2) for name in LAYOUT.tables})
    found = build_recommender(LAYOUT, spec("deepfm").replace(forms=equal), 1, make_elsewhere)
    assert found.tables.width == 3
