"""The zoo: one file a model, one row of `ZOO` each.

To add a model, write its file (a config and a module from `Inputs` to logits) and add its row: the
command line, the contract tests and the benchmarks pick it up from here.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

from scalerec.data.layout import Layout
from scalerec.models.net import NetConfig
from scalerec.models.zoo.autoint import AutoInt, AutoIntConfig
from scalerec.models.zoo.dcn_v2 import DCNv2, DCNv2Config
from scalerec.models.zoo.deepfm import DeepFM, DeepFMConfig
from scalerec.models.zoo.din import DIN, DINConfig
from scalerec.models.zoo.esmm import ESMM, ESMMConfig
from scalerec.models.zoo.finalmlp import FinalMLP, FinalMLPConfig
from scalerec.models.zoo.fm import FM, FMConfig
from scalerec.models.zoo.lr import LR, LRConfig
from scalerec.models.zoo.mmoe import MMoE, MMoEConfig
from scalerec.models.zoo.ple import PLE, PLEConfig
from scalerec.models.zoo.shared_bottom import SharedBottom, SharedBottomConfig
from scalerec.models.zoo.two_tower import TwoTower, TwoTowerConfig
from scalerec.models.zoo.wide_and_deep import WideAndDeep, WideAndDeepConfig

__all__ = ["ZOO", "ZooEntry"]


class ZooEntry(NamedTuple):
    """How a model is configured and built.

    Args:
        config: The class of its settings.
        build: Makes the net from a layout, its settings and a generator.
        paper: Name, first author and year.
        multi_task: Whether it was made for several tasks; every model takes several.
        needs: What a layout must have beyond one field and one task, in words; empty for nothing.
        reads_histories: Whether it reads histories item by item, and not only their mean.
        reads_flat: Whether it reads all fields through `Inputs.flat` alone.
    """

    config: type[NetConfig]
    build: Callable[[Layout, NetConfig, torch.Generator], nn.Module]
    paper: str
    multi_task: bool = False
    needs: str = ""
    reads_histories: bool = False
    reads_flat: bool = False


def _entry(
    config: type[NetConfig],
    net: Callable[..., nn.Module],
    paper: str,
    *,
    multi_task: bool = False,
    needs: str = "",
    reads_histories: bool = False,
    reads_flat: bool = False,
) -> ZooEntry:
    return ZooEntry(config, net, paper, multi_task, needs, reads_histories, reads_flat)


ZOO: dict[str, ZooEntry] = {
    "lr": _entry(LRConfig, LR, "Logistic regression, Richardson et al., 2007"),
    "fm": _entry(FMConfig, FM, "Factorization Machines, Rendle, 2010"),
    "wide-deep": _entry(
        WideAndDeepConfig, WideAndDeep, "Wide & Deep, Cheng et al., 2016", reads_flat=True
    ),
    "deepfm": _entry(DeepFMConfig, DeepFM, "DeepFM, Guo et al., 2017", reads_flat=True),
    "dcn-v2": _entry(DCNv2Config, DCNv2, "DCN V2, Wang et al., 2020"),
    "finalmlp": _entry(FinalMLPConfig, FinalMLP, "FinalMLP, Mao et al., 2023"),
    "autoint": _entry(AutoIntConfig, AutoInt, "AutoInt, Song et al., 2018"),
    "din": _entry(
        DINConfig,
        DIN,
        "DIN, Zhou et al., 2018",
        needs="a history and the item's id it is made of",
        reads_histories=True,
    ),
    "shared-bottom": _entry(
        SharedBottomConfig,
        SharedBottom,
        "Shared-bottom, Caruana, 1997",
        multi_task=True,
        reads_flat=True,
    ),
    "mmoe": _entry(MMoEConfig, MMoE, "MMoE, Ma et al., 2018", multi_task=True),
    "ple": _entry(PLEConfig, PLE, "PLE, Tang et al., 2020", multi_task=True),
    "esmm": _entry(
        ESMMConfig,
        ESMM,
        "ESMM, Ma et al., 2018",
        multi_task=True,
        needs="two binary tasks, the click and then the conversion",
    ),
    "two-tower": _entry(
        TwoTowerConfig,
        TwoTower,
        "Two-tower, Yi et al., 2019",
        needs="features of the item, and of the user or the context",
    ),
}
