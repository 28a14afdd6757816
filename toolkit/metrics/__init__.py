"""Pure functions of arrays: scores of predictions, ceilings, and how they are averaged."""

from toolkit.metrics.aggregate import (
    Summary,
    ceiled_2018,
    ceiled_2026,
    mean_over_neurons,
    mean_over_splits,
    median_over_neurons,
    sem,
    summarise,
)
from toolkit.metrics.errors import MetricError
from toolkit.metrics.regression import (
    FEWEST_IMAGES,
    METRICS,
    explained_variance,
    is_constant,
    mse,
    pearson_r,
    pearson_r_pairwise,
    r2,
)
from toolkit.metrics.reliability import spearman_brown, split_half_ceiling

__all__ = [
    "FEWEST_IMAGES",
    "METRICS",
    "MetricError",
    "Summary",
    "ceiled_2018",
    "ceiled_2026",
    "explained_variance",
    "is_constant",
    "mean_over_neurons",
    "mean_over_splits",
    "median_over_neurons",
    "mse",
    "pearson_r",
    "pearson_r_pairwise",
    "r2",
    "sem",
    "spearman_brown",
    "split_half_ceiling",
    "summarise",
]
