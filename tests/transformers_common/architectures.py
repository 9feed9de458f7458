"""One small model of each architecture, told to transformers' tests in their own terms."""

import torch
from transformers import LlamaConfig
from transformers.models.auto import modeling_auto

import modeling_cogaze
from modeling_cogaze import CoGazeConfig, CoGazePrefixConfig, EgmaConfig

WIDTH, HEADS, LAYERS, VOCABULARY, LATENTS = 32, 4, 2, 99, 5
BATCH, TOKENS, PIXELS, PATCHES = 3, 7, 42, 9
ENCODERS = {
    "vision_config": {
        "model_type": "dinov2",
        "image_size": PIXELS,
        "patch_size": 14,
        "hidden_size": WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "use_mask_token": False,
    },
    "text_config": {
        "model_type": "bert",
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "intermediate_size": WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    },
    "segmentation_channels": [16, 8],
    # What a test trains is trained; a frozen encoder has tests of its own.
    "freeze_vision_encoder": False,
}
DECODER = {
    "model_type": "gpt2",
    "vocab_size": VOCABULARY,
    "n_embd": WIDTH,
    "n_layer": LAYERS,
    "n_head": HEADS,
    "n_positions": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "add_cross_attention": True,
    "is_decoder": True,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
}
COGAZE = ENCODERS | {
    "hidden_size": WIDTH,
    "intermediate_size": WIDTH,
    "perceiver_depth": 1,
    "num_latents": LATENTS,
    "perceiver_heads": HEADS,
    "perceiver_head_dim": WIDTH // HEADS,
}
EGMA = ENCODERS | {"projection_dim": WIDTH, "pooled_text_layers": 1}
LLAMA = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": HEADS,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
PLACEHOLDER = VOCABULARY - 1
PROMPT = 2 * LATENTS + 3

ARCHITECTURES = {
    name: getattr(modeling_cogaze, name)
    for name in modeling_cogaze.__all__
    if hasattr(getattr(modeling_cogaze, name), "forward")
}
# By which list of its own classes transformers' tests know what a class gives, and what labels it takes. Zero-shot
# classification has no loss: as the base models'.
TASKS = {
    "Model": "MODEL",
    "ForZeroShotImageClassification": "MODEL",
    "ForPreTraining": "MODEL_FOR_PRETRAINING",
    "ForImageClassification": "MODEL_FOR_IMAGE_CLASSIFICATION",
    "ForSemanticSegmentation": "MODEL_FOR_SEMANTIC_SEGMENTATION",
    "ForConditionalGeneration": "MODEL_FOR_IMAGE_TEXT_TO_TEXT",
}


def task_of(name: str) -> str:
    """What follows the family's name: "ForImageClassification" of "EgmaForImageClassification"."""
    return next(task for task in TASKS if name.endswith(task))


def make_known() -> None:
    """Put the architectures' names into those lists."""
    for name in ARCHITECTURES:
        names = getattr(modeling_auto, f"{TASKS[task_of(name)]}_MAPPING_NAMES")
        names[name.lower()] = name


def ids(rows: int, length: int = TOKENS) -> torch.Tensor:
    return torch.randint(3, VOCABULARY - 1, (rows, length))


class ArchitectureTester:
    """What `ModelTesterMixin` calls a model tester."""

    is_training = True
    batch_size = BATCH
    seq_length = decoder_seq_length = TOKENS
    encoder_seq_length = key_length = PATCHES + 1
    num_hidden_layers = LAYERS
    num_attention_heads = HEADS
    hidden_size = WIDTH
    image_size = PIXELS
    patch_size = 14

    def __init__(self, parent, name: str):
        self.parent, self.name = parent, name
        self.family = "prefix" if "Prefix" in name else "cogaze" if name.startswith("CoGaze") else "egma"
        self.task = task_of(name)
        if self.family == "prefix":
            self.encoder_seq_length = self.key_length = PROMPT

    def get_config(self):
        if self.family == "prefix":
            return CoGazePrefixConfig(
                encoder_config=CoGazeConfig(**COGAZE),
                text_config=LlamaConfig(**LLAMA),
                image_token_id=PLACEHOLDER,
                lora_rank=0,
                freeze_language_model=False,
            )
        writes = {"decoder_config": DECODER} if self.task == "ForConditionalGeneration" else {}
        config = CoGazeConfig(**COGAZE, **writes) if self.family == "cogaze" else EgmaConfig(**EGMA, **writes)
        if writes:
            config.is_encoder_decoder = True
        return config

    def prepare_config_and_inputs_for_common(self):
        return self.get_config(), self.inputs()

    def inputs(self) -> dict[str, torch.Tensor]:
        pixels = {"pixel_values": torch.rand(BATCH, 3, PIXELS, PIXELS)}
        if self.family == "prefix":
            prompt = torch.cat([ids(BATCH, 2), torch.full((BATCH, 2 * LATENTS), PLACEHOLDER), ids(BATCH, 1)], dim=1)
            return {"input_ids": prompt, "attention_mask": torch.ones_like(prompt), **pixels}
        if self.task in ("Model", "ForZeroShotImageClassification"):
            texts = ids(BATCH)
            return {"input_ids": texts, "attention_mask": torch.ones_like(texts), **pixels}
        if self.task == "ForConditionalGeneration":
            return pixels | {"decoder_input_ids": ids(BATCH)}
        if self.task == "ForPreTraining":
            return pixels | self.texts_of_pretraining()
        return pixels

    def texts_of_pretraining(self) -> dict[str, torch.Tensor]:
        """A report per image; or a sentence per image, with its gaze."""
        texts = ids(BATCH)
        own = {"study_ids": torch.arange(BATCH)}
        if self.family == "cogaze":
            return own | {"report_input_ids": texts, "report_attention_mask": torch.ones_like(texts)}
        return own | {
            "transcript_input_ids": texts,
            "transcript_attention_mask": torch.ones_like(texts),
            "transcript_image_index": torch.arange(BATCH),
            "transcript_is_full": torch.ones(BATCH, dtype=torch.bool),
            "gaze_targets": torch.rand(BATCH, PATCHES),
        }
