"""Recommenders that were made smaller: without some units, fields or columns, with shared rows.

Each function gives a new recommender, whose forms say how it differs from its net of the zoo, and
leaves the given one as it is.

Shapes: R rows of a table, D columns of an embedding, d of them that stay.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from scalerec.compress.fields import FieldConfig, choose_fields
from scalerec.compress.inherit import count_reads, principal_directions
from scalerec.compress.neurons import NeuronConfig, measure_units, prune_units
from scalerec.compress.rows import (
    ColumnConfig,
    RowConfig,
    choose_columns,
    choose_rows,
    column_importance,
    row_importance,
    share_rows,
    unit_basis,
)
from scalerec.config import require
from scalerec.data.batches import Batch
from scalerec.data.dataset import Dataset
from scalerec.errors import ConfigError
from scalerec.models.forming import formed
from scalerec.models.forms import LayerForm, TableForm
from scalerec.models.places import narrow_net
from scalerec.models.recommender import Recommender
from scalerec.models.rowmap import stored_map

__all__ = [
    "check_float",
    "reads_by_table",
    "share_table_rows",
    "without_columns",
    "without_fields",
    "without_least_fields",
    "without_units",
]


def without_units(
    recommender: Recommender, config: NeuronConfig, batch: Batch | None = None
) -> Recommender:
    """A recommender whose net has fewer units.

    Args:
        recommender: Its towers are pruned where an `Mlp` is one; experts of MMoE and PLE and the
            towers of several tasks keep their sizes.
        config: Which units go; layers are named as ``net.tower.0``.
        batch: Rows whose mean activations count in; none to go by weights alone.

    Raises:
        ConfigError: If no units can go, or the config does not fit.
    """
    activations = None
    if batch is not None:
        activations = measure_units(recommender, lambda: recommender(batch))
    small = _Root(copy.deepcopy(recommender.net))
    prune_units(small, config, activations)
    forms = dict(recommender.spec.forms.layers)
    for name, layer in small.named_modules():
        form = _resized(recommender, name, layer)
        if form is not None:
            forms[name] = form
    after = replace(recommender.spec.forms, layers=forms)
    return formed(recommender, after, small.state_dict())


def _resized(recommender: Recommender, name: str, layer: nn.Module) -> LayerForm | None:
    """The form of a layer that has other sizes than the recommender's; none where they are its."""
    form = recommender.spec.forms.layers.get(name, LayerForm())
    before = recommender.get_submodule(name)
    if isinstance(layer, nn.Linear) and isinstance(before, nn.Linear):
        after = form
        if layer.in_features != before.in_features:
            after = replace(after, inputs=layer.in_features)
        if layer.out_features != before.out_features:
            after = replace(after, outputs=layer.out_features)
        return None if after is form else after
    if isinstance(layer, nn.BatchNorm1d) and isinstance(before, nn.BatchNorm1d):
        changed = layer.num_features != before.num_features
        return replace(form, outputs=layer.num_features) if changed else None
    return None


class _Root(nn.Module):
    """Gives a net's modules the names that they have in a recommender."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net


def without_fields(recommender: Recommender, names: Sequence[str]) -> Recommender:
    """A recommender that does not read some fields; what others gave stays the same.

    Where a field's embedding is zero, as an absent value's is, it gives what it gave with it (but
    for AutoInt, whose fields look at each other).

    Args:
        recommender: Its layers are of float32 and whole, not factors.
        names: Fields of its layout that it reads so far.

    Raises:
        ConfigError: If the net cannot do without them, or there is no such field.
    """
    before = recommender.narrow.layout
    after = before.without(names)
    forms = recommender.spec.forms
    for name, form in forms.layers.items():
        plain = not form.rank and form.bits == 32
        require(plain, f"leave out fields before layer {name!r} is given another form")
    tables = {name: form for name, form in forms.tables.items() if name in after.tables}
    changed = replace(forms, fields=(*forms.fields, *names), tables=tables)
    spec = replace(recommender.spec, forms=changed)
    new = Recommender(recommender.layout, spec, torch.Generator().manual_seed(0), draw_tables=False)
    dim = spec.net_config().dim
    narrow_net(recommender.net, before, dim, names, new.net)
    tensors = _Root(new.net).state_dict()
    own = [i for i, field in enumerate(before.numbers) if field.name not in names]
    tensors["embedder.numbers"] = recommender.embedder.numbers.detach()[own]
    vectors = [
        vector.detach()
        for vector, field in zip(recommender.embedder.vectors, before.vectors, strict=True)
        if field.name not in names
    ]
    tensors |= {f"embedder.vectors.{i}": vector for i, vector in enumerate(vectors)}
    return formed(recommender, changed, tensors)


def without_least_fields(
    recommender: Recommender, importance: Mapping[str, float], config: FieldConfig
) -> Recommender:
    """A recommender without the fields that matter least, of those that its net can do without.

    Args:
        recommender: As for `without_fields`.
        importance: By field, such as from `permutation_importance`.
        config: How many go.

    Raises:
        ConfigError: If the net cannot do without so many.
    """
    wanted = len(choose_fields(importance, config))
    dropped: list[str] = []
    small, fault = recommender, ""
    for name in sorted(importance, key=lambda own: importance[own]):
        if len(dropped) < wanted:
            try:
                small = without_fields(recommender, [*dropped, name])
                dropped.append(name)
            except ConfigError as error:
                fault = str(error)
    if len(dropped) < wanted:
        raise ConfigError(f"{len(dropped)} fields can be left out, not {wanted}: {fault}")
    return small


def reads_by_table(recommender: Recommender, dataset: Dataset) -> dict[str, Tensor]:
    """How often training rows read each row of each table, ``[R]`` float64.

    Args:
        recommender: Its tables are of float32.
        dataset: Of its layout; of very many training rows the first are counted.

    Raises:
        ConfigError: If a table holds codes.
    """
    check_float(recommender)
    counts, tables = count_reads(recommender, dataset), recommender.tables
    return dict(zip(tables.num_rows, counts.split(list(tables.num_rows.values())), strict=True))


def check_float(recommender: Recommender) -> None:
    """Refuse a recommender with tables of codes, whose rows and columns can no longer go.

    Raises:
        ConfigError: If a table holds codes.
    """
    for name, form in recommender.spec.forms.tables.items():
        fits = form.bits == 32
        require(fits, f"rows and columns of table {name!r} go before it is given {form.bits} bits")


def _own_tables(recommender: Recommender, asked: Mapping[str, float]) -> list[str]:
    """The tables of which each row is one id's, or that of a row map."""
    check_float(recommender)
    forms, known = recommender.spec.forms.tables, list(recommender.tables.num_rows)
    own = [name for name in known if name not in forms or forms[name].sharing == "own"]
    for name in asked:
        there = name in known
        require(there, f"there is no table {name!r}; there is {', '.join(known)}")
        require(name in own, f"rows of table {name!r} are shared already: {forms.get(name)}")
    return own


