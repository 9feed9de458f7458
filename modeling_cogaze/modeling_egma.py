"""EGMA (arXiv 2403.12416): a dual encoder whose patches and sentences are aligned by a radiologist's gaze."""

import math
from dataclasses import dataclass

import torch
from torch import nn
from transformers import initialization as init
from transformers.utils import ModelOutput

from .configuration_dual_encoder import vision_width
from .configuration_egma import EgmaConfig
from .distributed import gather_with_grad, world_size
from .dual_encoder import DualEncoderMixin, DualEncoderPreTrainedModel, mask_of, masked_token_mean, unit, zero_through
from .encoders import build_text_encoder, build_vision_encoder, vision_tokens
from .losses_cogaze import gaze_similarity
from .losses_egma import (
    egf_loss,
    egm_loss,
    fill_empty_targets,
    fine_grained_contrastive_loss,
    fine_grained_similarity,
    gaze_label_loss,
    gaze_strengths,
    pad_sentences,
    sentence_counts,
)


@dataclass
class EgmaOutput(ModelOutput):
    """What `EgmaModel` computes; fields that need an input that was not given are None.

    Args:
        image_embeds (B, D): L2-normalised `image_features`.
        text_embeds (B, D): the L2-normalised mean of an image's sentences; zero for an image without any.
        logits_per_image (B, B): similarities of images and texts (`EgmaModel.similarity`) x inverse temperature.
            `logits_per_text`: its transpose.
        image_features (B, D): projected pooled image.
        patch_features (B, P, D): projected patches, row by row.
        sentence_features (N, D): one per transcript row.
        gaze_logits (N, P): cosines of each row with its image's patches x inverse temperature.
    """

    image_embeds: torch.Tensor | None = None
    text_embeds: torch.Tensor | None = None
    logits_per_image: torch.Tensor | None = None
    logits_per_text: torch.Tensor | None = None
    image_features: torch.Tensor | None = None
    patch_features: torch.Tensor | None = None
    sentence_features: torch.Tensor | None = None
    gaze_logits: torch.Tensor | None = None


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


@dataclass
class EgmaZeroShotOutput(ModelOutput):
    """`logits_per_image` (B, L): similarities of B images and L prompts x inverse temperature, and the unit vectors."""

    logits_per_image: torch.Tensor | None = None
    logits_per_text: torch.Tensor | None = None
    image_embeds: torch.Tensor | None = None
    text_embeds: torch.Tensor | None = None


class EgmaPreTrainedModel(DualEncoderPreTrainedModel):
    config: EgmaConfig
    base_model_prefix = "egma"
    # Decoders, where a checkpoint with one is opened for something else.
    _keys_to_ignore_on_load_unexpected = [r"^(decoder|memory_projection)\."]

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, EgmaModel):
            init.constant_(module.logit_scale, self.config.logit_scale_init_value)


