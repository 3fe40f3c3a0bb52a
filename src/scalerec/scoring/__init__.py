"""Scoring: what evaluating, recommending, early stopping and serving share."""

from scalerec.scoring.evaluation import (
    EvaluateConfig,
    Evaluation,
    evaluate,
    measure,
    rank_metrics,
)
from scalerec.scoring.queries import Queries, queries_of
from scalerec.scoring.ranking import catalogue_scores, top_items
from scalerec.scoring.recommending import Recommendation, recommend
from scalerec.scoring.scores import predict, score_all, task_slices

__all__ = [
    "EvaluateConfig",
    "Evaluation",
    "Queries",
    "Recommendation",
    "catalogue_scores",
    "evaluate",
    "measure",
    "predict",
    "queries_of",
    "rank_metrics",
    "recommend",
    "score_all",
    "task_slices",
    "top_items",
]
