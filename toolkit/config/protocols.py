"""The protocols: which stimuli are fitted and which are scored."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from toolkit.config.base import Section, Seed


class FixedProtocol(Section):
    """Fit on one split of the data set, score on another."""

    kind: Literal["fixed"] = Field(default="fixed", description="The data set's own splits.")
    train: str = Field(default="train", description="Split to fit on.")
    test: str = Field(default="val", description="Split to score on.")


class KFoldProtocol(Section):
    """Fit on all folds but one, score on that one; scores are averaged over folds."""

    kind: Literal["kfold"] = Field(description="Folds over all stimuli.")
    n_splits: Annotated[int, Field(ge=2)] = Field(default=5, description="Number of folds.")
    by: Literal["stimulus", "object"] = Field(
        default="stimulus",
        description="What is never divided between folds: object keeps all stimuli of an object "
        "together, and all fixations on an image.",
    )
    seed: Seed | None = Field(
        default=None, description="Seed of the shuffle; the sweep's if left out."
    )


class StratifiedProtocol(Section):
    """Random splits in which every object keeps its share of the stimuli."""

    kind: Literal["stratified"] = Field(description="Random splits, stratified by object.")
    n_splits: PositiveInt = Field(default=10, description="Number of splits.")
    train_size: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.9, description="Share of the stimuli to fit on."
    )
    seed: Seed = Field(default=1, description="Seed of the splits; Brain-Score's is 1.")


class LeaveOneObjectOutProtocol(Section):
    """Fit on all objects but one, score on that one; scores are averaged over objects."""

    kind: Literal["leave_one_object_out"] = Field(description="Each object held out in turn.")


ProtocolConfig = Annotated[
    FixedProtocol | KFoldProtocol | StratifiedProtocol | LeaveOneObjectOutProtocol,
    Field(discriminator="kind"),
]
