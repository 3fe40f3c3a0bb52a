"""How long requests take on one thread: drawn from a data set, timed in turns.

Shapes: K candidates of a request.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scalerec.config import require
from scalerec.data.batches import Batch
from scalerec.data.dataset import Dataset
from scalerec.data.pairing import pair
from scalerec.models.kernels.threads import one_thread
from scalerec.models.recommender import Recommender
from scalerec.scoring.candidates import candidate_scorer, row_scorer
from scalerec.scoring.rows import StoredRows

__all__ = [
    "Request",
    "percentiles_ms",
    "request_scorer",
    "requests_of",
    "time_in_turns",
]

Answer = Callable[["Request"], object]
WARM_UP = 10


@dataclass(frozen=True, slots=True)
class Request:
    """What a server is asked at once.

    Args:
        rows: Every candidate as a whole row, ``[K]``; for scorers that know nothing else.
        user: One row of a user in a context; none if the schema has no items.
        candidates: Numbers of items, ``[K]`` int64; none if the schema has no items.
    """

    rows: Batch
    user: Batch | None = None
    candidates: Tensor | None = None


def requests_of(
    dataset: Dataset, num_candidates: int, num_requests: int, *, split: str = "test", seed: int = 0
) -> list[Request]:
    """Draw requests from the events of a split.

    Where the schema has items, a request is the user and the context of an event, and the items of
    other events, each as often as it occurs there; else it is that many events.

    Args:
        dataset: The data set.
        num_candidates: K, at least 1.
        num_requests: At least 1.
        split: `test`, `valid` or `train`.
        seed: Of the draws.

    Raises:
        ConfigError: If a number is below 1.
        DataError: If the split has no rows.
    """
    require(num_candidates >= 1, f"num_candidates must be at least 1; got {num_candidates}")
    require(num_requests >= 1, f"num_requests must be at least 1; got {num_requests}")
    events = dataset.split(split)
    numbers = np.random.default_rng(seed)

    def draw(size: int) -> NDArray[np.int64]:
        return np.sort(numbers.integers(0, len(events), size))

    if not dataset.schema.item:
        return [Request(events.take(draw(num_candidates))) for _ in range(num_requests)]
    users = events.take(draw(num_requests))
    items = np.asarray(events.column("item")).astype(np.int64)
    requests = []
    for number in torch.randperm(num_requests, generator=torch.Generator().manual_seed(seed)):
        user = users.take(number.view(1))
        drawn = items[numbers.integers(0, len(items), num_candidates)]
        candidates = torch.from_numpy(drawn)
        rows = pair(dataset.layout, user, dataset.items, candidates.unsqueeze(0))
        requests.append(Request(rows, user, candidates))
    return requests


def request_scorer(
    recommender: Recommender, dataset: Dataset, *, stored: StoredRows | None = None
) -> Callable[[Request], Tensor]:
    """The quickest scorer of requests for a recommender, prepared.

    Args:
        recommender: Any.
        dataset: Gives the catalogue.
        stored: How what is prepared of items, or of ids where there are none, is held; as scorers
            have it where nothing is said.
    """
    if not dataset.schema.item:
        of_rows = row_scorer(recommender, stored=stored)
        return lambda request: of_rows(request.rows)
    scorer = candidate_scorer(recommender, dataset.items, stored=stored or "float32")

    def score(request: Request) -> Tensor:
        assert request.user is not None, "requests of a schema with items have a user"
        assert request.candidates is not None, "requests of a schema with items have candidates"
        return scorer(request.user, request.candidates)

    return score


def time_in_turns(
    scorers: Mapping[str, Answer], requests: Sequence[Request], repeats: int
) -> dict[str, list[float]]:
    """Time scorers on one thread, each on every request in turn.

    What else the machine does then falls on all of them alike. Each turn has an order of its own,
    so that none always follows one that fills the processor's caches with other things; some first
    turns are not counted.

    Args:
        scorers: By name; each answers a request.
        requests: At least one; they come round again when there are fewer than turns.
        repeats: Turns that are counted, at least 1.

    Returns:
        Seconds of every counted turn, by name.

    Raises:
        ConfigError: If there is no scorer, request or turn.
    """
    require(len(scorers) > 0, "there must be at least one scorer to time; got none")
    require(len(requests) > 0, "there must be at least one request to time; got none")
    require(repeats >= 1, f"repeats must be at least 1; got {repeats}")
    seconds: dict[str, list[float]] = {name: [] for name in scorers}
    order, numbers = list(scorers), np.random.default_rng(0)
    with one_thread():
        for turn in range(-WARM_UP, repeats):
            request = requests[turn % len(requests)]
            numbers.shuffle(order)
            for name in order:
                start = time.perf_counter()
                scorers[name](request)
                taken = time.perf_counter() - start
                if turn >= 0:
                    seconds[name].append(taken)
    return seconds


def percentiles_ms(seconds: Sequence[float]) -> tuple[float, float]:
    """Milliseconds within which half of the turns, and 99 in 100 of them, were done.

    Args:
        seconds: At least one.
    """
    require(len(seconds) > 0, "there must be at least one time; got none")
    half, most = np.percentile(np.asarray(seconds), [50, 99]) * 1e3
    return float(half), float(most)
