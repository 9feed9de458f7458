"""CoGaze's configuration (arXiv 2603.26049)."""

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

CHEXBERT_OBSERVATIONS = [
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
    "No Finding",
]

# MIMIC-CXR's DICOM view positions, the frequent ones first; the empty name stands for unknown.
VIEW_POSITIONS = [
    "",
    "PA",
    "AP",
    "LATERAL",
    "LL",
    "LAO",
    "RAO",
    "LPO",
    "AP AXIAL",
    "XTABLE LATERAL",
    "AP LLD",
    "AP RLD",
    "PA LLD",
    "PA RLD",
    "SWIMMERS",
]

SIZES: dict[str, dict[str, Any]] = {
    # The paper's: Rad-DINO's shape, six layers of CXR-BERT's with DistilGPT2's extended vocabulary.
    "base": {
        "vision_config": {"model_type": "dinov2", "image_size": 518, "use_mask_token": False},
        "text_config": {
            "model_type": "bert",
            "vocab_size": 50265,
            "num_hidden_layers": 6,
            "pad_token_id": None,
        },
    },
    # Learns from random weights on two CPU cores.
    "tiny": {
        "vision_config": TINY_VISION,
        "text_config": TINY_TEXT,
        "hidden_size": 128,
        "intermediate_size": 256,
        "patch_positions": True,
        "perceiver_depth": 2,
        "num_latents": 16,
        "perceiver_heads": 4,
        "perceiver_head_dim": 32,
        "perceiver_ff_mult": 2,
        "segmentation_channels": TINY_SEGMENTATION_CHANNELS,
        "initializer_range": 0.05,
        "freeze_vision_encoder": False,
    },
}


