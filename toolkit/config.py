"""What a user may write: every key of a sweep's YAML, its type, its default and its meaning."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PositiveFloat,
    PositiveInt,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from toolkit.yaml_source import ConfigError, KeyPath, Source, nearest

# Reports of the field chose alpha between 5 (scaled pixels) and 1.25e7 (unscaled conv1).
DEFAULT_ALPHAS = tuple(10.0 ** (k / 2) for k in range(17))


def _as_list(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else [value]


def _expand(path: str) -> str:
    """Absolute path, ``~`` and ``$VARIABLES`` expanded, so that a run can go on from anywhere."""
    return str(Path(os.path.expandvars(path)).expanduser().absolute())


def _expand_checkpoint(weights: str) -> str:
    return weights if weights in ("pretrained", "random") else _expand(weights)


FilePath = Annotated[str, AfterValidator(_expand)]
_Level = Annotated[int, Field(ge=0, le=255)]
Background = tuple[_Level, _Level, _Level]
MID_GREY: Background = (128, 128, 128)
_BACKGROUND = "RGB, 0 to 255, where no image is."
Weights = Annotated[str, AfterValidator(_expand_checkpoint)]


class Section(BaseModel):
    """A mapping in the file: unknown keys are refused with the nearest valid name."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, value: Any) -> Any:
        if isinstance(value, dict):
            unknown = [str(key) for key in value if key not in cls.model_fields]
            if unknown:
                raise PydanticCustomError(
                    "unknown_key",
                    "{text}",
                    {"text": _unknown_key_text(unknown[0], cls), "key": unknown[0]},
                )
        return value


def _unknown_key_text(key: str, section: type[Section]) -> str:
    near = nearest(key, section.model_fields, n=1)
    hint = f"did you mean '{near[0]}'? " if near else ""
    return f"unknown key; {hint}allowed: {', '.join(section.model_fields)}"


class Sizes(Section):
    """How large a data set is, so that a plan can be made where its files are not."""

    n_neuroids: PositiveInt = Field(description="Number of neuroids (recording sites).")
    splits: dict[str, PositiveInt] = Field(
        default_factory=dict, description="Number of stimuli of each split."
    )
    n_stimuli: PositiveInt | None = Field(
        default=None, description="Number of stimuli; the sum of the splits if left out."
    )


class SyntheticDataset(Section):
    """Rendered objects and simulated neurons of known explainable variance (synthetic)."""

    kind: Literal["synthetic"] = Field(description="Rendered stimuli, simulated neurons.")
    name: str = Field(default="synthetic", description="Name in the results.")
    n_train: PositiveInt = Field(default=400, description="Stimuli in the split 'train'.")
    n_val: PositiveInt = Field(default=100, description="Stimuli in the split 'val'.")
    n_neuroids: PositiveInt = Field(default=50, description="Simulated neurons.")
    n_repetitions: PositiveInt = Field(default=6, description="Presentations of each stimulus.")
    n_categories: Annotated[int, Field(ge=2)] = Field(default=4, description="Object categories.")
    image_px: Annotated[int, Field(ge=16)] = Field(default=128, description="Image side, pixels.")
    seed: int | None = Field(
        default=None, description="Seed of images, tuning and noise; the sweep's if left out."
    )


class Nx414Dataset(Section):
    """The NX-414 file ``IT_data.h5``: 168 IT sites, images already ImageNet-normalised."""

    kind: Literal["nx414"] = Field(description="The IT_data.h5 layout.")
    name: str = Field(default="nx414", description="Name in the results.")
    path: FilePath = Field(description="The HDF5 file.")
    sizes: Sizes | None = Field(default=None, description="Sizes, for plans without the file.")


class SquareFrame(Section):
    """Makes images of any size square, so that a network sees all of them the same way."""

    mode: Literal["pad", "crop", "letterbox"] = Field(
        description="pad: the image as it is on a canvas; crop: its middle; letterbox: scaled."
    )
    size_px: PositiveInt | None = Field(
        default=None,
        description="Side of the canvas, pixels; the image's longer (pad) or shorter side (crop).",
    )
    background: Background = Field(default=MID_GREY, description=_BACKGROUND)

    @model_validator(mode="after")
    def _letterbox_needs_a_size(self) -> SquareFrame:
        if self.mode == "letterbox" and self.size_px is None:
            raise ValueError("mode letterbox needs size_px, the side of the canvas")
        return self


