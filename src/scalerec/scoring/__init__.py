"""Scoring: what evaluating, recommending, early stopping and serving share."""

from scalerec.scoring.candidates import CandidateScorer, candidate_scorer, row_scorer, score_rows
from scalerec.scoring.cost import Cost, Sizes, measure_cost, measure_times, sizes_of
from scalerec.scoring.evaluation import (
    EvaluateConfig,
    Evaluation,
    evaluate,
    measure,
    rank_metrics,
)
from scalerec.scoring.queries import Queries, queries_of
from scalerec.scoring.ranking import CatalogueScorer, catalogue_scores, top_items
from scalerec.scoring.recommending import Recommendation, recommend
from scalerec.scoring.rows import RowScorer
from scalerec.scoring.scores import predict, score_all, task_slices
from scalerec.scoring.split import SplitScorer
from scalerec.scoring.timing import Request, request_scorer, requests_of, time_in_turns

__all__ = [
    "CandidateScorer",
    "CatalogueScorer",
    "Cost",
    "EvaluateConfig",
    "Evaluation",
    "Queries",
    "Recommendation",
    "Request",
    "RowScorer",
    "Sizes",
    "SplitScorer",
    "candidate_scorer",
    "catalogue_scores",
    "evaluate",
    "measure",
    "measure_cost",
    "measure_times",
    "predict",
    "queries_of",
    "rank_metrics",
    "recommend",
    "request_scorer",
    "requests_of",
    "row_scorer",
    "score_all",
    "score_rows",
    "sizes_of",
    "task_slices",
    "time_in_turns",
    "top_items",
]
