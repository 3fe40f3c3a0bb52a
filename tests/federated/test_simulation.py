"""Whole federated runs over the simulated world: what is learned, what leaves, what resumes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scalerec.data.dataset import Dataset
from scalerec.data.schema import Embedding
from scalerec.errors import ConfigError, RoundError, TrainError
from scalerec.federated import (
    Federated,
    FederatedConfig,
    LocalConfig,
    federate,
    split_parties,
    without_private,
)
from scalerec.federated.devices import DevicesConfig
from scalerec.federated.guarding import PrivacyConfig
from scalerec.federated.private import private_tables
from scalerec.federated.screening import ScreenConfig
from scalerec.federated.strategies import TABLE, FedAvg
from scalerec.federated.strategies.adaptive import FedAdam, FedAdamConfig
from scalerec.federated.waiting import WaitingConfig
from scalerec.models.recommender import ModelSpec, build_recommender
from scalerec.scoring import EvaluateConfig, evaluate
from scalerec.track import MemorySink

SPEC = ModelSpec(model="deepfm", settings={"dim": 4, "hidden": [8]})
LOCAL = LocalConfig(lr=0.1, rows_lr=0.2)
CONFIG = FederatedConfig(rounds=4, cohort=20, local=LOCAL, evaluate_every=2, checkpoint_every=0)
SLOW = DevicesConfig(speed=10.0, speed_sigma=1.5)
pytestmark = pytest.mark.usefixtures("one_thread")


def run(dataset: Dataset, by: str = "user", **changes: Any) -> Federated:
    return federate(dataset, SPEC, split_parties(dataset, by, 1), CONFIG.replace(**changes))


def tensors_of(found: Federated) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in found.recommender.to_tensors().items()}


def close(one: Federated, other: Federated, rtol: float, atol: float) -> None:
    left, right = tensors_of(one), tensors_of(other)
    for name, tensor in left.items():
        torch.testing.assert_close(tensor, right[name], msg=name, rtol=rtol, atol=atol)


@pytest.mark.parametrize("changes", [{}, {"negatives": 2}, {"choice": "poisson"}], ids=str)
def test_both_engines_give_the_same(simulated: Dataset, changes: dict[str, Any]) -> None:
    one, other = (run(simulated, engine=engine, **changes) for engine in ("batched", "loop"))
    close(one, other, rtol=1e-3, atol=1e-5)
    assert one.totals == other.totals


def test_it_learns(simulated: Dataset) -> None:
    found = run(simulated, by="uniform:10", rounds=30, cohort=10, evaluate_every=30)
    fresh = build_recommender(simulated.layout, SPEC, CONFIG.seed)
    measured = EvaluateConfig(ranking="no")
    before = evaluate(fresh, simulated, measured).metrics
    after = evaluate(found.recommender, simulated, measured).metrics
    name = next(metric for metric in after if metric.endswith("auc"))
    assert (after[name] or 0.0) > (before[name] or 0.0) + 0.05
    assert found.curve[-1]["step"] == 30


def test_private_rows_never_leave(simulated: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """No update holds one, and the server's bundle has them as they were drawn."""
    seen: list[torch.Tensor] = []
    combine = FedAvg.combine

    def watched(self: FedAvg, update: Any, *args: Any) -> Any:
        seen.append(update.tables[TABLE].rows)
        return combine(self, update, *args)

    monkeypatch.setattr(FedAvg, "combine", watched)
    found = run(simulated)
    parties = split_parties(simulated, "user", 1)
    assert private_tables(simulated, parties, ("auto",)) == [simulated.schema.user]
    assert len(seen) == 4
    assert not any(bool(found.private[rows].any()) for rows in seen)
    drawn = build_recommender(simulated.layout, SPEC, CONFIG.seed).tables.matrix
    trained = found.recommender.tables.matrix
    private = found.private
    assert not torch.equal(trained[private], drawn[private])
    server = without_private(found).tables.matrix
    assert torch.equal(server[private], drawn[private])
    assert torch.equal(server[~private], trained[~private])


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"method": {"server_momentum": 0.5}, "patience": 9},
        {"ema": 0.9, "patience": 9},
        {"codec": "topk:0.1,bits:4", "strategy": "fedadam"},
        {"codec": "sketch:0.2,bits:8"},
        {"strategy": "scaffold"},
        {"negatives": 1},
        {"strategy": "fedbuff", "method": {"concurrency": 40}, "devices": SLOW},
    ],
    ids=str,
)
def test_a_run_that_was_stopped_goes_on_alike(
    simulated: Dataset, tmp_path: Path, changes: dict[str, Any]
) -> None:
    parties = split_parties(simulated, "user", 1)
    config = CONFIG.replace(rounds=5, checkpoint_every=1, **changes)
    whole = federate(simulated, SPEC, parties, config)

    class KilledError(Exception):
        pass

    def kill(seen: Any) -> None:
        if seen["step"] == 4 and "seconds" in seen:
            raise KilledError

    with pytest.raises(KilledError):
        federate(simulated, SPEC, parties, config, checkpoints=tmp_path, on_progress=kill)
    assert (tmp_path / "checkpoint.safetensors").is_file()
    resumed = federate(simulated, SPEC, parties, config, checkpoints=tmp_path, resume=True)
    close(resumed, whole, rtol=0.0, atol=0.0)
    assert resumed.totals == whole.totals
    assert [entry["step"] for entry in resumed.curve] == [2, 4, 5]
    assert not (tmp_path / "checkpoint.safetensors").exists()


