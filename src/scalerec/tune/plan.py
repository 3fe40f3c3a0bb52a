"""What a search tries: the models, their spaces, and the settings that all trials share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scalerec.config import require
from scalerec.data.dataset import Dataset
from scalerec.errors import ConfigError
from scalerec.models.recommender import ModelSpec
from scalerec.models.zoo import ZOO
from scalerec.train import TrainConfig
from scalerec.train.lineage import read_run
from scalerec.tune.defaults import default_space
from scalerec.tune.space import Choice, Domain, placed, space_text

__all__ = ["MODEL", "Plan", "make_plan"]

# The name of the choice between several models.
MODEL = "model"
Values = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a search tries.

    Args:
        models: Names in the zoo, at least one.
        spaces: For each model what is searched, by the settings' dotted names.
        fixed: Settings of every trial; those of the net under `model`.
    """

    models: tuple[str, ...]
    spaces: Mapping[str, Mapping[str, Domain]]
    fixed: Values

    @property
    def epochs(self) -> int:
        """Epochs of a trial, where they are not searched."""
        return int(self.fixed.get("epochs", TrainConfig().epochs))

    @property
    def metric(self) -> str:
        """What trials are judged by; empty for the tasks' own metrics."""
        return str(self.fixed.get("metric", ""))

    def run(self, model: str, values: Values) -> tuple[ModelSpec, TrainConfig]:
        """The settings of a trial.

        Args:
            model: Its model.
            values: What was chosen, by the settings' dotted names.

        Raises:
            ConfigError: If they do not go together.
        """
        settings = placed(self.fixed, values)
        return read_run(model, _own(model, settings.pop(MODEL, {})), settings)

    def defaults(self, model: str) -> dict[str, Any] | None:
        """What a run without a search would have, as far as it is in the model's space.

        None if there is no such run: the fixed settings need others beside them.
        """
        try:
            spec, config = self.run(model, {})
        except ConfigError:
            return None
        settings = {**config.to_dict(), "init_std": spec.init_std}
        settings[MODEL] = spec.net_config().to_dict()
        found = {}
        for name, domain in self.spaces[model].items():
            place: Any = settings
            for part in name.split("."):
                place = place[part]
            if domain.holds(place):
                found[name] = place
        return found

    def key(self, model: str, name: str) -> str:
        """The name of a setting in the study; that of a net has the model's name before it."""
        own = len(self.models) > 1 and name.startswith(f"{MODEL}.")
        return f"{model}:{name}" if own else name

    def domains(self) -> dict[str, Domain]:
        """Everything that is searched, by the names in the study."""
        found: dict[str, Domain] = {}
        if len(self.models) > 1:
            found[MODEL] = Choice(self.models)
        for model, space in self.spaces.items():
            found |= {self.key(model, name): domain for name, domain in space.items()}
        return found

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON."""
        space = space_text(self.domains())
        return {"models": list(self.models), "space": space, "settings": dict(self.fixed)}


def make_plan(
    dataset: Dataset, models: Sequence[str], fixed: Values, space: Mapping[str, Domain] | None
) -> Plan:
    """Check what a search is asked for.

    Args:
        dataset: The data.
        models: Names in the zoo.
        fixed: Settings of every trial; those of the net under `model`.
        space: What is searched; the default space of each model without it, less what is fixed.

    Raises:
        ConfigError: If a model, a setting or a value of the space does not exist, or a setting is
            both fixed and searched.
    """
    require(bool(models), "at least one model is needed")
    for model in models:
        require(model in ZOO, f"model must be one of {', '.join(ZOO)}; got {model!r}")
        require(models.count(model) == 1, f"model {model!r} is given {models.count(model)} times")
    known = _names(fixed, "")
    if space is None:
        rows = dataset.num_rows("train")
        spaces = {
            model: {n: d for n, d in default_space(model, rows).items() if n not in known}
            for model in models
        }
    else:
        both = [name for name in space if name in known]
        require(not both, f"{', '.join(both)}: is fixed and searched; give it once")
        for name in space:
            _check_used(models, name)
        spaces = {model: _own_space(model, space) for model in models}
    plan = Plan(tuple(models), spaces, placed(fixed, {}))
    _check_fixed(plan)
    _check_spaces(plan)
    return plan


def _check_fixed(plan: Plan) -> None:
    """Refuse what would make every trial fail, and settings of nets that no model has."""
    net = plan.fixed.get(MODEL, {})
    require(isinstance(net, Mapping), "[model] holds the models' settings; names go in --model")
    for name in net:
        _check_used(plan.models, f"{MODEL}.{name}")
    for model in plan.models:
        error = _error(plan, model, {})
        if error is not None:
            raise error


def _check_spaces(plan: Plan) -> None:
    """Refuse a setting of the space none of whose values is ever allowed."""
    for model, space in plan.spaces.items():
        require(bool(space), f"nothing is left to search for {model}")
        for name, domain in space.items():
            errors = [_error(plan, model, {name: value}) for value in domain.samples()]
            if all(errors):
                raise ConfigError(f"the space of {name} has no value that is allowed: {errors[0]}")


def _error(plan: Plan, model: str, values: Values) -> ConfigError | None:
    """What is wrong with some settings, beside defaults and beside the ends of the space."""
    space = plan.spaces[model]
    found: ConfigError | None = None
    for end in (None, 0, -1):
        others = {} if end is None else {n: domain.samples()[end] for n, domain in space.items()}
        try:
            plan.run(model, {**others, **values})
        except ConfigError as error:
            found = found or error
        else:
            return None
    return found


def _check_used(models: Sequence[str], name: str) -> None:
    """Refuse a setting of nets that none of the models has."""
    head, _, own = name.partition(".")
    if head != MODEL or any(own in _fields(model) for model in models):
        return
    plan = f"{', '.join(models)} {'has' if len(models) == 1 else 'have'}"
    allowed = dict.fromkeys(field for model in models for field in _fields(model))
    raise ConfigError(f"unknown setting {name!r}; {plan}: {', '.join(allowed)}")


def _own(model: str, net: Values) -> dict[str, Any]:
    """The settings of nets that a model has."""
    return {name: value for name, value in net.items() if name in _fields(model)}


def _own_space(model: str, space: Mapping[str, Domain]) -> dict[str, Domain]:
    own = _fields(model)
    head = f"{MODEL}."
    return {
        name: domain
        for name, domain in space.items()
        if not name.startswith(head) or name.removeprefix(head) in own
    }


def _fields(model: str) -> list[str]:
    return list(ZOO[model].config().to_dict())


def _names(table: Values, head: str) -> list[str]:
    """The dotted names of nested settings, those of tables too."""
    found = []
    for key, value in table.items():
        found.append(f"{head}{key}")
        if isinstance(value, Mapping):
            found += _names(value, f"{head}{key}.")
    return found
