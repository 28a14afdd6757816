"""A trunk with a decoder to neurons and heads to classes, of which a part is trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import nn

from toolkit.models.decoders import build_decoder, require_room
from toolkit.models.network_spec import DecoderSpec, NetworkSpec
from toolkit.models.spec import ModelError
from toolkit.models.trunks import build_trunk, features_of, stage_of_modules, trunk_preprocessing


class Outputs(NamedTuple):
    """What a network says about n images.

    Attributes
    ----------
    responses
        (n, n_neurons) float32, in the units of the responses; None without a decoder.
    logits
        Kind of label → (n, n_logits) float32.
    """

    responses: torch.Tensor | None
    logits: dict[str, torch.Tensor]


class TrainableNetwork(nn.Module):
    """A trunk, a decoder and classification heads; frozen parts stay in evaluation mode.

    Parameters
    ----------
    trunk
        From :func:`toolkit.models.trunks.build_trunk`.
    decoder
        From features to ``n_neurons`` outputs; None if no neurons are predicted.
    heads
        Kind of label → from features to its logits.
    n_neurons
        Outputs of the decoder.
    frozen
        Names of the trunk's modules that are not trained; None: no weight of the trunk is.
    is_rate
        Whether predictions are rates: the outputs pass a softplus.
    """

    response_offset: torch.Tensor
    response_scale: torch.Tensor

    def __init__(
        self,
        trunk: nn.Module,
        decoder: nn.Module | None,
        heads: Mapping[str, nn.Module],
        *,
        n_neurons: int,
        frozen: frozenset[str] | None = frozenset(),
        is_rate: bool = False,
    ) -> None:
        super().__init__()
        self.trunk = trunk
        self.decoder = decoder
        self.heads = nn.ModuleDict(heads)
        self.is_rate = is_rate
        self.register_buffer("response_offset", torch.zeros(n_neurons))
        self.register_buffer("response_scale", torch.ones(n_neurons))
        self._frozen = frozen
        for name, module in trunk.named_modules():
            # Weights of the trunk itself, as class tokens, belong to its first stage.
            if frozen is None or name in frozen or (frozen and not name):
                for parameter in module.parameters(recurse=False):
                    parameter.requires_grad_(False)

    def forward(self, images: torch.Tensor) -> Outputs:
        """Predict from images, (n, 3, height, width) float32, preprocessed."""
        features = features_of(self.trunk, images)
        logits = {kind: head(features).float() for kind, head in self.heads.items()}
        if self.decoder is None:
            return Outputs(None, logits)
        raw = self.decoder(features).float()
        responses = nn.functional.softplus(raw) if self.is_rate else raw
        return Outputs(responses * self.response_scale + self.response_offset, logits)

    def train(self, mode: bool = True) -> Self:
        """Set the training mode of all parts but the frozen ones."""
        super().train(mode)
        if self._frozen is None:
            self.trunk.eval()
            return self
        for name in self._frozen:
            self.trunk.get_submodule(name).training = False
        return self


def build_network(
    spec: NetworkSpec,
    *,
    n_neurons: int,
    n_classes: Mapping[str, int],
    is_rate: bool = False,
    memory_bytes: int | None = None,
    n_copies: int = 1,
) -> TrainableNetwork:
    """A network ready for training; the same specification gives the same weights.

    Each part draws its weights from a generator of its own, so that the presence of one does not
    change another. torch's global generator is left as it was.

    Parameters
    ----------
    spec
        Which network.
    n_neurons
        Outputs of the decoder; 0: no decoder.
    n_classes
        Kind of label → number of classes, for each classification head.
    is_rate
        Whether predictions are rates, which are positive.
    memory_bytes, n_copies
        Refuse a decoder that needs more than that with so many numbers kept per weight.

    Raises
    ------
    ModelError
        If the trunk does not exist, does not run, cannot be cut or has fewer stages than are to be
        trained; or if there are more classes than logits.
    DecoderTooLargeError
        If the decoder will not fit.
    WeightsUnavailableError
        As :func:`toolkit.models.load_network`.
    """
    with _seeded(spec.seed, "trunk"):
        trunk = build_trunk(spec.trunk, spec.seed)
    shape = output_shape(spec, trunk)
    if n_neurons and memory_bytes is not None:
        require_room(spec.decoder, shape, n_neurons, memory_bytes=memory_bytes, n_copies=n_copies)
    decoder = None
    if n_neurons:
        with _seeded(spec.seed, "decoder"):
            decoder = build_decoder(spec.decoder, shape, n_neurons)
    heads = {}
    for kind, n in n_classes.items():
        with _seeded(spec.seed, kind):
            heads[kind] = _head(shape, _n_logits(spec, kind, n))
    return TrainableNetwork(
        trunk,
        decoder,
        heads,
        n_neurons=n_neurons,
        frozen=_frozen_modules(spec, trunk),
        is_rate=is_rate,
    )


def output_shape(spec: NetworkSpec, trunk: nn.Module) -> tuple[int, ...]:
    """Shape of the trunk's output for one image.

    Raises
    ------
    ModelError
        If the trunk does not run on images of its size.
    """
    height, width = trunk_preprocessing(spec.trunk).input_px
    trunk.eval()
    try:
        with torch.no_grad():
            return tuple(features_of(trunk, torch.zeros(1, 3, height, width)).shape[1:])
    except RuntimeError as error:
        raise ModelError(
            f"the trunk does not run on images of {height} x {width} px: {error}. "
            "Write another trunk.input_px"
        ) from error


def _head(shape: tuple[int, ...], n_logits: int) -> nn.Module:
    pooled = DecoderSpec(pool_px=1) if len(shape) == 3 else DecoderSpec()
    return build_decoder(pooled, shape, n_logits)


def _n_logits(spec: NetworkSpec, kind: str, n_classes: int) -> int:
    if spec.n_logits is not None and n_classes > spec.n_logits:
        raise ModelError(
            f"there are {n_classes} classes of {kind}, more than n_logits: {spec.n_logits}; "
            f"write at least {n_classes}, or leave n_logits out"
        )
    return spec.n_logits or n_classes


def _frozen_modules(spec: NetworkSpec, trunk: nn.Module) -> frozenset[str] | None:
    n_trained = spec.n_trained_stages
    if n_trained is None:
        return frozenset()
    if n_trained == 0:
        return None
    stages = stage_of_modules(spec.trunk, trunk)
    n_stages = max(stages.values()) + 1
    if n_trained > n_stages:
        raise ModelError(
            f"n_trained_stages is {n_trained}, but the trunk has {n_stages} stages with weights; "
            "leave it out to train all of it"
        )
    frozen = {name for name, stage in stages.items() if stage < n_stages - n_trained}
    return frozenset(frozen)


@contextmanager
def _seeded(seed: int, part: str) -> Iterator[None]:
    entropy = [seed, *part.encode()]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(
            int(np.random.SeedSequence(entropy).generate_state(1)[0])
        )
        yield
