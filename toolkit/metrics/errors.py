"""What can be wrong with the arrays handed to a metric."""


class MetricError(ValueError):
    """Arrays whose shapes cannot be compared or averaged."""

    error_class = "bad_metric_input"
