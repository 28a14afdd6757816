"""What a network to be trained is made of: a trunk, a decoder to neurons, and what is trained."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from toolkit.models.plain import Plain
from toolkit.models.spec import ModelError


@dataclass(frozen=True)
class ZooTrunk(Plain):
    """A network of a library without its classifier, whole or cut.

    Parameters
    ----------
    library, name, weights, digest
        As in :class:`toolkit.models.ModelSpec`.
    layer
        The layer whose output is the trunk's; None: everything before the classifier's last layer.
    n_blocks
        Cut a sequential trunk after so many blocks. A block is a child that convolves and
        the children after it that do not: VGG11-BN has 8 of convolution, normalisation, ReLU and
        perhaps pooling.
    input_px
        Side of the images it sees; None: what its weights were trained on.
    kind
        Tells the kinds of trunk apart.

    Raises
    ------
    ModelError
        If both a layer and a number of blocks are given, or a number is below 1.
    """

    library: Literal["torchvision", "timm"]
    name: str
    weights: str = "pretrained"
    layer: str | None = None
    n_blocks: int | None = None
    input_px: int | None = None
    digest: str = ""
    kind: Literal["zoo"] = "zoo"

    def __post_init__(self) -> None:
        if self.layer is not None and self.n_blocks is not None:
            raise ModelError("layer and n_blocks both say where to cut: write one of them")
        _check(self.n_blocks is None or self.n_blocks >= 1, "n_blocks", self.n_blocks, "1 or more")
        _check(self.input_px is None or self.input_px >= 1, "input_px", self.input_px, "1 or more")


@dataclass(frozen=True)
class ShallowTrunk(Plain):
    """A few blocks of convolution, normalisation, ReLU, pooling and dropout.

    Parameters
    ----------
    channels
        Filters of each block.
    kernel_px
        Side of the filters, odd; the convolution keeps the size of its input.
    pooling
        Over 2 x 2 positions after each block; "soft" is the average weighted by the softmax.
    normalised
        Whether each convolution is followed by batch normalisation.
    dropout
        Probability with which a block drops a whole channel in training.
    input_px
        Side of the images it sees.
    kind
        Tells the kinds of trunk apart.

    Raises
    ------
    ModelError
        If a number is out of range.
    """

    channels: tuple[int, ...]
    kernel_px: int = 3
    pooling: Literal["max", "average", "soft", "none"] = "max"
    normalised: bool = False
    dropout: float = 0.0
    input_px: int = 224
    kind: Literal["shallow"] = "shallow"

    def __post_init__(self) -> None:
        _check(bool(self.channels) and min(self.channels) >= 1, "channels", self.channels, "[16]")
        _check(self.kernel_px % 2 == 1, "kernel_px", self.kernel_px, "an odd number")
        _check(0 <= self.dropout < 1, "dropout", self.dropout, "0 or more, below 1")
        _check(self.input_px >= 1, "input_px", self.input_px, "1 or more")


@dataclass(frozen=True)
class SmallModule(Plain):
    """A few convolutions with ReLU, then pooling over 2 x 2 positions, then normalisation.

    Parameters
    ----------
    channels, kernels_px
        Filters of each convolution, and their sides, odd; it keeps the size of its input.
    pooling
        "soft": the average weighted by the softmax of the values.
    normalised
        Whether it ends in batch normalisation.

    Raises
    ------
    ModelError
        If there is no convolution, or a number is out of range.
    """

    channels: tuple[int, ...]
    kernels_px: tuple[int, ...]
    pooling: Literal["max", "average", "soft"]
    normalised: bool

    def __post_init__(self) -> None:
        n_layers = len(self.channels)
        _check(n_layers >= 1 and min(self.channels) >= 1, "channels", self.channels, "[16]")
        is_odd = all(side % 2 == 1 for side in self.kernels_px)
        _check(
            len(self.kernels_px) == n_layers and is_odd,
            "kernels_px",
            self.kernels_px,
            f"{n_layers} odd numbers, one per convolution",
        )


Stage = tuple[SmallModule, ...]
Stack = tuple[Stage, ...]


@dataclass(frozen=True)
class ModularTrunk(Plain):
    """Stacks in parallel, each of stages one after the other, each of small modules in parallel.

    The modules of a stage see the same input, and their channels are concatenated. The last
    stages' outputs are averaged to 2 x 2 positions and concatenated over stacks, and a linear
    layer with ReLU makes the features of them.

    Parameters
    ----------
    stacks
        At least one, each with at least one stage of at least one module.
    n_features
        Units of the top layer; None: the concatenation itself.
    input_px
        Side of the images it sees.
    kind
        Tells the kinds of trunk apart.

    Raises
    ------
    ModelError
        If something is empty.
    """

    stacks: tuple[Stack, ...]
    n_features: int | None = None
    input_px: int = 64
    kind: Literal["modular"] = "modular"

    def __post_init__(self) -> None:
        stages = [stage for stack in self.stacks for stage in stack]
        if not (self.stacks and all(self.stacks) and all(stages)):
            raise ModelError("stacks holds an empty stack or stage: each needs one or more")


TrunkSpec = ZooTrunk | ShallowTrunk | ModularTrunk


@dataclass(frozen=True)
class DecoderSpec(Plain):
    """From a trunk's output to the responses of neurons.

    Parameters
    ----------
    kind
        "dense": linear layers on the flattened features; linear regression if nothing is hidden.
        "factorised": for each neuron a spatial mask times weights over channels
        (Klindt et al. 2017, Neural system identification for large populations).
    hidden
        Dense: units of hidden layers with ReLU.
    dropout
        Dense: probability of dropping a unit of each hidden layer, or a feature if none is hidden.
    pool_px
        Dense: average maps to so many positions on a side before flattening; 1 is global average
        pooling, None keeps every position.

    Raises
    ------
    ModelError
        If a number is out of range, or given where it has no meaning.
    """

    kind: Literal["dense", "factorised"] = "dense"
    hidden: tuple[int, ...] = ()
    dropout: float = 0.0
    pool_px: int | None = None

    def __post_init__(self) -> None:
        _check(all(width >= 1 for width in self.hidden), "hidden", self.hidden, "[7000, 7000]")
        _check(0 <= self.dropout < 1, "dropout", self.dropout, "0 or more, below 1")
        _check(self.pool_px is None or self.pool_px >= 1, "pool_px", self.pool_px, "1 or more")
        if self.kind == "factorised" and (self.hidden or self.dropout or self.pool_px):
            raise ModelError("a factorised decoder has no hidden, dropout or pool_px: leave them")


@dataclass(frozen=True)
class NetworkSpec(Plain):
    """A network to be trained on neurons, on classes, or on both.

    Parameters
    ----------
    trunk
        From images to features.
    decoder
        From features to neurons.
    n_trained_stages
        How many of the trunk's last stages are trained; the others keep weights and batch-norm
        statistics as they are. None: all of it; 0: none of it.
    n_logits
        Logits of each classification head; None: one per class of the data.
    seed
        Of all weights that are drawn.

    Raises
    ------
    ModelError
        If a number is out of range.
    """

    trunk: Annotated[TrunkSpec, Field(discriminator="kind")]
    decoder: DecoderSpec = field(default_factory=DecoderSpec)
    n_trained_stages: int | None = None
    n_logits: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        n_stages, n_logits = self.n_trained_stages, self.n_logits
        _check(n_stages is None or n_stages >= 0, "n_trained_stages", n_stages, "0 or more")
        _check(n_logits is None or n_logits >= 2, "n_logits", n_logits, "2 or more")


def _check(is_right: bool, name: str, value: object, remedy: str) -> None:
    if not is_right:
        raise ModelError(f"{name} is {value}; write {remedy}")
