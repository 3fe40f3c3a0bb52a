"""A machine and a job of round numbers, so that a plan can be worked by hand."""

from typing import Any

from scalerec.distributed import DistributedConfig
from scalerec.distributed.planning import (
    Cluster,
    Job,
    Machine,
    MessageCosts,
    ModelShape,
    RowCosts,
    TableReads,
)
from scalerec.train import TrainConfig

__all__ = ["MACHINE", "SHAPE", "make_job"]

COSTS = RowCosts(id_ns=10.0, id_number_ns=5.0, row_ns=100.0, row_number_ns=25.0)
MACHINE = Machine(
    name="round",
    date="2026-01-01",
    cores=2,
    memory_bytes=1e9,
    product_gflops={"fp32": 20.0, "bf16": 40.0},
    net_gflops={"fp32": 10.0, "bf16": 20.0},
    activation_ns={"fp32": 1.0, "bf16": 0.5},
    step_ms=1.0,
    whole=COSTS,
    spread=RowCosts(id_ns=20.0, id_number_ns=5.0, row_ns=200.0, row_number_ns=50.0),
    parameter_ns=1.0,
    sockets=MessageCosts(message_us=100.0, peer_us=20.0, byte_ns=1.0, sum_ns=2.0),
    shared=MessageCosts(message_us=10.0, peer_us=2.0, byte_ns=0.5, sum_ns=1.0),
    serial_share=0.0,
    crowding=1.0,
    waiting=0.0,
    link_share=0.5,
    disk_write=1e8,
    disk_read=2e8,
    process_bytes=1e7,
)
# 4 numbers a row; 1,010 numbers in the dense part.
SHAPE = ModelShape(
    dim=3,
    lookups=2.0,
    num_columns=5,
    flops=1e5,
    activations=1000.0,
    shapes=((100, 10), (10,)),
)


def make_job(nodes: int = 1, processes: int = 1, **more: Any) -> Job:
    """Two tables of 1,000 and 3,000 rows, of which 100 examples read 50 and 70 distinct ones.

    Args:
        nodes: Machines.
        processes: Of each, of one thread.
        more: `train` and `distributed` as plain values, `cluster` to change it, fields of `Job`.
    """
    cluster = {"cores": 2, "threads": 1, "memory_bytes": 1e9, "link": 1e7, "latency_s": 1e-3}
    cluster |= {"nodes": nodes, "processes": processes, **more.pop("cluster", {})}
    train = {"batch_size": 100 * nodes * processes, "precision": "fp32", "patience": -1}
    train |= {"tables": {"optimiser": "rowwise_adagrad"}, **more.pop("train", {})}
    distributed = {"sharding": "row", **more.pop("distributed", {})}
    values = {
        "machine": MACHINE,
        "shape": SHAPE,
        "reads": {
            "a": TableReads(rows=1000, points={"100": 50.0, "200": 80.0, "400": 128.0}),
            "b": TableReads(rows=3000, points={"100": 70.0, "200": 112.0, "400": 179.2}),
        },
        **more,
    }
    return Job(
        cluster=Cluster.from_dict(cluster),
        train=TrainConfig.from_dict(train),
        distributed=DistributedConfig.from_dict(distributed),
        **values,
    )
