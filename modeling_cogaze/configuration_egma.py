"""EGMA's configuration (arXiv 2403.12416)."""

from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig

from .configuration_dual_encoder import (
    TINY_SEGMENTATION_CHANNELS,
    TINY_TEXT,
    TINY_VISION,
    DualEncoderConfigMixin,
    sub_config,
)

LOSSES = ("clip", "mlce", "egf", "egm")


@strict
class EgmaConfig(DualEncoderConfigMixin, PreTrainedConfig):
    r"""Configuration of all EGMA models. The defaults are the paper's.

    Args:
        vision_config: config (or its dict with `model_type`) of any vision backbone `AutoModel` knows.
        text_config: config of the text encoder; BERT's kind.
        decoder_config: config of the report decoder; None for a model without one.
        projection_dim: width of the common space.
        pooled_text_layers: a sentence's feature is the mean of that many last hidden states.
        freeze_vision_encoder: keep the vision encoder in eval mode and without gradients.
        freeze_encoder: the same of all but the report decoder or the downstream head, in a model that has one.
        similarity: what zero-shot scores are: "global" compares the pooled image with a sentence (paper),
            "fine_grained" takes the mean of z_I and z_T, which L_EGF trains.
        losses: what is summed, of "egf", "egm" (paper: both), and for ablations "mlce" (the gaze labels of L_EGF alone)
            and "clip" (contrast of the pooled image with the mean of its sentences).
        contrastive_targets: "single" (paper), or "hybrid": all texts of the same study are positives.
        label_sentence_weight: weight of sentences over patches in MLCE: 0.5 (paper), 0.8 (released code).
        label_empty_sentences: sentences without gaze take part in MLCE, all patches negative, in images where others
            have some (released code).
        gaze_cut: up to this share of its row's maximum a gaze target counts as zero: half a grey level of an 8-bit
            heatmap, or 0, where the heatmaps were cut before they were pooled (released code).
        softmax_over: "both" directions (paper), or "texts" for both fine-grained terms (released code).
        zero_padding: padded sentences enter z_I's maximum as a similarity of zero (released code).
        mapping_sentence_weight: weight of the mapped sentences in L_EGM: 0.5 (paper), 0.3 (released code).
        mapping_threshold: below this share of a row's range similarities do not count in L_EGM.
        mapping_binary: mapping weights are 0 or 1 (paper); False keeps the similarities, and adds 0.01 (released code).
        mapping_blend: how gaze enters the mapping weights: "sum" before they are normalised (paper), "mean" after
            (released code).
        mapping_normalize: mapped features are brought to length one (paper).
        mapping_softmax_over: "targets" (paper), or "both": over the mapped features too (released code).
        mapping_match_single: an image with one sentence costs that sentence's squared distance from the mapped one
            (released code), in place of being left out of L_EGM (paper).
        logit_scale_init_value, logit_scale_max: log of the inverse temperature at first, and the largest inverse
            temperature; the least is 1.

    The fields of the downstream heads: `DualEncoderConfigMixin`.
    """

    model_type = "egma"
    # transformers' own: a class property that a class replaces.
    sub_configs = {  # pyright: ignore[reportAssignmentType]
        "vision_config": AutoConfig,
        "text_config": AutoConfig,
        "decoder_config": AutoConfig,
    }
    code_module = "auto_egma"
    variants = {
        "paper": {},
        # The authors' code at its commit a044efa: L_EGF alone, as it is shipped; L_EGM as it is once asked for.
        "released": {
            "losses": ["egf"],
            "label_sentence_weight": 0.8,
            "label_empty_sentences": True,
            "gaze_cut": 0.0,
            "softmax_over": "texts",
            "zero_padding": True,
            "mapping_sentence_weight": 0.3,
            "mapping_threshold": 2 / 7,
            "mapping_binary": False,
            "mapping_blend": "mean",
            "mapping_normalize": False,
            "mapping_softmax_over": "both",
            "mapping_match_single": True,
        },
    }
    auto_classes = {
        "AutoConfig": "EgmaConfig",
        "AutoModel": "EgmaModel",
        "AutoModelForPreTraining": "EgmaForPreTraining",
        "AutoModelForZeroShotImageClassification": "EgmaForZeroShotImageClassification",
        "AutoModelForImageClassification": "EgmaForImageClassification",
        "AutoModelForSemanticSegmentation": "EgmaForSemanticSegmentation",
        "AutoModelForImageTextToText": "EgmaForConditionalGeneration",
    }
    sizes = {
        # The paper's: Swin-Tiny, six layers of BioClinicalBERT.
        "base": {
            "vision_config": {
                "model_type": "swin",
                "image_size": 224,
                "embed_dim": 96,
                "depths": [2, 2, 6, 2],
                "num_heads": [3, 6, 12, 24],
                "window_size": 7,
            },
            "text_config": {"model_type": "bert", "vocab_size": 28996, "num_hidden_layers": 6},
        },
        # Learns from random weights on two CPU cores.
        "tiny": {
            "vision_config": TINY_VISION,
            "text_config": TINY_TEXT,
            "projection_dim": 128,
            "pooled_text_layers": 2,
            "similarity": "fine_grained",
            "segmentation_channels": TINY_SEGMENTATION_CHANNELS,
            "initializer_range": 0.05,
        },
    }

    vision_config: Any = None
    text_config: Any = None
    decoder_config: Any = None
    projection_dim: int = 512
    pooled_text_layers: int = 4
    freeze_vision_encoder: bool = False
    freeze_encoder: bool = False
    similarity: Literal["global", "fine_grained"] = "global"
    losses: list[str] | tuple[str, ...] = ("egf", "egm")
    contrastive_targets: Literal["single", "hybrid"] = "single"
    label_sentence_weight: float | int = 0.5
    label_empty_sentences: bool = False
    gaze_cut: float | int = 0.5 / 255
    softmax_over: Literal["both", "texts"] = "both"
    zero_padding: bool = False
    mapping_sentence_weight: float | int = 0.5
    mapping_threshold: float | int = 1 / 7
    mapping_binary: bool = True
    mapping_blend: Literal["sum", "mean"] = "sum"
    mapping_normalize: bool = True
    mapping_softmax_over: Literal["targets", "both"] = "targets"
    mapping_match_single: bool = False
    logit_scale_init_value: float = 2.6593  # log(1 / 0.07)
    logit_scale_max: float | int = 100.0
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs):
        self.vision_config = sub_config(self.vision_config or self.sizes["base"]["vision_config"], "vision_config")
        self.text_config = sub_config(self.text_config or self.sizes["base"]["text_config"], "text_config")
        if self.decoder_config is not None:
            self.decoder_config = sub_config(self.decoder_config, "decoder_config")
        self.losses = list(self.losses)
        super().__post_init__(**kwargs)

    def validate_egma(self):
        """Part of the checks that `@strict` runs."""
        unknown = [name for name in self.losses if name not in LOSSES]
        if unknown or not self.losses:
            raise ValueError(f"losses: {self.losses}; give one or more of {', '.join(LOSSES)}.")
        for name in ("label_sentence_weight", "mapping_sentence_weight", "mapping_threshold", "gaze_cut"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: {getattr(self, name)} is not within [0, 1].")
        layers = getattr(self.text_config, "num_hidden_layers", self.pooled_text_layers)
        if not 1 <= self.pooled_text_layers <= layers:
            raise ValueError(
                f"pooled_text_layers: {self.pooled_text_layers}; the text encoder has {layers} layers to choose from."
            )


__all__ = ["EgmaConfig"]
