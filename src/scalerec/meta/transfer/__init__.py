"""Transfer: what was learned in source domains becomes the recommender of a target domain."""

from scalerec.meta.transfer.config import METHODS, TransferConfig
from scalerec.meta.transfer.methods import TRANSFERS, transfer
from scalerec.meta.transfer.source import Source, Transferred, open_transfer
from scalerec.meta.transfer.writing import write_transferred

__all__ = [
    "METHODS",
    "TRANSFERS",
    "Source",
    "TransferConfig",
    "Transferred",
    "open_transfer",
    "transfer",
    "write_transferred",
]
