"""Forms: what of a recommender is stored or computed otherwise than its net of the zoo has it.

A compressed recommender is the same net with some of its parts in another form. Forms are settings,
so a bundle's spec says what it holds and every reader can build it. A part that is not named is as
the zoo builds it.
"""

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from scalerec.config import Config, require

__all__ = ["NO_FORMS", "Forms", "LayerForm", "Sharing", "TableForm"]

Sharing = Literal["own", "hash", "quotient"]
LAYER_BITS = (32, 16, 8)
TABLE_BITS = (32, 16, 8, 4)
# Padding, out-of-vocabulary, and one more; by quotients, two more.
FEWEST_ROWS = {"own": 0, "hash": 3, "quotient": 4}


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerForm(Config):
    """The form of one linear layer, or of a normalisation whose layer has another size.

    Args:
        inputs: Size of the input; 0 for the net's own.
        outputs: Size of the output; 0 for the net's own. For a `BatchNorm1d`, its only setting.
        rank: Size between two factors that stand for the weights; 0 for no factors.
        bits: 32 for float32; 16 for weights stored as float16 and computed with as float32; 8 for
            weights and inputs as whole numbers, multiplied as such.
        calibrated: With 8 bits, whether the scale of the inputs was fixed beforehand, one for all;
            else each row of inputs has its own.
        sparse: Whether zeros take one bit on disk.

    Raises:
        ConfigError: If a setting is out of its range, or nothing reads it.
    """

    inputs: int = 0
    outputs: int = 0
    rank: int = 0
    bits: int = 32
    calibrated: bool = False
    sparse: bool = False

    def __post_init__(self) -> None:
        for name in ("inputs", "outputs", "rank"):
            value = getattr(self, name)
            require(value >= 0, f"{name} must be at least 0; got {value}")
        _check_bits(self.bits, LAYER_BITS)
        fits = self.bits == 8 or not self.calibrated
        require(fits, f"calibrated belongs to layers of 8 bits; got bits={self.bits}")

    @property
    def is_resized(self) -> bool:
        """Whether the layer has other sizes and is otherwise as the net has it."""
        return not self.rank and self.bits == 32 and not self.sparse


@dataclass(frozen=True, kw_only=True, slots=True)
class TableForm(Config):
    """The form of one embedding table.

    Args:
        rows: Number of rows that ids share, those of padding and out-of-vocabulary included; 0
            where every id has its own or a row map tells which. Padding and out-of-vocabulary
            never share theirs.
        sharing: `own`: an id reads one row. `hash`: the sum of two rows, chosen by two hashes.
            `quotient`: the product of two, chosen by quotient and remainder.
        divisor: By quotients, what ids are divided by: the rows that are for remainders; 0 for as
            many as the quotients of the ids at hand leave, which a recommender then notes here.
        dim: Stored columns of the embedding, which a basis maps to the net's D; 0 for D of them.
        bits: 32 for float32, which can be trained; 16 for float16, 8 or 4 for codes with a scale a
            row, which are looked up only.

    Raises:
        ConfigError: If a setting is out of its range, or two contradict each other.
    """

    rows: int = 0
    sharing: Sharing = "own"
    divisor: int = 0
    dim: int = 0
    bits: int = 32

    def __post_init__(self) -> None:
        kinds = get_args(Sharing)
        known = self.sharing in kinds
        require(known, f"sharing must be one of {', '.join(kinds)}; got {self.sharing!r}")
        for name in ("dim", "divisor"):
            value = getattr(self, name)
            require(value >= 0, f"{name} must be at least 0; got {value}")
        _check_bits(self.bits, TABLE_BITS)
        fewest = FEWEST_ROWS[self.sharing]
        fits = self.rows == 0 if self.sharing == "own" else self.rows >= fewest
        wanted = "0, since every id has its own" if self.sharing == "own" else f"at least {fewest}"
        require(fits, f"rows must be {wanted} with sharing={self.sharing!r}; got {self.rows}")
        most = max(0, self.rows - FEWEST_ROWS["hash"]) if self.sharing == "quotient" else 0
        require(
            self.divisor <= most,
            f"divisor must be at most {most} with sharing={self.sharing!r} and rows={self.rows}; "
            f"got {self.divisor}",
        )

    @property
    def is_shaped(self) -> bool:
        """Whether looked-up rows are combined or mapped before the net reads them."""
        return self.sharing != "own" or self.dim > 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Forms(Config):
    """Everything of a recommender that has another form.

    Args:
        fields: Names of the layout's fields that are left out: the net is built without them.
        tables: Name of a table in the layout to its form.
        layers: Name of a module in the recommender, as ``net.tower.0``, to its form.
        recalibrated: Whether every column of the logits is scaled and shifted at the end.
    """

    fields: tuple[str, ...] = ()
    tables: dict[str, TableForm] = field(default_factory=dict)
    layers: dict[str, LayerForm] = field(default_factory=dict)
    recalibrated: bool = False

    def __bool__(self) -> bool:
        return bool(self.fields or self.tables or self.layers or self.recalibrated)

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON-ready values; those at their default are left out."""
        whole = Config.to_dict(self)
        for name in ("tables", "layers"):
            own = {**getattr(self, name)}
            whole[name] = {part: _changed(form) for part, form in own.items()}
        return {name: value for name, value in whole.items() if value}


NO_FORMS = Forms()


def _changed(form: Config) -> dict[str, Any]:
    start = type(form)().to_dict()
    return {name: value for name, value in form.to_dict().items() if value != start[name]}


def _check_bits(bits: int, allowed: tuple[int, ...]) -> None:
    known = ", ".join(map(str, allowed))
    require(bits in allowed, f"bits must be one of {known}; got {bits}")
