"""The data sets that a user may name, and how their images are framed."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PositiveFloat, PositiveInt, model_validator

from toolkit.config.base import FilePath, Section, Seed, as_list

_Level = Annotated[int, Field(ge=0, le=255)]
Background = tuple[_Level, _Level, _Level]
MID_GREY: Background = (128, 128, 128)
_BACKGROUND = "RGB, 0 to 255, where no image is."


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
    image_px: Annotated[int, Field(ge=16, le=4096)] = Field(
        default=128, description="Image side, pixels."
    )
    seed: Seed | None = Field(
        default=None, description="Seed of images, tuning and noise; the sweep's if left out."
    )

    @model_validator(mode="after")
    def _fits_a_machine(self) -> SyntheticDataset:
        n_stimuli = self.n_train + self.n_val
        n_responses = n_stimuli * self.n_neuroids * self.n_repetitions
        if n_stimuli > 1_000_000 or n_responses > 1_000_000_000:
            raise ValueError(
                f"{n_stimuli} stimuli and {n_responses} responses are simulated at once; a million "
                "stimuli and 1000 million responses are the most"
            )
        return self


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
    regions: Annotated[tuple[str, ...], BeforeValidator(as_list), Field(min_length=1)] = Field(
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
    sessions: Annotated[tuple[FilePath, ...], BeforeValidator(as_list), Field(min_length=1)] = (
        Field(description="NWB files or folders of them; either of a session's two files names it.")
    )
    images: FilePath = Field(description="Folder or .zip with the images, found by file name.")
    session_table: FilePath | None = Field(
        default=None, description="CSV: session, bank, array, hemisphere, region."
    )
    region: str = Field(default="", description="Area of all units, without a session table.")
    regions: Annotated[tuple[str, ...], BeforeValidator(as_list), Field(min_length=1)] | None = (
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
    responses: FilePath = Field(
        description=".npy, .npz, .csv, .parquet or .zarr; rows are matched by stimulus_id where "
        "the file has it."
    )
    response_axes: tuple[Literal["stimulus", "neuroid", "repetition"], ...] | None = Field(
        default=None,
        description="What each axis of the response array is; stimulus, neuroid if left out.",
    )
    neuroid_columns: Annotated[tuple[str, ...], BeforeValidator(as_list), Field(min_length=1)] | (
        None
    ) = Field(
        default=None,
        description="Columns of a response table that are neuroids: names, or patterns like u*.",
    )
    stimulus_table: FilePath | None = Field(
        default=None,
        description="CSV or parquet: stimulus_id; filename, object_name, category_name, split.",
    )
    neuroid_table: FilePath | None = Field(
        default=None, description="CSV or parquet: neuroid_id and region, in the array's order."
    )
    image_order: Literal["natural", "text", "table"] | None = Field(
        default=None,
        description="Which images the rows of an array without ids follow: file names in natural "
        "order (im2 before im10) or as text, or the stimulus table; null: the table, else names if "
        "both orders agree.",
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
