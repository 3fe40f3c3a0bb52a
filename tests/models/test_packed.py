"""Rows of few bits: known codes, the plain twin, exact padding, and what is refused."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.models.test_recommender import spec
from tests.models.toys import LAYOUTS, draw_batch

from scalerec.errors import ConfigError
from scalerec.models.forming import formed
from scalerec.models.forms import Forms, TableForm
from scalerec.models.packed import (
    PackedEngine,
    PackedTables,
    pack_rows,
    packed_bytes,
    quantise_rows,
    unpack_rows,
)
from scalerec.models.recommender import build_recommender
from scalerec.optim import Sgd

LAYOUT = LAYOUTS["mixed"]
BITS = (32, 16, 8, 4)
MIXED = Forms(
    tables={
        "user": TableForm(bits=8),
        "item": TableForm(bits=4, dim=3),
        "day": TableForm(bits=16, rows=4, sharing="hash"),
    }
)


def test_codes_of_8_bits_by_hand() -> None:
    codes, scales = quantise_rows(torch.tensor([[1.0, -0.25, 0.5], [0.0, 0.0, 0.0]]), 8)
    assert codes.tolist() == [[127, -32, 64], [0, 0, 0]]
    torch.testing.assert_close(scales.float(), torch.tensor([[1 / 127], [0.0]]), rtol=1e-3, atol=0)


def test_codes_of_4_bits_by_hand() -> None:
    rows = torch.tensor([[-1.0, 0.0, 2.0, 1.0]])
    codes, ends = quantise_rows(rows, 4)
    # Steps of 0.2 from -1, which meet every number.
    assert codes.tolist() == [[0, 5, 15, 10]]
    torch.testing.assert_close(ends.float(), torch.tensor([[0.2, -1.0]]), rtol=1e-3, atol=0)
    assert pack_rows(torch.cat([rows, torch.zeros(1, 1)], 1), 4)[0, 6:].tolist() == [0x50, 0xAF]


@pytest.mark.parametrize(("bits", "most"), [(32, 0.0), (16, 2**-11), (8, 0.005), (4, 0.07)])
@given(num=st.integers(1, 6), dim=st.integers(1, 9), seed=st.integers(0, 9))
def test_rows_come_back_nearly(bits: int, most: float, num: int, dim: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(num, dim + 1, generator=generator)
    rows[0] = 0.0
    packed = pack_rows(rows, bits)
    assert packed.shape == (num, packed_bytes(bits, dim))
    found = unpack_rows(packed, bits, dim)
    assert not found[0].any()
    if bits == 4:
        ends = rows[:, :-1].amax(1) - rows[:, :-1].amin(1)
        # Half a step of fifteen in the mean square at the worst, whatever range was taken.
        error = (found - rows)[:, :-1].square().mean(1).sqrt()
        assert bool((error <= ends / 15 / 2 + 2e-3).all())
    else:
        size = rows[:, :-1].abs().amax(1, keepdim=True)
        assert bool(((found - rows)[:, :-1].abs() <= most * size + 1e-6).all())
    linear = (found - rows)[:, -1].abs()
    assert bool((linear <= 2**-11 * rows[:, -1].abs() + 1e-6).all())
    engine = PackedEngine([packed, packed], [(bits, dim), (bits, dim)], dim + 3)
    ids = torch.randint(2 * num, (20,), generator=generator)
    looked = engine.lookup(ids)
    assert torch.equal(looked[:, :dim], found[ids % num][:, :-1])
    assert torch.equal(looked[:, -1], found[ids % num][:, -1])
    assert not looked[:, dim:-1].any()


def test_a_narrow_range_is_taken_where_it_errs_less(generator: torch.Generator) -> None:
    rows = torch.randn(50, 64, generator=generator)
    codes, ends = quantise_rows(rows, 4)
    found = codes * ends[:, :1].float() + ends[:, 1:].float()
    low, high = rows.amin(1, keepdim=True), rows.amax(1, keepdim=True)
    step = (high - low) / 15
    whole = ((rows - low) / step).round() * step + low
    assert float((found - rows).square().sum()) < 0.97 * float((whole - rows).square().sum())


def test_the_kernel_is_the_plain_way(generator: torch.Generator) -> None:
    tables = [pack_rows(torch.randn(5, 4, generator=generator), bits) for bits in BITS]
    engine = PackedEngine(tables, [(bits, 3) for bits in BITS], 6)
    rows = torch.randint(20, (200,), generator=generator)
    assert torch.equal(engine.lookup(rows), engine._plain(rows))
    for bad in (-1, 20):
        with pytest.raises(IndexError, match=rf"rows must be from 0 to 19; got {min(bad, 3)} to"):
            engine.lookup(torch.tensor([3, bad]))


@pytest.mark.parametrize("model", ["deepfm", "din", "two-tower"])
def test_packed_tables_score_as_their_rows_in_float(model: str, generator: torch.Generator) -> None:
    whole = build_recommender(LAYOUT, spec(model), 1).eval()
    tables = {name: TableForm(bits=bits) for name, bits in zip(LAYOUT.tables, BITS, strict=True)}
    packed = formed(whole, Forms(tables=tables))
    tensors = {**whole.to_tensors()}
    for name in LAYOUT.tables:
        rows = packed.tables.table(name)
        tensors[f"tables.{name}.weight"] = rows
    whole.load_tensors(tensors)
    for size in (3, 200):
        batch = draw_batch(LAYOUT, size, generator)
        with torch.no_grad():
            # Sums in another order.
            torch.testing.assert_close(packed(batch), whole(batch), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(packed(batch), whole(batch), rtol=1e-5, atol=1e-5)


def test_all_forms_of_tables_at_once(generator: torch.Generator) -> None:
    whole = build_recommender(LAYOUT, spec().replace(forms=_float(MIXED)), 1).eval()
    packed = formed(whole, MIXED)
    assert isinstance(packed.tables, PackedTables)
    batch = draw_batch(LAYOUT, 100, generator)
    batch.ids[:, 0] = 0
    one, other = packed(batch), whole(batch)
    near = float((one - other).detach().norm() / other.detach().norm())
    assert 0 < near < 0.15
    padding = packed.tables.read(packed.tables.get_buffer("padding"))
    assert not padding.any()
    assert packed.tables.num_weights == 12 * 5 + 14 * 4 + 4 * 5 + 6 * 5


def _float(forms: Forms) -> Forms:
    tables = {n: form.replace(bits=32) for n, form in forms.tables.items()}
    return forms.replace(tables=tables)


def test_what_cannot_be_done_with_packed_tables(generator: torch.Generator) -> None:
    packed = formed(build_recommender(LAYOUT, spec(), 1), Forms(tables={"user": TableForm(bits=8)}))
    with pytest.raises(ConfigError, match=r"looked up only and cannot be trained: 'user'; train b"):
        packed.tables.use("auto", Sgd(), "sgd")
    with pytest.raises(ConfigError, match=r"looked up only: their rows cannot be trained or chan"):
        packed.tables.matrix  # noqa: B018
    batch = draw_batch(LAYOUT, 3, generator)
    rows = packed.tables.rows_of(batch)
    with pytest.raises(ConfigError, match=r"cannot be trained or changed"):
        packed.tables.write(rows, packed.tables.read(rows))
    tensors = dict(packed.to_tensors())
    codes = tensors["tables.user.codes"]
    for wrong, message in (
        (codes[:, :-1], r"table 'user' of 8 bits must have rows of 8 bytes, uint8; got uint8 \[12"),
        (codes.char(), r"rows of 8 bytes, uint8; got int8 \[12, 8\]"),
        (codes[:5], r"table 'user' must have a row for each of 12 ids; got 5"),
    ):
        with pytest.raises(ConfigError, match=message):
            packed.load_tensors({**tensors, "tables.user.codes": wrong})
    del tensors["tables.user.codes"]
    with pytest.raises(ConfigError, match=r"'user' has no rows: tables.user.codes is missing"):
        packed.load_tensors(tensors)
    with pytest.raises(ConfigError, match=r"numbers to quantise must be at most 65504"):
        quantise_rows(torch.tensor([[float("inf")]]), 8)
    with pytest.raises(ConfigError, match=r"bits of codes must be 8 or 4; got 2"):
        quantise_rows(torch.zeros(1, 1), 2)


def test_the_dense_part_is_still_trained_above_packed_tables(generator: torch.Generator) -> None:
    packed = formed(build_recommender(LAYOUT, spec(), 1), Forms(tables={"user": TableForm(bits=4)}))
    batch = draw_batch(LAYOUT, 8, generator)
    packed.train()(batch).square().sum().backward()
    assert all(p.grad is not None for p in packed.dense_parameters().values())
