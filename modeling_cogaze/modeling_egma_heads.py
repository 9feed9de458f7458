"""EGMA (arXiv 2403.12416) fine-tuned: image classification and segmentation, as the CoGaze paper trains it."""

import torch
from transformers.modeling_outputs import ImageClassifierOutput, SemanticSegmenterOutput

from .configuration_egma import EgmaConfig
from .heads import ClassificationHead, DownstreamMixin, SegmentationHead
from .modeling_egma import EgmaModel, EgmaPreTrainedModel


class EgmaForImageClassification(DownstreamMixin, EgmaPreTrainedModel):
    """Linear head on the projected pooled image, or label-wise attention over it and the patches."""

    def __init__(self, config: EgmaConfig):
        super().__init__(config)
        self.egma = EgmaModel(config)
        self.classifier = ClassificationHead(config, config.projection_dim)
        self.post_init()

    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        output_attentions: bool = False,
        **kwargs,
    ) -> ImageClassifierOutput:
        """Logits (B, C), and the loss of `config.classifier_loss`.

        Args:
            pixel_values: (B, 3, H, W).
            labels: (B, C) of 0 and 1, NaN left out; or (B,) indices of exclusive classes, negative ones left out.
            output_attentions: with attention pooling, give the weights (B, C, 1 + P) of pooled image and patches.
        """
        pooled, patches = self.egma.encode_image(pixel_values)
        return self.classifier(pooled, torch.cat([pooled[:, None], patches], dim=1), labels, output_attentions)


class EgmaForSemanticSegmentation(DownstreamMixin, EgmaPreTrainedModel):
    """Masks from the projected patches; the pooled image stands in the place of CoGaze's latents."""

    def __init__(self, config: EgmaConfig):
        super().__init__(config)
        self.egma = EgmaModel(config)
        self.decode_head = SegmentationHead(config, 1, config.projection_dim)
        self.post_init()

    def forward(
        self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None, **kwargs
    ) -> SemanticSegmenterOutput:
        """Logits (B, C, H, W) at the pixels' size, and the loss.

        Args:
            pixel_values: (B, 3, H, W).
            labels: masks as in `segmentation_loss`: (B, C, H, W) for independent labels (for one also (B, H, W)), or
                (B, H, W) indices of exclusive classes, the background first.
        """
        pooled, patches = self.egma.encode_image(pixel_values)
        return self.decode_head(pooled[:, None], patches, pixel_values.shape[-2:], labels)


__all__ = ["EgmaForImageClassification", "EgmaForSemanticSegmentation"]