class MajajHongDataset(Section):
    """Majaj, Hong et al. 2015: IT and V4 sites, HvM images, repetitions (public part)."""

    kind: Literal["majaj_hong"] = Field(description="A BrainIO assembly, its table and images.")
    name: str = Field(default="majaj_hong", description="Name in the results.")
    path: FilePath = Field(description="Folder of the .nc, .csv and .zip, or the .nc in it.")
    regions: Annotated[tuple[str, ...], BeforeValidator(_as_list), Field(min_length=1)] = Field(
        default=("IT",), description="Areas to take: IT, V4."
    )
    animals: Annotated[tuple[str, ...], Field(min_length=1)] | None = Field(
        default=None, description="Animals to take; all if left out."
    )
    variations: Annotated[tuple[int, ...], Field(min_length=1)] | None = Field(
        default=None, description="Levels of variation to take (public: 0, 3); all if left out."
    )
    val_variation: int | None = Field(
        default=None, description="Level whose images are the split 'val', the others 'train'."
    )
    field_of_view_deg: PositiveFloat | None = Field(
        default=None,
        description="Degrees a network is taken to see; the 8° images are padded or cropped to it.",
    )
    background: Background = Field(default=MID_GREY, description=_BACKGROUND)
    sizes: Sizes | None = Field(default=None, description="Sizes, for plans without the files.")


class Xiao2024Dataset(Section):
    """Free-viewing sessions of Xiao et al. 2024 (DANDI 000628), two NWB files each."""

    kind: Literal["xiao2024"] = Field(description="NWB sessions and a folder of images.")
    name: str = Field(default="xiao2024", description="Name in the results.")
    sessions: Annotated[tuple[FilePath, ...], BeforeValidator(_as_list), Field(min_length=1)] = (
        Field(description="NWB files or folders of them; either of a session's two files names it.")
    )
    images: FilePath = Field(description="Folder or .zip with the images, found by file name.")
    session_table: FilePath | None = Field(
        default=None, description="CSV: session, bank, array, hemisphere, region."
    )
    region: str = Field(default="", description="Area of all units, without a session table.")
    regions: Annotated[tuple[str, ...], BeforeValidator(_as_list), Field(min_length=1)] | None = (
        Field(default=None, description="Areas to take; all if left out.")
    )
    label_table: FilePath | None = Field(
        default=None,
        description="CSV or parquet: filename, label, perhaps split; other images are left out.",
    )
    align: Literal["image", "fixation"] = Field(
        default="image", description="Responses to images, or to the patches that were fixated."
    )
    window_ms: tuple[float, float] = Field(
        default=(70, 170), description="Window whose spikes count, ms after onset or fixation."
    )
    baseline_ms: tuple[float, float] | None = Field(
        default=None, description="Window whose rate is subtracted, such as [-100, 0]."
    )
    stabilise: Literal["sqrt", "anscombe"] | None = Field(
        default=None, description="Variance-stabilising transform of the spike counts."
    )
    zscore: bool = Field(default=False, description="Standardise each unit over its session.")
    gaze_latency_ms: float = Field(
        default=0, description="How late the eye tracker was, subtracted from fixation times."
    )
    patch_deg: PositiveFloat = Field(
        default=4, description="Side of the patch around the gaze, degrees of visual angle."
    )
    frame: SquareFrame | None = Field(default=None, description="Makes whole images square.")
    sizes: Sizes | None = Field(default=None, description="Sizes, for plans without the files.")


class FilesDataset(Section):
    """Image files beside an array or table of responses."""

    kind: Literal["files"] = Field(description="Image files and a response array or table.")
    name: str = Field(description="Name in the results.")
    images: FilePath = Field(description="Folder, .zip, or a table with a column of file names.")
    responses: FilePath = Field(description=".npy, .npz, .csv, .parquet or .zarr.")
    response_axes: tuple[Literal["stimulus", "neuroid", "repetition"], ...] = Field(
        default=("stimulus", "neuroid"), description="What each axis of the response array is."
    )
    stimulus_table: FilePath | None = Field(
        default=None,
        description="CSV or parquet: stimulus_id; filename, object_name, category_name, split.",
    )
    neuroid_table: FilePath | None = Field(
        default=None, description="CSV or parquet: neuroid_id and region, in the array's order."
    )
    region: str = Field(default="", description="Region of all neuroids, without a table.")
    framed: bool = Field(
        default=False,
        description="Images show what the network should see: resize them, never crop.",
    )
    frame: SquareFrame | None = Field(default=None, description="Makes images of any size square.")
    missing_responses: Literal["refuse", "mask"] = Field(
        default="refuse",
        description="NaN responses: an error, or images that a neuron was not recorded for.",
    )
    sizes: Sizes | None = Field(default=None, description="Sizes, for plans without the files.")


