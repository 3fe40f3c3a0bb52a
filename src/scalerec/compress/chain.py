"""Steps applied one after the other, each with its effect; equal beginnings are done once."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from scalerec.compress.coverage import same_model
from scalerec.compress.effects import Effect
from scalerec.compress.steps import NamedStep
from scalerec.compress.work import Work
from scalerec.models.recommender import Recommender

__all__ = ["Chains", "Measure", "Stage"]

Measure = Callable[[Recommender, str], Effect]
NOTHING = "the step changed nothing of the model"


@dataclass(frozen=True, slots=True)
class Stage:
    """A model after some steps.

    Args:
        steps: All steps that led to it, as words; none for the model that was given.
        work: The model.
        effect: Its size, quality and time.
        seconds: What the last step took, measurement aside.
    """

    steps: tuple[str, ...]
    work: Work
    effect: Effect
    seconds: float = 0.0

    @property
    def name(self) -> str:
        """The steps as a command has them."""
        return ",".join(self.steps) or "as given"

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know of the last step, in words."""
        return self.work.notes


@dataclass(slots=True)
class Chains:
    """Chains of steps from one model.

    Args:
        work: The model that is given.
        measure: Gives a model's effect, with the word of its last step.
        tell: Called with each stage as it is there.
    """

    work: Work
    measure: Measure
    tell: Callable[[Stage], None] = lambda _: None
    known: dict[tuple[str, ...], Stage] = field(default_factory=dict)

    @property
    def given(self) -> Stage:
        """The model before any step."""
        if () not in self.known:
            self._keep(Stage((), self.work, self.measure(self.work.recommender, "")))
        return self.known[()]

    def run(self, steps: Sequence[NamedStep]) -> list[Stage]:
        """Apply steps; give the stages, that of the given model first.

        Raises:
            ConfigError: If a step does not fit the model or the data.
        """
        stages = [self.given]
        for step in steps:
            before = stages[-1]
            texts = (*before.steps, step.text)
            if texts not in self.known:
                self._keep(self._taken(before, step, texts))
            stages.append(self.known[texts])
        return stages

    def _taken(self, before: Stage, step: NamedStep, texts: tuple[str, ...]) -> Stage:
        start = time.perf_counter()
        work = step.step.apply(before.work)
        seconds = time.perf_counter() - start
        if same_model(work.recommender, before.work.recommender):
            work = work.with_model(before.work.recommender).noting(*work.notes, NOTHING)
            return Stage(texts, work, before.effect.replace(step=step.text), seconds)
        return Stage(texts, work, self.measure(work.recommender, step.text), seconds)

    def _keep(self, stage: Stage) -> None:
        self.known[stage.steps] = stage
        self.tell(stage)
