"""Whole rounds: a hand-worked case, the loop against the vectorised engine, and trouble."""

import runpy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from scalerec.errors import ConfigError, RoundError
from scalerec.optim import Optimiser, adagrad, adam, sgd
from scalerec.rounds import (
    Algorithm,
    LocalUpdate,
    Parameters,
    Party,
    RoundReport,
    RoundState,
    Update,
    chain_codecs,
    clip_norm,
    local_steps,
    localise,
    mean_aggregator,
    run_round,
    run_round_vectorised,
)

Engine = Callable[
    [RoundState, Sequence[Party], Algorithm, torch.Generator], tuple[RoundState, RoundReport]
]
ENGINES: dict[str, Engine] = {"loop": run_round, "vectorised": run_round_vectorised}
engines = pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)


def line(parameters: Parameters, batch: Mapping[str, Tensor]) -> Tensor:
    """Half the mean squared error of ``w * x``, plus the bias of the row's user if there is one."""
    predicted = parameters.dense["w"] * batch["x"]
    if "user" in batch:
        predicted = predicted + parameters.tables["user"][batch["user"], 0]
    return ((predicted - batch["y"]) ** 2).mean() / 2


def shard(name: str, x: list[float], y: list[float], users: list[int] | None = None) -> Party:
    data, rows = {"x": torch.tensor(x), "y": torch.tensor(y)}, {}
    if users is not None:
        rows["user"], data["user"] = localise(torch.tensor(users))
    return Party(name=name, rows=rows, data=data, weight=len(x))


def start(num_users: int = 0) -> Parameters:
    tables = {"user": torch.zeros(num_users, 1)} if num_users else {}
    return Parameters(dense={"w": torch.tensor(0.0)}, tables=tables)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(3)


# Worked by hand. The loss is half the mean squared error, so the gradient is mean((w x - y) x).
#
#   first shard, (1, 1) and (1, 3): g = w - 2.      w = 0 -> 0 + 2/8 = .25 -> .25 + 1.75/8 = .46875
#   second shard, (2, 4):           g = 4 w - 8.    w = 0 -> 0 + 8/8 = 1   -> 1 + 4/8      = 1.5
#
# The mean, two rows against one: (2 * .46875 + 1.5) / 3 = 2.4375 / 3 = .8125.
def test_two_shards_by_hand() -> None:
    parties = [shard("first", [1, 1], [1, 3]), shard("second", [2], [4])]
    algorithm = Algorithm(local_update=local_steps(line, sgd(lr=1 / 8), num_steps=2))
    state, report = run_round(algorithm.init(start()), parties, algorithm, seeded())
    assert state.parameters.dense["w"].item() == 0.8125
    assert report == RoundReport(
        num_parties=2,
        nonfinite=(),
        weight=3,
        mean_norm=(0.46875 + 1.5) / 2,
        bytes_down=8,  # one float32 for each
        bytes_up=24,  # and its weight as float64 on the way back
    )


def test_the_example_prints_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(Path(__file__).parents[2] / "examples" / "two_shards.py"))
    assert capsys.readouterr().out == "w = 0.8125\n"


# One step at learning rate 1/2 with a bias for each user, all zero at first, x = 1, so both the
# weight's and a bias's gradient come from the errors -y.
#
#   first shard, users 4 and 7 with y = 1 and 3: g_w = -(1 + 3)/2 = -2, g_4 = -1/2, g_7 = -3/2.
#   second shard, users 7 and 9 with y = 5, 7:   g_w = -6, g_7 = -5/2, g_9 = -7/2.
#
# Displacements are halves of that with the sign turned. The shards weigh the same:
#   w = (1 + 3)/2 = 2; user 7 = (3/4 + 5/4)/2 = 1;
#   over all: user 4 = (1/4)/2 = 1/8, user 9 = (7/4)/2 = 7/8; over holders: 1/4 and 7/4.
@engines
@pytest.mark.parametrize(("over", "rows"), [("all", [0.125, 0.875]), ("holders", [0.25, 1.75])])
def test_rows_of_a_table_by_hand(engine: Engine, over: str, rows: list[float]) -> None:
    parties = [shard("first", [1, 1], [1, 3], [4, 7]), shard("second", [1, 1], [5, 7], [7, 9])]
    algorithm = Algorithm(
        local_update=local_steps(line, sgd(lr=0.5), num_steps=1),
        aggregator=mean_aggregator(over),  # type: ignore[arg-type]
    )
    state, report = engine(algorithm.init(start(10)), parties, algorithm, seeded())
    assert state.parameters.dense["w"].item() == 2.0
    expected = torch.zeros(10)
    expected[[4, 7, 9]] = torch.tensor([rows[0], 1.0, rows[1]])
    assert torch.equal(state.parameters.tables["user"][:, 0], expected)
    assert (report.bytes_down, report.bytes_up) == (2 * (4 + 8), 2 * (8 + 4 + 16 + 8))