DatasetConfig = Annotated[
    SyntheticDataset | Nx414Dataset | MajajHongDataset | Xiao2024Dataset | FilesDataset,
    Field(discriminator="kind"),
]


class FeaturesConfig(Section):
    """What is kept of each layer's output."""

    keep: Literal["full", "average", "max", "cls", "projection", "gram"] = Field(
        default="full",
        description="Everything; average or max over positions; the class token; a sparse random "
        "projection; or only the Gram matrix over the images.",
    )
    n_dims: PositiveInt | None = Field(
        default=None, description="Dimensions of the projection; from eps if left out."
    )
    eps: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.1,
        description="Distortion of distances that decides n_dims (Johnson-Lindenstrauss).",
    )
    seed: int = Field(default=0, description="Seed of the projection.")
    dtype: Literal["float32", "float16", "bfloat16"] = Field(
        default="float32", description="Precision of the features."
    )


def _as_features(value: Any) -> Any:
    return [{"keep": one} if isinstance(one, str) else one for one in _as_list(value)]


Features = Annotated[tuple[FeaturesConfig, ...], BeforeValidator(_as_features), Field(min_length=1)]


class ModelConfig(Section):
    """One or many networks: every combination of names, weights and seeds."""

    library: Literal["torchvision", "timm", "pixels"] = Field(
        description="Where the network comes from; 'pixels' is the image itself."
    )
    names: Annotated[tuple[str, ...], BeforeValidator(_as_list), Field(min_length=1)] = Field(
        default=("pixels",), description="Names or patterns such as 'vgg*'."
    )
    weights: Annotated[tuple[Weights, ...], BeforeValidator(_as_list), Field(min_length=1)] = Field(
        default=("random",), description="pretrained, random, or the path of a checkpoint."
    )
    seeds: Annotated[
        tuple[int, ...] | None, BeforeValidator(lambda v: v if v is None else _as_list(v))
    ] = Field(default=None, description="Seeds of random weights; the sweep's seed if left out.")
    layers: Literal["auto", "all"] | tuple[str, ...] = Field(
        default="auto", description="auto (stage outputs), all, or names and patterns."
    )

    features: Features | None = Field(
        default=None, description="What is kept of each layer; the sweep's if left out."
    )

    @field_validator("layers", mode="before")
    @classmethod
    def _layers_as_list(cls, value: Any) -> Any:
        return value if value in ("auto", "all") else _as_list(value)

    @model_validator(mode="after")
    def _names_are_needed(self) -> ModelConfig:
        if self.library != "pixels" and self.names == ("pixels",):
            raise ValueError(f"names is missing: which {self.library} networks?")
        return self


class AlphaGrid(Section):
    """Logarithmically spaced ridge penalties."""

    min: PositiveFloat = Field(description="Smallest penalty.")
    max: PositiveFloat = Field(description="Largest penalty.")
    n: Annotated[int, Field(ge=1)] = Field(description="Number of penalties.")

    def values(self) -> tuple[float, ...]:
        """Return the grid, smallest first."""
        if self.n == 1:
            return (self.min,)
        ratio = self.max / self.min
        return tuple(self.min * ratio ** (k / (self.n - 1)) for k in range(self.n))


def _grid_or_list(value: Any) -> str:
    return "grid" if isinstance(value, dict | AlphaGrid) else "list"


Alphas = Annotated[
    Annotated[tuple[PositiveFloat, ...], Tag("list")] | Annotated[AlphaGrid, Tag("grid")],
    Discriminator(_grid_or_list),
]
Components = Annotated[
    tuple[PositiveInt | None, ...], BeforeValidator(_as_list), Field(min_length=1)
]
_COMPONENTS = "Principal components first; null for all features."
_NAME = "Name in the results; made from the other keys if left out."


