"""FedAdam, FedYogi, FedAdagrad: the server adapts its step to each number."""

from dataclasses import dataclass
from typing import Any, ClassVar

from scalerec.config import Config
from scalerec.federated.strategies.base import FedAvg, Ground
from scalerec.rounds import Aggregator
from scalerec.rounds.adaptive import Adaptive, Method, adaptive_mean
from scalerec.rounds.aggregate import Over

__all__ = ["FedAdagrad", "FedAdagradConfig", "FedAdam", "FedAdamConfig", "FedYogi"]

TAU = 1e-3
# At ten, noise of deviation s moves a number by less than a tenth of the learning rate a round.
NOISES = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class FedAdamConfig(Config):
    """How an adaptive server steps; decays and tau are those of the paper's experiments.

    Args:
        server_lr: Learning rate of the dense part, at least 0. The paper tries 0.001 to 10, and
            0.01 to 0.1 are best on most of its tasks.
        server_rows_lr: The same of rows of tables.
        beta1: Share of the last mean displacement that is kept, in [0, 1).
        beta2: Share of the last mean square that is kept, in [0, 1).
        tau: How little a step adapts, above 0. By default 0.001, which is within a factor of what
            the paper found best on every task; under a privacy budget `NOISES` times the deviation
            of the mean's noise, where that is more. A step that adapts to noise makes the same of
            it as of a gradient: of a hundred parties in a round, embeddings became noise and
            nothing else. With thousands in a round a smaller one may do better.
        rows_over: As in `FedAvgConfig`.
    """

    server_lr: float = 0.03
    server_rows_lr: float = 0.03
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float | None = None
    rows_over: Over = "holders"

    def __post_init__(self) -> None:
        self.settings("adam")

    def settings(self, method: Method, least_tau: float = 0.0) -> Adaptive:
        """The server's step; `tau`, if nobody set it, is at least so large."""
        return Adaptive(
            method=method,
            lr=self.server_lr,
            rows_lr=self.server_rows_lr,
            beta1=self.beta1,
            beta2=self.beta2,
            tau=max(TAU, least_tau) if self.tau is None else self.tau,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class FedAdagradConfig(FedAdamConfig):
    """As `FedAdamConfig`, but that Adagrad keeps all squares and, in the paper, no mean.

    Args:
        beta1: Share of the last mean displacement that is kept, in [0, 1).
        beta2: Of no effect.
    """

    beta1: float = 0.0


class FedAdam(FedAvg):
    """FedAvg whose server takes the mean displacement for a gradient and steps as Adam does.

    Paper: Adaptive Federated Optimization, Reddi et al., 2021, algorithm 2, with v0 = tau^2 and
    without bias correction, https://arxiv.org/abs/2003.00295
    """

    Config: ClassVar[type[Config]] = FedAdamConfig
    method: ClassVar[Method] = "adam"

    def __init__(self, config: Any, ground: Ground) -> None:
        super().__init__(config, ground)
        self.least_tau = 0.0

    def expect_noise(self, deviation: float) -> None:
        """Adapt little where each number of the mean has noise of such a deviation."""
        self.least_tau = NOISES * deviation

    def aggregator(self) -> Aggregator:
        """A step for each number by its own history."""
        settings = self.config.settings(self.method, self.least_tau)
        return adaptive_mean(settings, over=self.config.rows_over, in_place=True)


class FedYogi(FedAdam):
    """As `FedAdam`, but the mean square moves by a share of the new square, up or down.

    Paper: Adaptive Federated Optimization, Reddi et al., 2021, algorithm 2,
    https://arxiv.org/abs/2003.00295
    """

    method: ClassVar[Method] = "yogi"


class FedAdagrad(FedAdam):
    """As `FedAdam`, but squares are summed, so that steps only become smaller.

    Paper: Adaptive Federated Optimization, Reddi et al., 2021, algorithm 2,
    https://arxiv.org/abs/2003.00295
    """

    Config: ClassVar[type[Config]] = FedAdagradConfig
    method: ClassVar[Method] = "adagrad"
