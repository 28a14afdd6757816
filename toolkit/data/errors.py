"""What can be wrong with a data set."""


class DataError(ValueError):
    """A data set's files or parameters are not what they should be.

    The message says which file, which item in it, and what would be right.
    """

    error_class = "bad_data"


class MissingDataError(DataError, FileNotFoundError):
    """A file of the data set is not on this machine."""
