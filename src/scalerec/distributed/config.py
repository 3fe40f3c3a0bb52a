"""Settings of a run on several processes."""

from dataclasses import dataclass, field
from typing import Any, Literal

from scalerec.config import Config, require
from scalerec.rounds.codecs import CodecName

__all__ = ["DistributedConfig"]


@dataclass(frozen=True, kw_only=True, slots=True)
class DistributedConfig(Config):
    """How the processes of a run divide what they keep and what they do.

    Args:
        engine: Whose exchange of rows: `scalerec`, this package's compiled one, or `torchrec`.
        sharding: Where tables are kept unless `placements` says it: `row`, `table`, `column`,
            `replicated`, or `auto`, chosen from sizes and traffic.
        placements: Table to one of these, or `table:N` for process N.
        aggregate: `sync`: every step is one of the whole batch; `local`: each process takes steps
            of its own, then parameters are averaged.
        local_steps: H, steps between two averages; `local` only. Sixteen cost about a sixteenth of
            the messages.
        outer_lr: Share of the mean displacement that is taken; `local` only.
        outer_momentum: Of the mean displacements, 0 for none; `local` only.
        codec: How the dense part travels: `none` (float32), `bf16`, `powersgd:RANK`, or
            `topk:SHARE`, the largest share of all numbers, what is left out kept for the next time;
            the last two may end in `+bf16`.
        lookups: How rows and their gradients travel: `fp32`, `bf16` or `int8`.
        partition: Which rows a process learns from: its part of each global `batch`, or a shard of
            its own: `contiguous`, by `user`, `hashed`, or `balanced` by cost.
        timeout_s: Seconds after which a process that does not answer is given up.
    """

    engine: Literal["scalerec", "torchrec"] = "scalerec"
    sharding: Literal["auto", "row", "table", "column", "replicated"] = "auto"
    placements: dict[str, str] = field(default_factory=dict)
    aggregate: Literal["sync", "local"] = "sync"
    local_steps: int = 16
    outer_lr: float = 1.0
    outer_momentum: float = 0.0
    codec: str = "none"
    lookups: Literal["fp32", "bf16", "int8"] = "fp32"
    partition: Literal["batch", "contiguous", "user", "hashed", "balanced"] = "batch"
    timeout_s: float = 600.0

    def __post_init__(self) -> None:
        require(self.local_steps >= 1, f"local_steps must be at least 1; got {self.local_steps}")
        require(self.outer_lr > 0, f"outer_lr must be above 0; got {self.outer_lr}")
        low = 0 <= self.outer_momentum < 1
        require(low, f"outer_momentum must be from 0 to below 1; got {self.outer_momentum}")
        require(self.timeout_s > 0, f"timeout_s must be above 0; got {self.timeout_s}")
        CodecName.parse(self.codec)
        alone = self.aggregate == "local" and self.engine == "torchrec"
        require(not alone, "aggregate 'local' needs engine 'scalerec'; got 'torchrec'")
        spread = self.aggregate == "local" and self.sharding == "column"
        require(
            not spread,
            "aggregate 'local' needs sharding row, table, replicated or auto; got 'column'",
        )

    def shaping(self, num_processes: int) -> dict[str, Any]:
        """What decides the weights, for a lineage: where rows are kept is not among it.

        Args:
            num_processes: P; nothing is decided by how one process divides with itself.
        """
        if num_processes == 1:
            return {}
        names = ["aggregate", "codec", "lookups", "partition"]
        if self.aggregate == "local":
            names += ["local_steps", "outer_lr", "outer_momentum"]
        return {"processes": num_processes, **{name: getattr(self, name) for name in names}}
