"""Radiographs, reports and gaze, from raw things to model inputs.

Importing it registers the processors with `AutoProcessor`.
"""

from transformers import AutoProcessor

from .processing_cogaze import CoGazeProcessor
from .processing_cogaze_prefix import CoGazePrefixProcessor
from .processing_egma import EgmaProcessor

# AutoProcessor finds a class by the name in processor_config.json. The key would be the model's configuration class,
# which this package does not import.
for _processor in (CoGazeProcessor, CoGazePrefixProcessor, EgmaProcessor):
    AutoProcessor.register(_processor, _processor, exist_ok=True)
