"""A start from a bundle on several processes: each reads the rows that it keeps, and no others."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from scalerec.bundle import Bundle, read_bundle
from scalerec.bundle.growing import growth_of
from scalerec.data.dataset import Dataset
from scalerec.data.layout import Layout
from scalerec.data.vocabulary import OOV
from scalerec.distributed.runtime import Processes
from scalerec.distributed.tables import ShardedTables
from scalerec.errors import BundleError, ConfigError, ScalerecError
from scalerec.models.growing import GrownRows, TablePlan, plan_table
from scalerec.models.recommender import Recommender
from scalerec.models.rowmap import unpack_map
from scalerec.models.tables import Tables
from scalerec.train.config import TableConfig
from scalerec.train.start import STATE_FILE, Start, open_start

__all__ = ["open_shared_start"]

# Rows that are read at a time.
CHUNK = 65_536


def open_shared_start(
    path: str | Path, dataset: Dataset, runtime: Processes, config: TableConfig
) -> Start:
    """As `scalerec.train.open_start`, with tables spread over the processes.

    What optimisers remember is not taken over: they start anew.

    Args:
        path: The bundle; all processes must reach it.
        dataset: Its encoders are the bundle's, or have grown from them.
        runtime: The processes.
        config: How tables learn; small ones are whole on all processes, and read whole.

    Raises:
        BundleError: If the bundle is not whole, holds no recommender, keeps what optimisers
            remember, or the data set was encoded otherwise.
        ConfigError: If rows are exchanged by another engine than this package's, or the bundle's
            tables have other forms.
    """
    if runtime.config.engine != "scalerec":
        raise ConfigError(
            "going on from a bundle needs distributed.engine 'scalerec'; "
            f"got {runtime.config.engine!r}"
        )
    bundle = read_bundle(path)
    spec, live = growth_of(bundle, dataset)
    if spec.forms.tables or spec.forms.fields:
        raise ConfigError(
            f"{bundle.path}: has tables of other forms or fields left out, which one process alone "
            "can go on from; train without --nproc"
        )
    if added := dataset.layout.beyond(Layout.from_dict(bundle.layout, "layout")):
        raise ConfigError(
            f"{bundle.path}: does not know the fields {', '.join(added)}, which one process alone "
            "can add; train without --nproc"
        )
    infos = bundle.tensor_infos()
    width = spec.net_config().dim + 1
    plans: dict[str, TablePlan] = {}
    try:
        for name in dataset.layout.tables:
            rows = f"tables.{name}.rows"
            known = unpack_map(bundle.tensor(rows)) if rows in infos else None
            before = infos[f"tables.{name}.weight"].shape[0]
            plans[name] = plan_table(live[name], before, known)
        if config.is_dense(sum(plan.num_rows for plan in plans.values()) * width):
            return open_start(path, dataset)
        _refuse_state(bundle)
        make = _GrownTables(runtime, config, plans)
        generator = torch.Generator().manual_seed(0)
        recommender = Recommender(
            dataset.layout, spec, generator, draw_tables=False, make_tables=make
        )
        dense = [name for name in infos if not name.startswith("tables.")]
        recommender.load_dense({name: bundle.tensor(name) for name in dense})
        assert isinstance(recommender.tables, ShardedTables)
        for name, plan in plans.items():
            _fill(recommender.tables, name, plan, bundle)
    except (ScalerecError, KeyError, RuntimeError) as error:
        raise BundleError(f"{bundle.path}: its parts do not fit together: {error}") from error
    return Start(recommender.eval(), bundle.digest, GrownRows(plans))


class _GrownTables:
    """Makes tables that have grown: of other sizes than their ids, with a row for each id."""

    def __init__(
        self, runtime: Processes, config: TableConfig, plans: Mapping[str, TablePlan]
    ) -> None:
        self.make, self.plans = runtime.make_tables(config), plans

    def __call__(
        self, layout: Layout, width: int, generator: torch.Generator | None, init_std: float
    ) -> Tables:
        sizes = {name: plan.num_rows for name, plan in self.plans.items()}
        tables = self.make(replace(layout, tables=sizes), width, generator, init_std)
        tables.layout = layout
        for name, plan in self.plans.items():
            row_map = tables.maps[name]
            row_map.rows, row_map.num_ids = plan.rows, layout.tables[name]
        return tables


def _refuse_state(bundle: Bundle) -> None:
    if STATE_FILE in bundle.attachments():
        raise BundleError(
            f"{bundle.path}: keeps what optimisers remember, which one process alone can take "
            "over; go on from it without --nproc"
        )


@torch.no_grad()
def _fill(tables: ShardedTables, name: str, plan: TablePlan, bundle: Bundle) -> None:
    """Read what this process keeps of a table, and give fresh rows the unknown one's values."""
    number, full = list(tables.num_rows).index(name), f"tables.{name}.weight"
    part, own = tables.plan.part(number, tables.group.rank), tables.table(name)
    columns = slice(part.low, part.high)
    for first in range(0, plan.num_before, CHUNK):
        last = min(first + CHUNK, plan.num_before)
        low, high = part.rows_between(first, last)
        if high > low:
            start = part.first + low * part.step
            own[low:high] = _rows(bundle, full, slice(start, last, part.step))[:, columns]
    unknown = _rows(bundle, full, slice(OOV, OOV + 1))[0, columns]
    mine = plan.fresh[(plan.fresh - part.first) % part.step == 0]
    numbers = (mine - part.first) // part.step
    own[numbers[numbers < part.size]] = unknown.to(own.dtype)


def _rows(bundle: Bundle, name: str, rows: slice) -> Tensor:
    """Some rows of a tensor; it is mapped anew each time, so that no more of it stays here."""
    return bundle.tensor(name)[rows].clone()
