"""A base and a delta make the whole that would have been written at once."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from scalerec.bundle import (
    Bundle,
    Changes,
    Contents,
    RowChange,
    Step,
    read_bundle,
    write_bundle,
    write_delta,
)
from scalerec.errors import BundleError

MakeContents = Callable[..., Contents]
EditManifest = Callable[[Path, Callable[[dict[str, Any]], object]], None]


@pytest.fixture
def base(tmp_path: Path, make_contents: MakeContents) -> Bundle:
    return write_bundle(tmp_path / "base", make_contents())


def step_after(base: Bundle) -> Step:
    return Step(verb="adapt", settings={"user": 42}, parents=(base.digest,))


def rows(*numbers: int, dim: int = 4, value: float = 9.0) -> RowChange:
    values = torch.full((len(numbers), dim), value) + torch.tensor(numbers).reshape(-1, 1)
    return RowChange(rows=torch.tensor(numbers, dtype=torch.int64), values=values)


def test_base_and_delta_equal_the_whole(
    base: Bundle, tmp_path: Path, make_contents: MakeContents
) -> None:
    users = pa.table({"user": [42]})
    step = step_after(base)
    head = torch.ones(2, 2)
    changes = Changes(
        step=step,
        tensors={"head.weight": head, "head.new": torch.tensor([1, 2])},
        rows={"table.user": rows(7, 3), "table.item": rows(30, 0, 31)},
        spec={"kind": "recommender", "adapted": True},
        users=users,
    )
    write_delta(tmp_path / "delta", base, changes)

    before = make_contents()
    user, item = (before.tensors[f"table.{name}"].clone() for name in ("user", "item"))
    user[7], user[3] = 16.0, 12.0
    item = torch.cat([item, torch.zeros(2, 4)])
    item[0], item[30], item[31] = 9.0, 39.0, 40.0
    tensors = {
        **before.tensors,
        "head.weight": head,
        "head.new": torch.tensor([1, 2]),
        "table.user": user,
        "table.item": item,
    }
    whole = make_contents(
        lineage=(*before.lineage, step),
        tensors=tensors,
        spec={"kind": "recommender", "adapted": True},
        users=users,
    )
    expected = write_bundle(tmp_path / "whole", whole)
    delta = read_bundle(tmp_path / "delta")
    assert write_bundle(tmp_path / "made whole", delta.contents()).digest == expected.digest
    assert delta.digest != expected.digest
    assert delta.tensor_infos() == expected.tensor_infos()
    for name, tensor in delta.tensors().items():
        assert torch.equal(tensor, tensors[name]), name
        assert torch.equal(delta.tensor(name), tensors[name]), name
    assert delta.encoders == base.encoders
    assert delta.users == users
    assert delta.lineage == (*base.lineage, step)


def test_the_base_is_not_touched(base: Bundle, tmp_path: Path) -> None:
    before = base.tensor("table.user").clone()
    delta = write_delta(
        tmp_path / "d", base, Changes(step=step_after(base), rows={"table.user": rows(1)})
    )
    assert delta.tensor("table.user")[1].tolist() == [10.0] * 4
    assert torch.equal(base.tensor("table.user"), before)
    delta.tensor("bias").zero_()
    assert read_bundle(base.path).digest == base.digest


def test_a_delta_is_small_and_has_only_what_changed(tmp_path: Path) -> None:
    big = Contents(
        schema={}, spec={"kind": "net"}, layout={}, tensors={"table": torch.zeros(50_000, 8)}
    )
    base = write_bundle(tmp_path / "base", big)
    changes = Changes(step=step_after(base), rows={"table": rows(49_999, dim=8)})
    delta = write_delta(tmp_path / "d", base, changes)
    assert base.num_bytes > 1_600_000
    assert delta.num_bytes < 4_000
    assert delta.tensor("table").shape == (50_000, 8)


def test_equal_deltas_have_equal_digests(base: Bundle, tmp_path: Path) -> None:
    step = step_after(base)
    first = write_delta(tmp_path / "a", base, Changes(step=step, rows={"table.user": rows(3, 7)}))
    second = write_delta(
        tmp_path / "deep" / "b",
        base,
        Changes(step=step, rows={"table.user": rows(7, 3)}),
        shard_bytes=1,
    )
    assert first.digest == second.digest
    other = write_delta(tmp_path / "c", base, Changes(step=step, rows={"table.user": rows(3, 8)}))
    assert first.digest != other.digest


@settings(max_examples=20, deadline=None)
@given(
    numbers=st.lists(st.integers(0, 9), unique=True, max_size=10),
    new=st.integers(0, 3),
    chain=st.lists(st.integers(0, 9), unique=True, max_size=4),
)
def test_any_rows_through_a_chain_of_deltas(
    tmp_path_factory: pytest.TempPathFactory, numbers: list[int], new: int, chain: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("chain")
    table = torch.arange(40.0).reshape(10, 4)
    contents = Contents(schema={}, spec={"kind": "net"}, layout={}, tensors={"t": table})
    base = write_bundle(folder / "base", contents)
    first, second = rows(*range(10, 10 + new), *numbers), rows(*chain, value=-5.0)
    middle = write_delta(folder / "1", base, Changes(step=step_after(base), rows={"t": first}))
    write_delta(folder / "2", middle, Changes(step=step_after(middle), rows={"t": second}))
    expected = torch.cat([table, torch.zeros(new, 4)])
    expected[first.rows] = first.values
    expected[second.rows] = second.values
    assert torch.equal(read_bundle(folder / "2").tensor("t"), expected)


def test_names_that_look_like_stored_rows(base: Bundle, tmp_path: Path) -> None:
    one = torch.tensor([1.0])
    changes = Changes(
        step=step_after(base),
        tensors={"bias": one, "table.user:rows": one, "table.user:values": one},
        rows={"table.user": rows(2)},
    )
    delta = write_delta(tmp_path / "d", base, changes)
    assert torch.equal(delta.tensors()["table.user:rows"], one)
    assert torch.equal(delta.tensor("table.user:values"), one)
    assert delta.tensor("table.user")[2].tolist() == [11.0] * 4
    assert set(delta.tensor_infos()) == {
        *base.tensor_infos(),
        "table.user:rows",
        "table.user:values",
    }
    with pytest.raises(BundleError, match=r'has no tensor "table.user:rows\'"'):
        delta.tensor("table.user:rows'")


def test_where_the_base_is(base: Bundle, tmp_path: Path, make_contents: MakeContents) -> None:
    delta = write_delta(
        tmp_path / "d", base, Changes(step=step_after(base), tensors={"bias": torch.tensor(2.0)})
    )
    # Both moved together.
    moved = tmp_path / "moved"
    moved.mkdir()
    shutil.move(base.path, moved / "base")
    shutil.move(delta.path, moved / "d")
    assert read_bundle(moved / "d").tensor("bias").item() == 2.0
    # Parted: the recorded place is empty, so the caller has to say where it is.
    shutil.move(moved / "base", tmp_path / "elsewhere")
    with pytest.raises(
        BundleError, match=f"d: is a delta of the bundle {base.digest}, and .* none"
    ):
        read_bundle(moved / "d")
    found = read_bundle(moved / "d", base=tmp_path / "elsewhere")
    assert torch.equal(found.tensor("table.user"), make_contents().tensors["table.user"])
    opened = read_bundle(tmp_path / "elsewhere")
    assert read_bundle(moved / "d", base=opened).base is opened


def test_a_wrong_base(base: Bundle, tmp_path: Path, make_contents: MakeContents) -> None:
    delta = write_delta(tmp_path / "d", base, Changes(step=step_after(base)))
    other = write_bundle(tmp_path / "other", make_contents(layout={}))
    words = f"is a delta of the bundle {base.digest}; the one at .*other is {other.digest}"
    for given_base in (other, other.path):
        with pytest.raises(BundleError, match=words):
            read_bundle(delta.path, base=given_base)
    write_bundle(base.path, make_contents(layout={}), overwrite=True)
    with pytest.raises(BundleError, match=f"; the one at .*base is {other.digest}"):
        read_bundle(delta.path)
    with pytest.raises(BundleError, match="is a whole bundle; only a delta takes base="):
        read_bundle(other.path, base=base)


def test_a_changed_base_is_found_through_the_delta(base: Bundle, tmp_path: Path) -> None:
    delta = write_delta(tmp_path / "d", base, Changes(step=step_after(base)))
    path = base.path / "weights-00001-of-00001.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(BundleError, match=r"base/weights-00001-of-00001.safetensors: was changed"):
        read_bundle(delta.path)


def test_a_delta_that_names_itself_ends(
    base: Bundle, tmp_path: Path, edit_manifest: EditManifest
) -> None:
    delta = write_delta(tmp_path / "d", base, Changes(step=step_after(base)))
    edit_manifest(delta.path, lambda plain: plain["base"].update(path="."))
    with pytest.raises(BundleError, match=r"; the one at .*d is"):
        read_bundle(delta.path)


ONE = torch.ones(1, 4)


@pytest.mark.parametrize(
    ("numbers", "values", "words"),
    [
        (torch.tensor([1], dtype=torch.int32), ONE, r"rows must be int64 \[R\]; got torch.int32"),
        (torch.tensor([[1]]), ONE, r"rows must be int64 \[R\]; got torch.int64 \[1, 1\]"),
        (torch.tensor([1, 2]), ONE, r"values must be \[2, ...\]; got \[1, 4\]"),
        (torch.tensor([1]), torch.tensor(1.0), r"values must be \[1, ...\]; got \[\]"),
        (torch.tensor([-1]), ONE, "rows must be at least 0; got -1"),
        (torch.tensor([3, 3]), torch.ones(2, 4), "rows must be given once each; got a row twice"),
    ],
)
def test_rows_that_are_none(numbers: Tensor, values: Tensor, words: str) -> None:
    with pytest.raises(BundleError, match=words):
        RowChange(rows=numbers, values=values)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rows": {"x": rows(1)}}, "rows of 'x' cannot change: the base has no such tensor"),
        (
            {"rows": {"bias": rows(1)}, "tensors": {"bias": ONE}},
            "'bias' is given twice: as a whole tensor and as rows",
        ),
        (
            {"rows": {"table.user": rows(1, dim=3)}},
            r"rows of 'table.user' must be torch.float32 \[R, \*\[4\]\].*\[20, 4\] is; got",
        ),
        (
            {"rows": {"table.user": RowChange(rows=torch.tensor([1]), values=ONE.double())}},
            r"got torch.float64 \[1, 4\]",
        ),
        ({"rows": {"bias": rows(0)}}, r"rows of 'bias' must be torch.float32"),
        (
            {"rows": {"table.user": rows(20, 22)}},
            "must leave no gap after row 19, the base's last; got row 22 with 2 new rows",
        ),
    ],
)
def test_changes_that_do_not_fit(
    base: Bundle, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(BundleError, match=words):
        write_delta(tmp_path / "d", base, Changes(step=step_after(base), **changes))
    assert not (tmp_path / "d").exists()


def test_a_delta_names_its_base_and_has_its_own_place(base: Bundle, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=f"must name its base {base.digest} among its parents"):
        write_delta(tmp_path / "d", base, Changes(step=Step(verb="adapt")))
    changes = Changes(step=step_after(base))
    with pytest.raises(BundleError, match="is the base; a delta needs a place of its own"):
        write_delta(base.path, base, changes, overwrite=True)
    write_delta(tmp_path / "d", base, changes)
    with pytest.raises(BundleError, match="d: exists; choose another place"):
        write_delta(tmp_path / "d", base, changes)
    write_delta(tmp_path / "d", base, changes, overwrite=True)


def test_stored_rows_that_lie(base: Bundle, tmp_path: Path, edit_manifest: EditManifest) -> None:
    from scalerec.bundle.manifest import Manifest, content_digest

    def spoil(**entry: object) -> None:
        def change(plain: dict[str, Any]) -> None:
            plain["rows"]["table.user"].update(entry)
            plain["digest"] = content_digest(Manifest.from_dict(plain))

        edit_manifest(delta.path, change)

    delta = write_delta(
        tmp_path / "d", base, Changes(step=step_after(base), rows={"table.user": rows(3)})
    )
    for shape in ([10, 4], [20, 5], []):
        spoil(shape=shape)
        with pytest.raises(BundleError, match=r"rows of 'table.user' do not fit the base's tensor"):
            read_bundle(delta.path)
    spoil(shape=[500, 4])
    opened = read_bundle(delta.path)
    with pytest.raises(BundleError, match=r"rows of 'table.user' do not give \[500, 4\]"):
        opened.tensor("table.user")


def test_the_recorded_place_is_relative(base: Bundle, tmp_path: Path) -> None:
    delta = write_delta(tmp_path / "x" / "d", base, Changes(step=step_after(base)))
    assert delta.manifest.base is not None
    assert delta.manifest.base.path == os.path.join("..", "..", "base")  # noqa: PTH118
