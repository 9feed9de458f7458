"""CoGaze (arXiv 2603.26049) at its tasks: zero-shot and fine-tuned image classification, segmentation."""

from typing import Unpack

import torch
from transformers.modeling_outputs import ImageClassifierOutput, SemanticSegmenterOutput

from .calls import standard_call
from .companions import CompanionInputs
from .configuration_cogaze import CoGazeConfig
from .heads import ClassificationHead, DownstreamMixin, SegmentationHead
from .modeling_cogaze import CoGazeForPreTraining, CoGazeModel, CoGazePreTrainedModel
from .outputs import ZeroShotOutput, zero_shot_output


class CoGazeForZeroShotImageClassification(CoGazePreTrainedModel):
    """Scores images against prompts; what the `zero-shot-image-classification` pipeline runs."""

    main_input_name = "input_ids"

    def __init__(self, config: CoGazeConfig):
        super().__init__(config)
        self.cogaze = CoGazeModel(config)
        self.post_init()

    @standard_call
    def forward(
        self,
        input_ids: torch.Tensor,
        pixel_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        view_position_ids: torch.Tensor | None = None,
        context_input_ids: torch.Tensor | None = None,
        context_attention_mask: torch.Tensor | None = None,
        *,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        **companions: Unpack[CompanionInputs],
    ) -> ZeroShotOutput:
        """Every image against every prompt.

        Args:
            input_ids, attention_mask: (L, T) prompts, tokenized as reports are.
            pixel_values: (B, 3, H, W).
            view_position_ids, context_input_ids, context_attention_mask: as in `CoGazeModel.forward`.
        """
        outputs = self.cogaze(
            pixel_values,
            view_position_ids,
            context_input_ids,
            context_attention_mask,
            input_ids=input_ids,
            attention_mask=attention_mask,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            return_dict=True,
            **companions,
        )
        return zero_shot_output(outputs)


class CoGazeForImageClassification(DownstreamMixin, CoGazePreTrainedModel):
    """Linear head on the mean vision latent, or label-wise attention over vision latents and patches.

    Opens pretraining checkpoints: the head alone is new then, and may begin as their disease head
    (`take_disease_head`).
    """

    def __init__(self, config: CoGazeConfig):
        super().__init__(config)
        self.cogaze = CoGazeModel(config)
        self.classifier = ClassificationHead(config, config.hidden_size)
        self.post_init()

    @standard_call
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        view_position_ids: torch.Tensor | None = None,
        context_input_ids: torch.Tensor | None = None,
        context_attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        vision_features: torch.Tensor | None = None,
        *,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        **companions: Unpack[CompanionInputs],
    ) -> ImageClassifierOutput:
        """Logits (B, C), and the loss of `config.classifier_loss`.

        Args:
            labels: (B, C) of 0 and 1, NaN left out; or (B,) indices of exclusive classes, negative ones left out.
            output_hidden_states: give those of the vision encoder.
            output_attentions: give those of the vision encoder and, with attention pooling, last of all the weights
                (B, C, Q + P) of latents and patches, or (B, 1, Q) of the latents that a token reads (2 Q with
                `config.classifier_context`).

        The rest as in `CoGazeModel.forward`; the context is used where it is given.
        """
        outputs = self.cogaze(
            pixel_values,
            view_position_ids,
            context_input_ids,
            context_attention_mask,
            vision_features=vision_features,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            return_dict=True,
            **companions,
        )
        latents, features = outputs.vision_latents, outputs.image_features
        if self.config.classifier_context:
            latents = torch.cat([latents, outputs.context_latents], dim=1)
            features = latents.mean(dim=1)
        pools_latents = self.config.classifier_pooling == "token"
        tokens = latents if pools_latents else torch.cat([latents, outputs.patch_features], dim=1)
        return self.classifier(features, tokens, labels, output_attentions, outputs.hidden_states, outputs.attentions)

    @torch.no_grad()
    def take_disease_head(self, pretrained: CoGazeForPreTraining) -> list[str]:
        """Start the classifier from a pretraining model's disease head, where label names match; returns the names.

        Case and underscores make no difference between names.

        Raises:
            ValueError: attention pooling, a pretraining without L_cls, or no name in common.
        """
        if self.config.classifier_pooling != "mean" or self.config.classifier_context:
            raise ValueError(
                "classifier_pooling, classifier_context: a disease head reads vision latents' mean: 'mean', False."
            )
        head = getattr(pretrained, "vision_classifier", None)
        if head is None:
            raise ValueError("pretrained: it was trained without L_cls and has no disease head.")
        id2label = self.config.id2label or {}
        known = {_plain(name): row for row, name in enumerate(pretrained.config.label_names)}
        taken = [(index, name) for index, name in id2label.items() if _plain(name) in known]
        if not taken:
            raise ValueError(f"id2label: none of {list(id2label.values())} is in the pretrained disease head.")
        mine, theirs = [index for index, _ in taken], [known[_plain(name)] for _, name in taken]
        for parameter in ("weight", "bias"):
            getattr(self.classifier.linear, parameter)[mine] = getattr(head, parameter)[theirs].to(self.dtype)
        return [name for _, name in taken]


class CoGazeForSemanticSegmentation(DownstreamMixin, CoGazePreTrainedModel):
    """Masks from the vision latents and the projected patches (`SegmentationHead`)."""

    def __init__(self, config: CoGazeConfig):
        super().__init__(config)
        self.cogaze = CoGazeModel(config)
        self.decode_head = SegmentationHead(config, config.num_latents, config.hidden_size)
        self.post_init()

    @standard_call
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        view_position_ids: torch.Tensor | None = None,
        context_input_ids: torch.Tensor | None = None,
        context_attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        vision_features: torch.Tensor | None = None,
        *,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        **companions: Unpack[CompanionInputs],
    ) -> SemanticSegmenterOutput:
        """Logits (B, C, H, W) at the pixels' size, and the loss.

        Args:
            labels: masks as in `segmentation_loss`: (B, C, H, W) for independent labels (for one also (B, H, W)), or
                (B, H, W) indices of exclusive classes, the background first.

        The rest as in `CoGazeModel.forward`; the context is used where it is given.
        """
        outputs = self.cogaze(
            pixel_values,
            view_position_ids,
            context_input_ids,
            context_attention_mask,
            vision_features=vision_features,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            return_dict=True,
            **companions,
        )
        size = self.config.image_size if pixel_values is None else pixel_values.shape[-2:]
        return self.decode_head(
            outputs.vision_latents, outputs.patch_features, size, labels, outputs.hidden_states, outputs.attentions
        )


def _plain(name: str) -> str:
    return name.replace("_", " ").casefold()


__all__ = [
    "CoGazeForImageClassification",
    "CoGazeForSemanticSegmentation",
    "CoGazeForZeroShotImageClassification",
]
