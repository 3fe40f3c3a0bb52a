"""The largest numbers of an update, and what is left out kept for the next time."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from scalerec.config import require
from scalerec.errors import RoundError
from scalerec.rounds.codec import Codec, Encoded, Message

__all__ = ["missed_of_top", "top_k"]

DENSE = "dense/"
INDICES, VALUES, ERROR = "top/indices", "top/values", "error"


def top_k(share: float, shapes: Mapping[str, torch.Size], *, half: bool = False) -> Codec:
    """Send the numbers of largest magnitude of the dense part, all tensors taken together.

    What a party does not send it adds to its next update, so nothing is lost, only late: what was
    sent and what is kept sum to what came in, exactly. Tables' rows pass as they are.

    Papers: Sparse Communication for Distributed Gradient Descent, Aji and Heafield, 2017,
    https://arxiv.org/abs/1704.05021; Sparsified SGD with Memory, Stich et al., 2018, algorithm 1,
    https://arxiv.org/abs/1809.07599; with several local steps: Qsparse-local-SGD, Basu et al.,
    2019, https://arxiv.org/abs/1906.02367

    Args:
        share: Of all numbers, above 0 and at most 1; at least one is sent.
        shapes: Name to shape of every dense tensor, known to both sides; below 2^31 numbers in all.
        half: Whether values travel as bfloat16; what is rounded off is kept as well.

    Raises:
        ConfigError: If the share is outside its range, or there are too many numbers.
    """
    require(0 < share <= 1, f"the share of numbers must be above 0 and at most 1; got {share}")
    sizes = [shape.numel() for shape in shapes.values()]
    total = sum(sizes)
    require(total < 2**31, f"top-k counts below {2**31} numbers; got {total}")
    num_sent = math.ceil(share * total)

    def init() -> dict[str, Tensor]:
        return {ERROR: torch.zeros(total)}

    def encode(message: Message, state: Mapping[str, Tensor], _: torch.Generator) -> Encoded:
        rest = {name: t for name, t in message.items() if not name.startswith(DENSE)}
        own = {n.removeprefix(DENSE): t for n, t in message.items() if n.startswith(DENSE)}
        _check(own, shapes)
        flat = [own[name].flatten() for name in shapes]
        whole = torch.cat(flat) if flat else torch.zeros(0)
        whole = whole + state[ERROR].to(whole.device)
        indices = whole.abs().topk(num_sent, sorted=False).indices.sort().values
        values = whole[indices]
        sent = values.bfloat16() if half else values
        error = whole.index_copy(0, indices, values - sent.float())
        return rest | {INDICES: indices.int(), VALUES: sent}, {ERROR: error}

    def decode(message: Message) -> dict[str, Tensor]:
        out = {name: t for name, t in message.items() if name not in (INDICES, VALUES)}
        indices, values = (_found(message, name, num_sent) for name in (INDICES, VALUES))
        inside = not num_sent or 0 <= int(indices.min()) <= int(indices.max()) < total
        if not inside:
            raise RoundError(f"{INDICES} must be in [0, {total})")
        whole = torch.zeros(total, device=values.device)
        whole[indices.long()] = values.float()
        for (name, shape), part in zip(shapes.items(), whole.split(sizes), strict=True):
            out[DENSE + name] = part.view(shape)
        return out

    return Codec(init, encode, decode)


def missed_of_top(
    state: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]
) -> dict[str, Tensor]:
    """What `top_k` keeps for later, by the dense tensors' names.

    Args:
        state: The codec's.
        shapes: As it was built with.
    """
    parts = state[ERROR].split([shape.numel() for shape in shapes.values()])
    return {name: p.view(shape) for (name, shape), p in zip(shapes.items(), parts, strict=True)}


def _check(own: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]) -> None:
    if own.keys() != shapes.keys():
        raise RoundError(f"dense tensors must be {sorted(shapes)}; got {sorted(own)}")
    for name, tensor in own.items():
        if tensor.shape != shapes[name] or tensor.dtype is not torch.float32:
            raise RoundError(
                f"dense tensor {name!r} must be {list(shapes[name])} of torch.float32; "
                f"got {list(tensor.shape)} of {tensor.dtype}"
            )


def _found(message: Message, name: str, size: int) -> Tensor:
    if name not in message or message[name].shape != (size,):
        found = list(message[name].shape) if name in message else "none"
        raise RoundError(f"a message of top-k needs {name} of [{size}]; got {found}")
    return message[name]
