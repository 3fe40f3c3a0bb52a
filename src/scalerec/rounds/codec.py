"""Codecs: what happens to an update on its way from a party to the server.

On its way an update is a message, a flat dict of tensors that can be written to safetensors as it
is, and whose bytes can be counted:

```text
weight                    number of examples, float64
dense/NAME                a displaced tensor
tables/NAME/rows          row numbers, int64
tables/NAME/values        their displacement
```

A codec may replace a tensor by others under longer names, as long as `decode` brings it back.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from scalerec.config import require
from scalerec.errors import RoundError
from scalerec.rounds.update import TableRows, Update

__all__ = ["Codec", "chain_codecs", "clip_norm", "identity", "message_bytes", "pack", "unpack"]

Message = Mapping[str, Tensor]
Encoded = tuple[dict[str, Tensor], dict[str, Tensor]]


class Codec(NamedTuple):
    """A step between party and server, in three pure functions.

    Args:
        init: The first state of a party, a flat dict of tensors (a residual, say).
        encode: Message, the party's state, its generator -> message to pass on, new state. A codec
            whose noise or mask protects privacy takes it from the operating system instead.
        decode: What arrives -> a message as before `encode`, with what was lost on the way lost.
    """

    init: Callable[[], dict[str, Tensor]]
    encode: Callable[[Message, Mapping[str, Tensor], torch.Generator], Encoded]
    decode: Callable[[Message], dict[str, Tensor]]


def identity() -> Codec:
    """The codec that changes nothing."""
    return Codec(dict, lambda message, _, __: (dict(message), {}), dict)


def clip_norm(max_norm: float) -> Codec:
    """Shrink an update whose L2 norm, over dense tensors and rows together, is above `max_norm`.

    Args:
        max_norm: The largest norm that passes unchanged, above 0.

    Raises:
        ConfigError: If `max_norm` is not above 0.
    """
    require(max_norm > 0, f"max_norm must be above 0; got {max_norm}")

    def encode(message: Message, _: Mapping[str, Tensor], __: torch.Generator) -> Encoded:
        update = unpack(message)
        # Divided by at least max_norm: a NaN stays NaN, so the server sees and counts it.
        factor = max_norm / update.norm().clamp(min=max_norm)
        return pack(update.scale(factor)), {}

    return Codec(dict, encode, dict)


def chain_codecs(*codecs: Codec) -> Codec:
    """One codec that encodes by each in order and decodes in the opposite order.

    Args:
        codecs: First to last; none give the identity.
    """

    def init() -> dict[str, Tensor]:
        return {f"{i}/{k}": v for i, codec in enumerate(codecs) for k, v in codec.init().items()}

    def encode(
        message: Message, state: Mapping[str, Tensor], generator: torch.Generator
    ) -> Encoded:
        current, after = dict(message), {}
        for i, codec in enumerate(codecs):
            head = f"{i}/"
            own = {k.removeprefix(head): v for k, v in state.items() if k.startswith(head)}
            current, changed = codec.encode(current, own, generator)
            after.update({head + k: v for k, v in changed.items()})
        return current, after

    def decode(message: Message) -> dict[str, Tensor]:
        current = dict(message)
        for codec in reversed(codecs):
            current = codec.decode(current)
        return current

    return Codec(init, encode, decode)


def pack(update: Update) -> dict[str, Tensor]:
    """The message that holds an update; no tensor is copied."""
    message = {"weight": torch.tensor(update.weight, dtype=torch.float64)}
    message |= {f"dense/{name}": tensor for name, tensor in update.dense.items()}
    for name, part in update.tables.items():
        message[f"tables/{name}/rows"] = part.rows
        message[f"tables/{name}/values"] = part.values
    return message


def unpack(message: Message) -> Update:
    """The update that a message holds, after all codecs were undone.

    Args:
        message: Named tensors, from anywhere.

    Raises:
        RoundError: If a name is unknown or missing, or shapes do not fit.
    """
    dense: dict[str, Tensor] = {}
    tables: dict[str, dict[str, Tensor]] = {}
    for key, tensor in message.items():
        kind, _, rest = key.partition("/")
        name, _, part = rest.rpartition("/")
        if kind == "dense" and rest:
            dense[rest] = tensor
        elif kind == "tables" and name and part in ("rows", "values"):
            tables.setdefault(name, {})[part] = tensor
        elif key != "weight":
            raise RoundError(
                f"a message holds weight, dense/NAME, tables/NAME/rows and tables/NAME/values; "
                f"got {key!r}"
            )
    if "weight" not in message or message["weight"].numel() != 1:
        raise RoundError("a message needs a weight, one number")
    for name, parts in tables.items():
        if len(parts) != 2:
            raise RoundError(f"table {name!r} needs rows and values; got {next(iter(parts))}")
    return Update(
        dense=dense,
        tables={name: TableRows(**parts) for name, parts in tables.items()},
        weight=float(message["weight"]),
    )


def message_bytes(tensors: Mapping[str, Tensor]) -> int:
    """The bytes of all tensors of a message, names not counted."""
    return sum(tensor.nbytes for tensor in tensors.values())
