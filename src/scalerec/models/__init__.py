"""Models: embedding tables and their engines, blocks, the zoo, and the recommender made of them."""

from scalerec.models.inputs import FieldEmbedder, History, Inputs
from scalerec.models.net import NetConfig, TwoTowers
from scalerec.models.recommender import ModelSpec, Recommender, build_recommender
from scalerec.models.tables import ENGINES, RowMap, Tables
from scalerec.models.warming import RowGenerator, RowScaler, WarmUp
from scalerec.models.zoo import ZOO, ZooEntry

__all__ = [
    "ENGINES",
    "ZOO",
    "FieldEmbedder",
    "History",
    "Inputs",
    "ModelSpec",
    "NetConfig",
    "Recommender",
    "RowGenerator",
    "RowMap",
    "RowScaler",
    "Tables",
    "TwoTowers",
    "WarmUp",
    "ZooEntry",
    "build_recommender",
]
