"""Pure optimisers: torch's numbers, `vmap`, and gradients through the steps."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from scalerec.errors import ConfigError, RoundError
from scalerec.optim import (
    OPTIMISERS,
    Optimiser,
    adagrad,
    adam,
    add_l2,
    by_group,
    chain,
    clip_by_global_norm,
    safe_sqrt,
    sgd,
)

Tensors = dict[str, Tensor]

# One row a member drives every shared test below: ours, and torch's twin.
MEMBERS: dict[str, tuple[Optimiser, Callable[[list[Tensor]], torch.optim.Optimizer]]] = {
    "sgd": (sgd(0.1), lambda p: torch.optim.SGD(p, lr=0.1)),
    "momentum": (sgd(0.1, momentum=0.9), lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)),
    "nesterov": (
        sgd(0.1, momentum=0.9, nesterov=True),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    ),
    "adagrad": (adagrad(0.1), lambda p: torch.optim.Adagrad(p, lr=0.1, eps=1e-10)),
    "adam": (adam(0.1), lambda p: torch.optim.Adam(p, lr=0.1)),
    "adam, other betas": (
        adam(0.1, betas=(0.5, 0.9), eps=1e-3),
        lambda p: torch.optim.Adam(p, lr=0.1, betas=(0.5, 0.9), eps=1e-3),
    ),
    "l2, then adam": (
        chain(add_l2(0.3), then=adam(0.1)),
        lambda p: torch.optim.Adam(p, lr=0.1, weight_decay=0.3),
    ),
}
members = pytest.mark.parametrize("name", MEMBERS)


def start(generator: torch.Generator, dtype: torch.dtype = torch.float64) -> Tensors:
    return {
        "w": torch.randn(3, 2, generator=generator, dtype=dtype),
        "b": torch.randn((), generator=generator, dtype=dtype),
    }


def run(optimiser: Optimiser, parameters: Tensors, gradients: list[Tensors]) -> Tensors:
    state = optimiser.init(parameters)
    for gradient in gradients:
        parameters, state = optimiser.apply(parameters, gradient, state)
    return parameters


@members
def test_equals_torch(name: str, generator: torch.Generator) -> None:
    ours, build = MEMBERS[name]
    parameters = start(generator)
    gradients = [start(generator) for _ in range(5)]
    leaves = {n: p.clone().requires_grad_() for n, p in parameters.items()}
    theirs = build(list(leaves.values()))
    for gradient in gradients:
        for n, leaf in leaves.items():
            leaf.grad = gradient[n].clone()
        theirs.step()
    # float64 and the same formula: only the order of a few operations differs.
    torch.testing.assert_close(
        run(ours, parameters, gradients),
        {n: p.detach() for n, p in leaves.items()},
        rtol=1e-12,
        atol=1e-12,
    )


@members
def test_changes_nothing_in_place(name: str, generator: torch.Generator) -> None:
    optimiser, _ = MEMBERS[name]
    parameters, gradients = start(generator), start(generator)
    state = optimiser.init(parameters)
    copies = [{n: t.clone() for n, t in d.items()} for d in (parameters, gradients, state)]
    optimiser.apply(parameters, gradients, state)
    assert all(
        torch.equal(a[n], b[n])
        for a, b in zip((parameters, gradients, state), copies, strict=True)
        for n in b
    )


@members
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_keeps_types_and_state_names(
    name: str, dtype: torch.dtype, generator: torch.Generator
) -> None:
    optimiser, _ = MEMBERS[name]
    parameters = start(generator, dtype)
    state = optimiser.init(parameters)
    moved, after = optimiser.apply(parameters, start(generator, dtype), state)
    assert {n: (p.dtype, p.shape) for n, p in moved.items()} == {
        n: (p.dtype, p.shape) for n, p in parameters.items()
    }
    assert {n: (s.dtype, s.shape) for n, s in after.items()} == {
        n: (s.dtype, s.shape) for n, s in state.items()
    }


@members
def test_vmap_equals_loop(name: str, generator: torch.Generator) -> None:
    optimiser, _ = MEMBERS[name]
    starts = [start(generator) for _ in range(3)]
    gradients = [[start(generator) for _ in range(3)] for _ in range(2)]

    def stack(parts: list[Tensors]) -> Tensors:
        return {n: torch.stack([p[n] for p in parts]) for n in parts[0]}

    together = torch.func.vmap(lambda p, g: run(optimiser, p, g))(
        stack(starts), [stack(g) for g in gradients]
    )
    alone = [run(optimiser, starts[i], [g[i] for g in gradients]) for i in range(3)]
    torch.testing.assert_close(together, stack(alone), rtol=1e-12, atol=1e-12)


@members
def test_gradient_through_the_steps_equals_finite_differences(
    name: str, generator: torch.Generator
) -> None:
    optimiser, _ = MEMBERS[name]
    target = torch.randn(4, generator=generator, dtype=torch.float64)

    def after_two_steps(w: Tensor) -> Tensor:
        parameters = {"w": w}
        state = optimiser.init(parameters)
        for _ in range(2):
            gradients = torch.func.grad(lambda p: ((p["w"] - target) ** 4).sum())(parameters)
            parameters, state = optimiser.apply(parameters, gradients, state)
        return parameters["w"].square().sum()

    w = torch.randn(4, generator=generator, dtype=torch.float64)
    exact = torch.func.grad(after_two_steps)(w)
    h = 1e-6
    rough = torch.stack(
        [
            (after_two_steps(w + h * e) - after_two_steps(w - h * e)) / (2 * h)
            for e in torch.eye(4, dtype=torch.float64)
        ]
    )
    # Central differences leave h^2 = 1e-12 and rounding of 1e-16 / h = 1e-10, times large slopes.
    torch.testing.assert_close(exact, rough, rtol=1e-5, atol=1e-6)


@members
def test_a_zero_gradient_gives_no_nan_through_the_step(name: str) -> None:
    optimiser, _ = MEMBERS[name]

    def moved(w: Tensor) -> Tensor:
        parameters = {"w": w}
        gradients = torch.func.grad(lambda p: p["w"].square().sum())(parameters)
        return optimiser.apply(parameters, gradients, optimiser.init(parameters))[0]["w"].sum()

    assert torch.func.grad(moved)(torch.zeros(2)).isfinite().all()


@pytest.mark.parametrize("name", OPTIMISERS)
def test_a_learning_rate_can_be_learned(name: str) -> None:
    def loss(lr: Tensor) -> Tensor:
        optimiser = OPTIMISERS[name](lr)  # type: ignore[arg-type]
        parameters = {"w": torch.tensor(1.0)}
        moved, _ = optimiser.apply(parameters, {"w": torch.tensor(2.0)}, optimiser.init(parameters))
        return moved["w"]

    # The first move is lr times 2 (sgd) or 1 (the others divide by the gradient's size).
    slope = torch.func.grad(loss)(torch.tensor(0.1))
    torch.testing.assert_close(slope, torch.tensor(-2.0 if name == "sgd" else -1.0))


def test_clipping_by_hand() -> None:
    clip = clip_by_global_norm(1.0)
    gradients = {"a": torch.tensor([3.0, 0.0]), "b": torch.tensor(4.0)}  # norm 5
    clipped, _ = clip.apply(gradients, gradients, {})
    torch.testing.assert_close(clipped["a"], torch.tensor([0.6, 0.0]))
    torch.testing.assert_close(clipped["b"], torch.tensor(0.8))
    small = {n: g / 10 for n, g in gradients.items()}
    unchanged, _ = clip.apply(small, small, {})
    assert all(torch.equal(unchanged[n], small[n]) for n in small)
    assert clip.apply({}, {}, {}) == ({}, {})


def test_each_group_has_an_optimiser_of_its_own() -> None:
    weights = {"a.x": torch.tensor([3.0, 4.0]), "b.x": torch.tensor([1.0]), "a.y": torch.ones(1)}
    grads = {name: weight * 2 for name, weight in weights.items()}
    members = {"a": adam(0.1), "b": sgd(0.5, momentum=0.9), "c": sgd(1.0)}
    both = by_group(lambda name: name[0], members)
    found, state = weights, both.init(weights)
    wanted = dict(weights)
    own = {g: {n: w for n, w in weights.items() if n[0] == g} for g in "ab"}
    states = {g: members[g].init(own[g]) for g in "ab"}
    for _ in range(3):
        found, state = both.apply(found, grads, state)
        for g in "ab":
            mine = {n: grads[n] for n in own[g]}
            own[g], states[g] = members[g].apply(own[g], mine, states[g])
            wanted |= own[g]
    assert list(found) == list(weights)
    for name, weight in wanted.items():
        assert torch.equal(found[name], weight)
    assert state.keys() == {f"{g}/{name}" for g in "ab" for name in states[g]}


def test_chain_applies_in_order_and_keeps_states_apart() -> None:
    w = {"w": torch.tensor([2.0])}
    first = chain(add_l2(1.0), clip_by_global_norm(1.0), then=sgd(1.0, momentum=0.5))
    # g = 1 + 2 = 3, clipped to 1, so w = 1; the other order clips 1 to 1, adds 2, so w = -1.
    moved, state = first.apply(w, {"w": torch.tensor([1.0])}, first.init(w))
    assert moved["w"].item() == 1.0
    assert list(state) == ["2/momentum/w"]
    other = chain(clip_by_global_norm(1.0), add_l2(1.0), then=sgd(1.0))
    assert other.apply(w, {"w": torch.tensor([1.0])}, other.init(w))[0]["w"].item() == -1.0


def test_safe_sqrt() -> None:
    x = torch.tensor([0.0, 4.0])
    assert torch.equal(safe_sqrt(x), torch.tensor([0.0, 2.0]))
    assert torch.equal(torch.func.grad(lambda v: safe_sqrt(v).sum())(x), torch.tensor([0.0, 0.25]))


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: sgd(-1.0), "lr must be at least 0; got -1.0"),
        (lambda: sgd(1.0, momentum=1.0), r"momentum must be in \[0, 1\); got 1.0"),
        (lambda: sgd(1.0, nesterov=True), "nesterov needs a momentum above 0"),
        (lambda: adagrad(1.0, eps=0.0), "eps must be above 0; got 0.0"),
        (lambda: adam(1.0, betas=(0.9, 1.0)), r"betas must be in \[0, 1\); got \(0.9, 1.0\)"),
        (lambda: clip_by_global_norm(0.0), "max_norm must be above 0; got 0.0"),
        (lambda: add_l2(-0.1), "l2 must be at least 0; got -0.1"),
    ],
)
def test_a_wrong_setting_is_refused(build: Callable[[], object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build()


@members
def test_gradients_of_other_names_are_refused(name: str) -> None:
    optimiser, _ = MEMBERS[name]
    w = {"w": torch.ones(1)}
    with pytest.raises(RoundError, match=r"the names of the parameters, \['w'\]; got \['v'\]"):
        optimiser.apply(w, {"v": torch.ones(1)}, optimiser.init(w))
