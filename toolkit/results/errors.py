"""What goes wrong with result files and tables."""

AGAIN = "run the sweep again, which computes anew what cannot be used"


class ResultError(ValueError):
    """A result file or table is missing, damaged, foreign, or lacks what its schema asks for."""

    error_class = "bad_result"
