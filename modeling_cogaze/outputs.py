"""What the dual encoders of both families, and their pretraining, give."""

from dataclasses import dataclass, fields

import torch
from transformers.utils import ModelOutput


@dataclass
class CoGazeOutput(ModelOutput):
    """What `CoGazeModel` computes; fields that need an input that was not given are None.

    Args:
        image_embeds (B, D): L2-normalised `image_features`.
        text_embeds (T, D): L2-normalised `text_features`, of the reports (T = B) or of `input_ids`.
        logits_per_image (B, T): cosines of images and texts x exp(logit_scale). `logits_per_text`: its transpose.
        image_features (B, D): mean vision latent. `pooler_output`: the same.
        text_features (T, D): mean projected token of a text, padding left out.
        vision_latents (B, Q, D): what the Perceiver read from the image.
        context_latents (B, Q, D): what it read from the context; the untouched latents for images without context.
        patch_features (B, P, D): projected patch tokens, row by row.
        gaze_logits (N, P): cosines of each transcript with its image's patches x exp(logit_scale_gaze).
        hidden_states, attentions: of the vision encoder, where asked for; attention weights by the eager
            implementation alone.
    """

    image_embeds: torch.Tensor | None = None
    text_embeds: torch.Tensor | None = None
    logits_per_image: torch.Tensor | None = None
    logits_per_text: torch.Tensor | None = None
    image_features: torch.Tensor | None = None
    text_features: torch.Tensor | None = None
    vision_latents: torch.Tensor | None = None
    context_latents: torch.Tensor | None = None
    patch_features: torch.Tensor | None = None
    gaze_logits: torch.Tensor | None = None
    pooler_output: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


@dataclass
class CoGazePreTrainingOutput(ModelOutput):
    """`loss` and its parts (detached, before scaling), the disease logits (B, C), and the embeddings.

    `loss` is None without reports, labels and transcripts.
    """

    loss: torch.Tensor | None = None
    loss_contrastive: torch.Tensor | None = None
    loss_classification: torch.Tensor | None = None
    loss_gaze: torch.Tensor | None = None
    vision_logits: torch.Tensor | None = None
    report_logits: torch.Tensor | None = None
    image_embeds: torch.Tensor | None = None
    text_embeds: torch.Tensor | None = None
    logits_per_image: torch.Tensor | None = None
    gaze_logits: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


@dataclass
class EgmaOutput(ModelOutput):
    """What `EgmaModel` computes; fields that need an input that was not given are None.

    Args:
        image_embeds (B, D): L2-normalised `image_features`.
        text_embeds (T, D): the L2-normalised mean of an image's sentences (T = B), zero for an image without any; or
            the prompts of `input_ids`, each as one sentence.
        logits_per_image (B, T): similarities of images and texts (`EgmaModel.similarity`) x inverse temperature.
            `logits_per_text`: its transpose.
        image_features (B, D): projected pooled image. `pooler_output`: the same.
        patch_features (B, P, D): projected patches, row by row.
        sentence_features (N, D): one per transcript row.
        gaze_logits (N, P): cosines of each row with its image's patches x inverse temperature.
        logit_scale: the inverse temperature.
        hidden_states, attentions: of the vision encoder, where asked for; attention weights by the eager
            implementation alone.
    """

    image_embeds: torch.Tensor | None = None
    text_embeds: torch.Tensor | None = None
    logits_per_image: torch.Tensor | None = None
    logits_per_text: torch.Tensor | None = None
    image_features: torch.Tensor | None = None
    patch_features: torch.Tensor | None = None
    sentence_features: torch.Tensor | None = None
    gaze_logits: torch.Tensor | None = None
    pooler_output: torch.Tensor | None = None
    logit_scale: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


@dataclass
class EgmaPreTrainingOutput(ModelOutput):
    """`loss`, its parts (detached) and the embeddings; `loss` is None without transcripts."""

    loss: torch.Tensor | None = None
    loss_clip: torch.Tensor | None = None
    loss_mlce: torch.Tensor | None = None
    loss_egf: torch.Tensor | None = None
    loss_egm: torch.Tensor | None = None
    image_embeds: torch.Tensor | None = None
    text_embeds: torch.Tensor | None = None
    logits_per_image: torch.Tensor | None = None
    gaze_logits: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


@dataclass
class ZeroShotOutput(ModelOutput):
    """Images against prompts.

    Args:
        logits_per_image (B, L): similarities of B images and L prompts by temperature. `logits_per_text`: its
            transpose.
        image_embeds (B, D), text_embeds (L, D): L2-normalised.
        hidden_states, attentions: of the vision encoder, where asked for.
    """

    logits_per_image: torch.Tensor | None = None
    logits_per_text: torch.Tensor | None = None
    image_embeds: torch.Tensor | None = None
    text_embeds: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


@dataclass
class PrefixOutput(ModelOutput):
    """A language model's, behind an image.

    Args:
        loss: where labels are given.
        logits (B, L - 1, V) of a report's tokens; (B, T, V) of the prompts without one.
        hidden_states, attentions: the language model's over prompt and report, where asked for; attention weights by
            the eager implementation alone.
        image_hidden_states (B, N, W): what stands at the prompts' N placeholders.
        last_hidden_state (B, T, W): where no labels are given; what the output embeddings make the logits of.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    image_hidden_states: torch.Tensor | None = None
    last_hidden_state: torch.Tensor | None = None


def zero_shot_output(outputs) -> ZeroShotOutput:
    """The part of a base model's outputs that zero-shot classification gives."""
    return ZeroShotOutput(**{each.name: outputs[each.name] for each in fields(ZeroShotOutput) if each.name in outputs})


__all__ = [
    "CoGazeOutput",
    "CoGazePreTrainingOutput",
    "EgmaOutput",
    "EgmaPreTrainingOutput",
    "PrefixOutput",
    "ZeroShotOutput",
    "zero_shot_output",
]
