"""What a simulation gives: tables, their schema, and the true probability of every event."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from scalerec.data.raw import RawData
from scalerec.data.schema import Categorical, Numeric, Role, Schema, Sequence, Table, Task, Vector
from scalerec.data.sources import TableSource

__all__ = ["Simulated", "simulated_schema"]

NOTE = "simulated: no person and no product is meant; the true probabilities are known"


@dataclass(frozen=True, kw_only=True, slots=True)
class Simulated:
    """A simulated data set and its truth.

    Args:
        events: One row an event, in the order of time: `user_id`, `item_id`, `time`, `position`,
            `click`, `conversion`.
        users: One row a user: `user_id`, `segment`, `age`, `country`.
        items: One row an item: `item_id`, `title`, `domain`, `category`, `price`, and the vectors
            `image` and `text`.
        schema: What the columns mean.
        probabilities: Task to the true probability of its label in each event, ``[events]``
            float64; also `conversion_given_click`.
        cold_users: Ids of users first seen late, int64.
        cold_items: Ids of items first seen late, int64.
    """

    events: pa.Table
    users: pa.Table
    items: pa.Table
    schema: Schema
    probabilities: Mapping[str, NDArray[np.float64]]
    cold_users: NDArray[np.int64] = field(repr=False)
    cold_items: NDArray[np.int64] = field(repr=False)

    def raw(self) -> RawData:
        """The tables as a data set that can be prepared."""
        return RawData(
            name="simulated",
            schema=self.schema,
            splits={"all": TableSource(self.events, "simulated events")},
            users=TableSource(self.users, "simulated users"),
            items=TableSource(self.items, "simulated items"),
            notes=(NOTE,),
        )

    def truth(self, rows: NDArray[np.int64] | None = None) -> dict[str, NDArray[np.float64]]:
        """The score of the true model: no model can be expected to rank or calibrate better.

        Args:
            rows: Numbers of events from 0, in any order, ``[n]`` int64; all events if not given.

        Returns:
            Task to the probability of its label, ``[n]`` float64 in [0, 1].
        """
        wanted = slice(None) if rows is None else rows
        return {name: values[wanted] for name, values in self.probabilities.items()}

    def write(self, directory: str | Path) -> Path:
        """Write the tables, the truth and the schema into a directory, made if it is not there.

        Returns:
            The path of the events; `schema.toml`, `users.parquet`, `items.parquet` and
            `truth.parquet` lie beside it, the latter with one row an event in the same order.
        """
        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        truth = pa.table({name: pa.array(values) for name, values in self.probabilities.items()})
        tables = {"users": self.users, "items": self.items, "truth": truth, "events": self.events}
        for name, table in tables.items():
            partial = folder / f".{name}.parquet.partial"
            pq.write_table(table, partial)
            partial.replace(folder / f"{name}.parquet")
        partial = folder / ".schema.toml.partial"
        partial.write_text(self.schema.to_toml(), encoding="utf-8")
        partial.replace(folder / "schema.toml")
        return folder / "events.parquet"


def simulated_schema(image_dim: int, text_dim: int) -> Schema:
    """The schema of a simulated data set.

    Args:
        image_dim: Size of the image vectors; 0 for none.
        text_dim: Size of the text vectors; 0 for none.
    """
    dims = {"image": image_dim, "text": text_dim}
    of_user = {"role": Role.USER, "table": "users"}
    of_item = {"role": Role.ITEM, "table": "items"}
    return Schema.from_dict(
        {
            "user": "user_id",
            "item": "item_id",
            "timestamp": "time",
            "title": "title",
            "features": (
                Categorical(name="user_id", role=Role.USER),
                *(Categorical.from_dict({"name": n, **of_user}) for n in ("segment", "country")),
                Numeric.from_dict({"name": "age", **of_user}),
                Sequence(name="history", role=Role.USER, history="positive", max_length=50),
                Categorical(name="item_id", role=Role.ITEM),
                *(Categorical.from_dict({"name": n, **of_item}) for n in ("domain", "category")),
                Numeric.from_dict({"name": "price", "transform": "log", **of_item}),
                *(
                    Vector.from_dict({"name": name, "dim": dim, "optional": True, **of_item})
                    for name, dim in dims.items()
                    if dim
                ),
                Categorical(name="position", role=Role.CONTEXT),
            ),
            "tasks": (Task(name="click"), Task(name="conversion")),
            "tables": {
                "users": Table(file="users.parquet"),
                "items": Table(file="items.parquet"),
            },
        }
    )
