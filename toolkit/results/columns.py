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

_TASK_ID = Column("task_id", _TEXT, "Id of the task: its kind and 12 hexadecimal digits.")
_DATASET = Column("dataset", _TEXT, "Name of the neural data set.")
_MODEL = Column("model", _TEXT, "Name of the network in its library; `pixels` for raw pixels.")
_LIBRARY = Column(
    "library",
    _TEXT,
    "Where the network comes from: torchvision, timm, pixels, or shallow, modular and hmo for the "
    "toolkit's own.",
)
_WEIGHTS = Column(
    "weights",
    _TEXT,
    "`pretrained`, `random`, the path of a checkpoint, `trained:` and the name of a training, or "
    "`run:` and a task of another run; of a training what it started from.",
)
_SEED = Column(
    "seed", _INT, "Seed of random weights, and of a training; without effect on other weights."
)
_LAYER = Column(
    "layer",
    _TEXT,
    "Name of the layer whose output is the features; of a training where the network was cut, "
    "empty if it was not.",
)
_READOUT = Column(
    "readout",
    _TEXT,
    "Name of the read-out from features to responses; of a training what was trained: finetune, "
    "frozen, last and the number of stages, or the kind of a grown network.",
)

_ROW_ID = Column(
    "row_id",
    _TEXT,
    "Id of the row, from the task's id and all names it was planned under: what has one content "
    "under two names is one task with two rows.",
)

