"""What goes wrong with result files and tables."""


class ResultError(ValueError):
    """A result file or table is missing, damaged, foreign, or lacks what its schema asks for."""

    error_class = "bad_result"