def test_another_run_is_not_resumed(simulated: Dataset, tmp_path: Path) -> None:
    parties = split_parties(simulated, "user", 1)
    config = CONFIG.replace(checkpoint_every=1)

    def kill(seen: Any) -> None:
        if "seconds" in seen:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        federate(simulated, SPEC, parties, config, checkpoints=tmp_path, on_progress=kill)
    other = config.replace(cohort=5)
    with pytest.raises(TrainError, match="of a run with another cohort: 20, now 5"):
        federate(simulated, SPEC, parties, other, checkpoints=tmp_path, resume=True)


def test_what_is_counted(simulated: Dataset) -> None:
    sink = MemorySink()
    parties = split_parties(simulated, "uniform:4", 1)
    config = CONFIG.replace(rounds=3, cohort=2, evaluate_every=1)
    found = federate(simulated, SPEC, parties, config, sinks=[sink])
    dense = sum(t.nbytes for t in found.recommender.dense_parameters().values())
    assert found.totals["updates"] == 6
    assert found.totals["bytes_down"] > 6 * dense
    # Up goes a row's number too.
    assert found.totals["bytes_up"] > found.totals["bytes_down"]
    assert [entry["step"] for entry in found.curve] == [1, 2, 3]
    assert all(np.isfinite(entry["train/loss"]) for entry in found.curve)
    assert len(sink.rows()) == 3


