"""What goes wrong with a report."""


class ReportError(ValueError):
    """There is nothing to report on, or not what was asked for."""

    error_class = "bad_report"