# The engines against each other, on a small net with two tables.

D, H = 4, 6


def net_loss(parameters: Parameters, batch: Mapping[str, Tensor]) -> Tensor:
    user = parameters.tables["user"][batch["user"]]
    item = parameters.tables["item"][batch["item"]]
    hidden = torch.relu(torch.cat([user, item], dim=-1) @ parameters.dense["w1"])
    logits = hidden @ parameters.dense["w2"] + (user * item).sum(-1)
    return torch.nn.functional.binary_cross_entropy_with_logits(logits, batch["y"])


def net_start(generator: torch.Generator, dtype: torch.dtype) -> Parameters:
    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=dtype)

    return Parameters(
        dense={"w1": draw(2 * D, H), "w2": draw(H)},
        tables={"user": draw(20, D), "item": draw(30, D)},
    )


def net_parties(generator: torch.Generator, dtype: torch.dtype, num: int = 5) -> list[Party]:
    parties = []
    for user in range(num):
        rows = torch.randperm(30, generator=generator)[:6].sort().values
        item = torch.cat([torch.arange(6), torch.randint(6, (4,), generator=generator)])
        labels = torch.randint(2, (10,), generator=generator).to(dtype)
        data = {"user": torch.zeros(10, dtype=torch.int64), "item": item, "y": labels}
        owned = {"user": torch.tensor([user]), "item": rows}
        parties.append(Party(name=f"user {user}", rows=owned, data=data, weight=1 + user))
    return parties


OPTIMISERS = {"sgd": sgd(0.1), "momentum": sgd(0.1, momentum=0.9), "adam": adam(0.01)}
OPTIMISERS["adagrad"] = adagrad(0.1)


