"""Memory of a process, and the size of a checkpoint."""

from scalerec.distributed.planning.job import Job

__all__ = ["checkpoint_bytes", "process_memory", "row_share"]

# Of a dense number: the weight, its gradient and two moments; the sum's message and its parts.
DENSE_COPIES, SUM_COPIES = 4, 2
# Fetched rows are held by who keeps them, on arrival and in place, and so are their gradients.
ROW_COPIES = 6
# An id is held as it was read, as a row, and as a place among the distinct rows with two tables
# of the search for them.
ID_BYTES = 8 * 5
# Blocks of examples in memory, and the numbers of a block's rows: in order, shuffled, sorted.
BLOCKS, ORDER_BYTES = 2, 8 * 3


def row_share(job: Job) -> float:
    """Rows that the fullest process keeps, those kept by columns counted by their part."""
    even, kept = 0.0, [0.0] * job.world
    for name, placement in job.placements().items():
        rows = job.reads[name].rows
        kind, _, home = placement.partition(":")
        if kind == "table":
            kept[int(home)] += rows
        else:
            even += rows / (1 if kind == "replicated" else job.world)
    return even + max(kept)


def process_memory(job: Job) -> dict[str, float]:
    """Bytes of the fullest process, by what they hold."""
    shape, steps = job.shape, job.local_steps
    rows = float(job.num_rows) if job.is_dense else row_share(job)
    weights, state = rows * shape.width * job.row_number_bytes, rows * 4 * job.state_width
    if job.is_dense:
        # Trained like the dense part.
        state = rows * shape.width * 4 * (DENSE_COPIES - 1)
    dense = 4.0 * shape.num_parameters * (DENSE_COPIES + (SUM_COPIES if job.world > 1 else 0))
    kept = weights + 4.0 * shape.num_parameters if job.train.patience >= 0 else 0.0
    number = 2 if job.precision == "bf16" else 4
    ids = job.batch * job.lookups * ID_BYTES
    fetched = 0.0
    if job.world > 1 and not job.is_dense:
        fetched = (
            job.distinct(job.batch * steps)
            * 4
            * (ROW_COPIES * shape.width + (2 * job.state_width if steps > 1 else 0))
        )
    return {
        "rows of tables": weights,
        "state of rows": state,
        "best weights so far": kept,
        "dense part": dense,
        # Gradients of activations are as many, and live as long as one layer.
        "activations": 1.5 * job.batch * shape.activations * number,
        "rows on their way": ids + fetched,
        "examples read ahead": _read_ahead(job),
        "program": job.machine.process_bytes,
    }


def _read_ahead(job: Job) -> float:
    """Bytes of the blocks of examples that a process holds; see `scalerec.data.loading`."""
    example = 8 * job.lookups + 4 * job.shape.num_columns
    block = float(max(job.train.block_rows, job.train.batch_size))
    if job.examples and job.examples <= block:
        # Read once and kept by every process, beside the pieces that it learns from.
        return job.examples * (example * (1 + BLOCKS / job.world) + ORDER_BYTES)
    return block * (BLOCKS * example / job.world + ORDER_BYTES)


def checkpoint_bytes(job: Job) -> float:
    """Of a checkpoint of all processes together."""
    rows = float(job.num_rows)
    row = job.shape.width * job.row_number_bytes
    state = 4 * job.state_width
    if job.is_dense:
        state = 4 * job.shape.width * (DENSE_COPIES - 2)
    best = row if job.train.patience >= 0 else 0
    return rows * (row + state + best) + 4.0 * job.shape.num_parameters * (DENSE_COPIES - 1)
