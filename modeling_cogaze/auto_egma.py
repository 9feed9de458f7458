"""What `trust_remote_code=True` opens an EGMA checkpoint with: all Auto classes point here, to one copy of the code."""

from .configuration_egma import EgmaConfig
from .modeling_egma import EgmaForPreTraining, EgmaModel
from .modeling_egma_generation import EgmaForConditionalGeneration
from .modeling_egma_heads import (
    EgmaForImageClassification,
    EgmaForSemanticSegmentation,
    EgmaForZeroShotImageClassification,
)

__all__ = [
    "EgmaConfig",
    "EgmaForConditionalGeneration",
    "EgmaForImageClassification",
    "EgmaForPreTraining",
    "EgmaForSemanticSegmentation",
    "EgmaForZeroShotImageClassification",
    "EgmaModel",
]
