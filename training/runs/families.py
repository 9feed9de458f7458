"""The two families of models."""

from modeling_cogaze import CoGazeConfig, CoGazeForPreTraining, EgmaConfig, EgmaForPreTraining
from processing import CoGazeProcessor, EgmaProcessor

# What a family is made of.
FAMILIES = {
    "cogaze": (CoGazeConfig, CoGazeProcessor, CoGazeForPreTraining),
    "egma": (EgmaConfig, EgmaProcessor, EgmaForPreTraining),
}
