"""What `trust_remote_code=True` opens a CoGaze checkpoint with: one module, so that all classes share its code."""

from .configuration_cogaze import CoGazeConfig
from .configuration_cogaze_prefix import CoGazePrefixConfig
from .modeling_cogaze import CoGazeForPreTraining, CoGazeModel
from .modeling_cogaze_generation import CoGazeForConditionalGeneration
from .modeling_cogaze_heads import (
    CoGazeForImageClassification,
    CoGazeForSemanticSegmentation,
    CoGazeForZeroShotImageClassification,
)
from .modeling_cogaze_prefix import CoGazePrefixForConditionalGeneration

__all__ = [
    "CoGazeConfig",
    "CoGazeForConditionalGeneration",
    "CoGazeForImageClassification",
    "CoGazeForPreTraining",
    "CoGazeForSemanticSegmentation",
    "CoGazeForZeroShotImageClassification",
    "CoGazeModel",
    "CoGazePrefixConfig",
    "CoGazePrefixForConditionalGeneration",
]
