"""Metrics over the whole set: pure functions on numpy arrays, and mergeable accumulators.

A function takes whole arrays and gives a float, or None where the metric is undefined (one class
only, no rows, no relevant item); never NaN. Means over groups and users come with their counts. An
accumulator takes batches, merges with others, and gives what the function gives over all rows.
"""

from scalerec.metrics.accumulate import MulticlassMetrics, RankingMetrics, RegressionMetrics
from scalerec.metrics.accumulate_binary import BinaryMetrics
from scalerec.metrics.area import GroupedAuc, auc, gauc
from scalerec.metrics.binary import ece, log_loss, ne
from scalerec.metrics.lists import (
    catalogue_coverage,
    intra_list_diversity,
    novelty,
    personalisation,
)
from scalerec.metrics.multiclass import accuracy, multiclass_log_loss
from scalerec.metrics.ranking import (
    UserMean,
    hit_rate,
    mean_average_precision,
    mrr,
    ndcg,
    precision,
    recall,
)
from scalerec.metrics.ranks import Ties, ranks_of
from scalerec.metrics.regression import mae, rmse

__all__ = [
    "BinaryMetrics",
    "GroupedAuc",
    "MulticlassMetrics",
    "RankingMetrics",
    "RegressionMetrics",
    "Ties",
    "UserMean",
    "accuracy",
    "auc",
    "catalogue_coverage",
    "ece",
    "gauc",
    "hit_rate",
    "intra_list_diversity",
    "log_loss",
    "mae",
    "mean_average_precision",
    "mrr",
    "multiclass_log_loss",
    "ndcg",
    "ne",
    "novelty",
    "personalisation",
    "precision",
    "ranks_of",
    "recall",
    "rmse",
]
