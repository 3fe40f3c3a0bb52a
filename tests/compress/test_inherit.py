"""Tables that a student takes over."""

import pytest
import torch
from tests.train.toys import narrow

from scalerec.compress.inherit import count_reads, inherit_tables, principal_directions
from scalerec.data.dataset import Dataset
from scalerec.errors import ConfigError
from scalerec.models.recommender import build_recommender

pytestmark = pytest.mark.usefixtures("one_thread")


def test_directions_by_hand() -> None:
    """Rows along two axes: the heavier axis comes first, by length and by weight."""
    rows = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    first = principal_directions(rows, torch.ones(2), 1)
    assert first.abs().flatten().tolist() == pytest.approx([1.0, 0.0])
    first = principal_directions(rows, torch.tensor([1.0, 9.0]), 1)
    assert first.abs().flatten().tolist() == pytest.approx([0.0, 1.0])


def test_all_directions_keep_products(generator: torch.Generator) -> None:
    rows = torch.randn(6, 4, generator=generator)
    turned = rows @ principal_directions(rows, torch.ones(6), 4)
    assert torch.allclose(turned @ turned.T, rows @ rows.T, atol=1e-5)


def test_directions_are_those_of_svd(generator: torch.Generator) -> None:
    rows = torch.randn(30, 5, generator=generator)
    _, _, vectors = torch.linalg.svd(rows)
    found = principal_directions(rows, torch.ones(30), 2)
    expected = vectors[:2].T
    assert torch.allclose(found @ found.T, expected @ expected.T, atol=1e-5)


def test_counts(rated: Dataset) -> None:
    recommender = build_recommender(rated.layout, narrow(), 1)
    counts = count_reads(recommender, rated)
    events = rated.split("train")
    batch = events.read(0, len(events))
    num_ids = batch.ids.numel() + sum(len(bag.values) for bag in batch.bags)
    assert counts.sum().item() == num_ids
    place = recommender.tables.start["item"] + int(batch.ids[1, 0])
    assert rated.layout.ids[1].table == "item"
    own = sum(
        int((ids == batch.ids[1, 0]).sum())
        for ids in (batch.ids[1], *(bag.values for bag in batch.bags))
    )
    assert counts[place].item() == own


def test_same_size_is_copied(rated: Dataset) -> None:
    teacher = build_recommender(rated.layout, narrow(), 1)
    student = inherit_tables(teacher, narrow(hidden=[3]), rated, 5)
    assert torch.equal(student.tables.matrix, teacher.tables.matrix)
    assert torch.equal(student.embedder.numbers, teacher.embedder.numbers)
    drawn = build_recommender(rated.layout, narrow(hidden=[3]), 5)
    first = "net.tower.0.weight"
    assert torch.equal(student.to_tensors()[first], drawn.to_tensors()[first])


def test_narrower(rated: Dataset) -> None:
    """First-order weights stay; ids of one shared row get a row each; padding stays zero."""
    teacher = build_recommender(rated.layout, narrow(), 1)
    with torch.no_grad():
        teacher.tables.matrix[:, -1] = torch.arange(len(teacher.tables.matrix)).float()
    teacher.tables.keep_padding_zero()
    num_ids = rated.layout.tables["item"]
    shared = torch.arange(num_ids)
    shared[-1] = 1
    teacher.tables.maps["item"].rows = shared
    student = inherit_tables(teacher, narrow(dim=3), rated, 5)
    own, theirs = student.tables.table("item"), teacher.tables.table("item")
    assert own.shape == (num_ids, 4)
    assert torch.equal(own[:-1, -1], theirs[:-1, -1])
    assert torch.equal(own[-1], own[1])
    assert torch.equal(own[0], torch.zeros(4))
    hashed = narrow(dim=3).replace(forms={"tables": {"item": {"sharing": "hash", "rows": 5}}})
    with pytest.raises(ConfigError, match="needs tables without other forms, of all fields"):
        inherit_tables(teacher, hashed, rated, 5)
    with pytest.raises(ConfigError, match="a dim of at most the teacher's 8; got 9"):
        inherit_tables(teacher, narrow(dim=9), rated, 5)
