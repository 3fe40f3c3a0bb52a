"""What is written is what is read, and the digest names it."""

import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes
from torch import Tensor

from scalerec.bundle import (
    Contents,
    Step,
    TensorInfo,
    adaptable_names,
    read_bundle,
    require_adaptable,
    write_bundle,
)
from scalerec.bundle.weights import DTYPES, plan_shards
from scalerec.errors import BundleError, ConfigError

MakeContents = Callable[..., Contents]


def assert_same(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Compare bytes, not values, so that NaN and dtypes count."""
    assert list(found) == sorted(wanted)
    for name, tensor in wanted.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape), name
        left, right = (t.contiguous().reshape(-1).view(torch.uint8) for t in (found[name], tensor))
        assert torch.equal(left, right), name


def test_all_parts_come_back(tmp_path: Path, make_contents: MakeContents) -> None:
    contents = make_contents(users=pa.table({"user": [4, 5]}))
    write_bundle(tmp_path / "deep" / "b", contents)
    bundle = read_bundle(tmp_path / "deep" / "b")
    assert bundle.schema == contents.schema
    assert bundle.spec == contents.spec
    assert bundle.layout == contents.layout
    assert bundle.adaptable == ("bias", "head.*")
    assert bundle.lineage == contents.lineage
    assert_same(bundle.tensors(), contents.tensors)
    for name in contents.tensors:
        assert_same({name: bundle.tensor(name)}, {name: contents.tensors[name]})
    assert bundle.encoders == contents.encoders
    assert bundle.catalogue == contents.catalogue
    assert bundle.users == contents.users
    assert bundle.tensor_infos()["head.weight"] == TensorInfo(dtype="float32", shape=(3, 8))
    on_disk = sum(path.stat().st_size for path in bundle.path.iterdir())
    assert bundle.num_bytes == on_disk
    assert repr(bundle) == f"Bundle('{bundle.path}', digest={bundle.digest[:12]}...)"


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype(tmp_path: Path, make_contents: MakeContents, dtype: str) -> None:
    kind = getattr(torch, dtype)
    tensors = {
        "matrix": torch.arange(12).reshape(3, 4).to(kind),
        "scalar": torch.tensor(1).to(kind),
        "no rows": torch.zeros(0, 5).to(kind),
        "no columns": torch.zeros(5, 0).to(kind),
        "transposed": torch.arange(6).reshape(2, 3).to(kind).T,
    }
    written = write_bundle(tmp_path / "b", make_contents(tensors=tensors))
    assert_same(read_bundle(written.path).tensors(), tensors)
    assert {info.dtype for info in written.tensor_infos().values()} == {dtype}


@settings(max_examples=25, deadline=None)
@given(
    parts=st.dictionaries(
        st.text(max_size=12).filter(lambda name: name != "__metadata__"),
        st.tuples(
            array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4), st.sampled_from([*DTYPES])
        ),
        max_size=6,
    ),
    shard_bytes=st.integers(1, 200),
)
def test_any_names_shapes_and_shards(
    tmp_path_factory: pytest.TempPathFactory,
    parts: dict[str, tuple[tuple[int, ...], str]],
    shard_bytes: int,
) -> None:
    generator = torch.Generator().manual_seed(3)
    tensors = {
        name: torch.randint(0, 2, shape, generator=generator).to(getattr(torch, dtype))
        for name, (shape, dtype) in parts.items()
    }
    contents = Contents(schema={}, spec={"kind": "net"}, layout={}, tensors=tensors)
    folder = tmp_path_factory.mktemp("any")
    sharded = write_bundle(folder / "sharded", contents, shard_bytes=shard_bytes)
    whole = write_bundle(folder / "whole", contents)
    assert sharded.digest == whole.digest
    assert_same(read_bundle(sharded.path).tensors(), tensors)


def test_shards_are_filled_in_order_of_names() -> None:
    num_bytes = {"d": 4, "a": 4, "c": 8, "b": 4}
    assert plan_shards(num_bytes, 8) == {
        "weights-00001-of-00003.safetensors": ["a", "b"],
        "weights-00002-of-00003.safetensors": ["c"],
        "weights-00003-of-00003.safetensors": ["d"],
    }
    # A tensor larger than the limit has a file of its own.
    assert [*plan_shards(num_bytes, 5).values()] == [["a"], ["b"], ["c"], ["d"]]
    assert plan_shards({}, 8) == {}


def test_no_tensors_and_no_tables(tmp_path: Path) -> None:
    contents = Contents(schema={}, spec={"kind": "popularity"}, layout={}, tensors={})
    bundle = write_bundle(tmp_path / "b", contents)
    assert [path.name for path in bundle.path.iterdir()] == ["manifest.json"]
    assert read_bundle(bundle.path).tensors() == {}
    assert bundle.encoders is None


def test_empty_and_chunked_tables(tmp_path: Path, make_contents: MakeContents) -> None:
    empty = pa.table({"a": pa.array([], pa.list_(pa.int64())), "b": pa.array([], pa.string())})
    whole = pa.table({"x": list(range(10)), "t": ["a", None] * 5})
    cut = pa.concat_tables([whole.slice(0, 3), whole.slice(3)])
    first = write_bundle(tmp_path / "a", make_contents(encoders=empty, catalogue=whole))
    second = write_bundle(tmp_path / "b", make_contents(encoders=empty, catalogue=cut))
    assert read_bundle(first.path).encoders == empty
    assert read_bundle(second.path).catalogue == whole
    assert first.digest == second.digest


def test_tied_and_overlapping_tensors(tmp_path: Path, make_contents: MakeContents) -> None:
    memory = torch.arange(10.0)
    tensors = {"a": memory, "tied": memory, "part": memory[2:5], "last": memory[8:]}
    parameter = torch.nn.Parameter(torch.ones(2))
    bundle = write_bundle(tmp_path / "b", make_contents(tensors={**tensors, "p": parameter}))
    assert_same(bundle.tensors(), {**tensors, "p": torch.ones(2)})
    assert not bundle.tensor("p").requires_grad


def test_writing_to_a_tensor_leaves_the_file(tmp_path: Path, make_contents: MakeContents) -> None:
    bundle = write_bundle(tmp_path / "b", make_contents())
    before = bundle.tensor("table.item").clone()
    mapped, all_mapped = bundle.tensor("table.item"), bundle.tensors()["table.item"]
    mapped.zero_()
    all_mapped.zero_()
    assert torch.equal(bundle.tensor("table.item"), before)
    assert read_bundle(bundle.path).digest == bundle.digest


def test_equal_contents_have_equal_digests(tmp_path: Path, make_contents: MakeContents) -> None:
    late = dataclasses.replace(
        make_contents().lineage[0],
        time="2031-01-01T00:00:00+00:00",
        seconds=99.0,
        effect={"weight_bytes": 12},
    )
    turned = dict(sorted(make_contents().tensors.items(), reverse=True))
    same = make_contents(lineage=(late,), tensors=turned, adaptable=("bias", "head.*", "bias"))
    first = write_bundle(tmp_path / "a", make_contents())
    second = write_bundle(tmp_path / "b", same, shard_bytes=100)
    assert len(second.files) > len(first.files)
    assert first.digest == second.digest
    read = read_bundle(second.path).lineage[0]
    assert read.seconds == 99.0
    assert read.effect == {"weight_bytes": 12}
    assert "effect" not in json.loads((first.path / "manifest.json").read_text())["lineage"][0]


def changed_tensors(contents: Contents, **tensors: Tensor) -> dict[str, Tensor]:
    return {**contents.tensors, **tensors}


BIAS = torch.tensor(0.5)
CHANGES: dict[str, Callable[[Contents], dict[str, Any]]] = {
    "schema": lambda c: {"schema": {"features": {"user": "id", "item": "hash"}}},
    "order of features": lambda c: {"schema": {"features": {"item": "id", "user": "id"}}},
    "spec": lambda c: {"spec": {**c.spec, "rate": 0.2}},
    "layout": lambda c: {"layout": {}},
    "adaptable": lambda c: {"adaptable": ("*",)},
    "verb": lambda c: {"lineage": (Step(verb="adapt", settings={"seed": 1}, data="d" * 64),)},
    "settings": lambda c: {"lineage": (c.lineage[0].replace(settings={"seed": 2}),)},
    "parents": lambda c: {"lineage": (c.lineage[0].replace(parents=["a" * 64]),)},
    "data": lambda c: {"lineage": (c.lineage[0].replace(data=None),)},
    "ledger": lambda c: {"lineage": (c.lineage[0].replace(ledger={"epsilon": 1.0}),)},
    "version": lambda c: {"lineage": (c.lineage[0].replace(version="9.9"),)},
    "a step more": lambda c: {"lineage": (*c.lineage, *c.lineage)},
    "a value": lambda c: {"tensors": changed_tensors(c, bias=BIAS)},
    "a dtype": lambda c: {"tensors": changed_tensors(c, bias=c.tensors["bias"].view(torch.int32))},
    "a shape": lambda c: {"tensors": changed_tensors(c, bias=c.tensors["bias"].reshape(1))},
    "a tensor more": lambda c: {"tensors": changed_tensors(c, more=BIAS)},
    "a tensor fewer": lambda c: {"tensors": {"bias": c.tensors["bias"]}},
    "names exchanged": lambda c: {
        "tensors": changed_tensors(
            c, **{"head.weight": c.tensors["bias"], "bias": c.tensors["head.weight"]}
        )
    },
    "encoders": lambda c: {"encoders": pa.table({"name": ["user"]})},
    "catalogue": lambda c: {"catalogue": None},
    "tables exchanged": lambda c: {"encoders": c.catalogue, "catalogue": c.encoders},
    "users": lambda c: {"users": c.encoders},
}


@pytest.mark.parametrize("name", CHANGES)
def test_anything_covered_changes_the_digest(
    tmp_path: Path, make_contents: MakeContents, name: str
) -> None:
    contents = make_contents()
    before = write_bundle(tmp_path / "a", contents)
    after = write_bundle(tmp_path / "b", make_contents(**CHANGES[name](contents)))
    assert before.digest != after.digest
    assert read_bundle(after.path).digest == after.digest


def test_files_have_the_rights_of_their_folder(tmp_path: Path, make_contents: MakeContents) -> None:
    bundle = write_bundle(tmp_path / "b", make_contents())
    rights = {path.name: path.stat().st_mode & 0o777 for path in bundle.path.iterdir()}
    assert set(rights.values()) == {bundle.path.stat().st_mode & 0o666}


def test_contents_can_be_changed_and_written_again(
    tmp_path: Path, make_contents: MakeContents
) -> None:
    bundle = write_bundle(tmp_path / "b", make_contents())
    copied = write_bundle(tmp_path / "c", bundle.contents())
    assert copied.digest == bundle.digest
    # In its own place too: the tensors stay mapped to the old files until the new ones stand.
    contents = dataclasses.replace(bundle.contents(), layout={"new": True})
    replaced = write_bundle(bundle.path, contents, overwrite=True)
    assert read_bundle(bundle.path).layout == {"new": True}
    assert_same(replaced.tensors(), copied.tensors())


def test_a_relative_path_and_a_link_to_a_bundle(
    tmp_path: Path, make_contents: MakeContents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    bundle = write_bundle("b", make_contents())
    (tmp_path / "latest").symlink_to("b")
    found = read_bundle("latest")
    monkeypatch.chdir(os.sep)
    assert torch.equal(found.tensor("bias"), bundle.tensor("bias"))
    write_bundle(tmp_path / "latest", make_contents(layout={}), overwrite=True)
    assert (tmp_path / "latest").is_symlink()
    assert read_bundle(tmp_path / "b").layout == {}


@pytest.mark.parametrize(
    ("name", "tensor", "words"),
    [
        ("x", torch.zeros(2, dtype=torch.complex64), "tensor 'x' has dtype complex64; allowed:"),
        ("x", torch.zeros(2, device="meta"), "tensor 'x' has no data: it is on the meta device"),
        ("x", torch.eye(2).to_sparse(), "tensor 'x' must be dense"),
        ("x", [1.0], "tensor 'x' must be a torch tensor; got list"),
        ("__metadata__", torch.zeros(2), "tensor name '__metadata__' is not allowed"),
        ("\ud800", torch.zeros(2), "is not allowed: safetensors cannot store it"),
    ],
)
def test_tensors_that_cannot_be_stored(
    tmp_path: Path, make_contents: MakeContents, name: str, tensor: Tensor, words: str
) -> None:
    with pytest.raises(BundleError, match=words):
        write_bundle(tmp_path / "b", make_contents(tensors={name: tensor}))
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"spec": {"name": "deepfm"}}, "spec.kind must be text; got None"),
        ({"spec": {"kind": "net", "f": len}}, "spec.f must be text, .*; got builtin_function"),
        ({"schema": {"a": [1, {2: 3}]}}, r"schema.a\[1\]: a key must be text; got 2"),
        ({"layout": {"x": float("nan")}}, "layout.x must be a finite number; got nan"),
        ({"adaptable": (3,)}, "adaptable must be names; got 3"),
        ({"encoders": {"a": 1}}, "encoders.arrow must be an Arrow table; got dict"),
    ],
)
def test_plain_parts_that_cannot_be_stored(
    tmp_path: Path, make_contents: MakeContents, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        write_bundle(tmp_path / "b", make_contents(**changes))
    assert not any(tmp_path.iterdir())


def test_shard_bytes_must_be_positive(tmp_path: Path, make_contents: MakeContents) -> None:
    with pytest.raises(ConfigError, match="shard_bytes must be positive; got 0"):
        write_bundle(tmp_path / "b", make_contents(), shard_bytes=0)


def test_a_step_is_checked_and_becomes_plain() -> None:
    step = Step(verb="train", settings={"sizes": (1, 2)}, ledger={"epsilon": 2.0})
    assert step.settings == {"sizes": [1, 2]}
    assert Step.from_dict(step.to_dict()) == step
    assert set(step.to_dict()) - set(step.lasting()) == {"time", "seconds"}
    with pytest.raises(ConfigError, match=r"verb must be lower-case letters.*got 'Train it'"):
        Step(verb="Train it")
    with pytest.raises(ConfigError, match="parents must be SHA-256 digests; got 'abc'"):
        Step(verb="train", parents=("abc",))
    with pytest.raises(ConfigError, match=r"settings.x must be a finite number; got inf"):
        Step(verb="train", settings={"x": float("inf")})


def test_adaptable_parameters(tmp_path: Path, make_contents: MakeContents) -> None:
    tensors = {**make_contents().tensors, "odd[1]": BIAS}
    contents = make_contents(tensors=tensors, adaptable=("head.*", "odd[1]"))
    bundle = write_bundle(tmp_path / "b", contents)
    assert adaptable_names(bundle) == ("head.weight", "odd[1]")
    require_adaptable(bundle, ["head.weight", "odd[1]"])
    words = r"these parameters are frozen: bias, table.user; adaptable: head.\*, odd\[1\]"
    with pytest.raises(BundleError, match=words):
        require_adaptable(bundle, ["bias", "head.weight", "table.user"])
    with pytest.raises(BundleError, match=r"has no parameter 'haed.weight'"):
        require_adaptable(bundle, ["haed.weight"])
    frozen = write_bundle(tmp_path / "c", make_contents(adaptable=()))
    with pytest.raises(BundleError, match="frozen: bias; adaptable: none"):
        require_adaptable(frozen, ["bias"])


def test_an_unknown_tensor(tmp_path: Path, make_contents: MakeContents) -> None:
    bundle = write_bundle(tmp_path / "b", make_contents())
    with pytest.raises(BundleError, match="has no tensor 'tail'"):
        bundle.tensor("tail")