class EgmaModel(DualEncoderMixin, EgmaPreTrainedModel):
    """The dual encoder: pooled image, patches and sentences to one space."""

    def __init__(self, config: EgmaConfig):
        super().__init__(config)
        self.vision_model = build_vision_encoder(config.vision_config)
        self.text_model = build_text_encoder(config.text_config)
        self.vision_projection = nn.Linear(vision_width(config.vision_config), config.projection_dim, bias=False)
        self.text_projection = nn.Linear(config.text_config.hidden_size, config.projection_dim, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(config.logit_scale_init_value))
        self.post_init()
        self.vision_model.requires_grad_(not config.freeze_vision_encoder)

    @property
    def scale(self) -> torch.Tensor:
        """The inverse temperature, within 1 and `config.logit_scale_max`."""
        return self.logit_scale.float().exp().clamp(1, self.config.logit_scale_max)

    def encode_image(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Projected pooled image (B, D) and patches (B, P, D).

        Patches are taken before a final LayerNorm where the backbone has one; the pooled output comes after it. One
        linear layer projects both.
        """
        outputs, grid_size = self.run_vision_encoder(pixel_values, output_hidden_states=True)
        outputs.last_hidden_state = outputs.hidden_states[-1]
        pooled, patches = vision_tokens(outputs, math.prod(grid_size))
        if pooled is None:
            pooled = patches.mean(dim=1, keepdim=True)
        projected = self.vision_projection(torch.cat([pooled, patches], dim=1).to(self.dtype))
        return projected[:, 0], projected[:, 1:]

    def get_image_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """(B, D) projected pooled images (B, 3, H, W), not normalised."""
        return self.encode_image(pixel_values)[0]

    def get_patch_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """(B, P, D) projected patches of (B, 3, H, W), row by row, not normalised."""
        return self.encode_image(pixel_values)[1]

    def get_text_features(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """(N, D) features of sentences (N, L): last hidden states' mean over layers and tokens present, projected."""
        if len(input_ids) == 0:
            return self.text_projection.weight.new_zeros(0, self.config.projection_dim)
        mask = mask_of(input_ids, attention_mask)
        layers = self.run_text_encoder(input_ids, mask, output_hidden_states=True).hidden_states
        hidden_states = torch.stack(layers[-self.config.pooled_text_layers :]).mean(dim=0)
        return self.text_projection(masked_token_mean(hidden_states, mask))

    def get_gaze_maps(
        self,
        pixel_values: torch.Tensor,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        image_index: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Where a radiologist who says a sentence is predicted to look.

        Args:
            pixel_values: (B, 3, H, W).
            input_ids, attention_mask: (N, L) sentences.
            image_index: (N,) each sentence's image; by default the only one, or one image per sentence.
        Returns:
            (N, P) distributions over the patches, row by row.
        """
        patches = self.get_patch_features(pixel_values)
        image_index = self.images_of_sentences(image_index, input_ids, patches)
        sentences = self.get_text_features(input_ids, attention_mask)
        return (gaze_similarity(patches, sentences, image_index) * self.scale).softmax(dim=-1)

    def similarity(
        self,
        image_features: torch.Tensor,
        patch_features: torch.Tensor,
        sentence_features: torch.Tensor,
        sentence_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """(B, T) similarities of images and texts, within -1 and 1, as `config.similarity` says.

        "global": cosine of the pooled image with the mean of a text's unit sentences. "fine_grained": mean of z_I and
        z_T (`fine_grained_similarity`).

        Args:
            image_features: (B, D). patch_features: (B, P, D).
            sentence_features: (T, S, D), or (T, D) for texts of one sentence.
            sentence_mask: (T, S) bool; None: all count.
        """
        sentences = sentence_features if sentence_features.ndim == 3 else sentence_features[:, None]
        if sentence_mask is None:
            sentence_mask = torch.ones(sentences.shape[:2], dtype=torch.bool, device=sentences.device)
        if self.config.similarity == "global":
            return unit(image_features) @ mean_sentence(unit(sentences), sentence_mask).T
        return sum(fine_grained_similarity(unit(patch_features), unit(sentences), sentence_mask)) / 2

    def forward(
        self,
        pixel_values: torch.Tensor,
        transcript_input_ids: torch.Tensor | None = None,
        transcript_attention_mask: torch.Tensor | None = None,
        transcript_image_index: torch.Tensor | None = None,
        transcript_is_full: torch.Tensor | None = None,
        **kwargs,
    ) -> EgmaOutput:
        """Encode images and, where given, their sentences.

        Args:
            pixel_values: (B, 3, H, W).
            transcript_input_ids, transcript_attention_mask: (N, L) spoken or written sentences.
            transcript_image_index: (N,) each sentence's row in `pixel_values`.
            transcript_is_full: (N,) bool; rows that are no sentence but a full transcript, and no part of the image's
                text. By default there is none.
        """
        image_features, patch_features = self.encode_image(pixel_values)
        outputs = EgmaOutput(
            image_embeds=unit(image_features), image_features=image_features, patch_features=patch_features
        )
        if transcript_input_ids is None:
            return outputs
        if transcript_image_index is None:
            raise ValueError("transcript_image_index: missing; give each transcript's row in pixel_values.")
        outputs.sentence_features = self.get_text_features(transcript_input_ids, transcript_attention_mask)
        outputs.gaze_logits = (
            gaze_similarity(patch_features, outputs.sentence_features, transcript_image_index) * self.scale
        )
        sentences, mask = padded_sentences(
            outputs.sentence_features, transcript_image_index, transcript_is_full, len(pixel_values)
        )
        outputs.text_embeds = mean_sentence(unit(sentences), mask)
        outputs.logits_per_image = (
            self.similarity(image_features, patch_features, sentences, mask).to(self.dtype) * self.scale
        )
        outputs.logits_per_text = outputs.logits_per_image.T
        return outputs


class EgmaForPreTraining(EgmaPreTrainedModel):
    """EGMA with its losses, L = L_EGF + L_EGM.

    In training mode under `torch.distributed`, patches and sentences are gathered, and all processes must call
    `forward` together; averaged over processes, as DDP does, gradients are those of one process with the joined batch.
    """

    def __init__(self, config: EgmaConfig):
        super().__init__(config)
        self.egma = EgmaModel(config)
        self.post_init()

    def forward(
        self,
        pixel_values: torch.Tensor,
        transcript_input_ids: torch.Tensor | None = None,
        transcript_attention_mask: torch.Tensor | None = None,
        transcript_image_index: torch.Tensor | None = None,
        transcript_is_full: torch.Tensor | None = None,
        gaze_targets: torch.Tensor | None = None,
        study_ids: torch.Tensor | None = None,
        **kwargs,
    ) -> EgmaPreTrainingOutput:
        """The losses of `config.losses`.

        Args:
            transcript_is_full: (N,) bool; full transcripts take no part; sentences without gaze fall back to theirs.
            gaze_targets: (N, P) seconds of looking per patch, one row per transcript, zero without gaze; None: none.
            study_ids: (B,) equal numbers for images of one study, on every process.

        The rest as in `EgmaModel.forward`.
        """
        outputs = self.egma(
            pixel_values,
            transcript_input_ids,
            transcript_attention_mask,
            transcript_image_index,
            transcript_is_full,
        )
        result = EgmaPreTrainingOutput(
            image_embeds=outputs.image_embeds,
            text_embeds=outputs.text_embeds,
            logits_per_image=outputs.logits_per_image,
            gaze_logits=outputs.gaze_logits,
        )
        if outputs.sentence_features is None:
            return result
        rows = {
            "features": outputs.sentence_features,
            "index": transcript_image_index,
            "is_full": _is_full(transcript_is_full, transcript_image_index),
            "targets": outputs.gaze_logits.new_zeros(outputs.gaze_logits.shape)
            if gaze_targets is None
            else gaze_targets,
        }
        parts = self._losses(outputs.image_features, outputs.patch_features, rows, study_ids)
        result.loss = sum(parts.values()) + self._idle(outputs)
        for name, part in parts.items():
            result[f"loss_{name}"] = part.detach()
        return result

    def _idle(self, outputs: EgmaOutput) -> torch.Tensor:
        """Zero, with a graph to the parameters that no loss of this batch has reached: DDP waits for their gradient."""
        zero = 0 * outputs.image_features.sum()
        if len(outputs.sentence_features) == 0:
            egma = self.egma
            zero = zero + zero_through([*egma.text_model.parameters(), *egma.text_projection.parameters()])
        return zero

    def _losses(self, images, patches, rows, study_ids) -> dict[str, torch.Tensor]:
        config, scale = self.config, self.egma.scale
        study_ids = study_ids if config.contrastive_targets == "hybrid" else None
        # Empty sentences are filled before anything is gathered: their transcript stands behind them here.
        strengths = gaze_strengths(fill_empty_targets(rows["targets"], rows["index"], rows["is_full"]))
        features, index, is_full = rows["features"], rows["index"], rows["is_full"]
        if self.training and world_size() > 1:
            index = index + _images_before(len(images), images.device)
            images, patches, features = (gather_with_grad(x) for x in (images, patches, features))
            index, is_full, strengths = (gather_with_grad(x) for x in (index, is_full.long(), strengths))
            is_full = is_full.bool()
            study_ids = None if study_ids is None else gather_with_grad(study_ids)
        images, patches = unit(images.float()), unit(patches.float())
        sentences, mask = padded_sentences(unit(features.float()), index, is_full, len(images))
        strengths = pad_sentences(strengths, index, ~is_full, len(images), sentences.shape[1])

        def clip():
            text = mean_sentence(sentences, mask)
            has_text = mask.any(dim=1, keepdim=True)
            return fine_grained_contrastive_loss(images[:, None], text[:, None], has_text, scale, study_ids)

        def mlce():
            scores = scale * (sentences @ patches.mT)
            return gaze_label_loss(scores, strengths, mask, config.label_sentence_weight)

        def egf():
            weight, over = config.label_sentence_weight, config.softmax_over
            return egf_loss(patches, sentences, mask, strengths, scale, study_ids, weight, over)

        def egm():
            weight, threshold, binary = config.mapping_sentence_weight, config.mapping_threshold, config.mapping_binary
            return egm_loss(patches, sentences, mask, strengths, scale, weight, threshold, binary)

        losses = {"clip": clip, "mlce": mlce, "egf": egf, "egm": egm}
        return {name: losses[name]() for name in config.losses}


class EgmaForZeroShotImageClassification(EgmaPreTrainedModel):
    """Scores images against prompts; what the `zero-shot-image-classification` pipeline runs."""

    def __init__(self, config: EgmaConfig):
        super().__init__(config)
        self.egma = EgmaModel(config)
        self.post_init()

    def forward(
        self,
        input_ids: torch.Tensor,
        pixel_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        **kwargs,
    ) -> EgmaZeroShotOutput:
        """Every image against every prompt.

        Args:
            input_ids, attention_mask: (L, T) prompts, each read as one sentence.
            pixel_values: (B, 3, H, W).
        """
        image_features, patch_features = self.egma.encode_image(pixel_values)
        text_features = self.egma.get_text_features(input_ids, attention_mask)
        similarity = self.egma.similarity(image_features, patch_features, text_features)
        logits = similarity.to(image_features.dtype) * self.egma.scale
        return EgmaZeroShotOutput(
            logits_per_image=logits,
            logits_per_text=logits.T,
            image_embeds=unit(image_features),
            text_embeds=unit(text_features),
        )


def mean_sentence(sentences: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """(T, D) unit vectors: the mean of each text's sentences (T, S, D) that `mask` (T, S) keeps; zero where none is."""
    return unit((sentences * mask[..., None]).sum(dim=1))


def padded_sentences(
    features: torch.Tensor, image_index: torch.Tensor, is_full: torch.Tensor | None, images: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The sentences of each image, (images, S, D) and (images, S) bool, from ragged rows (N, D)."""
    keep = ~_is_full(is_full, image_index)
    counts = sentence_counts(image_index, keep, images)
    # The number of slots is the one thing that has to be known outside the tensors.
    width = max(1, int(counts.max()))
    mask = torch.arange(width, device=counts.device) < counts[:, None]
    return pad_sentences(features, image_index, keep, images, width), mask


def _is_full(is_full: torch.Tensor | None, image_index: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(image_index, dtype=torch.bool) if is_full is None else is_full


def _images_before(images: int, device: torch.device) -> torch.Tensor:
    """How many images processes of lower rank hold."""
    counts = gather_with_grad(torch.tensor([images], device=device))
    return counts[: torch.distributed.get_rank()].sum()


__all__ = [
    "EgmaForPreTraining",
    "EgmaForZeroShotImageClassification",
    "EgmaModel",
    "EgmaOutput",
    "EgmaPreTrainedModel",
    "EgmaPreTrainingOutput",
    "EgmaZeroShotOutput",
]