@pytest.mark.parametrize("name", OPTIMISERS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize(("batch_size", "chunk_size"), [(None, None), (4, 2)])
def test_vectorised_equals_loop(
    *,
    name: str,
    dtype: torch.dtype,
    tolerance: float,
    batch_size: int | None,
    chunk_size: int | None,
    generator: torch.Generator,
) -> None:
    parties = net_parties(generator, dtype)
    algorithm = Algorithm(
        local_update=local_steps(net_loss, OPTIMISERS[name], num_steps=3, batch_size=batch_size),
        aggregator=mean_aggregator("holders"),
        codec=clip_norm(0.5),
    )
    first = second = algorithm.init(net_start(generator, dtype))
    one, other = seeded(), seeded()
    for _ in range(2):
        first, report = run_round(first, parties, algorithm, one)
        second, vectorised = run_round_vectorised(
            second, parties, algorithm, other, chunk_size=chunk_size
        )
    # Batched matrix products add in another order; two rounds of three steps.
    torch.testing.assert_close(
        first.parameters.flat(), second.parameters.flat(), rtol=tolerance, atol=tolerance
    )
    assert vectorised.mean_norm == pytest.approx(report.mean_norm, rel=tolerance)
    assert vectorised.bytes_up == report.bytes_up


@engines
def test_the_same_seed_gives_the_same_round(engine: Engine, generator: torch.Generator) -> None:
    parties = net_parties(generator, torch.float32)
    parameters = net_start(generator, torch.float32)
    before = {name: tensor.clone() for name, tensor in parameters.flat().items()}
    algorithm = Algorithm(local_update=local_steps(net_loss, sgd(0.1), num_steps=2, batch_size=3))
    ends = [
        engine(algorithm.init(parameters), parties, algorithm, torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    ]
    flat = [state.parameters.flat() for state, _ in ends]
    assert all(torch.equal(flat[0][name], flat[1][name]) for name in before)
    assert not all(torch.equal(flat[0][name], flat[2][name]) for name in before)
    # Only rows that someone holds have moved, and the start stays as it was.
    held = {int(row) for party in parties for row in party.rows["item"]}
    moved = (flat[0]["tables/item"] != before["tables/item"]).any(1).nonzero().flatten().tolist()
    assert set(moved) <= held
    assert all(torch.equal(parameters.flat()[name], tensor) for name, tensor in before.items())


def test_one_party_and_one_step_is_plain_training(generator: torch.Generator) -> None:
    (party,) = net_parties(generator, torch.float64, num=1)
    parameters = net_start(generator, torch.float64)
    algorithm = Algorithm(local_update=local_steps(net_loss, sgd(0.1), num_steps=1))
    state, _ = run_round(algorithm.init(parameters), [party], algorithm, seeded())
    leaves = {n: t.clone().requires_grad_() for n, t in parameters.flat().items()}
    net_loss(Parameters.from_flat(leaves).gather(party.rows), party.data).backward()
    plain = {n: (t - 0.1 * t.grad).detach() for n, t in leaves.items() if t.grad is not None}
    torch.testing.assert_close(state.parameters.flat(), plain, rtol=1e-12, atol=1e-12)


def test_rounds_learn_the_line() -> None:
    # Every shard lies on y = 2 x + bias of its user; the biases are learned as well.
    bias = [0.5, -1.0, 1.5]
    parties = [
        shard(f"user {u}", [-1.0, 0.0, 1.0], [2 * x + b for x in (-1, 0, 1)], [u, u, u])
        for u, b in enumerate(bias)
    ]
    algorithm = Algorithm(
        local_update=local_steps(line, sgd(lr=0.5), num_steps=3, batch_size=2),
        aggregator=mean_aggregator("holders"),
    )
    state, generator = algorithm.init(start(3)), seeded()
    for _ in range(60):
        state, _ = run_round_vectorised(state, parties, algorithm, generator)
    assert state.parameters.dense["w"].item() == pytest.approx(2.0, abs=1e-3)
    assert state.parameters.tables["user"][:, 0].tolist() == pytest.approx(bias, abs=1e-3)


# Local steps by themselves.


@pytest.mark.parametrize("optimiser", [sgd(0.1), adam(0.05)])
def test_a_meta_gradient_equals_finite_differences(
    optimiser: Optimiser, generator: torch.Generator
) -> None:
    update = local_steps(line, optimiser, num_steps=3)
    x = torch.randn(4, generator=generator, dtype=torch.float64)
    party = Party(name="task", rows={}, data={"x": x, "y": 3 * x + 1}, weight=4)

    def after(w: Tensor) -> Tensor:
        moved = w + update.apply(Parameters(dense={"w": w}, tables={}), party, {}).dense["w"]
        return line(Parameters(dense={"w": moved}, tables={}), party.data)

    w, h = torch.tensor(0.3, dtype=torch.float64), 1e-6
    rough = (after(w + h) - after(w - h)) / (2 * h)
    # Central differences: h^2 = 1e-12 and rounding of 1e-16 / h = 1e-10.
    torch.testing.assert_close(torch.func.grad(after)(w), rough, rtol=1e-7, atol=1e-8)


def test_batches_run_through_shuffled_epochs(generator: torch.Generator) -> None:
    party = Party(name="p", rows={}, data={"x": torch.zeros(5)}, weight=5)
    draw = local_steps(line, sgd(0.1), num_steps=5, batch_size=2).draw
    batches = draw(party, generator)["batches"]
    assert batches.shape == (5, 2)
    assert sorted(batches.flatten()[:5].tolist()) == [0, 1, 2, 3, 4]
    assert sorted(batches.flatten()[5:].tolist()) == [0, 1, 2, 3, 4]
    few = local_steps(line, sgd(0.1), num_steps=2, batch_size=64).draw(party, generator)
    assert [sorted(batch) for batch in few["batches"].tolist()] == [[0, 1, 2, 3, 4]] * 2
    assert local_steps(line, sgd(0.1), num_steps=2).draw(party, generator) == {}


# Trouble.


def bad_update(*, bad: str) -> LocalUpdate:
    """Moves by one, but for the party named `bad`, which sends NaN."""

    def apply(parameters: Parameters, party: Party, _: Mapping[str, Tensor]) -> Update:
        move = torch.full_like(parameters.dense["w"], float("nan") if party.name == bad else 1.0)
        return Update(dense={"w": move}, tables={}, weight=party.weight)

    return LocalUpdate(lambda party, generator: {}, apply)


def three() -> list[Party]:
    return [shard(name, [1.0], [1.0]) for name in "abc"]


def test_an_update_that_is_not_finite_stops_the_round() -> None:
    algorithm = Algorithm(local_update=bad_update(bad="b"))
    with pytest.raises(RoundError, match=r"NaN or infinity came from 'b' \(on_nonfinite=\"skip\""):
        run_round(algorithm.init(start()), three(), algorithm, seeded())


def test_an_update_that_is_not_finite_is_left_out_and_counted() -> None:
    algorithm = Algorithm(local_update=bad_update(bad="b"), on_nonfinite="skip")
    state, report = run_round(algorithm.init(start()), three(), algorithm, seeded())
    assert state.parameters.dense["w"].item() == 1.0
    assert (report.num_parties, report.nonfinite, report.weight) == (3, ("b",), 2)


@engines
def test_a_party_whose_data_are_broken_is_left_out(engine: Engine) -> None:
    parties = [shard("good", [1.0], [2.0]), shard("broken", [float("nan")], [1.0])]
    algorithm = Algorithm(
        local_update=local_steps(line, sgd(0.5), num_steps=1),
        codec=chain_codecs(clip_norm(10.0)),
        on_nonfinite="skip",
    )
    state, report = engine(algorithm.init(start()), parties, algorithm, seeded())
    assert report.nonfinite == ("broken",)
    assert state.parameters.dense["w"].item() == 1.0


def test_a_round_with_nothing_left_is_refused() -> None:
    algorithm = Algorithm(local_update=bad_update(bad="a"), on_nonfinite="skip")
    with pytest.raises(RoundError, match="none of the 1 updates is finite"):
        run_round(algorithm.init(start()), three()[:1], algorithm, seeded())


@engines
@pytest.mark.parametrize(
    ("parties", "words"),
    [
        ([], "at least one party; got none"),
        ([shard("a", [1], [1]), shard("a", [1], [1])], "names of parties must differ; got 'a'"),
        ([Party(name="a", rows={}, data={}, weight=0)], "party 'a' has no examples"),
        ([shard("a", [1], [1], [99])], r"rows of table 'user' must be in \[0, 3\); got 99 to 99"),
        ([Party(name="a", rows={}, data=shard("", [1], [1]).data, weight=0)], "sum to 0"),
        (
            [Party(name="a", rows={}, data=shard("", [1], [1]).data, weight=-1)],
            "update of party 'a': weight must be at least 0; got -1",
        ),
    ],
)
def test_a_round_that_cannot_run_is_refused(
    engine: Engine, parties: list[Party], words: str
) -> None:
    algorithm = Algorithm(local_update=local_steps(line, sgd(0.1), num_steps=1, batch_size=1))
    with pytest.raises(RoundError, match=words):
        engine(algorithm.init(start(3)), parties, algorithm, seeded())


def test_parties_of_other_sizes_are_refused_by_the_vectorised_engine() -> None:
    parties = [shard("a", [1], [1]), shard("b", [1, 2], [1, 2])]
    algorithm = Algorithm(local_update=local_steps(line, sgd(0.1), num_steps=1))
    words = r"data of parties .* same shapes; 'a' has x \[1\], y \[1\], 'b' has x \[2\], y \[2\]"
    with pytest.raises(RoundError, match=words):
        run_round_vectorised(algorithm.init(start()), parties, algorithm, seeded())


def test_a_wrong_setting_is_refused() -> None:
    with pytest.raises(ConfigError, match="num_steps must be at least 1; got 0"):
        local_steps(line, sgd(0.1), num_steps=0)
    with pytest.raises(ConfigError, match="batch_size must be at least 1; got 0"):
        local_steps(line, sgd(0.1), num_steps=1, batch_size=0)
    with pytest.raises(ConfigError, match="on_nonfinite must be one of raise, skip; got 'drop'"):
        Algorithm(local_update=bad_update(bad=""), on_nonfinite="drop")  # type: ignore[arg-type]
