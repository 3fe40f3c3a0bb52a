"""Codecs that make a message shorter: halved numbers, the largest ones, products of low rank."""

from scalerec.rounds.codecs.half import bf16
from scalerec.rounds.codecs.named import CodecName
from scalerec.rounds.codecs.rank import Mean, power_sgd
from scalerec.rounds.codecs.top import top_k

__all__ = ["CodecName", "Mean", "bf16", "power_sgd", "top_k"]