def test_what_cannot_be_used_is_counted(
    simulated: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = FedAvg.sent

    def spoilt(*args: Any) -> Any:
        update = sent(*args)
        next(iter(update.dense.values()))[0] = torch.nan
        return update

    monkeypatch.setattr(FedAvg, "sent", spoilt)
    found = run(simulated)
    assert found.totals["nonfinite"] == 4
    assert all(bool(t.isfinite().all()) for t in found.recommender.to_tensors().values())


@pytest.mark.parametrize("method", [{}, {"server_momentum": 0.5}], ids=["linear", "momentum"])
def test_a_privacy_budget_is_kept(simulated: Dataset, method: dict[str, float]) -> None:
    """Every row that parties share has noise; the run stops when the budget is spent."""
    privacy = PrivacyConfig(epsilon=4.0, delta=1e-3, clip=0.1)
    found = run(simulated, privacy=privacy, method=method, cohort=8)
    assert found.privacy is not None
    assert 3.9 < found.privacy["epsilon"] <= 4.0
    assert found.privacy["sampling"] == "poisson"
    drawn = build_recommender(simulated.layout, SPEC, CONFIG.seed).tables
    moved = (found.recommender.tables.matrix != drawn.matrix).all(1)
    still = found.private.clone()
    still[drawn.get_buffer("padding")] = True
    assert bool(moved[~still].all())
    longer = run(simulated, privacy=privacy, method=method, cohort=8, rounds=4, patience=-1)
    assert longer.rounds == 4


def test_an_adaptive_server_does_not_adapt_to_noise(
    simulated: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tau is at least ten times the deviation of the noise in the mean, unless it is set."""
    seen: list[FedAdam] = []
    expect = FedAdam.expect_noise

    def spy(self: FedAdam, deviation: float) -> None:
        expect(self, deviation)
        seen.append(self)

    monkeypatch.setattr(FedAdam, "expect_noise", spy)
    privacy = PrivacyConfig(epsilon=1.0, delta=1e-3, clip=0.5)
    found = run(simulated, privacy=privacy, strategy="fedadam", cohort=8, rounds=2)
    assert found.privacy is not None
    noise = found.privacy["noise_multiplier"] * 0.5 / 8
    (method,) = seen
    assert method.least_tau == pytest.approx(10 * noise)
    assert method.config.settings("adam", method.least_tau).tau == method.least_tau
    assert method.config.settings("adam").tau == 1e-3
    assert method.config.settings("adam", 1e-5).tau == 1e-3
    assert FedAdamConfig(tau=1e-5).settings("adam", method.least_tau).tau == 1e-5


def test_a_party_that_goes_astray_keeps_its_old_rows(
    simulated: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its private rows are no part of any update, so no screen looks at them."""
    train, spoilt = FedAvg.train, {"places": torch.zeros(0)}

    def astray(self: FedAvg, parameters: Any, cohort: Any, number: int) -> Any:
        trained = train(self, parameters, cohort, number)
        private = self.ground.private[cohort.rows].nonzero()[:, 0]
        trained.local.moved_rows[private[0]] = torch.nan
        trained.local.moved_rows[private[1]] = 1e6
        spoilt["places"] = cohort.rows[private[:2]]
        return trained

    monkeypatch.setattr(FedAvg, "train", astray)
    found = run(simulated, rounds=1)
    drawn = build_recommender(simulated.layout, SPEC, CONFIG.seed).tables.matrix
    matrix, rows = found.recommender.tables.matrix, spoilt["places"]
    assert len(rows) == 2
    assert torch.equal(matrix[rows], drawn[rows])
    assert int((matrix[found.private] != drawn[found.private]).any(1).sum()) == 18


def test_budgets_that_fit_nothing(simulated: Dataset) -> None:
    privacy = PrivacyConfig(epsilon=4.0)
    with pytest.raises(ConfigError, match=r"a privacy budget needs choice poisson.*got size"):
        CONFIG.replace(privacy=privacy, choice="size")
    with pytest.raises(ConfigError, match="strategy scaffold weighs or corrects updates itself"):
        run(simulated, privacy=privacy, strategy="scaffold")


@pytest.mark.parametrize("strategy", ["scaffold", "fedper"])
def test_codecs_of_methods_that_send_other_tensors(simulated: Dataset, strategy: str) -> None:
    plain = run(simulated, strategy=strategy)
    short = run(simulated, strategy=strategy, codec="topk:0.1,bits:4")
    assert short.totals["bytes_up"] < plain.totals["bytes_up"] / 10


def test_bytes_of_scaffold_are_twice_the_plain_ones(simulated: Dataset) -> None:
    plain, twice = run(simulated), run(simulated, strategy="scaffold")
    assert twice.totals["bytes_down"] == 2 * plain.totals["bytes_down"]


def test_codecs_make_messages_shorter(simulated: Dataset) -> None:
    plain, short = run(simulated), run(simulated, codec="topk:0.1,bits:8")
    assert short.totals["bytes_up"] < plain.totals["bytes_up"] / 10
    assert short.totals["bytes_down"] == plain.totals["bytes_down"]


def test_robust_rules_hold_against_a_party_that_explodes(
    simulated: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of ten parties sends its update a million times as large."""
    sent = FedAvg.sent

    def exploding(*args: Any) -> Any:
        update = sent(*args)
        factors = torch.ones(len(update))
        factors[0] = 1e6
        return update.scale(factors)

    drawn = {
        name: tensor.detach().clone()
        for name, tensor in build_recommender(simulated.layout, SPEC, CONFIG.seed)
        .dense_parameters()
        .items()
    }

    def moved(combine: str, max_times: float = 0.0) -> float:
        screen = ScreenConfig(max_times=max_times)
        settings: dict[str, Any] = {"combine": combine, "cohort": 10, "rounds": 1, "screen": screen}
        found = run(simulated, by="uniform:10", **settings)
        own = found.recommender.dense_parameters()
        return max(float((own[n].detach() - t).abs().max()) for n, t in drawn.items() if t.numel())

    plain = moved("mean")
    monkeypatch.setattr(FedAvg, "sent", exploding)
    assert moved("mean") > 1e3 * plain
    assert moved("mean", max_times=1000.0) < 5 * plain
    for combine in (
        "median",
        "trimmed:0.2",
        "krum:1",
        "multikrum:1",
        "normbound:median",
        "geomedian",
    ):
        assert moved(combine) < 5 * plain, combine


def test_rules_that_are_none() -> None:
    with pytest.raises(ConfigError, match="a rule must be mean, median, trimmed:SHARE"):
        CONFIG.replace(combine="mode")


def test_rules_that_do_not_go_together(simulated: Dataset) -> None:
    with pytest.raises(ConfigError, match=r"no noise covers a robust rule.*got median"):
        CONFIG.replace(combine="median", privacy=PrivacyConfig(epsilon=1.0))
    words = "scaffold weighs or corrects updates itself, which combine median does not"
    with pytest.raises(ConfigError, match=words):
        run(simulated, strategy="scaffold", combine="median")


def test_a_third_drops_out(simulated: Dataset) -> None:
    """Of ten asked some never answer; with more asked, the first ten are enough."""
    devices = DevicesConfig(drop_out=0.3)
    settings: dict[str, Any] = {"rounds": 10, "cohort": 10, "devices": devices}
    found = run(simulated, **settings)
    assert 15 <= found.totals["dropped_out"] <= 45
    assert found.totals["updates"] == 100 - found.totals["dropped_out"]
    assert found.totals["simulated_s"] > 0
    more = run(simulated, waiting=WaitingConfig(over=3.0), **settings)
    assert more.totals["updates"] == 100
    assert more.totals["not_needed"] == 300 - 100 - more.totals["dropped_out"]
    assert more.totals["simulated_s"] < found.totals["simulated_s"]


def test_the_slow_are_not_waited_for(simulated: Dataset) -> None:
    settings: dict[str, Any] = {"rounds": 5, "cohort": 20, "devices": SLOW}
    patient = run(simulated, **settings)
    hasty = run(simulated, waiting=WaitingConfig(deadline_s=5.0), **settings)
    assert patient.totals["slow"] == 0
    assert hasty.totals["slow"] > 0
    assert hasty.totals["updates"] == 100 - hasty.totals["slow"]
    assert hasty.totals["simulated_s"] <= 25.0 < patient.totals["simulated_s"]


@pytest.mark.parametrize("choice", ["size", "available", "curriculum", "power"])
def test_other_choices(simulated: Dataset, choice: str) -> None:
    found = run(simulated, choice=choice, rounds=3, cohort=10)
    assert found.totals["updates"] == 30
    assert np.isfinite(found.curve[-1]["train/loss"])


def test_nobody_waits_for_the_slowest(simulated: Dataset) -> None:
    """Some updates began at earlier versions; older ones than allowed are late."""
    settings: dict[str, Any] = {"strategy": "fedbuff", "devices": SLOW, "rounds": 6, "cohort": 10}
    found = run(simulated, method={"concurrency": 30}, **settings)
    assert found.totals["staleness"] > 0
    assert found.totals["late"] == 0
    assert found.totals["simulated_s"] > 0
    assert found.totals["updates"] == 60
    strict = run(simulated, method={"concurrency": 30, "max_staleness": 0}, **settings)
    assert 0 < strict.totals["late"] < 60
    assert strict.totals["staleness"] == 0
    assert strict.totals["updates"] == 60 - strict.totals["late"]
    both = run(simulated, method={"concurrency": 30}, engine="loop", **settings)
    close(found, both, rtol=1e-3, atol=1e-5)


def test_words_of_fedbuff() -> None:
    with pytest.raises(ConfigError, match="fedbuff takes whoever arrives: choice must be auto"):
        CONFIG.replace(strategy="fedbuff", choice="uniform")
    with pytest.raises(ConfigError, match="which no privacy budget is counted for"):
        CONFIG.replace(strategy="fedbuff", privacy=PrivacyConfig(epsilon=1.0))
    with pytest.raises(ConfigError, match="max_staleness must be at least 0; got -1"):
        CONFIG.replace(strategy="fedbuff", method={"max_staleness": -1})


def test_private_tables_that_are_shared(simulated: Dataset) -> None:
    with pytest.raises(RoundError, match="rows of private tables are read by several parties"):
        run(simulated, by="uniform:4", private=(simulated.schema.user,))
    with pytest.raises(ConfigError, match=r"private must name tables, of .*; got 'nothing'"):
        run(simulated, private=("nothing",))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rounds": 0}, "rounds must be at least 1; got 0"),
        ({"cohort": 0}, "cohort must be at least 1; got 0"),
        ({"strategy": "fedall"}, r"strategy must be one of ditto, .*; got 'fedall'"),
        ({"choice": "best"}, r"choice must be one of auto, uniform, .*; got 'best'"),
        ({"waiting": {"over": 0.5}}, "over must be from 1 to 100; got 0.5"),
        ({"method": {"lr": 1.0}}, "method fedavg: unknown setting 'lr'"),
    ],
)
def test_words_of_settings(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        CONFIG.replace(**changes)


def test_the_running_mean_is_given_at_the_end(simulated: Dataset) -> None:
    """Worked by hand: a mean of four rounds, of which the first n keep (1 + n) / (10 + n)."""
    found = tensors_of(run(simulated, ema=0.15, private=()))
    plain = [tensors_of(run(simulated, rounds=n + 1, private=())) for n in range(4)]
    wanted = plain[0]
    for n in range(1, 4):
        kept = min(0.15, (1 + n) / (10 + n))
        wanted = {k: kept * t + (1 - kept) * plain[n][k] for k, t in wanted.items()}
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, wanted[name], msg=name, rtol=1e-4, atol=1e-6)


def test_a_partys_own_rows_are_not_averaged(simulated: Dataset) -> None:
    plain, averaged = run(simulated), run(simulated, ema=0.9)
    matrix, other = (one.recommender.tables.matrix for one in (plain, averaged))
    assert plain.private.any()
    assert torch.equal(matrix[plain.private], other[plain.private])
    assert not torch.equal(matrix, other)


def test_shared_embeddings_are_refused(simulated: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = {"item_id": Embedding(sharing="hash", rows=8)}
    monkeypatch.setattr(simulated, "schema", simulated.schema.replace(embeddings=chosen))
    words = r"has shared or narrow embeddings \(item_id\), which parties do not train; prepare"
    with pytest.raises(ConfigError, match=words):
        run(simulated)


def test_ema_words() -> None:
    with pytest.raises(ConfigError, match=r"ema must be in \[0, 1\); got 1"):
        FederatedConfig(ema=1.0)
    with pytest.raises(ConfigError, match="noise is still due"):
        FederatedConfig(ema=0.5, privacy=PrivacyConfig(epsilon=1.0))
