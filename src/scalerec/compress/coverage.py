"""Which of a model's weights a step reached: what it left alone is told, not passed over."""

import torch
from torch import Tensor

from scalerec.models.recommender import Recommender

__all__ = ["left_alone", "same_model"]


def left_alone(before: Recommender, after: Recommender) -> str:
    """The net's weights that are stored as before, in words; none if there are none.

    Steps reach linear layers; experts, towers of several tasks and attention are other parts.

    Args:
        before: The model before a step.
        after: And after it.
    """
    given, new = before.to_tensors(), after.to_tensors()
    weights = {n: t for n, t in given.items() if n.startswith("net.") and _is_weight(t)}
    kept = [
        name
        for name, tensor in weights.items()
        if name in new and new[name].shape == tensor.shape and new[name].dtype == tensor.dtype
    ]
    if not kept:
        return ""
    count, total = (sum(weights[name].numel() for name in own) for own in (kept, weights))
    return f"{count:,} of the net's {total:,} weights are stored as before: {', '.join(kept)}"


def _is_weight(tensor: Tensor) -> bool:
    """Biases have one dimension, and those of stacks ``[E, 1, O]``."""
    return tensor.dim() == 2 or (tensor.dim() > 2 and tensor.shape[-2] > 1)


def same_model(one: Recommender, other: Recommender) -> bool:
    """Whether two recommenders are equal in all that a bundle holds of them."""
    if one is other:
        return True
    if one.spec != other.spec:
        return False
    own, others = one.to_tensors(), other.to_tensors()
    return own.keys() == others.keys() and all(torch.equal(own[n], others[n]) for n in own)
