"""One update of the start: tasks are drawn, and parts of them say how they would have it move."""

import torch

from scalerec.meta.algorithms import ALGORITHMS, Learned, Lesson
from scalerec.meta.config import MetaConfig
from scalerec.meta.episodes import Laid, Reader, draw_mixing, lay, shorten
from scalerec.meta.outer import Outer
from scalerec.meta.tasks import TaskSet

__all__ = ["draw_tasks", "learn"]


def draw_tasks(tasks: TaskSet, config: MetaConfig, generator: torch.Generator) -> Laid:
    """Draw the tasks of an update and what each adapts on and is judged by.

    Args:
        tasks: What is learned from.
        config: How many, and whether tasks are dropped or mixed.
        generator: Draws all of it.
    """
    chosen = torch.randperm(len(tasks), generator=generator)[: config.tasks]
    episode = tasks.episode(chosen, config.num_support, config.num_query, generator)
    episode = shorten(episode, config.least_support, config.task_dropout, generator)
    return lay(episode, draw_mixing(len(episode), config.mixing, generator), generator)


def learn(outer: Outer, reader: Reader, config: MetaConfig, laid: Laid, seed: int) -> list[Learned]:
    """What an algorithm gives for some tasks, in parts of `MetaConfig.at_once` tasks.

    Args:
        outer: Where they start.
        reader: Reads their rows.
        config: Which algorithm, and how.
        laid: Their rows; without a task there is nothing.
        seed: Of dropout.
    """
    num = len(laid)
    if not num:
        return []
    size = config.at_once or num
    head = outer.model.head
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head.train()
        try:
            parts = torch.arange(num).split(size) if size < num else (None,)
            return [
                _learn(outer, reader, config, laid if own is None else laid.take(own))
                for own in parts
            ]
        finally:
            head.eval()


def _learn(outer: Outer, reader: Reader, config: MetaConfig, laid: Laid) -> Learned:
    opened = reader.read(laid, gather=True)
    assert opened.numbers is not None, "rows were gathered"
    shared, rates = outer.leaves(opened.numbers)
    entry = ALGORITHMS[config.algorithm]
    lesson = Lesson(
        outer.model, shared, rates, opened.support, opened.query, opened.numbers, config.steps,
        entry.second_order, config.prior,
    )  # fmt: skip
    return entry.learn(lesson)