@strict
class CoGazeConfig(DualEncoderConfigMixin, PreTrainedConfig):
    r"""Configuration of all CoGaze models. The defaults are the paper's.

    Args:
        vision_config: config (or its dict with `model_type`) of any vision backbone `AutoModel` knows.
        text_config: config of the text encoder; BERT's kind.
        decoder_config: config of the report decoder; None for a model without one.
        hidden_size: width of projected features, of the latents and of the embeddings.
        intermediate_size: inner width of the two projectors.
        view_positions: names of the view positions, index 0 = unknown.
        patch_positions: add learned row and column embeddings to the patches, for convolutional vision encoders.
        perceiver_depth, num_latents, perceiver_heads, perceiver_head_dim, perceiver_ff_mult: the Perceiver.
        dropout: in the Perceiver's attention and feed-forward blocks.
        freeze_vision_encoder: keep the vision encoder in eval mode and without gradients.
        freeze_encoder: the same of all but the report decoder or the downstream head, in a model that has one.
        classifier_context: the classifier reads the context latents too (an option of the released code).
        use_context: False ignores indication and history (ablation).
        use_views, use_priors: read the other images of a study, and an earlier study, beside the image.
        max_companions: of an image, views and priors together; needed where one of the two is read.
        label_names: what the pretraining's disease heads predict.
        positives_per_class: training positives per label, for the class-balanced weights; None weighs all alike.
        use_contrastive, use_classification: False leaves the loss out.
        contrastive_targets: "hybrid" (all reports of the same study are positives) or "single".
        classification_loss: "focal" (paper) or "bce" (released code), both class-balanced.
        gaze_loss: "js" (paper), the ablations "mse", "iou" and "mask", or None to leave the loss out.
        gaze_top_fraction: rho, the share of the non-zero entries of a gaze map that is kept.
        gaze_loss_weight: lambda, the weight of the transcript-to-patch term; the patch-to-transcript one has the rest.
        gaze_patch_rows: patch-to-transcript targets: "transpose" the sharpened maps (paper) or "resharpen" the raw
            maps over the sentences of each patch (released code).
        gaze_cut: up to this share of its row's maximum a gaze target counts as zero: half a grey level of an 8-bit
            heatmap, or 0, where the heatmaps were cut before they were pooled (released code).
        gaze_keep_empty_rows: sentences without a fixation stay in the softmax over sentences (released code).
        gaze_count_empty_images: images whose sentences are all without a fixation count as zero in the mean over images
            (released code); False leaves them out (paper).
        class_balance_epsilon: of L_cls, added to 1 - beta^n of each class: 1e-8 (released code) gives a class without
            positives nearly all of the weight; None gives it none (paper).
        contrastive_loss_scale, classification_loss_scale, gaze_loss_scale: factors in the sum of the losses.
        logit_scale_init_value: initial log of the inverse temperature, of both the contrast and the gaze similarity.

    The fields of the downstream heads, and beta and gamma of the class-balanced focal loss: `DualEncoderConfigMixin`.
    """

    model_type = "cogaze"
    # transformers' own: a class property that a class replaces.
    sub_configs = {  # pyright: ignore[reportAssignmentType]
        "vision_config": AutoConfig,
        "text_config": AutoConfig,
        "decoder_config": AutoConfig,
    }
    code_module = "auto_cogaze"
    sizes = SIZES
    variants = {
        "paper": {},
        # The authors' code at its commit ee3dc9f.
        "released": {
            "classification_loss": "bce",
            "class_balance_epsilon": 1e-8,
            "gaze_loss_weight": 0.2,
            "gaze_patch_rows": "resharpen",
            "gaze_cut": 0.0,
            "gaze_keep_empty_rows": True,
            "gaze_count_empty_images": True,
        },
    }
    auto_classes = {
        "AutoConfig": "CoGazeConfig",
        "AutoModel": "CoGazeModel",
        "AutoModelForPreTraining": "CoGazeForPreTraining",
        "AutoModelForZeroShotImageClassification": "CoGazeForZeroShotImageClassification",
        "AutoModelForImageClassification": "CoGazeForImageClassification",
        "AutoModelForSemanticSegmentation": "CoGazeForSemanticSegmentation",
        "AutoModelForImageTextToText": "CoGazeForConditionalGeneration",
    }

    vision_config: Any = None
    text_config: Any = None
    decoder_config: Any = None
    hidden_size: int = 768
    intermediate_size: int = 1536
    view_positions: list[str] | tuple[str, ...] = tuple(VIEW_POSITIONS)
    patch_positions: bool = False
    perceiver_depth: int = 3
    num_latents: int = 128
    perceiver_heads: int = 8
    perceiver_head_dim: int = 64
    perceiver_ff_mult: int = 4
    dropout: float | int = 0.0
    freeze_vision_encoder: bool = True
    freeze_encoder: bool = False
    use_context: bool = True
    classifier_context: bool = False
    use_views: bool = False
    use_priors: bool = False
    max_companions: int = 0
    label_names: list[str] | tuple[str, ...] = tuple(CHEXBERT_OBSERVATIONS)
    positives_per_class: list[int] | None = None
    use_contrastive: bool = True
    use_classification: bool = True
    contrastive_targets: Literal["hybrid", "single"] = "hybrid"
    classification_loss: Literal["focal", "bce"] = "focal"
    gaze_loss: Literal["js", "mse", "iou", "mask"] | None = "js"
    gaze_top_fraction: float | int = 0.25
    gaze_loss_weight: float | int = 0.8
    gaze_patch_rows: Literal["transpose", "resharpen"] = "transpose"
    gaze_cut: float | int = 0.5 / 255
    gaze_keep_empty_rows: bool = False
    gaze_count_empty_images: bool = False
    class_balance_epsilon: float | None = None
    contrastive_loss_scale: float | int = 1.0
    classification_loss_scale: float | int = 1.0
    gaze_loss_scale: float | int = 1.0
    logit_scale_init_value: float = 2.6593  # log(1 / 0.07)
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs):
        base = SIZES["base"]
        self.vision_config = sub_config(self.vision_config or base["vision_config"], "vision_config")
        self.text_config = sub_config(self.text_config or base["text_config"], "text_config")
        if self.decoder_config is not None:
            self.decoder_config = sub_config(self.decoder_config, "decoder_config")
        self.view_positions = list(self.view_positions)
        self.label_names = list(self.label_names)
        super().__post_init__(**kwargs)

    def validate_cogaze(self):
        """Part of the checks that `@strict` runs."""
        if not self.view_positions or self.view_positions[0] != "":
            raise ValueError('view_positions: the first name must be "", which stands for an unknown view.')
        if self.positives_per_class is not None and len(self.positives_per_class) != len(self.label_names):
            raise ValueError(
                f"positives_per_class: {len(self.positives_per_class)} counts for {len(self.label_names)} label_names; "
                "give one count per label, or None."
            )
        if (self.use_views or self.use_priors) and self.max_companions < 1:
            raise ValueError("max_companions: 0 companions, where use_views or use_priors reads some; give 1 or more.")
        if not 0 < self.gaze_top_fraction <= 1:
            raise ValueError(f"gaze_top_fraction: {self.gaze_top_fraction} is not within (0, 1].")
        for name in ("gaze_loss_weight", "gaze_cut"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: {getattr(self, name)} is not within [0, 1].")


__all__ = ["CoGazeConfig"]
