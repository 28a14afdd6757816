"""What can be wrong with what an encoding is asked to do."""


class EncodingError(ValueError):
    """Anything wrong with the features, responses, read-out or splits of an encoding."""

    error_class = "bad_encoding"


class FeaturesError(EncodingError):
    """Features or a Gram matrix that hold NaN or infinity, or have the wrong shape."""

    error_class = "bad_features"


class DamagedGramError(FeaturesError):
    """A kept Gram file that is not whole, or not of the layer and images it is filed under."""

    error_class = "damaged_features"


class ResponsesError(EncodingError):
    """Responses that hold NaN or infinity, or do not match the Gram matrix."""

    error_class = "bad_responses"


class ReadoutError(EncodingError):
    """A read-out that is not defined, or not for this many training images."""

    error_class = "bad_readout"


class ProtocolError(EncodingError):
    """Splits that cannot be made, or that score images the read-out was fitted on."""

    error_class = "bad_protocol"
