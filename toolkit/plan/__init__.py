"""From a config to tasks with dependencies; everything that can be refused is refused here."""

from toolkit.plan.datasets import PlannedDataset
from toolkit.plan.planner import Plan, make_plan
from toolkit.plan.tasks import SIMILARITY_KINDS, features_id, form_of, kept_size, layers_of

__all__ = [
    "SIMILARITY_KINDS",
    "Plan",
    "PlannedDataset",
    "features_id",
    "form_of",
    "kept_size",
    "layers_of",
    "make_plan",
]
