"""Parts of a cohort trained by processes beside this one: the same numbers, words for faults."""

import os
import signal
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from tests.federated.test_local import CHOSEN, CLOSE, drawn, drawn_pull

from scalerec.errors import RoundError
from scalerec.federated.cohorts import gather_cohort
from scalerec.federated.crew import Crew
from scalerec.federated.local import LocalConfig, Pull, train_cohort
from scalerec.federated.strategies import FedAvg, Ground
from scalerec.federated.strategies.base import TABLE, FedAvgConfig
from scalerec.federated.work import Work
from scalerec.rounds import Parameters

LOCAL = LocalConfig(epochs=2, batch_size=4, lr=0.05, rows_lr=0.2)
CHUNKS = [(0, 1), (1, 2), (2, 3), (3, 4)]
pytestmark = pytest.mark.skipif(not Crew.possible, reason="this system forks no such processes")


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def work_of(pull: bool = False) -> Work:
    model, holdings, matrix = drawn("deepfm", "mixed")
    cohort = gather_cohort(model, holdings, CHOSEN)
    rows = matrix[cohort.rows]
    starts = {name: tensor.unsqueeze(0) for name, tensor in model.dense.items()}
    own: Pull | None = drawn_pull(model, cohort, rows) if pull else None
    return Work(cohort, starts, rows, LOCAL, (7, 2), own)


def crew_of(work: Work, num: int = 2) -> Crew:
    return Crew(work.cohort.model, work.cohort.order, num)


@pytest.mark.parametrize("pull", [False, True])
@pytest.mark.parametrize("num", [2, 3])
def test_processes_give_the_same(pull: bool, num: int) -> None:
    work = work_of(pull)
    crew = crew_of(work, num)
    room = None
    for _ in range(2):
        room = crew.train(work, CHUNKS)
    crew.close()
    assert room is not None
    wanted = train_cohort(*work.part(0, 4))
    assert torch.equal(room.steps, wanted.steps)
    torch.testing.assert_close(room.losses, wanted.losses, **CLOSE)
    torch.testing.assert_close(room.moved_rows, wanted.moved_rows, **CLOSE)
    for name, tensor in wanted.moved.items():
        torch.testing.assert_close(room.moved[name], tensor, **CLOSE, msg=name)


def test_what_a_cohort_moved_outlives_the_next() -> None:
    work = work_of()
    crew = crew_of(work)
    first = crew.train(work, CHUNKS)
    assert first is not None
    before = first.moved_rows.clone()
    again = crew.train(replace(work, key=(7, 3)), CHUNKS)
    assert again is not None
    assert torch.equal(first.moved_rows, before)
    assert not torch.equal(again.moved_rows, before)
    crew.close()
    assert torch.equal(first.moved_rows, before)


def test_they_end_with_their_crew() -> None:
    crew = crew_of(work_of(), 3)
    pids = [other.pid for other in crew.others]
    assert len(set(pids)) == 2
    assert not crew.closed
    crew.close()
    assert crew.closed
    for pid in pids:
        with pytest.raises(ChildProcessError):
            os.waitpid(pid, 0)


def test_one_that_dies_is_named() -> None:
    work = work_of()
    crew = crew_of(work)
    os.kill(crew.others[0].pid, signal.SIGKILL)
    with pytest.raises(RoundError, match=r"a process that trains parties died; is there enough"):
        crew.train(work, CHUNKS)
    assert crew.closed


def test_what_fails_there_is_told_here() -> None:
    """The other process gets parties of examples that are not there."""
    work = work_of()
    crew = Crew(work.cohort.model, work.cohort.order[:0], 2)
    with pytest.raises(RoundError, match=r"a process that trains parties failed: IndexError: "):
        crew.train(work, CHUNKS)
    assert crew.closed


def test_what_does_not_fit_is_left_alone() -> None:
    work = work_of()
    crew = crew_of(work)
    crew.shared.arena.size = 64
    assert crew.train(work, CHUNKS) is None
    assert not crew.closed
    crew.close()


@pytest.mark.usefixtures("two_threads")
def test_a_method_uses_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scalerec.federated.strategies.base.FEWEST", 2)
    model, holdings, matrix = drawn("deepfm", "ids")
    private = torch.zeros(len(matrix), dtype=torch.bool)
    ground = Ground(model=model, holdings=holdings, private=private, local=LOCAL)
    parameters = Parameters(dense=dict(model.dense), tables={TABLE: matrix})
    cohort = gather_cohort(model, holdings, CHOSEN)
    strategy = FedAvg(FedAvgConfig(), ground)
    found = strategy.train(parameters, cohort, 3).local
    assert strategy.crew is not None
    assert len(strategy.crew.others) == 1
    torch.set_num_threads(1)
    wanted = FedAvg(FedAvgConfig(), ground).train(parameters, cohort, 3).local
    torch.testing.assert_close(found.moved_rows, wanted.moved_rows, **CLOSE)
    for name, tensor in wanted.moved.items():
        torch.testing.assert_close(found.moved[name], tensor, **CLOSE, msg=name)
    strategy.crew.close()


@pytest.mark.usefixtures("two_threads")
def test_without_memory_to_share_threads_do_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise OSError("cannot allocate memory")

    monkeypatch.setattr("scalerec.federated.strategies.base.FEWEST", 2)
    monkeypatch.setattr("scalerec.federated.crew.Arena", refuse)
    model, holdings, matrix = drawn("deepfm", "ids")
    private = torch.zeros(len(matrix), dtype=torch.bool)
    ground = Ground(model=model, holdings=holdings, private=private, local=LOCAL)
    parameters = Parameters(dense=dict(model.dense), tables={TABLE: matrix})
    cohort = gather_cohort(model, holdings, CHOSEN)
    strategy = FedAvg(FedAvgConfig(), ground)
    found = strategy.train(parameters, cohort, 3).local
    assert strategy.crew is None
    assert len(found.losses) == len(CHOSEN)
    assert torch.get_num_threads() == 2
