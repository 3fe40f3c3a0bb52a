"""What a run on machines that are not here would need: placement, memory, bytes, time."""

from scalerec.distributed.planning.placing import Choice, choose_placements, explain_placements
from scalerec.distributed.planning.reads import (
    TableReads,
    distinct_rows,
    layout_reads,
    measured_reads,
    total_distinct,
)

__all__ = [
    "Choice",
    "TableReads",
    "choose_placements",
    "distinct_rows",
    "explain_placements",
    "layout_reads",
    "measured_reads",
    "total_distinct",
]
