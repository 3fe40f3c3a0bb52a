"""The layout of a batch: what each row of `ids`, each column of `dense`, each bag and vector holds.

The layout is what a fitted schema looks like to a model. It is plain data, is stored in every
bundle, and knows nothing of files or of encoders.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from scalerec.config import Config, require
from scalerec.data.schema import Role, Task

__all__ = ["BagField", "IdField", "Layout", "NumberField", "VectorField"]


@dataclass(frozen=True, kw_only=True, slots=True)
class IdField(Config):
    """One row of `Batch.ids`: a single id per event, embedded by the table named `table`."""

    name: str
    role: Role
    table: str


@dataclass(frozen=True, kw_only=True, slots=True)
class NumberField(Config):
    """One column of `Batch.dense`."""

    name: str
    role: Role


@dataclass(frozen=True, kw_only=True, slots=True)
class BagField(Config):
    """One member of `Batch.bags`: at most `max_length` ids per event, in order.

    `history` is true for the user's earlier items, which attention may read one by one.
    """

    name: str
    role: Role
    table: str
    max_length: int
    history: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class VectorField(Config):
    """One member of `Batch.vectors`: `dim` floats per event, or none."""

    name: str
    role: Role
    dim: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout(Config):
    """All fields a model sees, always in the order ids, numbers, bags, vectors.

    Args:
        ids: One a row of `Batch.ids`.
        numbers: One a column of `Batch.dense`.
        bags: One a member of `Batch.bags`.
        vectors: One a member of `Batch.vectors`.
        tables: Embedding table to its number of rows, those of padding (0) and out-of-vocabulary
            (1) included.
        tasks: What the columns of `Batch.labels` hold.
    """

    ids: tuple[IdField, ...]
    numbers: tuple[NumberField, ...] = ()
    bags: tuple[BagField, ...] = ()
    vectors: tuple[VectorField, ...] = ()
    tables: dict[str, int]
    tasks: tuple[Task, ...]

    @property
    def fields(self) -> tuple[IdField | NumberField | BagField | VectorField, ...]:
        """Every field, in the order of `Inputs.fields`."""
        return (*self.ids, *self.numbers, *self.bags, *self.vectors)

    @property
    def num_fields(self) -> int:
        """F, the number of embedded fields."""
        return len(self.fields)

    @property
    def num_outputs(self) -> int:
        """C, the number of columns of a model's output: one a task, `num_classes` if multiclass."""
        return sum(task.num_outputs for task in self.tasks)

    def fields_of(self, *roles: Role) -> list[int]:
        """The numbers of the fields with one of these roles: a user, item or context part."""
        return [i for i, field in enumerate(self.fields) if field.role in roles]

    def without(self, names: Sequence[str]) -> "Layout":
        """The layout with some fields left out, and the tables that only those read.

        Args:
            names: Of fields; a field's name belongs to it alone.

        Raises:
            ConfigError: If there is no such field, or none would be left.
        """
        if not names:
            return self
        known = [field.name for field in self.fields]
        for name in names:
            good = name in known
            require(good, f"a field to leave out must be one of {', '.join(known)}; got {name!r}")
        left = len(set(known) - set(names)) > 0
        require(left, f"at least one field must be left; all are left out: {', '.join(known)}")
        ids = tuple(field for field in self.ids if field.name not in names)
        bags = tuple(field for field in self.bags if field.name not in names)
        read = {field.table for field in ids} | {field.table for field in bags}
        return replace(
            self,
            ids=ids,
            numbers=tuple(field for field in self.numbers if field.name not in names),
            bags=bags,
            vectors=tuple(field for field in self.vectors if field.name not in names),
            tables={name: size for name, size in self.tables.items() if name in read},
        )

    def beyond(self, earlier: "Layout") -> tuple[str, ...]:
        """Names of the fields that an earlier layout lacks, which this one goes on from.

        Args:
            earlier: All of its fields are here too, in the same order, and so are its tasks; tables
                may have more rows by now.

        Raises:
            ConfigError: If a field is missing here, is another kind of field, or in another place,
                or the tasks differ.
        """
        known = {field.name for field in earlier.fields}
        here = {field.name: field for field in self.fields}
        for field in earlier.fields:
            own = here.get(field.name)
            require(own is not None, f"field {field.name!r} is missing")
            require(
                type(own) is type(field) and _reads(own) == _reads(field),
                f"field {field.name!r} was {field} and is {own}",
            )
        before, after = ([field.name for field in own.fields] for own in (earlier, self))
        after = [name for name in after if name in known]
        require(before == after, f"fields must keep their order {before}; got {after}")
        tasks = [
            [(task.name, task.kind, task.num_outputs) for task in own.tasks]
            for own in (earlier, self)
        ]
        require(tasks[0] == tasks[1], f"tasks must stay {tasks[0]}; got {tasks[1]}")
        return tuple(name for name in here if name not in known)

    def targets_of(self, bag: BagField) -> list[int]:
        """The numbers of the item's id fields that share a table with a history."""
        return [
            i
            for i, field in enumerate(self.ids)
            if field.table == bag.table and field.role is Role.ITEM
        ]


def _reads(field: object) -> tuple[object, ...]:
    """What two fields of one name must agree on; how long a list may be is not among it."""
    names = ("role", "table", "history", "dim")
    return tuple(getattr(field, name, None) for name in names)
