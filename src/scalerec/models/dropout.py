"""Dropout, drawn sixteen bits at a time."""

import torch
from torch import Tensor, nn

__all__ = ["Dropout"]

DRAWS = 1 << 16
LANES = 4  # 16-bit numbers in one draw of 64 bits


class Dropout(nn.Module):
    """Zeroes values by chance while training, and scales the others up so that the mean stays.

    As `torch.nn.Dropout`, from the same global generator but with other draws, and on the processor
    three times as fast: that draws 64 bits a value, this 16, so `rate` is kept to 1 / 65,536.

    Paper: Dropout: A Simple Way to Prevent Neural Networks from Overfitting, Srivastava et al.,
    2014, https://jmlr.org/papers/v15/srivastava14a.html

    Args:
        rate: Chance of zeroing a value, in [0, 1).
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Drop values of ``[...]``; give it back as it is in evaluation."""
        if not self.training or self.rate == 0:
            return x
        if x.device.type != "cpu" or torch._C._are_functorch_transforms_active():
            return nn.functional.dropout(x, self.rate)
        size = x.numel()
        draws = torch.randint(-(2**63), 2**63 - 1, (-(-size // LANES),))
        bits = draws.view(torch.int16)[:size].view(x.shape)
        dropped = round(self.rate * DRAWS)
        kept = (bits >= dropped - DRAWS // 2).to(x.dtype)
        return x * kept.mul_(DRAWS / (DRAWS - dropped))

    def extra_repr(self) -> str:
        """The rate."""
        return f"rate={self.rate}"
