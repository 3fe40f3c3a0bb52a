"""Hints: a hidden layer of the student that follows one of the teacher's.

FitNets: Hints for Thin Deep Nets (Romero, Ballas, Kahou, Chassang, Gatta, Bengio, 2015,
https://arxiv.org/abs/1412.6550), equation 3: a regressor, learned beside the student, maps the
student's layer to the size of the teacher's. The paper trains the lower half on hints alone first;
here the hint is one more term of the loss all the way, a mean over numbers and not a sum.

Shapes: B rows, I and O the sizes of the student's and the teacher's layer.
"""

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from scalerec.config import require
from scalerec.errors import ConfigError
from scalerec.models.heads import Mlp, init_linear

__all__ = ["Listener", "hint_loss", "last_hidden", "make_regressor"]


class Listener:
    """Keeps what a named module of a net gave last.

    Args:
        net: The net.
        name: The module's name in it, as `named_modules` has it.

    Raises:
        ConfigError: If there is no such module.
    """

    def __init__(self, net: nn.Module, name: str) -> None:
        modules = dict(net.named_modules())
        if not name or name not in modules:
            known = ", ".join(own for own, module in modules.items() if own and _is_leaf(module))
            raise ConfigError(f"a hint must name a module; got {name!r}; there are {known}")
        self.name = name
        self._heard: Tensor | None = None
        self._handle: RemovableHandle = modules[name].register_forward_hook(self._hear)

    def _hear(self, _module: nn.Module, _inputs: object, output: object) -> None:
        good = isinstance(output, Tensor) and output.ndim >= 2
        require(good, f"a hint's module must give a tensor [B, ...]; {self.name!r} does not")
        self._heard = output  # type: ignore[assignment]

    def take(self) -> Tensor:
        """What the module gave since the last call, a vector a row, ``[B, I]`` float32.

        Raises:
            ConfigError: If it gave nothing.
        """
        heard, self._heard = self._heard, None
        if heard is None:
            raise ConfigError(
                f"module {self.name!r} gives no hint: the net computes it together with others; "
                "name another, such as the ReLU after a linear layer"
            )
        return heard.flatten(1).float()

    def close(self) -> None:
        """Stop listening."""
        self._handle.remove()


def last_hidden(net: nn.Module) -> str:
    """The name of the last hidden layer's ReLU in the first `Mlp` of a net that has one.

    Raises:
        ConfigError: If there is none.
    """
    for name, module in net.named_modules():
        if isinstance(module, Mlp):
            places = [place for place, layer in enumerate(module) if isinstance(layer, nn.ReLU)]
            if places:
                return f"{name}.{places[-1]}" if name else str(places[-1])
    raise ConfigError("the net has no multi-layer perceptron; name the hints' modules")


def make_regressor(in_dim: int, out_dim: int, generator: torch.Generator) -> nn.Linear:
    """A linear map from the student's layer to the teacher's, Xavier-normal."""
    return init_linear(nn.Linear(in_dim, out_dim), generator)


def hint_loss(regressor: nn.Module, student_bi: Tensor, teacher_bo: Tensor) -> Tensor:
    """Half the mean squared error of the regressor's image against the teacher's layer, a scalar.

    Args:
        regressor: Maps ``[B, I]`` to ``[B, O]``.
        student_bi: The student's layer.
        teacher_bo: The teacher's layer; no gradient flows there.
    """
    image_bo: Tensor = regressor(student_bi)
    return (image_bo - teacher_bo.detach()).square().mean() / 2


def _is_leaf(module: nn.Module) -> bool:
    return next(module.children(), None) is None