IDENTITY_COLUMNS = (
    Column("experiment", _TEXT, "Name of the experiment in the config."),
    _DATASET,
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

TRAINING_IDENTITY_COLUMNS = (
    Column("training", _TEXT, "Name of the training in the config, also of one read out."),
    Column(
        "step",
        _TEXT,
        "training, trial, slot (a trial that goes on in a later rung), winner, modules or grown; "
        "null for read-outs.",
    ),
    Column("objective", _TEXT, "What was trained on, with weights: `object:0.3+mse:1`."),
    Column("fold", _INT, "Which split of the protocol was trained on, from 0."),
    Column("rung", _INT, "Rung of the search, or stage of the grown network, from 0."),
    Column("slot", _INT, "Place in the rung: number of the trial, or its rank in the one before."),
    Column(
        "trial",
        _INT,
        "Number of the trial whose recipe this is, from 0, as the config's search counts now.",
    ),
)
"""What was asked for of trainings; null for other tasks."""

TRAINING_COLUMNS = (
    Column("outcome", _TEXT, "trained, or diverged: a trial whose loss was not finite."),
    Column("recipe", _TEXT, "The recipe and decoder, as a JSON object."),
    Column("recipe_digest", _TEXT, "First 12 digits of the SHA-256 of `recipe`."),
    Column("n_epochs", _INT, "Epochs that were trained."),
    Column("best_epoch", _INT, "Epoch, from 0, whose weights were kept."),
    Column(
        "val_score",
        _FLOAT,
        "Monitored value of the best epoch on the validation images, which are training images; "
        "the higher the better (of the loss its negative).",
    ),
    Column("accuracy", _FLOAT, "Share of test images whose class is right; null without classes."),
)
"""What trainings measured; null for other tasks."""

AGGREGATE_COLUMNS = (
    Column("alpha_median", _FLOAT, "Median over neurons of the chosen ridge penalty alpha."),
    Column(
        "alpha_at_edge",
        _FLOAT,
        "Fraction (0 to 1) of neurons whose best alpha lies on an edge of the alpha grid, "
        "averaged over splits.",
    ),
    Column(
        "ev_mean",
        _FLOAT,
        "Mean over the neurons that have one of the explained variance 1 - Var(y - p)/Var(y); of "
        "each neuron its mean over the splits in which it has one.",
    ),
    Column(
        "ev_median",
        _FLOAT,
        "Median over the neurons that have one, then mean over splits, of the explained variance.",
    ),
    Column(
        "r_mean",
        _FLOAT,
        "Mean over the neurons that have one of the Pearson correlation r on the test images that "
        "each has; of each neuron its mean over the splits in which it has one.",
    ),
    Column(
        "r_median",
        _FLOAT,
        "Median over the neurons that have one, then mean over splits, of Pearson's r.",
    ),
    Column("r2_mean", _FLOAT, "Mean over neurons of R2 = 1 - sum (y - p)^2 / sum (y - mean y)^2."),
    Column(
        "mse_mean",
        _FLOAT,
        "Mean over neurons of the mean squared error, in squared response units.",
    ),
    Column(
        "ceiling_median",
        _FLOAT,
        "Median over neurons of the Spearman-Brown corrected split-half ceiling of r, mean over "
        "halvings (of the test images of each split, or of all images: see ceiling_images); null "
        "without repetitions.",
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
    Column(
        "r_mean_sem",
        _FLOAT,
        "Standard error over splits of r_mean (population SD / sqrt(n)); null for a single split.",
    ),
    Column(
        "r_median_sem",
        _FLOAT,
        "Standard error over splits of r_median, as in Brain-Score; null for a single split.",
    ),
    Column("r_mean_low", _FLOAT, "Lower end of r_mean's 95 % bootstrap interval over neurons."),
    Column("r_mean_high", _FLOAT, "Upper end of r_mean's 95 % bootstrap interval over neurons."),
    Column(
        "p_value",
        _FLOAT,
        "Probability of r_mean, over the same neurons and all splits, at least this high with "
        "shuffled images, (1 + b) / (1 + n) for b of n permutations at or above it: of the test "
        "images, or with several splits of all images, fitted anew; null unless asked for.",
    ),
)
"""How far the scores could be chance."""

_SIMILARITY = Column(
    "similarity",
    _FLOAT,
    "Agreement of the layer's and the neurons' dissimilarities, or CKA; null for other read-outs.",
)
_SOLVER = Column("solver", _TEXT, "How principal components were computed; null without features.")
_CEILING_IMAGES = Column(
    "ceiling_images",
    _TEXT,
    "Images that the ceilings are of: `test`, those of each split, as of r, or `all`; null without "
    "repetitions.",
)

RUN_COLUMNS = (
    Column("n_train", _INT, "Number of training images per split (of the first split)."),
    Column(
        "n_test",
        _INT,
        "Number of test images per split (of the first split); of rdm and cka the images compared.",
    ),
    Column("n_splits", _INT, "Number of train/test splits the scores are averaged over."),
    Column("seconds", _FLOAT, "Wall-clock time of the task's successful run, in seconds."),
    Column("peak_memory_bytes", _INT, "Peak resident memory of the task's process, in bytes."),
    Column("device", _TEXT, "Device the task computed on, such as `cpu` or `cuda:0`."),
)
"""What the run of the task measured."""

PROVENANCE_COLUMNS = (
    Column(
        "config_hash",
        _TEXT,
        "SHA-256 (hexadecimal) of the config that was run when the result was computed; one that "
        "was there already keeps its own.",
    ),
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
    _CEILING_IMAGES,
    _SIMILARITY,
    *RUN_COLUMNS,
    *PROVENANCE_COLUMNS,
)
"""Keys of the JSON summary in the result file of one task."""

RESULT_COLUMNS = (
    _ROW_ID,
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
    _CEILING_IMAGES,
    _SIMILARITY,
    *RUN_COLUMNS,
    *TRAINING_IDENTITY_COLUMNS,
    *TRAINING_COLUMNS,
    Column("error_class", _TEXT, "Class of the error that stopped the task, null if none did."),
    Column("error_message", _TEXT, "Message of the error that stopped the task, null if none did."),
    *PROVENANCE_COLUMNS,
)
"""results.parquet: one row per planned read-out or training."""

_NEURON_ID = Column(
    "neuron_id",
    _TEXT,
    "Id of the neuron (recording site), which other data sets may use for theirs; one made from "
    "its position goes on with @ and a mark of its data, so that it is shared by equal responses "
    "only.",
)
_REGION = Column("region", _TEXT, "Brain region the neuron was recorded in.")
_ALPHA = Column(
    "alpha", _FLOAT, "Chosen ridge penalty alpha, median over splits; null for other read-outs."
)
_NEURON_SCORES = (
    Column(
        "ev",
        _FLOAT,
        "Explained variance 1 - Var(y - p)/Var(y), mean over the splits in which there is one.",
    ),
    Column(
        "r",
        _FLOAT,
        "Pearson correlation of response and prediction, mean over the splits in which there is "
        "one: not where response or prediction is constant.",
    ),
    Column("r2", _FLOAT, "R2 = 1 - sum (y - p)^2 / sum (y - mean y)^2, mean over splits."),
    Column("mse", _FLOAT, "Mean squared error in squared response units, mean over splits."),
    Column("n_splits_scored", _INT, "Number of splits in which the neuron has an r."),
    Column(
        "ceiling",
        _FLOAT,
        "Spearman-Brown corrected split-half ceiling of r, mean over halvings (of the test images "
        "of each split, or of all images: see ceiling_images); null without repetitions.",
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
    _ROW_ID,
    _TASK_ID,
    _MODEL,
    _LIBRARY,
    _WEIGHTS,
    _SEED,
    _LAYER,
    _READOUT,
    *TRAINING_IDENTITY_COLUMNS[:1],
    _DATASET,
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
    except (OSError, UnicodeDecodeError, pa.ArrowException, TypeError, KeyError) as error:
        raise ResultError(f"{path}: no column descriptions could be read: {error!r}") from error
