"""From stored features to per-neuron scores, through one Gram matrix per layer."""

from toolkit.encoding.components import PrincipalComponents, principal_components
from toolkit.encoding.errors import (
    EncodingError,
    FeaturesError,
    ProtocolError,
    ReadoutError,
    ResponsesError,
)
from toolkit.encoding.gram import column_slices, double_centred, gram_matrix
from toolkit.encoding.protocols import outer_splits
from toolkit.encoding.readouts import LayerEncoder, Readout, ReadoutScores

__all__ = [
    "EncodingError",
    "FeaturesError",
    "LayerEncoder",
    "PrincipalComponents",
    "ProtocolError",
    "Readout",
    "ReadoutError",
    "ReadoutScores",
    "ResponsesError",
    "column_slices",
    "double_centred",
    "gram_matrix",
    "outer_splits",
    "principal_components",
]
