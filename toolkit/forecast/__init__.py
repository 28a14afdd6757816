"""What a run would do, before it does it: hours, space, array splits, and why each task runs."""

from toolkit.forecast.forecasting import Forecast, JobSize, StageForecast, forecast
from toolkit.forecast.reasons import former_tasks, last_outcomes, why_to_run
from toolkit.forecast.space import Space
from toolkit.forecast.splits import describe_arrays
from toolkit.forecast.tables import hours_text, render

__all__ = [
    "Forecast",
    "JobSize",
    "Space",
    "StageForecast",
    "describe_arrays",
    "forecast",
    "former_tasks",
    "hours_text",
    "last_outcomes",
    "render",
    "why_to_run",
]
