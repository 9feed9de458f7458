"""Models that run in seconds, at 64 pixels."""

import torch

from modeling_cogaze import CoGazeConfig, CoGazeForPreTraining
from processing import CoGazeProcessor
from processing.tokenization import build_tokenizer

ENCODERS = {
    "vision_config": {
        "model_type": "convnext",
        "image_size": 64,
        "patch_size": 8,
        "num_stages": 2,
        "hidden_sizes": [16, 32],
        "depths": [1, 1],
        "layer_scale_init_value": 1.0,
    },
    "text_config": {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1},
    "segmentation_channels": [16, 16, 16, 8],
}
COGAZE = ENCODERS | {"hidden_size": 32, "intermediate_size": 32, "perceiver_depth": 1, "num_latents": 4}
EGMA = ENCODERS | {"projection_dim": 32, "pooled_text_layers": 1, "segmentation_channels": [16, 8]}
# With the tiny config's own image encoder, for report generators.
GENERATOR = {
    "vision_config": {"image_size": 64, "hidden_sizes": [16, 32], "depths": [1, 1]},
    "text_config": {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
    "hidden_size": 32,
    "intermediate_size": 32,
    "perceiver_depth": 1,
    "num_latents": 4,
}
LLAMA = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}


def save_pretrained(folder) -> None:
    """A pretraining checkpoint with its processor; its disease head knows fracture and edema."""
    torch.manual_seed(0)
    config = CoGazeConfig.tiny(vocab_size=300, label_names=["fracture", "Edema"], **COGAZE)
    CoGazeForPreTraining(config).save_pretrained(folder)
    CoGazeProcessor.for_model(build_tokenizer(["cough"], 300), config).save_pretrained(folder)
