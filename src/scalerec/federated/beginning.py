"""What a run begins with: its first model, how it chooses cohorts, and where it stands.

Shapes: P parties.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from scalerec.bundle.lineage import Step
from scalerec.data.dataset import Dataset
from scalerec.errors import ConfigError
from scalerec.federated.choice import Choice, PoissonChoice
from scalerec.federated.choice_ranked import make_choice
from scalerec.federated.config import FederatedConfig
from scalerec.federated.guarding import PrivacyConfig
from scalerec.federated.privacy import Phase, phases_of
from scalerec.federated.waiting import Waiting, load_of
from scalerec.models.recommender import ModelSpec, Recommender, build_recommender
from scalerec.rounds import Parameters
from scalerec.train.cohort.holdings import Holdings
from scalerec.train.start import Start

__all__ = ["Progress", "choice_of", "first_model", "paid_before", "waiting_of"]


@dataclass(slots=True)
class Progress:
    """Where a run stands, as JSON keeps it."""

    round: int = 0
    best: float | None = None
    num_bad: int = 0
    stopped: bool = False
    loss_sum: float = 0.0
    loss_rounds: int = 0
    curve: list[dict[str, float]] = field(default_factory=list)
    totals: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    def count(self, **more: float) -> None:
        """Add to the totals."""
        for name, value in more.items():
            self.totals[name] = self.totals.get(name, 0.0) + value


def choice_of(config: FederatedConfig, num: int, seed: int) -> Choice:
    """How cohorts of so many parties are chosen."""
    name = config.choice
    if name == "auto":
        by_coin = config.privacy.epsilon and config.privacy.is_central
        name = "poisson" if by_coin else "uniform"
    over = 1.0 if name == "poisson" else config.waiting.over
    settings = {"num_parties": num, "rounds": config.rounds, "seed": seed}
    return make_choice(name, cohort=min(config.cohort, num), over=over, **settings)


def waiting_of(
    config: FederatedConfig, parameters: Parameters, holdings: Holdings, seed: int
) -> Waiting:
    """How cohorts are chosen, and waited for."""
    num = holdings.num_parties
    choice = choice_of(config, num, seed)
    complete = 0 if isinstance(choice, PoissonChoice) else min(config.cohort, num)
    load = load_of(parameters, holdings, config.local.epochs)
    return Waiting(config.waiting, config.devices, choice, complete, load)


def first_model(
    dataset: Dataset, spec: ModelSpec, config: FederatedConfig, start: Start | None
) -> Recommender:
    """The model as it is before the first round.

    Args:
        dataset: Gives its layout.
        spec: The model.
        config: The run's settings; its seed draws the weights.
        start: What to start from in place of drawn weights.

    Raises:
        ConfigError: If the start is another model, or of another layout; or the schema wants tables
            that parties cannot train.
    """
    if dataset.schema.embeddings:
        names = ", ".join(sorted(dataset.schema.embeddings))
        raise ConfigError(
            f"{dataset.directory}: its schema has shared or narrow embeddings ({names}), which "
            "parties do not train; prepare the data without [embeddings]"
        )
    if start is None:
        return build_recommender(dataset.layout, spec, config.seed)
    found = start.recommender
    if found.spec != spec:
        raise ConfigError(f"the start is a model {found.spec.to_dict()}; got {spec.to_dict()}")
    if found.layout != dataset.layout:
        raise ConfigError(f"the start has another layout than {dataset.directory}")
    return found


def paid_before(lineage: Sequence[Step], privacy: PrivacyConfig) -> tuple[Phase, ...]:
    """The rounds that parties paid for on the way to a bundle, for a run that goes on from it.

    Args:
        lineage: Of the bundle.
        privacy: What the run promises; nothing is to be counted if it promises nothing.

    Raises:
        ConfigError: If rounds were under a promise of another kind.
    """
    held = [step.ledger for step in lineage if step.verb == "federate" and step.ledger]
    if not privacy.epsilon or not held:
        return ()
    # Each record holds those before it.
    return phases_of(held[-1], privacy.by)
