"""Which weights of a net read which field, found by trying; its weights with fewer or more fields.

A weight that multiplies a field has a zero gradient where that field is zero in every row. So each
field is set to zero once, and the weights that then have no gradient are its own. That holds for
any net, whatever it does with its fields, and needs no list of nets.

Shapes: B rows, F fields, D embedding, L history.
"""

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from scalerec.data.layout import Layout
from scalerec.errors import ConfigError
from scalerec.models.inputs import History, Inputs

__all__ = ["draw_inputs", "field_places", "narrow_net", "widen_net"]

ROWS = 64
# Large enough that no unit is silent in all rows, small enough that no sigmoid is flat.
DEVIATION = 0.3

Places = dict[str, dict[int, dict[int, Tensor]]]


def field_places(
    net: nn.Module, layout: Layout, dim: int, numbers: Sequence[int] | None = None
) -> Places:
    """Find the weights that read one field alone.

    Args:
        net: From `Inputs` to logits; its weights do not matter, only its shape.
        layout: Of its inputs.
        dim: D.
        numbers: Those of the fields that are asked about; none for all.

    Returns:
        By parameter, axis and number of the field, the places along the axis, ``[n]`` int64. A
        field that an axis has no place of is not named.
    """
    probe = copy.deepcopy(net).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for own in probe.parameters():
            own.copy_(torch.randn(own.shape, generator=generator) * DEVIATION)
    inputs = draw_inputs(layout, dim, generator)
    parts_bc = torch.randn(ROWS, layout.num_outputs, generator=generator)
    before = _gradients(probe, inputs, parts_bc)
    places: Places = {}
    for number in range(layout.num_fields) if numbers is None else numbers:
        after = _gradients(probe, _without(inputs, layout, number), parts_bc)
        for name, gradient in before.items():
            for axis in range(gradient.ndim):
                silent = _any(gradient, axis) & ~_any(after[name], axis)
                found = silent.nonzero().flatten()
                if 0 < len(found) < len(silent):
                    places.setdefault(name, {}).setdefault(axis, {})[number] = found
    return places


def draw_inputs(layout: Layout, dim: int, generator: torch.Generator) -> Inputs:
    """Random inputs of a layout, with three items in each history, for trying a net.

    Args:
        layout: Of the inputs.
        dim: D.
        generator: Draws them.
    """
    histories = []
    for bag in layout.bags:
        if bag.history:
            values = torch.randn(ROWS, 3, dim, generator=generator)
            targets = layout.targets_of(bag)
            mask = torch.ones(ROWS, 3, dtype=torch.bool)
            histories.append(History(values, mask, targets[0] if targets else None))
    return Inputs(
        fields=torch.randn(ROWS, layout.num_fields, dim, generator=generator),
        linear=torch.randn(ROWS, generator=generator),
        dense=torch.randn(ROWS, len(layout.numbers), generator=generator),
        histories=tuple(histories),
    )


def _without(inputs: Inputs, layout: Layout, number: int) -> Inputs:
    """The inputs with one field zero."""
    fields = inputs.fields.clone()
    fields[:, number] = 0.0
    names = [bag.name for bag in layout.bags if bag.history]
    histories = [
        History(torch.zeros_like(h.values), h.mask, h.target)
        if name == layout.fields[number].name
        else h
        for name, h in zip(names, inputs.histories, strict=True)
    ]
    return Inputs(fields, inputs.linear, inputs.dense, tuple(histories))


def _gradients(net: nn.Module, inputs: Inputs, parts_bc: Tensor) -> dict[str, Tensor]:
    named = dict(net.named_parameters())
    with torch.enable_grad():
        # Squared, so that what the outputs have in common counts too.
        loss = ((net(inputs).float() - parts_bc) ** 2).sum()
        if not loss.requires_grad:
            return {}
        found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return {n: g for n, g in zip(named, found, strict=True) if g is not None}


def _any(gradient: Tensor, axis: int) -> Tensor:
    """Along an axis, whether any gradient there is not zero."""
    return gradient.movedim(axis, 0).unsqueeze(-1).flatten(1).ne(0).any(1)


