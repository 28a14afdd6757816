"""The figures of a report, in the order in which the page shows them."""

from __future__ import annotations

from toolkit.report.chart import Chart
from toolkit.report.figures.cost import cost
from toolkit.report.figures.responses import object_rdms, predicted_and_measured, site_responses
from toolkit.report.figures.scores import (
    alpha_choice,
    best_layer_by_region,
    by_layer,
    comparison,
    depth_profile,
    neuron_histogram,
    neuron_pairs,
    neuron_violins,
)
from toolkit.report.figures.training import learning_curves, search_results
from toolkit.report.recordings import Recordings
from toolkit.report.study import Study

OF_SCORES = (
    comparison,
    by_layer,
    depth_profile,
    neuron_violins,
    neuron_histogram,
    neuron_pairs,
    best_layer_by_region,
    alpha_choice,
    cost,
    learning_curves,
    search_results,
)
OF_RESPONSES = (object_rdms, site_responses, predicted_and_measured)


def all_charts(study: Study, recordings: Recordings) -> list[Chart]:
    """Every figure for which the study has data."""
    found = [figure(study) for figure in OF_SCORES]
    found += [figure(study, recordings) for figure in OF_RESPONSES]
    return [chart for chart in found if chart is not None]
