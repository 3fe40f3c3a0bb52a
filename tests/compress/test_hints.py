"""Hidden layers that are listened to."""

import pytest
import torch
from tests.train.toys import narrow
from torch import nn

from scalerec.compress.hints import Listener, hint_loss, last_hidden, make_regressor
from scalerec.data.dataset import Dataset
from scalerec.errors import ConfigError
from scalerec.models.heads import Mlp
from scalerec.models.recommender import build_recommender


def test_hint_by_hand() -> None:
    regressor = nn.Linear(1, 2, bias=False)
    with torch.no_grad():
        regressor.weight.copy_(torch.tensor([[1.0], [2.0]]))
    student, teacher = torch.tensor([[3.0]]), torch.tensor([[1.0, 6.0]])
    assert hint_loss(regressor, student, teacher).item() == (2.0**2 + 0.0) / 2 / 2


def test_gradients_reach_the_student_alone(generator: torch.Generator) -> None:
    student, teacher = torch.randn(3, 2, requires_grad=True), torch.randn(3, 4, requires_grad=True)
    regressor = make_regressor(2, 4, generator)
    hint_loss(regressor, student, teacher).backward()
    assert student.grad is not None
    assert regressor.weight.grad is not None
    assert teacher.grad is None


@pytest.mark.parametrize("low", [False, True])
def test_a_listened_layer_changes_nothing(generator: torch.Generator, low: bool) -> None:
    """The ReLU is called by itself then: the same numbers, and those that it gave."""
    net = Mlp(5, [7, 6], generator, out_dim=1)
    x = torch.randn(9, 5, generator=generator)
    with torch.autocast("cpu", torch.bfloat16, enabled=low):
        plain = net(x)
        assert last_hidden(net) == "3"
        listener = Listener(net, "3")
        heard = net(x)
        # In bf16 the fused product rounds once less.
        assert torch.allclose(plain.float(), heard.float(), atol=0.05 if low else 1e-6)
        hidden = listener.take()
        assert hidden.shape == (9, 6)
        assert hidden.dtype is torch.float32
        output = net[4]
        assert isinstance(output, nn.Linear)
        image = nn.functional.linear(hidden.to(heard.dtype), output.weight, output.bias)
    assert torch.equal(image, heard)
    listener.close()
    net(x)
    with pytest.raises(ConfigError, match="module '3' gives no hint: the net computes it together"):
        listener.take()


def test_last_hidden_of_nets(rated: Dataset) -> None:
    deep = build_recommender(rated.layout, narrow("deepfm", hidden=[8, 4], dropout=0.5), 1)
    assert last_hidden(deep) == "net.tower.4"
    flat = build_recommender(rated.layout, narrow("fm"), 1)
    with pytest.raises(ConfigError, match="no multi-layer perceptron; name the hints' modules"):
        last_hidden(flat)


def test_any_net() -> None:
    """A convolution's output counts as one vector a row."""
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 1))
    listener = Listener(net, "1")
    net(torch.zeros(5, 1, 4, 4))
    assert listener.take().shape == (5, 8)


def test_what_it_refuses() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.LSTM(2, 2))
    with pytest.raises(ConfigError, match="must name a module; got 'tower'; there are 0, 1"):
        Listener(net, "tower")
    Listener(net, "1")
    with pytest.raises(ConfigError, match=r"must give a tensor \[B, ...\]; '1' does not"):
        net(torch.zeros(3, 2))
