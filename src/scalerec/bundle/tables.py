"""Arrow tables in a bundle: written in one form, mapped into memory when read."""

from pathlib import Path

import pyarrow as pa

from scalerec.errors import BundleError

__all__ = ["read_table", "write_table"]

_BATCH_ROWS = 1 << 16


def write_table(path: Path, table: pa.Table) -> None:
    """Write a table as an Arrow IPC file, in batches of one size however its chunks are cut."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks(), max_chunksize=_BATCH_ROWS)


def read_table(path: Path) -> pa.Table:
    """Map a table into memory and check that its offsets stay inside its buffers.

    Raises:
        BundleError: If it is not a sound Arrow IPC file.
    """
    try:
        with pa.memory_map(str(path)) as source:
            table = pa.ipc.open_file(source).read_all()
        table.validate(full=True)
    except (pa.ArrowException, OSError) as error:
        raise BundleError(f"{path}: is not a sound Arrow file: {error}") from error
    return table
