"""Flower: federated averaging by its simulation on Ray; run in its own environment."""

import logging
import os
import time
from pathlib import Path
from typing import Any

os.environ |= {"FLWR_TELEMETRY_ENABLED": "0", "RAY_DISABLE_IMPORT_WARNING": "1"}
os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "0"}

from child import report, start
from federated_flower_client import make_client
from federated_parties import Work, read_parties
from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

HERE = str(Path(__file__).parent)


class Timed(FedAvg):  # type: ignore[misc]
    """Notes when each round ends, and its loss."""

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self.ends: list[float] = []
        self.losses: list[float] = []

    def aggregate_train(self, server_round: int, replies: Any) -> Any:
        """As it is, with the time."""
        replies = list(replies)
        failed = [reply.error for reply in replies if reply.has_error()]
        if failed:
            raise RuntimeError(f"{len(failed)} clients failed: {failed[0]}")
        arrays, metrics = super().aggregate_train(server_round, replies)
        self.losses.append(float(metrics["loss"]))
        self.ends.append(time.perf_counter())
        return arrays, metrics


def main() -> None:
    job = start()
    os.environ["PYTHONPATH"] = HERE
    logging.getLogger("flwr").setLevel(logging.ERROR)
    begin = read_parties(job["folder"])[2]
    work = Work.from_job(job)
    strategy = Timed(
        fraction_train=job["cohort"] / work.parties,
        fraction_evaluate=0.0,
        min_available_nodes=work.parties,
    )
    server = ServerApp()

    @server.main()  # type: ignore[untyped-decorator]
    def serve(grid: Grid, context: Context) -> None:  # noqa: ARG001
        strategy.start(
            grid=grid, initial_arrays=ArrayRecord(begin), num_rounds=job["rounds"], timeout=600
        )

    run_simulation(
        server_app=server,
        client_app=make_client(job),
        num_supernodes=work.parties,
        backend_config={
            "init_args": {"num_cpus": job["actors"], "include_dashboard": False},
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
        },
    )
    seconds = strategy.ends[-1] - strategy.ends[0]
    clients = job["cohort"] * (len(strategy.ends) - 1)
    report(clients=clients, seconds=seconds, loss=strategy.losses[-1])


if __name__ == "__main__":
    main()