@torch.no_grad()
def narrow_net(
    net: nn.Module, layout: Layout, dim: int, dropped: Sequence[str], narrow: nn.Module
) -> None:
    """Fill a net that was built without some fields from the one that has them all.

    Args:
        net: With all fields.
        layout: Its layout.
        dim: D.
        dropped: Names of the fields that `narrow` lacks.
        narrow: Built on the layout without them; its tensors are written.

    Raises:
        ConfigError: If a tensor of it has no counterpart, or it cannot be told which part of a
            tensor belongs to the fields.
    """
    numbers = [i for i, field in enumerate(layout.fields) if field.name in dropped]
    places = field_places(net, layout, dim, numbers)
    given, histories = net.state_dict(), _histories(layout, dropped)
    for name, own in narrow.state_dict().items():
        source = _renamed(name, histories)
        if source not in given or given[source].ndim != own.ndim:
            raise ConfigError(
                f"fields {', '.join(dropped)} cannot be left out: the net without them has a part "
                f"{name!r} that the net with them has not"
            )
        tensor = given[source]
        for axis in range(own.ndim):
            if tensor.shape[axis] != own.shape[axis]:
                at = places.get(source, {}).get(axis, {})
                size = own.shape[axis]
                kept = _kept(source, tensor.shape[axis], size, at, numbers, layout.num_fields)
                tensor = tensor.index_select(axis, kept)
        own.copy_(tensor)


@torch.no_grad()
def widen_net(
    net: nn.Module,
    layout: Layout,
    dim: int,
    added: Sequence[str],
    given: Mapping[str, Tensor],
    muted: Sequence[str] = (),
) -> list[str]:
    """Fill a net that was built with more fields from the tensors of one without them.

    What belongs to the added fields alone stays as it is.

    Args:
        net: With all fields; its tensors are written.
        layout: Its layout.
        dim: D.
        added: Names of the fields that the other net lacks.
        given: The other net's tensors.
        muted: Those of the added fields whose weights become zero.

    Returns:
        Names of given tensors that found no place, since the net with more fields is built
        otherwise there; what it has in their place stays as it is.
    """
    numbers = [i for i, field in enumerate(layout.fields) if field.name in added]
    places = field_places(net, layout, dim, numbers)
    own, histories, lost = net.state_dict(), _histories(layout, added), []
    for name, tensor in given.items():
        target = _renamed(name, histories)
        if target not in own or own[target].ndim != tensor.ndim:
            lost.append(name)
            continue
        wide, kept = own[target], []
        try:
            for axis, size in enumerate(tensor.shape):
                at = places.get(target, {}).get(axis, {})
                kept.append(_among(target, wide.shape[axis], size, at, numbers, layout.num_fields))
        except ConfigError:
            lost.append(name)
            continue
        if kept:
            wide[torch.meshgrid(*kept, indexing="ij")] = tensor.to(wide.dtype)
        else:
            wide.copy_(tensor)
    _mute(own, places, [i for i, field in enumerate(layout.fields) if field.name in muted])
    return lost


def _mute(tensors: Mapping[str, Tensor], places: Places, numbers: Sequence[int]) -> None:
    """Set the weights that read one of these fields alone to zero."""
    for name, axes in places.items():
        for axis, at in axes.items():
            for number in numbers:
                if number in at:
                    tensors[name].index_fill_(axis, at[number], 0.0)


def _among(
    name: str, size: int, wanted: int, at: Mapping[int, Tensor], numbers: list[int], total: int
) -> Tensor:
    """As `_kept`; all places where none is to go."""
    if size == wanted:
        return torch.arange(size)
    if size < wanted:
        raise ConfigError(f"{name!r} has {size} places for {wanted}")
    return _kept(name, size, wanted, at, numbers, total)


def _kept(
    name: str, size: int, wanted: int, at: Mapping[int, Tensor], numbers: list[int], total: int
) -> Tensor:
    """The places along an axis that do not belong to some fields."""
    kept = torch.ones(size, dtype=torch.bool)
    for number in numbers:
        if number in at:
            kept[at[number]] = False
    if int(kept.sum()) != wanted:
        # Fields that look at each other, as in attention, are never silent: then they must lie
        # side by side, all of one size, with whatever is no field's behind them.
        block, odd = divmod(size - wanted, len(numbers))
        if odd or block * total > size:
            raise ConfigError(f"it cannot be told which part of {name!r} belongs to which field")
        kept = torch.ones(size, dtype=torch.bool)
        kept[: block * total].view(total, block)[numbers] = False
    return kept.nonzero().flatten()


def _histories(layout: Layout, dropped: Sequence[str]) -> list[int]:
    """The numbers of the histories that are left."""
    names = [bag.name for bag in layout.bags if bag.history]
    return [number for number, name in enumerate(names) if name not in dropped]


def _renamed(name: str, histories: list[int]) -> str:
    """A tensor's name in the net that has all histories: each has a part of its own, by number."""
    head, _, rest = name.partition(".")
    if head != "attentions":
        return name
    number, _, tail = rest.partition(".")
    return f"{head}.{histories[int(number)]}.{tail}"
