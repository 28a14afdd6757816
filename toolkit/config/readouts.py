"""The read-outs, their principal components, and the statistics of their scores."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    PositiveFloat,
    PositiveInt,
    Tag,
    model_validator,
)

from toolkit.config.base import Section, as_list

# Multiples: for unscaled features, reports of the field chose penalties between 220 (avgpool) and
# 1.25e7 (conv1) for one network, and the features of random networks are smaller yet.
AUTO_ALPHAS = tuple(10.0 ** (k / 2) for k in range(-12, 9))


class AlphaGrid(Section):
    """Logarithmically spaced ridge penalties."""

    min: PositiveFloat = Field(description="Smallest penalty.")
    max: PositiveFloat = Field(description="Largest penalty.")
    n: Annotated[int, Field(ge=1, le=10_000)] = Field(description="Number of penalties.")

    @model_validator(mode="after")
    def _begins_with_the_smallest(self) -> AlphaGrid:
        if self.min > self.max:
            raise ValueError(f"min {self.min:g} is above max {self.max:g}")
        return self

    def values(self) -> tuple[float, ...]:
        """Return the grid, smallest first."""
        if self.n == 1:
            return (self.min,)
        ratio = self.max / self.min
        return tuple(self.min * ratio ** (k / (self.n - 1)) for k in range(self.n))


def _form_of_alphas(value: Any) -> str:
    if isinstance(value, str):
        return "auto"
    return "grid" if isinstance(value, dict | AlphaGrid) else "list"


Alphas = Annotated[
    Annotated[Literal["auto"], Tag("auto")]
    | Annotated[tuple[PositiveFloat, ...], Field(min_length=1), Tag("list")]
    | Annotated[AlphaGrid, Tag("grid")],
    Discriminator(_form_of_alphas),
]
Components = Annotated[
    tuple[PositiveInt | None, ...], BeforeValidator(as_list), Field(min_length=1)
]
_COMPONENTS = "Principal components first; null for all features."
_NAME = "Name in the results; made from the other keys if left out."
_NAME_BESIDE_COMPONENTS = (
    "Name in the results, where a number of components is added to it: {}; made from the other "
    "keys if left out."
)
_NAME_ON_COMPONENTS = _NAME_BESIDE_COMPONENTS.format("pca10-NAME for n_components: 10")


class RidgeReadout(Section):
    """Ridge regression on principal components or, without them, on all features."""

    kind: Literal["ridge"] = Field(description="Ridge regression.")
    name: str | None = Field(default=None, description=_NAME_ON_COMPONENTS)
    n_components: Components = Field(default=(None,), description=_COMPONENTS)
    alphas: Alphas = Field(
        default="auto",
        description="Penalties to choose from: a list, or min, max and n; auto: 1e-6 to 1e4 times "
        "the mean over training stimuli of their squared distance from the mean features, whatever "
        "the features' units are.",
    )
    alpha: Literal["per_neuron", "shared"] = Field(
        default="per_neuron",
        description="One penalty for each neuron, or one for all. Where responses are missing, "
        "shared is one for each set of neurons that have responses to the same images.",
    )
    folds: Annotated[int, Field(ge=2)] | Literal["leave_one_out"] = Field(
        default=5, description="Folds of the training stimuli that choose alpha, or leave_one_out."
    )

    @property
    def alpha_values(self) -> tuple[float, ...]:
        """The penalties, or their multiples, in ascending order, each once."""
        if self.alphas == "auto":
            return AUTO_ALPHAS
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
                    "alphas_relative": self.alphas == "auto",
                    "alpha_per_neuron": self.alpha == "per_neuron",
                    "n_folds": None if self.folds == "leave_one_out" else self.folds,
                    "seed": seed,
                },
            )


class LinearReadout(Section):
    """Ordinary least squares; of minimum norm where features outnumber stimuli."""

    kind: Literal["linear"] = Field(description="Least squares.")
    name: str | None = Field(default=None, description=_NAME_ON_COMPONENTS)
    n_components: Components = Field(default=(None,), description=_COMPONENTS)

    def variants(self, _seed: int) -> Iterator[tuple[str, dict[str, Any]]]:
        """Names and parameters of the read-outs that this entry stands for."""
        for k in self.n_components:
            yield _on_components(self.name or "linear", k), {"kind": "linear", "n_components": k}


class PlsReadout(Section):
    """Partial least squares on all features, as Brain-Score's IT benchmark uses it."""

    kind: Literal["pls"] = Field(description="Partial least squares.")
    name: str | None = Field(default=None, description=_NAME_BESIDE_COMPONENTS.format("NAME25"))
    n_components: Annotated[
        tuple[PositiveInt, ...], BeforeValidator(as_list), Field(min_length=1)
    ] = Field(default=(25,), description="Latent components.")
    neurons: Literal["joint", "separate"] = Field(
        default="joint",
        description="One model of all neurons, or one for each. Where responses are missing, "
        "joint is one for each set of neurons that have responses to the same images.",
    )
    tolerance: PositiveFloat | None = Field(
        default=None,
        description="Squared step that ends the power iteration of a joint model (Brain-Score and "
        "scikit-learn: 1e-6); its limit if left out.",
    )

    def variants(self, _seed: int) -> Iterator[tuple[str, dict[str, Any]]]:
        """Names and parameters of the read-outs that this entry stands for."""
        early = {} if self.tolerance is None else {"pls_tolerance": self.tolerance}
        base = self.name or ("pls" if self.neurons == "joint" else "pls-separate")
        for k in self.n_components:
            params = {"kind": "pls", "n_latent": k, "pls_per_neuron": self.neurons == "separate"}
            yield f"{base}{k}", params | early


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


class PcaConfig(Section):
    """How principal components are computed."""

    solver: Literal["auto", "gram", "covariance", "incremental", "randomized"] = Field(
        default="auto",
        description="gram and covariance are exact; incremental and randomized are approximate, "
        "for what does not fit memory; auto: gram, or covariance where there are more than 20,000 "
        "training stimuli and fewer features, but no missing responses and no leave_one_out.",
    )


class StatisticsConfig(Section):
    """How far the scores could be chance, and how reliable the responses are."""

    bootstrap: Annotated[int, Field(ge=0)] = Field(
        default=0, description="Resamples of the neurons for r_mean's interval; 0 for none."
    )
    permutations: Annotated[int, Field(ge=0)] = Field(
        default=0,
        description="Shuffles for the p-value, 0 for none: of the test images, or with several "
        "splits of all images, each of which is fitted anew.",
    )
    ceiling_images: Literal["test", "all"] = Field(
        default="test",
        description="Images that the ceiling is of: the test images of each split, as those of r, "
        "or all images, as in Brain-Score.",
    )
