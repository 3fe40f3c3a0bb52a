"""Training on several processes and hosts: rows of tables spread, the dense part replicated."""

from scalerec.distributed.config import DistributedConfig
from scalerec.distributed.group import Group, Traffic, join_group
from scalerec.distributed.placement import Placement, TablePlan
from scalerec.distributed.runtime import Processes
from scalerec.distributed.tables import ShardedTables

__all__ = [
    "DistributedConfig",
    "Group",
    "Placement",
    "Processes",
    "ShardedTables",
    "TablePlan",
    "Traffic",
    "join_group",
]
