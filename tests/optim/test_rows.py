"""Row optimisers: torch's and FBGEMM's numbers on the rows that a step touches."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from scalerec.errors import ConfigError
from scalerec.optim import (
    ROW_OPTIMISERS,
    Adagrad,
    LazyAdam,
    RowOptimiser,
    RowwiseAdagrad,
    Sgd,
)

R, W = 6, 4

MEMBERS: dict[str, RowOptimiser] = {
    **{name: member() for name, member in ROW_OPTIMISERS.items()},
    **{f"{name}, l2": member(l2=0.1) for name, member in ROW_OPTIMISERS.items()},
    **{
        f"{name}, l2 of missed steps": member(l2=0.1, l2_missed=True)
        for name, member in ROW_OPTIMISERS.items()
    },
    "lazy_adam, waiting": LazyAdam(decay_missed=False),
}
members = pytest.mark.parametrize("name", MEMBERS)


def draw(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def zero_state(member: RowOptimiser, num_rows: int, width: int = W) -> dict[str, Tensor]:
    widths = member.state_widths(width)
    return {n: torch.zeros(num_rows, w, dtype=torch.float64) for n, w in widths.items()}


def run(
    member: RowOptimiser, table: Tensor, steps: list[tuple[Tensor, Tensor]], lr: float = 0.1
) -> tuple[Tensor, dict[str, Tensor]]:
    """Step a whole table; each step names its rows and their gradients."""
    table, state = table.clone(), zero_state(member, table.shape[0])
    for step, (rows, grad) in enumerate(steps, start=1):
        before = {name: part[rows] for name, part in state.items()}
        table[rows], after = member.apply(table[rows], grad, before, step, lr)
        for name, part in after.items():
            state[name][rows] = part
    return table, state


def some_steps(generator: torch.Generator, num_steps: int = 6) -> list[tuple[Tensor, Tensor]]:
    steps = []
    for _ in range(num_steps):
        rows = torch.randperm(R, generator=generator)[:3].sort().values
        steps.append((rows, draw(generator, 3, W)))
    return steps


def run_torch(
    build: Callable[[list[Tensor]], torch.optim.Optimizer],
    table: Tensor,
    steps: list[tuple[Tensor, Tensor]],
    *,
    sparse: bool,
) -> Tensor:
    leaf = table.clone().requires_grad_()
    optimiser = build([leaf])
    for rows, grad in steps:
        dense = torch.zeros_like(table).index_copy(0, rows, grad)
        leaf.grad = (
            torch.sparse_coo_tensor(rows[None], grad, table.shape, check_invariants=True)
            if sparse
            else dense
        )
        optimiser.step()
    return leaf.detach()


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
@pytest.mark.parametrize(
    ("member", "build", "sparse"),
    [
        (Sgd(), lambda p: torch.optim.SGD(p, lr=0.1), True),
        (Adagrad(eps=1e-3), lambda p: torch.optim.Adagrad(p, lr=0.1, eps=1e-3), True),
        (Adagrad(eps=1e-3), lambda p: torch.optim.Adagrad(p, lr=0.1, eps=1e-3), False),
    ],
)
def test_equals_torch(
    member: RowOptimiser,
    build: Callable[[list[Tensor]], torch.optim.Optimizer],
    sparse: bool,
    generator: torch.Generator,
) -> None:
    table, steps = draw(generator, R, W), some_steps(generator)
    # float64 and one formula.
    torch.testing.assert_close(
        run(member, table, steps)[0],
        run_torch(build, table, steps, sparse=sparse),
        rtol=1e-12,
        atol=1e-12,
    )


def test_lazy_adam_that_waits_equals_sparse_adam(generator: torch.Generator) -> None:
    table, steps = draw(generator, R, W), some_steps(generator)
    theirs = run_torch(
        lambda p: torch.optim.SparseAdam(p, lr=0.1, eps=1e-30), table, steps, sparse=True
    )
    # SparseAdam adds eps before bias correction; without eps the two are one formula.
    ours, _ = run(LazyAdam(decay_missed=False, eps=1e-30), table, steps)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_lazy_adam_on_rows_of_every_step_equals_dense_adam(generator: torch.Generator) -> None:
    table = draw(generator, R, W)
    steps = [(torch.arange(R), draw(generator, R, W)) for _ in range(6)]
    for l2 in (0.0, 0.2):
        theirs = run_torch(
            lambda p, l2=l2: torch.optim.Adam(p, lr=0.1, weight_decay=l2),  # type: ignore[misc]
            table,
            steps,
            sparse=False,
        )
        ours, _ = run(LazyAdam(l2=l2), table, steps)
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_lazy_adam_has_the_moments_of_dense_adam(generator: torch.Generator) -> None:
    steps = some_steps(generator)
    steps.append((torch.arange(R), draw(generator, R, W)))  # every row catches up
    _, state = run(LazyAdam(), draw(generator, R, W), steps)
    mean, square = torch.zeros(R, W).double(), torch.zeros(R, W).double()
    for rows, grad in steps:
        dense = torch.zeros(R, W, dtype=torch.float64).index_copy(0, rows, grad)
        mean, square = 0.9 * mean + 0.1 * dense, 0.999 * square + 0.001 * dense**2
    torch.testing.assert_close(state["mean"], mean, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(state["square"], square, rtol=1e-12, atol=1e-14)
    assert torch.equal(state["last"], torch.full((R, 1), 7.0, dtype=torch.float64))


def test_rowwise_adagrad_by_hand() -> None:
    member = RowwiseAdagrad(eps=1.0)
    weight, grad = torch.tensor([[1.0, 2.0]]), torch.tensor([[2.0, 14.0]])
    # mean of squares = (4 + 196) / 2 = 100, root 10, plus eps 11.
    moved, state = member.apply(weight, grad, {"sum": torch.zeros(1, 1)}, 1, lr=11.0)
    assert torch.equal(moved, torch.tensor([[-1.0, -12.0]]))
    assert torch.equal(state["sum"], torch.tensor([[100.0]]))


def test_l2_by_hand() -> None:
    weight, grad = torch.tensor([[4.0]]), torch.tensor([[1.0]])
    # g = 1 + .5 * 4 = 3.
    assert Sgd(l2=0.5).apply(weight, grad, {}, 5, lr=1.0)[0].item() == 1.0
    # Last touched at step 2, now 5: steps 3 and 4 were missed, so g = 1 + 3 * .5 * 4 = 7.
    member = Sgd(l2=0.5, l2_missed=True)
    moved, state = member.apply(weight, grad, {"last": torch.tensor([[2.0]])}, 5, lr=1.0)
    assert moved.item() == -3.0
    assert state["last"].item() == 5.0
    # Never touched: steps 1 to 4 were missed.
    assert member.apply(weight, grad, {"last": torch.zeros(1, 1)}, 5, lr=1.0)[0].item() == -7.0


@pytest.mark.parametrize(
    ("member", "widths"),
    [
        (Sgd(), {}),
        (Sgd(l2=0.1, l2_missed=True), {"last": 1}),
        (Sgd(l2_missed=True), {}),
        (Adagrad(), {"sum": 8}),
        (RowwiseAdagrad(), {"sum": 1}),
        (LazyAdam(), {"mean": 8, "square": 8, "last": 1}),
        (LazyAdam(decay_missed=False), {"mean": 8, "square": 8}),
    ],
)
def test_state_widths(member: RowOptimiser, widths: dict[str, int]) -> None:
    assert member.state_widths(8) == widths


@members
def test_is_a_row_optimiser_and_keeps_the_shapes(name: str, generator: torch.Generator) -> None:
    member = MEMBERS[name]
    assert isinstance(member, RowOptimiser)
    weight, state = draw(generator, 3, W).float(), zero_state(member, 3)
    state = {n: part.float() for n, part in state.items()}
    moved, after = member.apply(weight, draw(generator, 3, W).float(), state, 3, 0.1)
    assert (moved.shape, moved.dtype) == (weight.shape, weight.dtype)
    assert {n: (p.shape, p.dtype) for n, p in after.items()} == {
        n: (p.shape, p.dtype) for n, p in state.items()
    }
    assert all(not part.any() for part in state.values())  # the input stays as it was


@members
def test_padding_stays_zero(name: str) -> None:
    member = MEMBERS[name]
    zero, state = torch.zeros(1, W).double(), zero_state(member, 1)
    for step in (1, 2, 9):
        zero, state = member.apply(zero, torch.zeros_like(zero), state, step, 0.1)
    assert not zero.any()


@members
def test_vmap_equals_loop(name: str, generator: torch.Generator) -> None:
    member, num_clients = MEMBERS[name], 3
    weight, grads = draw(generator, num_clients, 2, W), draw(generator, num_clients, 2, W)

    def two_steps(w: Tensor, g: Tensor) -> Tensor:
        moved, state = member.apply(w, g, zero_state(member, 2), 2, 0.1)
        return member.apply(moved, 2 * g, state, 5, 0.1)[0]

    together = torch.func.vmap(two_steps)(weight, grads)
    alone = torch.stack([two_steps(w, g) for w, g in zip(weight, grads, strict=True)])
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-12)


@members
def test_can_be_differentiated_through(name: str, generator: torch.Generator) -> None:
    member = MEMBERS[name]

    def moved(grad: Tensor) -> Tensor:
        weight = torch.ones(2, W, dtype=torch.float64)
        return member.apply(weight, grad, zero_state(member, 2), 3, 0.1)[0].sum()

    grad = draw(generator, 2, W)
    assert torch.func.grad(moved)(grad).any()
    grad[0] = 0
    assert torch.func.grad(moved)(grad).isfinite().all()


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: RowwiseAdagrad(eps=0.0), "eps must be above 0; got 0.0"),
        (lambda: Adagrad(l2=-1.0), "l2 must be at least 0; got -1.0"),
        (lambda: LazyAdam(betas=(1.0, 0.9)), r"betas must be in \[0, 1\); got \(1.0, 0.9\)"),
        (lambda: Sgd.from_dict({"eps": 1}), "unknown setting 'eps'; allowed: l2, l2_missed"),
    ],
)
def test_a_wrong_setting_is_refused(build: Callable[[], object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build()


@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"
)
@pytest.mark.parametrize(
    ("member", "theirs"),
    [
        (Sgd(), "EXACT_SGD"),
        (Adagrad(eps=1e-4), "EXACT_ADAGRAD"),
        (RowwiseAdagrad(eps=1e-4), "EXACT_ROWWISE_ADAGRAD"),
    ],
)
def test_equals_fbgemm(member: RowOptimiser, theirs: str, generator: torch.Generator) -> None:
    pytest.importorskip("fbgemm_gpu")
    from fbgemm_gpu.split_embedding_configs import EmbOptimType
    from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
    from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
        ComputeDevice,
        SplitTableBatchedEmbeddingBagsCodegen,
    )

    fused = SplitTableBatchedEmbeddingBagsCodegen(
        [(R, W, EmbeddingLocation.HOST, ComputeDevice.CPU)],
        optimizer=EmbOptimType[theirs],
        learning_rate=0.1,
        eps=1e-4,
    )
    table, steps = draw(generator, R, W), some_steps(generator)
    fused.split_embedding_weights()[0].copy_(table.float())
    for rows, grad in steps:
        fused(rows, torch.arange(len(rows) + 1)).backward(grad.float())
    # Ours in float64, theirs in float32: six steps of rounding at 1e-7.
    torch.testing.assert_close(
        fused.split_embedding_weights()[0].double(),
        run(member, table, steps)[0],
        rtol=1e-5,
        atol=1e-6,
    )