class RidgeReadout(Section):
    """Ridge regression on principal components or, without them, on all features."""

    kind: Literal["ridge"] = Field(description="Ridge regression.")
    name: str | None = Field(default=None, description=_NAME)
    n_components: Components = Field(default=(None,), description=_COMPONENTS)
    alphas: Alphas = Field(
        default=DEFAULT_ALPHAS, description="Penalties to choose from: a list, or min, max and n."
    )
    alpha: Literal["per_neuron", "shared"] = Field(
        default="per_neuron", description="One penalty for each neuron, or one for all."
    )
    folds: Annotated[int, Field(ge=2)] | Literal["leave_one_out"] = Field(
        default=5, description="Folds of the training stimuli that choose alpha, or leave_one_out."
    )

    @property
    def alpha_values(self) -> tuple[float, ...]:
        """The penalties in ascending order, each once."""
        values = self.alphas.values() if isinstance(self.alphas, AlphaGrid) else self.alphas
        return tuple(sorted(set(values)))

    def variants(self, seed: int) -> Iterator[tuple[str, dict[str, Any]]]:
        """Names and parameters of the read-outs that this entry stands for."""
        base = self.name or ("ridge" if self.alpha == "per_neuron" else "ridge-shared")
        for k in self.n_components:
            yield (
                _on_components(base, k),
                {
                    "kind": "ridge",
                    "n_components": k,
                    "alphas": list(self.alpha_values),
                    "alpha_per_neuron": self.alpha == "per_neuron",
                    "n_folds": None if self.folds == "leave_one_out" else self.folds,
                    "seed": seed,
                },
            )


class LinearReadout(Section):
    """Ordinary least squares; of minimum norm where features outnumber stimuli."""

    kind: Literal["linear"] = Field(description="Least squares.")
    name: str | None = Field(default=None, description=_NAME)
    n_components: Components = Field(default=(None,), description=_COMPONENTS)

    def variants(self, _seed: int) -> Iterator[tuple[str, dict[str, Any]]]:
        """Names and parameters of the read-outs that this entry stands for."""
        for k in self.n_components:
            yield _on_components(self.name or "linear", k), {"kind": "linear", "n_components": k}


class PlsReadout(Section):
    """Partial least squares on all features, as Brain-Score's IT benchmark uses it."""

    kind: Literal["pls"] = Field(description="Partial least squares.")
    name: str | None = Field(default=None, description=_NAME)
    n_components: Annotated[
        tuple[PositiveInt, ...], BeforeValidator(_as_list), Field(min_length=1)
    ] = Field(default=(25,), description="Latent components.")
    neurons: Literal["joint", "separate"] = Field(
        default="joint", description="One model of all neurons, or one for each."
    )

    def variants(self, _seed: int) -> Iterator[tuple[str, dict[str, Any]]]:
        """Names and parameters of the read-outs that this entry stands for."""
        base = self.name or ("pls" if self.neurons == "joint" else "pls-separate")
        for k in self.n_components:
            params = {"kind": "pls", "n_latent": k, "pls_per_neuron": self.neurons == "separate"}
            yield f"{base}{k}", params


class RdmReadout(Section):
    """Representational similarity: dissimilarities of stimuli in the layer and in the neurons."""

    kind: Literal["rdm"] = Field(description="Representational dissimilarity matrices.")
    name: str | None = Field(default=None, description=_NAME)
    distance: Literal["correlation", "euclidean", "cosine"] = Field(
        default="correlation", description="Dissimilarity of two stimuli."
    )
    comparison: Literal["spearman", "pearson", "kendall_tau_a"] = Field(
        default="spearman", description="How the two matrices are compared."
    )
    level: Literal["image", "object"] = Field(
        default="image", description="Single images, or averages over each object's images."
    )

    def variants(self, _seed: int) -> Iterator[tuple[str, dict[str, Any]]]:
        """Names and parameters of the read-outs that this entry stands for."""
        base = self.name or f"rdm-{self.distance}-{self.comparison}"
        suffix = "-object" if self.level == "object" and self.name is None else ""
        yield base + suffix, self.model_dump(mode="json", exclude={"name"})


class CkaReadout(Section):
    """Unbiased linear centred kernel alignment of the layer and the neurons."""

    kind: Literal["cka"] = Field(description="Linear CKA.")
    name: str | None = Field(default=None, description=_NAME)

    def variants(self, _seed: int) -> Iterator[tuple[str, dict[str, Any]]]:
        """Names and parameters of the read-outs that this entry stands for."""
        yield self.name or "cka", {"kind": "cka"}


def _on_components(base: str, k: int | None) -> str:
    return base if k is None else f"pca{k}-{base}"