@torch.no_grad()
def share_table_rows(
    recommender: Recommender, reads: Mapping[str, Tensor], config: RowConfig
) -> Recommender:
    """A recommender some of whose ids share a row of their table.

    Args:
        recommender: Its tables are of float32; those that share by hashes are left alone.
        reads: From `reads_by_table`.
        config: Which rows go.

    Raises:
        ConfigError: If the config names a table that is not there, or that cannot share.
    """
    tensors, old = {}, recommender.to_tensors()
    for name in _own_tables(recommender, {**config.ratios, **config.thresholds}):
        weight, rows = old[f"tables.{name}.weight"], stored_map(old, name)
        kept = choose_rows(row_importance(weight, reads[name], config.by), name, config)
        # One row that went for one that is shared would be no gain.
        if int((~kept).sum()) > (config.share == "mean"):
            shared = share_rows(weight, rows, kept, reads[name], config.share)
            tensors[f"tables.{name}.weight"] = shared.weight
            # Two bytes an id, or four: a table of small codes is not much larger than its map.
            wide = len(shared.weight) > torch.iinfo(torch.int16).max
            tensors[f"tables.{name}.rows"] = shared.rows.to(torch.int32 if wide else torch.int16)
    return formed(recommender, recommender.spec.forms, tensors)


@torch.no_grad()
def without_columns(
    recommender: Recommender, reads: Mapping[str, Tensor], config: ColumnConfig
) -> Recommender:
    """A recommender whose tables store fewer columns of their embeddings, each its own number.

    Args:
        recommender: Its tables are of float32; those that share by hashes are left alone.
        reads: From `reads_by_table`.
        config: Which columns go.

    Raises:
        ConfigError: If the config names a table that is not there, or that shares rows.
    """
    names = _own_tables(recommender, config.ratios)
    dim = recommender.spec.net_config().dim
    old, forms = recommender.to_tensors(), dict(recommender.spec.forms.tables)
    weights, bases = {}, {}
    for name in names:
        weight, basis = old[f"tables.{name}.weight"], _basis(recommender, name, dim)
        turned = _turned(weight, basis, reads[name]) if config.turn else (weight, basis)
        weights[name], bases[name] = turned
    importance = {
        name: column_importance(weight, reads[name])
        * torch.linalg.vector_norm(bases[name].double(), dim=1)
        for name, weight in weights.items()
    }
    num_rows = {name: len(weight) for name, weight in weights.items()}
    tensors, changed = {}, {}
    for name, kept in choose_columns(importance, num_rows, config).items():
        if len(kept) == old[f"tables.{name}.weight"].shape[1] - 1:
            continue
        forms[name] = replace(forms.get(name, TableForm()), dim=len(kept))
        tensors[f"tables.{name}.weight"] = weights[name][:, [*kept.tolist(), -1]]
        changed[name] = bases[name][kept]
    after = replace(recommender.spec.forms, tables=forms)
    # Bases are numbered in the order of the tables that have one.
    based = [n for n in recommender.narrow.layout.tables if n in forms and forms[n].dim]
    for number, name in enumerate(based):
        if name in changed:
            tensors[f"shaped.bases.{number}"] = changed[name]
    return formed(recommender, after, tensors)


def _basis(recommender: Recommender, name: str, dim: int) -> Tensor:
    """What a table's stored columns are multiplied with, ``[d, D]``."""
    found = None if recommender.shaped is None else recommender.shaped.basis(name)
    return unit_basis(torch.arange(dim), dim) if found is None else found.detach()


def _turned(weight_rp: Tensor, basis_pd: Tensor, counts_r: Tensor) -> tuple[Tensor, Tensor]:
    """A table in its principal directions, with as many columns as it stores, and their basis."""
    counts = counts_r if bool(counts_r.any()) else torch.ones_like(counts_r)
    whole_rd = weight_rp[:, :-1] @ basis_pd
    turn_dp = principal_directions(whole_rd, counts, len(basis_pd))
    return torch.cat([whole_rd @ turn_dp, weight_rp[:, -1:]], 1), turn_dp.T.contiguous()
