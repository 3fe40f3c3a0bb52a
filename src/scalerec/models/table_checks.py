"""Whether what is loaded fits a table."""

from torch import Tensor

from scalerec.errors import ConfigError

__all__ = ["check_rows", "check_weight"]


def check_weight(name: str, weight: Tensor | None, widths: tuple[int, ...]) -> None:
    """Refuse rows of a table that are missing or of another width.

    Args:
        name: The table's.
        weight: Its rows.
        widths: Those that are allowed; messages name the first.

    Raises:
        ConfigError: If they do not fit.
    """
    if weight is None:
        raise ConfigError(f"table {name!r} has no rows: tables.{name}.weight is missing")
    if weight.ndim != 2 or weight.shape[1] not in widths:
        raise ConfigError(
            f"table {name!r} must have rows of width {widths[0]}; got {list(weight.shape)}"
        )


def check_rows(
    name: str, num_rows: int, wanted: int, rows: Tensor | None, num_shared: int | None
) -> None:
    """Refuse a table that has no row for an id.

    Args:
        name: The table's.
        num_rows: How many rows it has.
        wanted: How many ids it must have rows for; where ids share, how many rows it must have.
        rows: The row of each id, ``[ids]``; none where row i is that of id i.
        num_shared: Where ids share rows, how many ids do.

    Raises:
        ConfigError: If they do not fit.
    """
    num_ids, last = num_rows if rows is None else len(rows), num_rows - 1
    if num_shared is not None:
        if num_rows != wanted:
            raise ConfigError(f"table {name!r} must have {wanted} rows; got {num_rows}")
        # The rows of ids are then numbers that are dealt out over the rows that are stored.
        wanted = num_shared
        num_ids, last = wanted if rows is None else len(rows), wanted - 1
    if num_ids < wanted:
        raise ConfigError(f"table {name!r} must have a row for each of {wanted} ids; got {num_ids}")
    if rows is not None and not bool(((rows >= 0) & (rows <= last)).all()):
        raise ConfigError(
            f"the rows of table {name!r} must be from 0 to {last}; "
            f"got {int(rows.min())} to {int(rows.max())}"
        )
