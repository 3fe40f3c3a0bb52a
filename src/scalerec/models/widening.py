"""A recommender with more fields: what it gave stays, and a new field starts by saying nothing.

The embeddings of a new field start at zero: the rows of its ids, the vector of a number, the image
of a vector. Whatever they are multiplied with adds nothing, so every score is as before; and since
those weights are drawn, the embeddings learn from the first step. A new field that reads a table
that is there already does not start at zero; the weights that read it alone do.

Where a net looks at all fields at once, as attention does, or adds up what it finds in rows, as a
factorisation machine does with rows that another field shares, scores move. It is found by trying.

Shapes: F fields, D embedding, N numbers, W columns of a row.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from scalerec.data.layout import BagField, IdField, Layout
from scalerec.data.narrowing import Widening
from scalerec.data.vocabulary import FIRST_ID
from scalerec.models.inputs import Inputs
from scalerec.models.places import draw_inputs, widen_net
from scalerec.models.placing import sparse_names
from scalerec.models.recommender import ModelSpec, Recommender
from scalerec.models.sparse import join_sparse

__all__ = ["Widened", "reading", "widen"]


@dataclass(frozen=True, slots=True)
class Widened:
    """Tensors of a recommender with more fields.

    Args:
        tensors: All outside the tables, by name.
        exact: Whether its net gives what the one without the new fields gave.
        lost: Tensors of the earlier net that found no place; what stands there was drawn.
    """

    tensors: dict[str, Tensor]
    exact: bool
    lost: tuple[str, ...]


@torch.no_grad()
def widen(new: Recommender, before: Layout, tensors: Mapping[str, Tensor]) -> Widened:
    """Give the tensors of a recommender with more fields from those of the one without them.

    Args:
        new: Drawn for the layout with all fields; its net is written.
        before: The layout without the new ones.
        tensors: What `Recommender.to_tensors` gave before.

    Raises:
        ConfigError: If the layout with all fields is no continuation of the other.
    """
    layout, dim = new.narrow.layout, new.spec.net_config().dim
    earlier = before.without(new.spec.forms.fields)
    names = layout.beyond(earlier)
    old = _small(new.spec, before)
    state = old.state_dict()
    shapes = {name: state[name].shape for name in sparse_names(new.spec.forms.layers)}
    given = {
        name: tensor
        for name, tensor in join_sparse(tensors, shapes).items()
        if not name.startswith("tables.")
    }
    net = {name.removeprefix("net."): t for name, t in given.items() if name.startswith("net.")}
    old.net.load_state_dict(net)
    muted = [
        field.name
        for field in layout.fields
        if field.name in names
        and isinstance(field, IdField | BagField)
        and field.table in earlier.tables
    ]
    lost = widen_net(new.net, layout, dim, names, net, muted)
    whole = {name: tensor for name, tensor in given.items() if not name.startswith("net.")}
    whole |= {f"net.{name}": tensor for name, tensor in new.net.state_dict().items()}
    whole["embedder.numbers"] = _numbers(layout, earlier, given["embedder.numbers"])
    whole |= _images(layout, earlier, given, dim + 1)
    exact = not lost and _gives_same(new, old, earlier, muted)
    return Widened(whole, exact, tuple(f"net.{name}" for name in lost))


def reading(recommender: Recommender, earlier: Layout) -> Recommender:
    """The same recommender for batches of an earlier layout, whose missing fields count as missing.

    It shares all of its parts with the given one, which is given back where no field is missing.

    Args:
        recommender: Of a layout that goes on from the other.
        earlier: Of the batches.

    Raises:
        ConfigError: If its layout does not go on from the other.
    """
    if not recommender.layout.beyond(earlier):
        return recommender
    view, tables = copy.copy(recommender), copy.copy(recommender.tables)
    view._modules = {**recommender._modules, "tables": tables}
    narrow = Widening(earlier, recommender.layout, recommender.narrow)
    view.narrow = tables.narrow = narrow
    view.layout = earlier
    return view


def _small(spec: ModelSpec, layout: Layout) -> Recommender:
    """The recommender as it was, but for its tables and what makes rows of them."""
    tables = dict.fromkeys(layout.tables, FIRST_ID)
    plain = replace(spec, forms=replace(spec.forms, tables={}), warm_ups=())
    generator = torch.Generator().manual_seed(0)
    return Recommender(replace(layout, tables=tables), plain, generator, draw_tables=False).eval()


def _numbers(layout: Layout, earlier: Layout, given_nw: Tensor) -> Tensor:
    """The numbers' vectors, zero for new ones."""
    known = {field.name for field in earlier.numbers}
    own = [place for place, field in enumerate(layout.numbers) if field.name in known]
    whole = given_nw.new_zeros(len(layout.numbers), given_nw.shape[1])
    whole[own] = given_nw
    return whole


def _images(
    layout: Layout, earlier: Layout, given: Mapping[str, Tensor], width: int
) -> dict[str, Tensor]:
    """What images of vectors are made with, zero for new ones."""
    places = {field.name: place for place, field in enumerate(earlier.vectors)}
    found = {}
    for place, field in enumerate(layout.vectors):
        known = places.get(field.name)
        own = torch.zeros(field.dim, width) if known is None else given[f"embedder.vectors.{known}"]
        found[f"embedder.vectors.{place}"] = own
    return found


def _gives_same(new: Recommender, old: Recommender, earlier: Layout, muted: list[str]) -> bool:
    """Whether both nets give the same for random inputs, new fields being as they start."""
    layout, dim = new.narrow.layout, new.spec.net_config().dim
    generator = torch.Generator().manual_seed(1)
    whole = draw_inputs(layout, dim, generator)
    fields, linear = whole.fields.clone(), whole.linear.clone()
    known = [field.name for field in earlier.fields]
    for number, field in enumerate(layout.fields):
        if field.name in known:
            continue
        if field.name in muted:
            # Rows that are there already have a first-order weight too.
            linear += torch.randn(len(linear), generator=generator)
        else:
            fields[:, number] = 0.0
    bags = [field.name for field in layout.bags if field.history]
    histories = tuple(
        own if name in known or name in muted else replace(own, values=own.values * 0.0)
        for name, own in zip(bags, whole.histories, strict=True)
    )
    wide = replace(whole, fields=fields, linear=linear, histories=histories)
    targets = draw_inputs(earlier, dim, generator).histories
    kept = [own for name, own in zip(bags, whole.histories, strict=True) if name in known]
    narrow = Inputs(
        fields=fields[:, [i for i, field in enumerate(layout.fields) if field.name in known]],
        linear=whole.linear,
        dense=whole.dense[:, [i for i, f in enumerate(layout.numbers) if f.name in known]],
        histories=tuple(
            replace(own, target=like.target) for own, like in zip(kept, targets, strict=True)
        ),
    )
    training = new.net.training
    after, before = new.net.eval()(wide), old.net(narrow)
    new.net.train(training)
    return torch.allclose(after, before, rtol=1e-4, atol=1e-5)
