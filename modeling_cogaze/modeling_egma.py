"""EGMA (arXiv 2403.12416): a dual encoder whose patches and sentences are aligned by a radiologist's gaze."""

import math

import torch
from torch import nn
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .calls import layers_of, standard_call, with_own_parameters
from .configuration_dual_encoder import vision_width
from .configuration_egma import EgmaConfig
from .distributed import gather_with_grad, world_size
from .dual_encoder import DualEncoderMixin, DualEncoderPreTrainedModel, mask_of, masked_token_mean, zero_through
from .encoders import build_text_encoder, build_vision_encoder, vision_tokens
from .losses_cogaze import gaze_similarity, precise, unit
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
from .outputs import EgmaOutput, EgmaPreTrainingOutput


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

    def idle_parameters(self) -> list[nn.Parameter]:
        """Those that no loss of images alone reaches."""
        return [*self.text_model.parameters(), *self.text_projection.parameters(), self.logit_scale]

    @property
    def scale(self) -> torch.Tensor:
        """The inverse temperature, within 1 and `config.logit_scale_max`."""
        return with_own_parameters(
            lambda model: precise(model.logit_scale).exp().clamp(1.0, float(model.config.logit_scale_max)), self
        )

    def encode_image(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Projected pooled image (B, D) and patches (B, P, D).

        Patches are taken before a final LayerNorm where the backbone has one; the pooled output comes after it. One
        linear layer projects both.
        """
        pooled, patches, _ = self._encode(pixel_values)
        return pooled, patches

    def _encode(self, pixel_values: torch.Tensor, output_hidden_states: bool | None = None, **asked):
        outputs, grid_size = self.run_vision_encoder(pixel_values, output_hidden_states=True, **asked)
        layers = layers_of(outputs)
        outputs.last_hidden_state = layers["hidden_states"][-1]
        pooled, patches = vision_tokens(outputs, math.prod(grid_size))
        if pooled is None:
            pooled = patches.mean(dim=1, keepdim=True)
        projected = self.vision_projection(torch.cat([pooled, patches], dim=1).to(self.dtype))
        if not output_hidden_states:
            del layers["hidden_states"]
        return projected[:, 0], projected[:, 1:], layers

    @standard_call
    def get_image_features(
        self,
        pixel_values: torch.Tensor,
        *,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
    ) -> BaseModelOutputWithPooling:
        """Features of images (B, 3, H, W), not normalised.

        Args:
            output_hidden_states, output_attentions: give those of the vision encoder.
        Returns:
            `pooler_output` (B, D), the projected pooled image; `last_hidden_state` (B, P, D), the projected patches.
        """
        pooled, patches, layers = self._encode(pixel_values, output_hidden_states, output_attentions=output_attentions)
        return BaseModelOutputWithPooling(last_hidden_state=patches, pooler_output=pooled, **layers)

    @standard_call
    def get_patch_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """(B, P, D) projected patches of (B, 3, H, W), row by row, not normalised."""
        return self.encode_image(pixel_values)[1]

    @standard_call
    def get_text_features(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        *,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
    ) -> BaseModelOutputWithPooling:
        """Features of sentences (N, L), not normalised.

        Args:
            output_hidden_states, output_attentions: give those of the text encoder.
        Returns:
            `pooler_output` (N, D), the mean over the tokens present, projected; `last_hidden_state` (N, L, W), the last
            hidden states' mean over layers, not projected.
        """
        mask = mask_of(input_ids, attention_mask)
        if input_ids.shape[0] == 0:
            dtype, config = self.dtype, self.config
            return BaseModelOutputWithPooling(
                last_hidden_state=mask.new_zeros(*mask.shape, config.text_config.hidden_size, dtype=dtype),
                pooler_output=mask.new_zeros(0, config.projection_dim, dtype=dtype),
            )
        outputs = self.run_text_encoder(input_ids, mask, output_hidden_states=True, output_attentions=output_attentions)
        layers = layers_of(outputs)
        hidden_states = torch.stack(layers["hidden_states"][-self.config.pooled_text_layers :]).mean(dim=0)
        if not output_hidden_states:
            del layers["hidden_states"]
        return BaseModelOutputWithPooling(
            last_hidden_state=hidden_states,
            pooler_output=self.text_projection(masked_token_mean(hidden_states, mask)),
            **layers,
        )

    def sentence_features(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """(N, D) the pooled `get_text_features` alone."""
        return self.get_text_features(
            input_ids, attention_mask, output_hidden_states=False, output_attentions=False, return_dict=True
        ).pooler_output

    @standard_call
    def gaze_logits(
        self, patch_features: torch.Tensor, sentence_features: torch.Tensor, image_index: torch.Tensor
    ) -> torch.Tensor:
        """(N, P) cosines x inverse temperature, float32."""
        return gaze_similarity(patch_features, sentence_features, image_index) * self.scale

    @standard_call
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
        sentences = self.sentence_features(input_ids, attention_mask)
        return self.gaze_logits(patches, sentences, image_index).softmax(dim=-1)

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
        image, text = fine_grained_similarity(unit(patch_features), unit(sentences), sentence_mask)
        return (image + text) / 2

    @standard_call
    def forward(
        self,
        pixel_values: torch.Tensor,
        transcript_input_ids: torch.Tensor | None = None,
        transcript_attention_mask: torch.Tensor | None = None,
        transcript_image_index: torch.Tensor | None = None,
        transcript_is_full: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        *,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
    ) -> EgmaOutput:
        """Encode images and, where given, their sentences or prompts.

        Args:
            pixel_values: (B, 3, H, W).
            transcript_input_ids, transcript_attention_mask: (N, L) spoken or written sentences.
            transcript_image_index: (N,) each sentence's row in `pixel_values`.
            transcript_is_full: (N,) bool; rows that are no sentence but a full transcript, and no part of the image's
                text. By default there is none.
            input_ids, attention_mask: (T, L) any number of prompts, what a processor makes of `text=`, each read as one
                sentence; in place of transcripts.
            output_hidden_states, output_attentions: give those of the vision encoder.

        Raises:
            ValueError: transcripts without their images; both transcripts and prompts.
            TypeError: an unknown keyword.
        """
        image_features, patch_features, layers = self._encode(
            pixel_values, output_hidden_states, output_attentions=output_attentions
        )
        outputs = EgmaOutput(
            image_embeds=unit(image_features),
            image_features=image_features,
            patch_features=patch_features,
            pooler_output=image_features,
            **layers,
        )
        if input_ids is not None and transcript_input_ids is not None:
            raise ValueError("input_ids and transcript_input_ids: both are texts; give one of them.")
        scale, mask = self.scale, None
        if input_ids is not None:
            sentences = self.sentence_features(input_ids, attention_mask)
            outputs.text_embeds = unit(sentences)
        elif transcript_input_ids is not None:
            if transcript_image_index is None:
                raise ValueError("transcript_image_index: missing; give each transcript's row in pixel_values.")
            features = self.sentence_features(transcript_input_ids, transcript_attention_mask)
            outputs.sentence_features = features
            outputs.gaze_logits = self.gaze_logits(patch_features, features, transcript_image_index)
            images = pixel_values.shape[0]
            sentences, mask = padded_sentences(features, transcript_image_index, transcript_is_full, images)
            outputs.text_embeds = mean_sentence(unit(sentences), mask)
        else:
            return outputs
        logits = self.similarity(image_features, patch_features, sentences, mask).to(self.dtype) * scale
        outputs.logits_per_image, outputs.logits_per_text, outputs.logit_scale = logits, logits.T, scale
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

    @standard_call
    def forward(
        self,
        pixel_values: torch.Tensor,
        transcript_input_ids: torch.Tensor | None = None,
        transcript_attention_mask: torch.Tensor | None = None,
        transcript_image_index: torch.Tensor | None = None,
        transcript_is_full: torch.Tensor | None = None,
        gaze_targets: torch.Tensor | None = None,
        study_ids: torch.Tensor | None = None,
        *,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
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
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            return_dict=True,
        )
        result = EgmaPreTrainingOutput(
            image_embeds=outputs.image_embeds,
            text_embeds=outputs.text_embeds,
            logits_per_image=outputs.logits_per_image,
            gaze_logits=outputs.gaze_logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )
        if outputs.sentence_features is None or transcript_image_index is None:
            return result
        rows = {
            "features": outputs.sentence_features,
            "index": transcript_image_index,
            "is_full": _is_full(transcript_is_full, transcript_image_index),
            "targets": outputs.gaze_logits.new_zeros(outputs.gaze_logits.shape)
            if gaze_targets is None
            else gaze_targets,
        }
        parts = self._losses(outputs, rows, study_ids)
        result.loss = sum(parts.values()) + self._idle(outputs)
        for name, part in parts.items():
            result[f"loss_{name}"] = part.detach()
        return result

    def _idle(self, outputs) -> torch.Tensor:
        """Zero, with a graph to the parameters that no loss of this batch has reached: DDP waits for their gradient."""
        zero = 0 * outputs.image_features.sum()
        if len(outputs.sentence_features) == 0:
            egma = self.egma
            zero = zero + zero_through([*egma.text_model.parameters(), *egma.text_projection.parameters()])
        return zero

    def _losses(self, outputs, rows: dict, study_ids) -> dict[str, torch.Tensor]:
        config, scale = self.config, outputs.logit_scale
        images, patches = outputs.image_features, outputs.patch_features
        study_ids = study_ids if config.contrastive_targets == "hybrid" else None
        # Empty sentences are filled before anything is gathered: their transcript stands behind them here.
        strengths = gaze_strengths(fill_empty_targets(rows["targets"], rows["index"], rows["is_full"]), config.gaze_cut)
        features, index, is_full = rows["features"], rows["index"], rows["is_full"]
        if self.training and world_size() > 1:
            index = index + _images_before(len(images), images.device)
            images, patches, features = (gather_with_grad(x) for x in (images, patches, features))
            index, is_full, strengths = (gather_with_grad(x) for x in (index, is_full.long(), strengths))
            is_full = is_full.bool()
            study_ids = None if study_ids is None else gather_with_grad(study_ids)
        images, patches = unit(precise(images)), unit(precise(patches))
        # One search for the sentences' places serves both.
        rows_of_both = torch.cat([unit(precise(features)), precise(strengths)], dim=1)
        padded, mask = padded_sentences(rows_of_both, index, is_full, len(images))
        sentences, strengths = padded.split([features.shape[1], strengths.shape[1]], dim=2)

        def clip():
            text = mean_sentence(sentences, mask)
            has_text = mask.any(dim=1, keepdim=True)
            return fine_grained_contrastive_loss(images[:, None], text[:, None], has_text, scale, study_ids)

        def mlce():
            scores = scale * (sentences @ patches.mT)
            weight, keep = config.label_sentence_weight, config.label_empty_sentences
            return gaze_label_loss(scores, strengths, mask, weight, keep)

        def egf():
            options = (config.softmax_over, config.label_empty_sentences, config.zero_padding)
            weight = config.label_sentence_weight
            return egf_loss(patches, sentences, mask, strengths, scale, study_ids, weight, *options)

        def egm():
            return egm_loss(
                patches,
                sentences,
                mask,
                strengths,
                scale,
                config.mapping_sentence_weight,
                config.mapping_threshold,
                config.mapping_binary,
                config.mapping_blend,
                config.mapping_normalize,
                config.mapping_softmax_over,
                config.mapping_match_single,
            )

        losses = {"clip": clip, "mlce": mlce, "egf": egf, "egm": egm}
        return {name: losses[name]() for name in config.losses}


def mean_sentence(sentences: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """(T, D) unit vectors: the mean of each text's sentences (T, S, D) that `mask` (T, S) keeps; zero where none is."""
    return unit((sentences * mask[..., None]).sum(dim=1))


def padded_sentences(
    features: torch.Tensor, image_index: torch.Tensor, is_full: torch.Tensor | None, images: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The sentences of each image, (images, S, D) and (images, S) bool, from ragged rows (N, D)."""
    keep = ~_is_full(is_full, image_index)
    counts = sentence_counts(image_index, keep, images)
    if _is_exporting():
        # As many as an image can have: an exported model cannot look.
        width: int = torch.sym_max(1, features.shape[0])  # pyright: ignore[reportAssignmentType]
    else:
        # The number of slots is the one thing that has to be known outside the tensors.
        width = max(1, int(counts.max()))
    mask = torch.arange(width, device=counts.device) < counts[:, None]
    return pad_sentences(features, image_index, keep, images, width), mask


def _is_exporting() -> bool:
    # torch 2.6 cannot tell exporting from compiling.
    return getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)()


def _is_full(is_full: torch.Tensor | None, image_index: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(image_index, dtype=torch.bool) if is_full is None else is_full


def _images_before(images: int, device: torch.device) -> torch.Tensor:
    """How many images processes of lower rank hold."""
    counts = gather_with_grad(torch.tensor([images], device=device))
    return counts[: torch.distributed.get_rank()].sum()


__all__ = [
    "EgmaForPreTraining",
    "EgmaModel",
    "EgmaOutput",
    "EgmaPreTrainedModel",
    "EgmaPreTrainingOutput",
]
