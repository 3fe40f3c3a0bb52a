"""Settings of training."""

from dataclasses import dataclass, field
from typing import Literal

from scalerec.config import Config, require
from scalerec.data.loading import BLOCK_ROWS
from scalerec.models.tables import ENGINES
from scalerec.optim import ROW_OPTIMISERS, OptimiserConfig, RowOptimiser, ScheduleConfig

__all__ = ["TableConfig", "TrainConfig"]

# Up to this many numbers a dense pass over the tables costs less than the net's own step.
DENSE_LIMIT = 4_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class TableConfig(Config):
    """How embedding tables learn.

    Args:
        optimiser: `adam` is dense Adam over all rows on small tables, and `lazy_adam`, which
            follows the rows touched, on large ones; the others are fused, unless `engine` is
            `dense`.
        lr: Learning rate, above 0.
        l2: Added to the gradient, times the weight: of all rows on a dense table, of the touched
            rows on a fused one, once for each step since they were touched; at least 0.
        eps: Of Adagrad and Adam, above 0.
        betas: Of Adam, each in [0, 1).
        engine: `auto`: a dense table where it is small and the optimiser is Adam, else fused:
            `numba`, compiled kernels, on the CPU, and `torch` on other devices.
        weights: `fp16` holds rows in half the memory, rounded up or down by chance when they are
            written, so that small moves count; engine `numba` only.
    """

    optimiser: Literal["adam", "rowwise_adagrad", "adagrad", "sgd", "lazy_adam"] = "adam"
    lr: float = 1e-3
    l2: float = 0.0
    eps: float = 1e-8
    betas: tuple[float, float] = (0.9, 0.999)
    engine: Literal["auto", "dense", "numba", "torch", "fbgemm"] = "auto"
    weights: Literal["fp32", "fp16"] = "fp32"

    def __post_init__(self) -> None:
        require(self.lr > 0, f"tables.lr must be above 0; got {self.lr}")
        require(self.l2 >= 0, f"tables.l2 must be at least 0; got {self.l2}")
        require(self.eps > 0, f"tables.eps must be above 0; got {self.eps}")
        fits = all(0 <= beta < 1 for beta in self.betas)
        require(fits, f"tables.betas must be in [0, 1); got {self.betas}")
        _one_of("tables.engine", self.engine, ENGINES)
        _one_of("tables.optimiser", self.optimiser, ("adam", *ROW_OPTIMISERS))
        _one_of("tables.weights", self.weights, ("fp32", "fp16"))
        fits = self.weights == "fp32" or self.engine in ("auto", "numba")
        require(fits, f"weights 'fp16' need engine 'auto' or 'numba'; got {self.engine!r}")
        dense = self.engine != "dense" or self.optimiser in ("adam", "adagrad", "sgd")
        require(dense, f"engine 'dense' takes adam, adagrad or sgd; got {self.optimiser!r}")

    def is_dense(self, num_weights: int) -> bool:
        """Whether tables of so many numbers are trained as one dense parameter."""
        if self.engine == "auto":
            small = num_weights <= DENSE_LIMIT and self.weights == "fp32"
            return self.optimiser == "adam" and small
        return self.engine == "dense"

    def row_optimiser(self) -> tuple[str, RowOptimiser]:
        """The fused engines' optimiser, with its name."""
        name = "lazy_adam" if self.optimiser == "adam" else self.optimiser
        # A row that was missed for n steps is owed n times the L2, as a dense pass would pay it.
        settings: dict[str, object] = {"l2": self.l2, "l2_missed": self.l2 > 0}
        if name != "sgd":
            settings["eps"] = self.eps
        if name == "lazy_adam":
            # Moments that wait generalise better than moments that decay; see docs/decisions/0005.
            settings |= {"betas": self.betas, "decay_missed": False}
        return name, ROW_OPTIMISERS[name].from_dict(settings)

    def dense_optimiser(self) -> OptimiserConfig:
        """The dense table's optimiser."""
        return OptimiserConfig.from_dict(
            {
                "name": self.optimiser,
                "lr": self.lr,
                "weight_decay": self.l2,
                "eps": self.eps,
                "betas": self.betas,
            }
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig(Config):
    """How a model is trained.

    Args:
        epochs: Passes over the training rows, at most.
        batch_size: Rows of a step.
        block_rows: Rows that are shuffled together, gathered from all over the training part; two
            such blocks are in memory at a time. A smaller part is kept in memory and shuffled
            whole.
        seed: Of initial weights, order, dropout and negatives.
        dense: Optimiser of everything outside the tables.
        tables: Optimiser of the tables.
        schedule: Factor on both learning rates.
        clip_norm: Largest norm of the gradient outside the tables; a larger one is scaled down. 0
            for no limit.
        ema: Decay of the moving average of all weights that is evaluated and kept instead of the
            weights themselves, in [0, 1); 0 for none. Tables must be dense for it.
        negatives: Items drawn for each positive row, as further rows whose first task has label 0
            and whose other tasks have none; 0 for none.
        negatives_by: `uniform` over the items met in training, or `popularity`.
        precision: Of the dense part: `bf16`, `fp32`, or `auto`: bf16 where the processor has it.
        metric: What early stopping looks at on the validation part, such as `auc`, `log_loss`,
            `ndcg@10` or, of one task among several, `TASK.auc`; empty for the tasks' own (AUC,
            accuracy, RMSE, NDCG@10). It is averaged over the tasks that have it.
        patience: Evaluations in a row without a gain that are borne; one more ends the training.
            -1 never stops and keeps the last weights, not the best.
        evaluate_every: Steps between evaluations, beside the one after each epoch; 0 for none.
        checkpoint_seconds: Time between checkpoints; 0 for none by time.
        checkpoint_steps: Steps between checkpoints; 0 for none by steps.
    """

    epochs: int = 10
    batch_size: int = 4096
    block_rows: int = BLOCK_ROWS
    seed: int = 1
    dense: OptimiserConfig = field(default_factory=OptimiserConfig)
    tables: TableConfig = field(default_factory=TableConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    clip_norm: float = 0.0
    ema: float = 0.0
    negatives: int = 0
    negatives_by: Literal["uniform", "popularity"] = "uniform"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    metric: str = ""
    patience: int = 2
    evaluate_every: int = 0
    checkpoint_seconds: float = 60.0
    checkpoint_steps: int = 0

    def __post_init__(self) -> None:
        least = {"epochs": 1, "batch_size": 1, "block_rows": 1, "patience": -1}
        at_least_0 = ("seed", "clip_norm", "negatives", "evaluate_every")
        least |= dict.fromkeys((*at_least_0, "checkpoint_seconds", "checkpoint_steps"), 0)
        for name, bound in least.items():
            value = getattr(self, name)
            require(value >= bound, f"{name} must be at least {bound}; got {value}")
        require(0 <= self.ema < 1, f"ema must be in [0, 1); got {self.ema}")
        _one_of("negatives_by", self.negatives_by, ("uniform", "popularity"))
        _one_of("precision", self.precision, ("auto", "fp32", "bf16"))


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    require(value in allowed, f"{name} must be one of {', '.join(allowed)}; got {value!r}")