ReadoutConfig = Annotated[
    RidgeReadout | LinearReadout | PlsReadout | RdmReadout | CkaReadout,
    Field(discriminator="kind"),
]


class FixedProtocol(Section):
    """Fit on one split of the data set, score on another."""

    kind: Literal["fixed"] = Field(default="fixed", description="The data set's own splits.")
    train: str = Field(default="train", description="Split to fit on.")
    test: str = Field(default="val", description="Split to score on.")


class KFoldProtocol(Section):
    """Fit on all folds but one, score on that one; scores are averaged over folds."""

    kind: Literal["kfold"] = Field(description="Folds over all stimuli.")
    n_splits: Annotated[int, Field(ge=2)] = Field(default=5, description="Number of folds.")
    seed: int | None = Field(
        default=None, description="Seed of the shuffle; the sweep's if left out."
    )


class StratifiedProtocol(Section):
    """Random splits in which every object keeps its share of the stimuli."""

    kind: Literal["stratified"] = Field(description="Random splits, stratified by object.")
    n_splits: PositiveInt = Field(default=10, description="Number of splits.")
    train_size: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.9, description="Share of the stimuli to fit on."
    )
    seed: int = Field(default=1, description="Seed of the splits; Brain-Score's is 1.")


class LeaveOneObjectOutProtocol(Section):
    """Fit on all objects but one, score on that one; scores are averaged over objects."""

    kind: Literal["leave_one_object_out"] = Field(description="Each object held out in turn.")


ProtocolConfig = Annotated[
    FixedProtocol | KFoldProtocol | StratifiedProtocol | LeaveOneObjectOutProtocol,
    Field(discriminator="kind"),
]


class PcaConfig(Section):
    """How principal components are computed."""

    solver: Literal["auto", "gram", "covariance", "incremental", "randomized"] = Field(
        default="auto",
        description="gram and covariance are exact, the others for what does not fit memory.",
    )


class DaskConfig(Section):
    """Where the distributed work of read-outs runs; it does not change the results."""

    workers: str = Field(
        default="threads",
        description="threads, processes (a LocalCluster), or a scheduler's address or file.",
    )


class StatisticsConfig(Section):
    """How far the scores could be chance; off where it costs time."""

    bootstrap: Annotated[int, Field(ge=0)] = Field(
        default=0, description="Resamples of the neurons for r_mean's interval; 0 for none."
    )
    permutations: Annotated[int, Field(ge=0)] = Field(
        default=0, description="Shuffles of the test images for the p-value; 0 for none."
    )


class ExtractionConfig(Section):
    """How features are computed; only autocast changes more than their rounding."""

    batch_size: PositiveInt | Literal["auto"] = Field(
        default="auto", description="Images in one forward pass; auto fits them to the memory."
    )
    device: str = Field(default="auto", description="auto, cpu, cuda or cuda:N.")
    autocast: Literal["bfloat16", "float16"] | None = Field(
        default=None, description="Lower precision of the forward pass, where torch allows it."
    )
    compile: bool = Field(
        default=False, description="Compile the parts of a network between the layers."
    )
    parts: PositiveInt = Field(
        default=1, description="Tasks that share a network's images, each on its own GPU."
    )


class Resources(Section):
    """What one job of a stage asks for."""

    cpus: PositiveInt | None = Field(
        default=None, description="Cores; the machine's, shared by the parallel jobs, if left out."
    )
    gpus: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="GPUs; one to extract where the machine has any, if left out."
    )
    memory_gb: PositiveFloat = Field(
        default=8.0, description="Memory, GB; read-outs choose their solver to fit it."
    )
    timeout_min: PositiveInt = Field(default=240, description="Time limit, minutes.")


class StageResources(Section):
    """Resources of each stage's jobs."""

    extract: Resources = Field(default=Resources(), description="Feature extraction.")
    encode: Resources = Field(default=Resources(), description="Read-outs.")


class ExecutorConfig(Section):
    """Where jobs run."""

    kind: Literal["inprocess", "local"] = Field(
        default="local", description="In this process, or in processes of this machine."
    )
    max_parallel: PositiveInt = Field(
        default=2, description="Jobs that run at the same time (local)."
    )


class ExcludeRule(Section):
    """Drops every combination in which all the given fields match (patterns allowed)."""

    dataset: str | None = Field(default=None, description="Name of the data set.")
    library: str | None = Field(default=None, description="Library of the network.")
    model: str | None = Field(default=None, description="Name of the network.")
    weights: str | None = Field(default=None, description="pretrained, random or a path.")
    layer: str | None = Field(default=None, description="Layer name.")
    features: str | None = Field(default=None, description="What is kept, such as average.")
    readout: str | None = Field(default=None, description="Readout name, such as pca1000-ridge.")


