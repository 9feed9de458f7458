"""EGMA (arXiv 2403.12416) at its tasks: zero-shot, and fine-tuned as the CoGaze paper does it."""

import torch
from transformers.modeling_outputs import ImageClassifierOutput, SemanticSegmenterOutput

from .calls import standard_call
from .configuration_egma import EgmaConfig
from .heads import ClassificationHead, DownstreamMixin, SegmentationHead
from .modeling_egma import EgmaModel, EgmaPreTrainedModel
from .outputs import ZeroShotOutput, zero_shot_output


class EgmaForZeroShotImageClassification(EgmaPreTrainedModel):
    """Scores images against prompts; what the `zero-shot-image-classification` pipeline runs."""

    main_input_name = "input_ids"

    def __init__(self, config: EgmaConfig):
        super().__init__(config)
        self.egma = EgmaModel(config)
        self.post_init()

    @standard_call
    def forward(
        self,
        input_ids: torch.Tensor,
        pixel_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        *,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
    ) -> ZeroShotOutput:
        """Every image against every prompt.

        Args:
            input_ids, attention_mask: (L, T) prompts, each read as one sentence.
            pixel_values: (B, 3, H, W).
        """
        outputs = self.egma(
            pixel_values,
            input_ids=input_ids,
            attention_mask=attention_mask,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            return_dict=True,
        )
        return zero_shot_output(outputs)


class EgmaForImageClassification(DownstreamMixin, EgmaPreTrainedModel):
    """Linear head on the projected pooled image, or label-wise attention over it and the patches."""

    def __init__(self, config: EgmaConfig):
        super().__init__(config)
        self.egma = EgmaModel(config)
        self.classifier = ClassificationHead(config, config.projection_dim)
        self.post_init()

    @standard_call
    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        *,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
    ) -> ImageClassifierOutput:
        """Logits (B, C), and the loss of `config.classifier_loss`.

        Args:
            pixel_values: (B, 3, H, W).
            labels: (B, C) of 0 and 1, NaN left out; or (B,) indices of exclusive classes, negative ones left out.
            output_hidden_states: give those of the vision encoder.
            output_attentions: give those of the vision encoder and, with attention pooling, last of all the weights
                (B, C, 1 + P) of pooled image and patches.
        """
        outputs = self.egma(
            pixel_values,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            return_dict=True,
        )
        pooled, patches = outputs.image_features, outputs.patch_features
        tokens = torch.cat([pooled[:, None], patches], dim=1)
        return self.classifier(pooled, tokens, labels, output_attentions, outputs.hidden_states, outputs.attentions)


class EgmaForSemanticSegmentation(DownstreamMixin, EgmaPreTrainedModel):
    """Masks from the projected patches; the pooled image stands in the place of CoGaze's latents."""

    def __init__(self, config: EgmaConfig):
        super().__init__(config)
        self.egma = EgmaModel(config)
        self.decode_head = SegmentationHead(config, 1, config.projection_dim)
        self.post_init()

    @standard_call
    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        *,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
    ) -> SemanticSegmenterOutput:
        """Logits (B, C, H, W) at the pixels' size, and the loss.

        Args:
            pixel_values: (B, 3, H, W).
            labels: masks as in `segmentation_loss`: (B, C, H, W) for independent labels (for one also (B, H, W)), or
                (B, H, W) indices of exclusive classes, the background first.
        """
        outputs = self.egma(
            pixel_values,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            return_dict=True,
        )
        pooled, patches = outputs.image_features, outputs.patch_features
        return self.decode_head(
            pooled[:, None], patches, pixel_values.shape[-2:], labels, outputs.hidden_states, outputs.attentions
        )


__all__ = ["EgmaForImageClassification", "EgmaForSemanticSegmentation", "EgmaForZeroShotImageClassification"]
