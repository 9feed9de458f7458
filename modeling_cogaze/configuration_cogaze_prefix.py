"""Configuration of CoGaze before a large language model (arXiv 2603.26049)."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig

from .configuration_cogaze import CoGazeConfig
from .configuration_dual_encoder import RemoteCodeMixin, sub_config

# meta-llama/Llama-3.2-3B-Instruct's shape.
LLAMA_3B: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 128256,
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 28,
    "num_attention_heads": 24,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "tie_word_embeddings": True,
    "bos_token_id": 128000,
    "eos_token_id": [128001, 128008, 128009],
}

PREFIX_LATENTS = ("vision", "context")


@strict
class CoGazePrefixConfig(RemoteCodeMixin, PreTrainedConfig):
    r"""Configuration of `CoGazePrefixForConditionalGeneration`. The defaults are the paper's.

    Args:
        encoder_config: config of CoGaze, which stays frozen.
        text_config: config (or its dict with `model_type`) of any causal language model that transformers knows.
        encoder_name_or_path, base_model_name_or_path: the checkpoint that the encoder's, or the language model's,
            frozen weights come from: they are left out when the model is saved, and taken from there when it is loaded.
            None: they are saved with the model.
        prefix_latents: what the language model sees of an image: "vision" latents, "context" latents or both, in order.
        image_token_id: the placeholder's id in the prompt, one for each latent; it may lie beyond the vocabulary.
        lora_rank, lora_alpha, lora_dropout, lora_target_modules: LoRA; rank 0 is none.
        freeze_language_model: False trains all of the language model, which is then saved with the model.
    """

    model_type = "cogaze_prefix"
    # transformers' own: a class property that a class replaces.
    sub_configs = {"encoder_config": CoGazeConfig, "text_config": AutoConfig}  # pyright: ignore[reportAssignmentType]
    code_module = "auto_cogaze"
    auto_classes = {
        "AutoConfig": "CoGazePrefixConfig",
        "AutoModelForImageTextToText": "CoGazePrefixForConditionalGeneration",
    }

    encoder_config: Any = None
    text_config: Any = None
    encoder_name_or_path: str | None = None
    base_model_name_or_path: str | None = None
    prefix_latents: list[str] | tuple[str, ...] = PREFIX_LATENTS
    image_token_id: int = LLAMA_3B["vocab_size"]
    lora_rank: int = 16
    lora_alpha: float | int = 16
    lora_dropout: float | int = 0.1
    lora_target_modules: list[str] | tuple[str, ...] = ("q_proj", "v_proj")
    freeze_language_model: bool = True
    box_settings: dict[str, float | int] | None = None

    def __post_init__(self, **kwargs):
        if not isinstance(self.encoder_config, PreTrainedConfig):
            fields = {name: value for name, value in (self.encoder_config or {}).items() if name != "model_type"}
            self.encoder_config = CoGazeConfig(**fields)
        self.text_config = sub_config(self.text_config or LLAMA_3B, "text_config")
        self.prefix_latents = list(self.prefix_latents)
        self.lora_target_modules = list(self.lora_target_modules)
        super().__post_init__(**kwargs)

    def validate_prefix(self):
        """Part of the checks that `@strict` runs."""
        if not self.prefix_latents or not set(self.prefix_latents) <= set(PREFIX_LATENTS):
            raise ValueError(f"prefix_latents: {self.prefix_latents} is not made of {list(PREFIX_LATENTS)}.")
        if self.lora_rank < 0:
            raise ValueError(f"lora_rank: {self.lora_rank} is negative; 0 is no LoRA.")
        if not self.freeze_language_model and self.base_model_name_or_path is not None:
            raise ValueError(
                "base_model_name_or_path: a language model that is trained cannot be loaded from elsewhere; "
                "leave it None, or freeze_language_model."
            )

    @property
    def num_image_tokens(self) -> int:
        """Placeholders that an image takes in the prompt."""
        return len(self.prefix_latents) * self.encoder_config.num_latents


__all__ = ["CoGazePrefixConfig"]