class SweepConfig(Section):
    """A whole sweep: data sets × networks × layers × readouts."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = Field(
        description="Name of the experiment; the run folder is runs/NAME unless --out says other."
    )
    seed: int = Field(default=0, description="Seed of everything that names none of its own.")
    dataset: Annotated[
        tuple[DatasetConfig, ...], BeforeValidator(_as_list), Field(min_length=1)
    ] = Field(description="One data set or a list of them.")
    protocol: ProtocolConfig = Field(
        default=FixedProtocol(), description="Which stimuli are fitted and which are scored."
    )
    models: Annotated[tuple[ModelConfig, ...], BeforeValidator(_as_list), Field(min_length=1)] = (
        Field(description="The networks.")
    )
    readouts: Annotated[
        tuple[ReadoutConfig, ...], BeforeValidator(_as_list), Field(min_length=1)
    ] = Field(description="The readouts.")
    pca: PcaConfig = Field(default=PcaConfig(), description="Principal components.")
    dask: DaskConfig = Field(default=DaskConfig(), description="Where read-outs are computed.")
    statistics: StatisticsConfig = Field(
        default=StatisticsConfig(), description="Intervals and p-values."
    )
    features: Features = Field(
        default=(FeaturesConfig(),), description="What is kept of each layer; a list is crossed."
    )
    exclude: tuple[ExcludeRule, ...] = Field(default=(), description="Combinations to leave out.")
    extraction: ExtractionConfig = Field(
        default=ExtractionConfig(), description="How features are computed."
    )
    executor: ExecutorConfig = Field(default=ExecutorConfig(), description="Where jobs run.")
    resources: StageResources = Field(
        default=StageResources(), description="What jobs of each stage ask for."
    )


def load_config(path: Path | str, overrides: Sequence[str] = ()) -> tuple[SweepConfig, Source]:
    """Read and validate a sweep's YAML.

    Parameters
    ----------
    path
        The YAML file; its ``extends`` are relative to it, data paths to the working folder.
    overrides
        ``key=value`` texts, the key dotted (``dataset.seed``, ``models.0.weights``).

    Raises
    ------
    ConfigError
        With a line per problem: file, line, key, what is allowed, the nearest valid name.
    """
    source = Source.read(path, overrides)
    try:
        return SweepConfig.model_validate(source.values), source
    except ValidationError as error:
        problems = [_describe(detail, source) for detail in error.errors(include_url=False)]
        raise ConfigError(list(dict.fromkeys(problems))) from error


def _describe(detail: ErrorDetails, source: Source) -> str:
    path: KeyPath = source.existing(detail["loc"])
    context = detail.get("ctx", {})
    if detail["type"] == "unknown_key":
        return source.problem((*path, context["key"]), context["text"])
    if detail["type"] == "missing":
        return source.problem((*path, detail["loc"][-1]), "this key is required")
    if detail["type"] in ("union_tag_invalid", "union_tag_not_found"):
        return source.problem((*path, "kind"), _describe_kind(detail["input"], context, path))
    if detail["type"] == "literal_error":
        allowed = context["expected"].replace("'", "")
        near = nearest(str(detail["input"]), allowed.replace(" or ", ", ").split(", "), n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        return source.problem(path, f"{detail['input']!r} is not one of {allowed}{hint}")
    message = detail["msg"].removeprefix("Value error, ")
    return source.problem(path, f"{message}, not {detail['input']!r}" if path else message)


_KINDS = {
    "dataset": ("synthetic", "nx414", "majaj_hong", "xiao2024", "files"),
    "protocol": ("fixed", "kfold", "stratified", "leave_one_object_out"),
    "readouts": ("ridge", "linear", "pls", "rdm", "cka"),
}


def _describe_kind(value: Any, context: dict[str, Any], path: KeyPath) -> str:
    if not isinstance(value, dict):
        return f"write a mapping with the key 'kind', not {value!r}"
    kinds = _KINDS[str(path[0])]
    if "kind" not in value:
        return f"this key is required: one of {', '.join(kinds)}"
    near = nearest(str(value["kind"]), kinds, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    return f"{value['kind']!r} is not one of {', '.join(kinds)}{hint}"
