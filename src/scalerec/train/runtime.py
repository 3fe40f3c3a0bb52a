"""Where training runs: one process here, several in `scalerec.distributed`."""

from typing import Protocol

import torch
from torch import Tensor, nn

__all__ = ["OneProcess", "Runtime", "has_bf16"]


class Runtime(Protocol):
    """What the loop needs to know of the processes it runs in."""

    rank: int
    world: int
    device: torch.device

    def reduce(self, value: Tensor) -> Tensor:
        """The mean of a tensor over all processes."""
        ...

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module as this process trains it."""
        ...


class OneProcess:
    """Training in this process alone.

    Args:
        device: Where tensors live: `cpu`, `cuda`, ...
    """

    rank = 0
    world = 1

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)

    def reduce(self, value: Tensor) -> Tensor:
        """The value itself."""
        return value

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module itself, on the device."""
        return module.to(self.device)


def has_bf16(device: torch.device) -> bool:
    """Whether bf16 products are fast there: AVX512-BF16 or AMX, or a GPU that has them."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    if device.type != "cpu":
        return False
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
