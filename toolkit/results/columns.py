"""Every column of every table: name, Arrow type, one sentence. The documentation is made from it.

A missing value is a Parquet null, never NaN, so that every reader skips it in a mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from toolkit.results.errors import ResultError

DESCRIPTION_KEY = b"description"


@dataclass(frozen=True)
class Column:
    """One column: its name, its Arrow type, and what it holds in which unit."""

    name: str
    type: pa.DataType
    description: str


_TEXT, _INT, _FLOAT = pa.string(), pa.int64(), pa.float64()
_TIME = pa.timestamp("us", tz="UTC")

_TASK_ID = Column("task_id", _TEXT, "Id of the encode task: `encode-` and 12 hexadecimal digits.")
_MODEL = Column("model", _TEXT, "Name of the network in its library; `pixels` for raw pixels.")
_LIBRARY = Column("library", _TEXT, "Where the network comes from: torchvision, timm or pixels.")
_WEIGHTS = Column("weights", _TEXT, "`pretrained`, `random`, or the path of a checkpoint.")
_SEED = Column("seed", _INT, "Seed of the random weights; without effect on other weights.")
_LAYER = Column("layer", _TEXT, "Name of the layer whose output is the features.")
_READOUT = Column("readout", _TEXT, "Name of the read-out from features to responses.")

IDENTITY_COLUMNS = (
    Column("experiment", _TEXT, "Name of the experiment in the config."),
    Column("dataset", _TEXT, "Name of the neural data set."),
    Column("region", _TEXT, "Brain region the neurons were selected from; empty if not selected."),
    _MODEL,
    _LIBRARY,
    _WEIGHTS,
    _SEED,
    _LAYER,
    Column("layer_index", _INT, "Position of the layer in execution order, from 0."),
    Column(
        "layer_depth", _FLOAT, "Relative depth of the layer among all of its network's, 0 to 1."
    ),
    Column(
        "features",
        _TEXT,
        "What is kept of the layer: full, average, max, cls, projection and its size, or gram.",
    ),
    Column("n_features", _INT, "Number of features that are kept of the layer."),
    _READOUT,
)
"""What was asked for; known for every planned task before it runs."""

AGGREGATE_COLUMNS = (
    Column("alpha_median", _FLOAT, "Median over neurons of the chosen ridge penalty alpha."),
    Column(
        "alpha_at_edge",
        _FLOAT,
        "Fraction (0 to 1) of neurons whose best alpha lies on an edge of the alpha grid, "
        "averaged over splits.",
    ),
    Column("ev_mean", _FLOAT, "Mean over neurons of the explained variance 1 - Var(y - p)/Var(y)."),
    Column(
        "ev_median",
        _FLOAT,
        "Median over neurons, then mean over splits, of the explained variance.",
    ),
    Column("r_mean", _FLOAT, "Mean over neurons of the Pearson correlation r."),
    Column("r_median", _FLOAT, "Median over neurons, then mean over splits, of Pearson's r."),
    Column("r2_mean", _FLOAT, "Mean over neurons of R2 = 1 - sum (y - p)^2 / sum (y - mean y)^2."),
    Column(
        "mse_mean",
        _FLOAT,
        "Mean over neurons of the mean squared error, in squared response units.",
    ),
    Column(
        "ceiling_median",
        _FLOAT,
        "Median over neurons of the Spearman-Brown corrected split-half ceiling of r; "
        "null without repetitions.",
    ),
    Column(
        "ceiled_median_2026",
        _FLOAT,
        "Ceiled score median(r)^2 / ceiling_median, as Brain-Score defines it since 2026-01.",
    ),
    Column(
        "ceiled_median_2018",
        _FLOAT,
        "Ceiled score (median(r) / ceiling_median)^2, as Brain-Score defined it before 2026-01.",
    ),
    Column("n_neurons", _INT, "Number of neurons read out."),
    Column("n_neurons_scored", _INT, "Number of neurons with a finite explained variance and r."),
)
"""What :func:`toolkit.results.summarise` computes from the neurons of one task."""

UNCERTAINTY_COLUMNS = (
    Column("r_mean_sem", _FLOAT, "Standard error over splits of r_mean (population SD / sqrt(n))."),
    Column("r_median_sem", _FLOAT, "Standard error over splits of r_median, as in Brain-Score."),
    Column("r_mean_low", _FLOAT, "Lower end of r_mean's 95 % bootstrap interval over neurons."),
    Column("r_mean_high", _FLOAT, "Upper end of r_mean's 95 % bootstrap interval over neurons."),
    Column(
        "p_value",
        _FLOAT,
        "Probability of r_mean at least this high with shuffled images; median over splits; null "
        "unless permutations were asked for.",
    ),
)
"""How far the scores could be chance."""

_SIMILARITY = Column(
    "similarity",
    _FLOAT,
    "Agreement of the layer's and the neurons' dissimilarities, or CKA; null for other read-outs.",
)
_SOLVER = Column("solver", _TEXT, "How principal components were computed; null without features.")

RUN_COLUMNS = (
    Column("n_train", _INT, "Number of training images per split (of the first split)."),
    Column("n_test", _INT, "Number of test images per split (of the first split)."),
    Column("n_splits", _INT, "Number of train/test splits the scores are averaged over."),
    Column("seconds", _FLOAT, "Wall-clock time of the task's successful run, in seconds."),
    Column("peak_memory_bytes", _INT, "Peak resident memory of the task's process, in bytes."),
    Column("device", _TEXT, "Device the task computed on, such as `cpu` or `cuda:0`."),
)
"""What the run of the task measured."""

PROVENANCE_COLUMNS = (
    Column("config_hash", _TEXT, "SHA-256 (hexadecimal) of the config the task was planned from."),
    Column("git_sha", _TEXT, "Commit of the toolkit's checkout; `-dirty` if modified, else empty."),
    Column("versions", _TEXT, "Versions of Python and the packages used, as a JSON object."),
    Column("created", _TIME, "When the result was published (UTC)."),
)
"""Which code and config made the result."""

_N_COMPONENTS = Column(
    "n_components", _INT, "Number of principal components actually used; null without PCA."
)

SUMMARY_COLUMNS = (
    _N_COMPONENTS,
    _SOLVER,
    *AGGREGATE_COLUMNS,
    *UNCERTAINTY_COLUMNS,
    _SIMILARITY,
    *RUN_COLUMNS,
    *PROVENANCE_COLUMNS,
)
"""Keys of the JSON summary in the result file of one task."""

RESULT_COLUMNS = (
    _TASK_ID,
    Column(
        "status",
        _TEXT,
        "State of the task: pending, running, done, failed, blocked or cancelled; "
        "scores are null unless done.",
    ),
    *IDENTITY_COLUMNS,
    _N_COMPONENTS,
    _SOLVER,
    *AGGREGATE_COLUMNS,
    *UNCERTAINTY_COLUMNS,
    _SIMILARITY,
    *RUN_COLUMNS,
    Column("error_class", _TEXT, "Class of the error that stopped the task, null if none did."),
    Column("error_message", _TEXT, "Message of the error that stopped the task, null if none did."),
    *PROVENANCE_COLUMNS,
)
"""results.parquet: one row per planned encode task."""

_NEURON_ID = Column("neuron_id", _TEXT, "Id of the neuron (recording site) in its data set.")
_REGION = Column("region", _TEXT, "Brain region the neuron was recorded in.")
_ALPHA = Column(
    "alpha", _FLOAT, "Chosen ridge penalty alpha, median over splits; null for other read-outs."
)
_NEURON_SCORES = (
    Column("ev", _FLOAT, "Explained variance 1 - Var(y - p)/Var(y), mean over splits."),
    Column("r", _FLOAT, "Pearson correlation of response and prediction, mean over splits."),
    Column("r2", _FLOAT, "R2 = 1 - sum (y - p)^2 / sum (y - mean y)^2, mean over splits."),
    Column("mse", _FLOAT, "Mean squared error in squared response units, mean over splits."),
    Column(
        "ceiling",
        _FLOAT,
        "Spearman-Brown corrected split-half ceiling of r, mean over halvings; "
        "null without repetitions.",
    ),
)

SCORE_COLUMNS = (
    _NEURON_ID,
    _REGION,
    _ALPHA,
    Column(
        "alpha_at_edge",
        _FLOAT,
        "Fraction (0 to 1) of splits in which the neuron's best alpha lies on an edge of the "
        "grid; null for read-outs without alpha.",
    ),
    *_NEURON_SCORES,
)
"""The result file of one task: one row per neuron."""

NEURON_COLUMNS = (
    _TASK_ID,
    _MODEL,
    _LIBRARY,
    _WEIGHTS,
    _SEED,
    _LAYER,
    _READOUT,
    _NEURON_ID,
    _REGION,
    _ALPHA,
    *_NEURON_SCORES,
)
"""neurons.parquet: one row per neuron of every done task."""


def names(columns: tuple[Column, ...]) -> tuple[str, ...]:
    """Names of the columns, in order."""
    return tuple(column.name for column in columns)


def schema(columns: tuple[Column, ...]) -> pa.Schema:
    """Arrow schema of the columns, each description in its field's metadata."""
    return pa.schema(
        pa.field(c.name, c.type, metadata={DESCRIPTION_KEY: c.description.encode()})
        for c in columns
    )


def describe(path: str | Path) -> dict[str, str]:
    """Descriptions stored in a table's own file, by column name in column order.

    Raises
    ------
    ResultError
        If the file is missing, not Parquet, or not a table of this toolkit.
    """
    try:
        stored = pq.read_schema(path)
        return {field.name: field.metadata[DESCRIPTION_KEY].decode() for field in stored}
    except (OSError, pa.ArrowException, TypeError, KeyError) as error:
        raise ResultError(f"{path}: no column descriptions could be read: {error!r}") from error
