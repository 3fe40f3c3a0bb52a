"""Losses against a teacher: by hand, and by torch's own distributions."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Bernoulli, Categorical, kl_divergence

from scalerec.compress.soft import soft_binary, soft_classes, soft_losses, soft_numbers
from scalerec.data.layout import IdField, Layout
from scalerec.data.schema import Role, Task, TaskKind
from scalerec.errors import ConfigError

TEMPERATURES = (1.0, 2.5)


def layout(*tasks: Task) -> Layout:
    field = IdField(name="item", role=Role.ITEM, table="item")
    return Layout(ids=(field,), tables={"item": 4}, tasks=tasks)


def test_binary_by_hand() -> None:
    """A student at odds 1:1 of a teacher at 3:1."""
    teacher = torch.tensor([math.log(3.0)])
    by_hand = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert soft_binary(torch.zeros(1), teacher).item() == pytest.approx(by_hand, abs=1e-7)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_as_torch_has_it(generator: torch.Generator, temperature: float) -> None:
    student, teacher = torch.randn(2, 5, 3, generator=generator, dtype=torch.float64).unbind(0)
    one, other = (Bernoulli(logits=x[:, 0] / temperature) for x in (teacher, student))
    expected = kl_divergence(one, other) * temperature**2
    found = soft_binary(student[:, 0], teacher[:, 0], temperature)
    assert torch.allclose(found, expected, atol=1e-12)
    one_of, other_of = (Categorical(logits=x / temperature) for x in (teacher, student))
    expected = kl_divergence(one_of, other_of) * temperature**2
    assert torch.allclose(soft_classes(student, teacher, temperature), expected, atol=1e-12)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_two_classes_are_a_binary_task(generator: torch.Generator, temperature: float) -> None:
    student, teacher = torch.randn(2, 6, generator=generator, dtype=torch.float64).unbind(0)
    two = [torch.stack([torch.zeros_like(x), x], 1) for x in (student, teacher)]
    found = soft_classes(two[0], two[1], temperature)
    assert torch.allclose(found, soft_binary(student, teacher, temperature), atol=1e-12)


def test_a_high_temperature_compares_logits() -> None:
    """The limit: p (1 - p) / 2 = 1/8 of the squared difference (Hinton et al., section 2.1)."""
    student, teacher = torch.tensor([0.5], dtype=torch.float64), torch.tensor([-1.0]).double()
    assert soft_binary(student, teacher, 1e3).item() == pytest.approx(1.5**2 / 8, rel=1e-5)


def test_no_gradient_reaches_the_teacher() -> None:
    student, teacher = torch.zeros(4, 2, requires_grad=True), torch.ones(4, 2, requires_grad=True)
    loss = soft_binary(student[:, 0], teacher[:, 0]) + soft_numbers(student[:, 1], teacher[:, 1])
    (loss + soft_classes(student, teacher)).sum().backward()
    assert student.grad is not None
    assert teacher.grad is None


@given(st.floats(-30, 30), st.floats(-30, 30), st.floats(0.5, 20))
def test_zero_only_where_both_agree(one: float, other: float, temperature: float) -> None:
    """Never below zero but for rounding."""
    student, teacher = torch.tensor([one]).double(), torch.tensor([other]).double()
    assert soft_binary(student, teacher, temperature).item() >= -1e-10
    assert soft_binary(student, student, temperature).item() == 0.0


def test_tasks_side_by_side(generator: torch.Generator) -> None:
    tasks = (
        Task(name="click"),
        Task(name="kind", kind=TaskKind.MULTICLASS, num_classes=3),
        Task(name="stars", kind=TaskKind.REGRESSION),
    )
    student, teacher = torch.randn(2, 4, 5, generator=generator).unbind(0)
    found = soft_losses(layout(*tasks), student, teacher, 2.0)
    assert found.shape == (4, 3)
    assert torch.equal(found[:, 0], soft_binary(student[:, 0], teacher[:, 0], 2.0))
    assert torch.equal(found[:, 1], soft_classes(student[:, 1:4], teacher[:, 1:4], 2.0))
    assert torch.equal(found[:, 2], (student[:, 4] - teacher[:, 4]).square())


def test_what_it_refuses() -> None:
    with pytest.raises(ConfigError, match="temperature must be above 0; got 0"):
        soft_binary(torch.zeros(1), torch.zeros(1), 0)
    retrieval = layout(Task(name="next", kind=TaskKind.RETRIEVAL))
    with pytest.raises(ConfigError, match="regression tasks; got retrieval 'next'"):
        soft_losses(retrieval, torch.zeros(1, 1), torch.zeros(1, 1))
