"""Taking vector features away from rows whose holder does not have them."""

from dataclasses import replace

from torch import Tensor

from scalerec.config import require
from scalerec.data.batches import Batch, Vectors

__all__ = ["keep_vectors"]


def keep_vectors(batch: Batch, kept: Tensor) -> Batch:
    """Blank the vectors that a row's holder does not have: zero, and marked as absent.

    Args:
        batch: Rows, of one or several parties.
        kept: Whether each row keeps each vector field, ``[B, V]`` bool: `Parties.vectors` at the
            row's holder.

    Raises:
        ConfigError: If the shape does not fit.
    """
    shape = (len(batch), len(batch.vectors))
    require(kept.shape == shape, f"kept must have shape {list(shape)}; got {list(kept.shape)}")
    return replace(
        batch,
        vectors=tuple(
            Vectors(vectors.values * own[:, None], vectors.present & own)
            for vectors, own in zip(batch.vectors, kept.unbind(1), strict=True)
        ),
    )
