"""Federated methods, one file each; `STRATEGIES` names them."""

from scalerec.federated.strategies.base import TABLE, FedAvg, FedAvgConfig, Ground, Trained
from scalerec.federated.strategies.proximal import FedProx

__all__ = ["STRATEGIES", "TABLE", "FedAvg", "FedAvgConfig", "Ground", "Trained"]

STRATEGIES: dict[str, type[FedAvg]] = {
    "fedavg": FedAvg,
    "fedprox": FedProx,
}
