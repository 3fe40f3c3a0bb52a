"""Chains and the search, with steps and effects that are known."""

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from tests.compress.test_gate import effect

from scalerec.compress import searching
from scalerec.compress.chain import Chains, Stage
from scalerec.compress.effects import Effect
from scalerec.compress.gate import Gate
from scalerec.compress.searching import Found, check_gate, cost_of, search, stage_table
from scalerec.compress.steps import NamedStep
from scalerec.errors import CompressError, ConfigError

# AUC, bytes and milliseconds by the steps that were taken.
KNOWN = {
    "": (0.8, 1000, 10.0),
    "q": (0.7995, 250, 8.0),
    "p": (0.79, 500, 5.0),
    "p,q": (0.7893, 125, 4.0),
    "d": (0.7994, 100, 1.0),
    "d,q": (0.7992, 30, 1.5),
}


@dataclass(frozen=True)
class Model:
    """A recommender as far as chains know one: the steps that made it."""

    steps: tuple[str, ...] = ()

    @property
    def spec(self) -> tuple[str, ...]:
        return self.steps


@dataclass(frozen=True)
class Work:
    recommender: Model
    notes: tuple[str, ...] = ()

    def with_model(self, recommender: Model) -> "Work":
        return Work(recommender)

    def noting(self, *notes: str) -> "Work":
        return replace(self, notes=(*self.notes, *notes))


@dataclass
class Taken:
    """A step that notes that it was taken."""

    name: str
    log: list[str] = field(default_factory=list)

    def apply(self, work: Any) -> Any:
        if self.name == "bad":
            raise ConfigError("step bad: does not fit")
        if self.name == "recalibrate":
            return work
        self.log.append(self.name)
        return Work(Model((*work.recommender.steps, self.name)))


LOG: list[str] = []


def read(text: str) -> tuple[NamedStep, ...]:
    return tuple(NamedStep(name, Taken(name, LOG)) for name in text.split(","))


def chains() -> Chains:
    def measure(recommender: Any, step: str) -> Effect:
        auc, size, ms = KNOWN[",".join(recommender.steps)]
        return effect(auc, size, ms).replace(step=step)

    LOG.clear()
    return Chains(Work(Model()), measure)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def known_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searching, "read_steps", read)


def found(gate: Gate | None = None, *recipes: str) -> Found:
    return search(chains(), gate or Gate(), recipes or ("q", "p,q", "d,q", "bad,q"))


def test_equal_beginnings_are_done_once() -> None:
    own = chains()
    own.run(read("p,q"))
    stages = own.run(read("p,q"))
    assert LOG == ["p", "q"]
    assert [stage.steps for stage in stages] == [(), ("p",), ("p", "q")]
    assert [stage.name for stage in stages] == ["as given", "p", "p,q"]
    assert stages[2].effect.step == "q"


def test_a_step_that_changes_nothing_says_so_and_is_not_measured_again() -> None:
    own = chains()
    *_, before, last = own.run(read("q,recalibrate"))
    assert last.notes == ("the step changed nothing of the model",)
    assert before.notes == ()
    assert last.effect == before.effect.replace(step="recalibrate")
    assert last.work.recommender is before.work.recommender


def test_the_cheapest_within_the_gate_is_taken() -> None:
    result = found()
    assert [stage.name for stage in result.stages] == ["q", "p", "p,q", "d", "d,q"]
    assert result.stages[result.best].name == "d,q"
    assert [stage.name for stage in result.way] == ["as given", "d", "d,q"]
    # p and p,q are larger and slower than d, and worse.
    assert [result.stages[place].name for place in result.front] == ["q", "d", "d,q"]
    assert result.faults[1] == ["AUC fell by 0.01000, at most 0.00100"]
    assert result.left_out == {"bad,q": "step bad: does not fit"}
    # d: a tenth of the bytes in a tenth of the time; d,q: 3% in 15%.
    assert cost_of(result.stages[3].effect, result.given.effect) == pytest.approx(0.1)
    assert cost_of(result.stages[4].effect, result.given.effect) == pytest.approx(0.0045**0.5)


def test_other_bounds_take_another() -> None:
    result = found(Gate(max_auc_drop=0.00061))
    assert result.stages[result.best].name == "d"
    columns, rows = result.table()
    assert columns[-1] == "gate"
    assert [row[0] for row in rows] == ["", "*", "", "", "→", "*"]
    assert rows[1][1:4] == ["q", "10", "250"]
    assert rows[4][-1] == "passes"
    assert result.to_dict()["gate"]["max_auc_drop"] == 0.00061
    models = result.to_dict()["models"]
    assert [own["best"] for own in models] == [False, False, False, True, False]
    assert models[1]["faults"] == ["AUC fell by 0.01000, at most 0.00061"]


def test_nothing_within_the_gate_shows_the_front() -> None:
    with pytest.raises(CompressError, match=r"no model passes the gate; those that no") as error:
        found(Gate(max_bytes=10))
    lines = str(error.value).splitlines()
    assert [line.split()[1] for line in lines[2:]] == ["q", "d", "d,q"]
    assert lines[2].endswith("bytes of weights are 250, at most 10")


def test_no_chain_that_fits_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no chain of steps fits this model: step bad: does not"):
        found(None, "bad")


def test_steps_that_were_asked_for_must_pass() -> None:
    stages = chains().run(read("p,q"))
    check_gate(stages, Gate(max_bytes=125))
    with pytest.raises(
        CompressError, match=r"does not pass the gate: AUC fell by 0.01070"
    ) as error:
        check_gate(stages, Gate(max_auc_drop=0.01))
    assert len(str(error.value).splitlines()) == 5
    columns, rows = stage_table(stages[0], stages[1:])
    assert columns == ["steps", "parameters", "bytes", "AUC", "p50 ms", "p99 ms"]
    assert [row[0] for row in rows] == ["as given", "p", "p,q"]


def test_a_stage_knows_its_name() -> None:
    own = Stage((), Work(Model()), effect())  # type: ignore[arg-type]
    assert own.name == "as given"
