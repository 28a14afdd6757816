"""What a user may write: every key of a sweep's YAML, its type, its default and its meaning."""

from toolkit.config.base import Section
from toolkit.config.datasets import DatasetConfig, SquareFrame
from toolkit.config.execution import ExecutorConfig, StageResources
from toolkit.config.loading import load_config
from toolkit.config.models import FeaturesConfig, ModelConfig, are_trained_here
from toolkit.config.protocols import FixedProtocol, KFoldProtocol, StratifiedProtocol
from toolkit.config.readouts import ReadoutConfig
from toolkit.config.sweep import ExcludeRule, SweepConfig
from toolkit.config.training import (
    HalvingConfig,
    HmoNetwork,
    NetworkConfig,
    Range,
    SearchConfig,
    ShallowNetwork,
    TrainingConfig,
    ZooNetwork,
)

__all__ = [
    "DatasetConfig",
    "ExcludeRule",
    "ExecutorConfig",
    "FeaturesConfig",
    "FixedProtocol",
    "HalvingConfig",
    "HmoNetwork",
    "KFoldProtocol",
    "ModelConfig",
    "NetworkConfig",
    "Range",
    "ReadoutConfig",
    "SearchConfig",
    "Section",
    "ShallowNetwork",
    "SquareFrame",
    "StageResources",
    "StratifiedProtocol",
    "SweepConfig",
    "TrainingConfig",
    "ZooNetwork",
    "are_trained_here",
    "load_config",
]
