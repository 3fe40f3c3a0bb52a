"""Parts of a cohort trained by several threads, each on one core.

The parts are small, so that their stacked parameters stay in a core's cache; products so small gain
little from a second core, while two parts at a time gain all of it. Threads share memory and most
of a part's time is spent outside the interpreter's lock. A part gives the same numbers whoever
computes it.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

import torch

from scalerec.models.kernels.threads import one_thread
from scalerec.train.cohort.models import PartyModel

__all__ = ["run_chunks"]

Train = Callable[[PartyModel, int, int], None]


def run_chunks(train: Train, model: PartyModel, chunks: Sequence[tuple[int, int]]) -> None:
    """Train the parts of a cohort; as many at a time as torch has threads.

    A model that draws from torch's own generator is trained part after part, or draws would depend
    on who is faster.

    Args:
        train: Trains the parties `first` .. `last` with a model.
        model: That of all; a worker gets its own modules, for they are not safe to share.
        chunks: First and last of each part.

    Raises:
        Exception: What `train` raised first.
    """
    num = min(torch.get_num_threads(), len(chunks))
    if num == 1 or model.draws:
        for first, last in chunks:
            train(model, first, last)
        return
    free: SimpleQueue[PartyModel] = SimpleQueue()
    for number in range(num):
        free.put(model.for_worker(number))

    def work(chunk: tuple[int, int]) -> None:
        own = free.get()
        try:
            train(own, *chunk)
        finally:
            free.put(own)

    with one_thread(), ThreadPoolExecutor(num) as pool:
        for done in [pool.submit(work, chunk) for chunk in chunks]:
            done.result()
