"""Tables of other forms: built for a layout, with what makes embeddings of their rows."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch

from scalerec.data.layout import Layout
from scalerec.data.schema import Schema
from scalerec.errors import ConfigError
from scalerec.models.forms import Forms, TableForm
from scalerec.models.packed import PackedTables
from scalerec.models.sharing import ShapedRows, plan_shares, stored_layout, stored_width
from scalerec.models.tables import Tables

__all__ = ["MakeTables", "chosen_forms", "settle_forms", "shape_tables"]

# From a layout, the width of a row, a generator or none, and the deviation of initial rows.
MakeTables = Callable[[Layout, int, torch.Generator | None, float], Tables]


def chosen_forms(forms: Forms, schema: Schema, layout: Layout, dim: int) -> Forms:
    """Forms with what a schema says of embedding tables; what is given goes before it.

    Args:
        forms: As given.
        schema: The data set's.
        layout: The data set's.
        dim: D; a schema's smaller number of columns is taken over, a larger one means nothing.
    """
    tables = {
        name: TableForm(rows=own.rows, sharing=own.sharing, dim=own.dim if own.dim < dim else 0)
        for name, own in schema.embeddings.items()
        if name in layout.without(forms.fields).tables
    }
    tables = {name: form for name, form in tables.items() if form != TableForm()}
    return replace(forms, tables={**tables, **forms.tables}) if tables else forms


def settle_forms(forms: Forms, layout: Layout) -> Forms:
    """The forms with what follows from the ids at hand, so that it stays when ids are added.

    Args:
        forms: As they were chosen.
        layout: Of the batches that the net reads.

    Raises:
        ConfigError: If there are too few rows to tell the ids of a table apart.
    """
    tables = dict(forms.tables)
    for name, form in forms.tables.items():
        shares = plan_shares(name, form, layout.tables[name]) if name in layout.tables else None
        if shares is not None and shares.divisor != form.divisor:
            tables[name] = replace(form, divisor=shares.divisor)
    return replace(forms, tables=tables) if tables != forms.tables else forms


def shape_tables(
    layout: Layout,
    forms: Mapping[str, TableForm],
    dim: int,
    generator: torch.Generator | None,
    init_std: float,
    make_tables: MakeTables = Tables,
) -> tuple[Tables, ShapedRows | None]:
    """Build the tables of a recommender.

    Args:
        layout: Of the batches that the net reads.
        forms: Table to its form.
        dim: D.
        generator: Draws initial rows and bases; without one they are zero, to be loaded.
        init_std: Standard deviation of initial rows.
        make_tables: Makes the tables from the layout of what is stored.

    Returns:
        The tables, and what shapes looked-up rows; none where they are embeddings already.

    Raises:
        ConfigError: If there is no such table, or it cannot have the form.
    """
    for name, form in forms.items():
        if name not in layout.tables:
            known = ", ".join(layout.tables) or "there are none"
            raise ConfigError(f"forms.tables must name tables that are read: {known}; got {name!r}")
        if form.dim > dim:
            raise ConfigError(
                f"table {name!r}: dim must be at most {dim}, the net's; got {form.dim}"
            )
    found = {name: plan_shares(name, form, layout.tables[name]) for name, form in forms.items()}
    shares = {name: own for name, own in found.items() if own is not None}
    stored, width = stored_layout(layout, forms), stored_width(layout, forms, dim)
    dims = {name: (name in forms and forms[name].dim) or dim for name in layout.tables}
    if any(form.bits < 32 for form in forms.values()):
        if make_tables is not Tables:
            raise ConfigError("tables of 16, 8 or 4 bits are looked up in one process alone")
        tables: Tables = PackedTables(stored, width, forms, dims)
    else:
        same = all(own + 1 == width for own in dims.values())
        if make_tables is not Tables and not same:
            raise ConfigError(
                f"tables of several processes must store as many columns each; got {dims}"
            )
        tables = make_tables(stored, width, generator, init_std)
    if not forms:
        return tables, None
    tables.shape(shares, dims, layout.tables)
    if not any(form.is_shaped for form in forms.values()):
        return tables, None
    own = torch.Generator().manual_seed(0) if generator is None else generator
    return tables, ShapedRows(layout, forms, shares, dim, own)
