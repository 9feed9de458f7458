"""CoGaze (arXiv 2603.26049): a dual encoder for chest radiographs that learns from clinical context and gaze."""

from typing import Unpack

import torch
from torch import nn
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .calls import layers_of, standard_call
from .companions import CompanionEmbedding, CompanionInputs
from .configuration_cogaze import CoGazeConfig
from .dual_encoder import (
    DualEncoderPreTrainedModel,
    mask_of,
    masked_token_mean,
)
from .encoders import build_text_encoder, build_vision_encoder, first_tokens
from .image_reading import ImageReadingMixin
from .losses_cogaze import gaze_similarity, hybrid_positive_contrastive_loss, precise, unit
from .outputs import CoGazeOutput, CoGazePreTrainingOutput
from .perceiver import Perceiver
from .pretraining_losses import PreTrainingLosses
from .projectors import CoGazeImageProjector, CoGazeProjector


class CoGazePreTrainedModel(DualEncoderPreTrainedModel):
    config: CoGazeConfig
    base_model_prefix = "cogaze"
    _no_split_modules = ["PerceiverLayer", "CoGazeImageProjector"]
    # Heads and decoders, where a checkpoint with them is opened for something else.
    _keys_to_ignore_on_load_unexpected = [r"^((vision|report)_classifier|decoder|memory_projection)\."]

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, CoGazeModel):
            init.normal_(module.shared_latents, std=self.config.initializer_range)
            init.normal_(module.latent_types, std=self.config.initializer_range)
            init.constant_(module.logit_scale, self.config.logit_scale_init_value)
            init.constant_(module.logit_scale_gaze, self.config.logit_scale_init_value)


class CoGazeModel(ImageReadingMixin, CoGazePreTrainedModel):
    """The dual encoder: images (with view position and context) and texts to one space, patches to gaze maps."""

    def __init__(self, config: CoGazeConfig):
        super().__init__(config)
        self.vision_model = build_vision_encoder(config.vision_config)
        self.text_model = build_text_encoder(config.text_config)
        self.image_projector = CoGazeImageProjector(config)
        self.text_projector = CoGazeProjector(config.text_config.hidden_size, config)
        self.perceiver = Perceiver(config)
        self.shared_latents = nn.Parameter(torch.empty(config.num_latents, config.hidden_size))
        # Row 0 begins the context latents, row 1 the vision latents of an image without context.
        self.latent_types = nn.Parameter(torch.empty(2, config.hidden_size))
        reads_companions = config.use_views or config.use_priors
        self.companion_embedding = CompanionEmbedding(config.hidden_size) if reads_companions else None
        self.logit_scale = nn.Parameter(torch.tensor(config.logit_scale_init_value))
        self.logit_scale_gaze = nn.Parameter(torch.tensor(config.logit_scale_init_value))
        self.post_init()
        self.vision_model.requires_grad_(not config.freeze_vision_encoder)

    def idle_parameters(self) -> list[nn.Parameter]:
        """Those that no loss of images and their contexts alone reaches."""
        texts = [] if self.config.use_context else [*self.text_model.parameters(), *self.text_projector.parameters()]
        return [self.logit_scale, self.logit_scale_gaze, *texts]

    def encode_text(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Hidden states (N, L, W) of the text encoder, before the projector; of no use where the mask is 0."""
        return self.run_text_encoder(input_ids, attention_mask).last_hidden_state

    @standard_call
    def get_image_features(
        self,
        pixel_values: torch.Tensor | None = None,
        view_position_ids: torch.Tensor | None = None,
        context_input_ids: torch.Tensor | None = None,
        context_attention_mask: torch.Tensor | None = None,
        vision_features: torch.Tensor | None = None,
        *,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        **companions: Unpack[CompanionInputs],
    ) -> BaseModelOutputWithPooling:
        """Features of images, not normalised.

        Args:
            pixel_values: (B, 3, H, W).
            view_position_ids: (B,); unknown (0) by default.
            context_input_ids, context_attention_mask: (B, Lc) indication and history; a row of zeros has none.
            vision_features: as in `encode_patches`.
            output_hidden_states, output_attentions: give those of the vision encoder.
            companions: `CompanionInputs`.
        Returns:
            `pooler_output` (B, D), the mean vision latent; `last_hidden_state` (B, Q, D), the vision latents.
        """
        latents, _, _, layers = self.read_images(
            pixel_values,
            view_position_ids,
            context_input_ids,
            context_attention_mask,
            vision_features,
            companions,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
        )
        return BaseModelOutputWithPooling(last_hidden_state=latents, pooler_output=latents.mean(dim=1), **layers)

    @standard_call
    def get_text_features(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        *,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
    ) -> BaseModelOutputWithPooling:
        """Features of reports (N, L), not normalised.

        Args:
            output_hidden_states, output_attentions: give those of the text encoder.
        Returns:
            `pooler_output` (N, D), the mean projected token, padding left out; `last_hidden_state` (N, L, D), the
            projected tokens.
        """
        mask = mask_of(input_ids, attention_mask)
        outputs = self.run_text_encoder(
            input_ids, mask, output_hidden_states=output_hidden_states, output_attentions=output_attentions
        )
        tokens = self.text_projector(outputs.last_hidden_state)
        return BaseModelOutputWithPooling(
            last_hidden_state=tokens, pooler_output=masked_token_mean(tokens, mask), **layers_of(outputs)
        )

    def _text_features(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        return self.get_text_features(
            input_ids, attention_mask, output_hidden_states=False, output_attentions=False, return_dict=True
        ).pooler_output

    @standard_call
    def get_transcript_features(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """(N, D) projected first tokens of sentences (N, L), which patches are compared with; not normalised."""
        features = first_tokens(self.encode_text, input_ids, mask_of(input_ids, attention_mask))
        return self.text_projector(features)

    @standard_call
    def get_gaze_maps(
        self,
        pixel_values: torch.Tensor,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        image_index: torch.Tensor | None = None,
        view_position_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Where a radiologist who says a sentence is predicted to look.

        Args:
            pixel_values: (B, 3, H, W).
            input_ids, attention_mask: (N, L) sentences, `[CLS] [TRANSCRIPT] {sentence}`.
            image_index: (N,) each sentence's image; by default the only one, or one image per sentence.
            view_position_ids: (B,); unknown (0) by default.
        Returns:
            (N, P) distributions over the patches, row by row.
        """
        _, patches = self.encode_patches(pixel_values, view_position_ids)
        image_index = self.images_of_sentences(image_index, input_ids, patches)
        return self.gaze_logits(patches, self.get_transcript_features(input_ids, attention_mask), image_index).softmax(
            dim=-1
        )

    @standard_call
    def gaze_logits(
        self, patch_features: torch.Tensor, transcript_features: torch.Tensor, image_index: torch.Tensor
    ) -> torch.Tensor:
        """(N, P) cosines x exp(logit_scale_gaze), float32."""
        return gaze_similarity(patch_features, transcript_features, image_index) * precise(self.logit_scale_gaze).exp()

    @standard_call
    def contrastive_loss(
        self,
        image_features: torch.Tensor,
        text_features: torch.Tensor,
        study_ids: torch.Tensor | None,
        present: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """`hybrid_positive_contrastive_loss` at the model's own temperature."""
        return hybrid_positive_contrastive_loss(image_features, text_features, study_ids, self.logit_scale, present)

    @standard_call
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        view_position_ids: torch.Tensor | None = None,
        context_input_ids: torch.Tensor | None = None,
        context_attention_mask: torch.Tensor | None = None,
        report_input_ids: torch.Tensor | None = None,
        report_attention_mask: torch.Tensor | None = None,
        transcript_input_ids: torch.Tensor | None = None,
        transcript_attention_mask: torch.Tensor | None = None,
        transcript_image_index: torch.Tensor | None = None,
        vision_features: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        *,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        **companions: Unpack[CompanionInputs],
    ) -> CoGazeOutput:
        """Encode images and, where given, their context, texts and transcripts.

        Args:
            pixel_values: (B, 3, H, W).
            view_position_ids: (B,); unknown (0) by default.
            context_input_ids, context_attention_mask: (B, Lc); a row whose mask is all zero has no context.
            report_input_ids, report_attention_mask: (B, L), one report per image.
            transcript_input_ids, transcript_attention_mask: (N, Lt) spoken sentences.
            transcript_image_index: (N,) each sentence's row in `pixel_values`.
            vision_features: (B, P or 1 + P, W) stored tokens of the frozen encoder, in place of `pixel_values`.
            input_ids, attention_mask: (T, L) any number of prompts, what a processor makes of `text=`; in place of
                reports.
            output_hidden_states, output_attentions: give those of the vision encoder.
            companions: `CompanionInputs`: other views and earlier studies, which the vision latents read beside the
                image. Patches, gaze and grounding stay those of the image.

        Raises:
            ValueError: transcripts without their images; both reports and prompts.
            TypeError: an unknown keyword.
        """
        vision_latents, context_latents, patches, layers = self.read_images(
            pixel_values,
            view_position_ids,
            context_input_ids,
            context_attention_mask,
            vision_features,
            companions,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
        )
        image_features = vision_latents.mean(dim=1)
        outputs = {
            "image_embeds": unit(image_features),
            "image_features": image_features,
            "vision_latents": vision_latents,
            "context_latents": context_latents,
            "patch_features": patches,
            "pooler_output": image_features,
            **layers,
        }
        if report_input_ids is not None and input_ids is not None:
            raise ValueError("input_ids and report_input_ids: both are texts to compare with; give one of them.")
        if input_ids is None:
            input_ids, attention_mask = report_input_ids, report_attention_mask
        if input_ids is not None:
            text_features = self._text_features(input_ids, attention_mask)
            logits = unit(image_features) @ unit(text_features).T * self.logit_scale.exp()
            outputs |= {
                "text_embeds": unit(text_features),
                "logits_per_image": logits,
                "logits_per_text": logits.T,
                "text_features": text_features,
            }
        if transcript_input_ids is not None and transcript_input_ids.shape[0] > 0:
            if transcript_image_index is None:
                raise ValueError("transcript_image_index: missing; give each transcript's row in pixel_values.")
            transcripts = self.get_transcript_features(transcript_input_ids, transcript_attention_mask)
            outputs["gaze_logits"] = self.gaze_logits(patches, transcripts, transcript_image_index)
        return CoGazeOutput(**outputs)


class CoGazeForPreTraining(PreTrainingLosses, CoGazePreTrainedModel):
    """CoGaze with its disease heads and losses, L = L_con + L_cls + L_G.

    In training mode under `torch.distributed`, embeddings are gathered, and all processes must call `forward` together;
    averaged over processes, as DDP does, gradients are those of one process with the joined batch.
    """

    def __init__(self, config: CoGazeConfig):
        super().__init__(config)
        self.cogaze = CoGazeModel(config)
        if config.use_classification:
            self.vision_classifier = nn.Linear(config.hidden_size, len(config.label_names))
            self.report_classifier = nn.Linear(config.hidden_size, len(config.label_names))
        self.post_init()

    @standard_call
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        view_position_ids: torch.Tensor | None = None,
        context_input_ids: torch.Tensor | None = None,
        context_attention_mask: torch.Tensor | None = None,
        report_input_ids: torch.Tensor | None = None,
        report_attention_mask: torch.Tensor | None = None,
        transcript_input_ids: torch.Tensor | None = None,
        transcript_attention_mask: torch.Tensor | None = None,
        transcript_image_index: torch.Tensor | None = None,
        gaze_targets: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        study_ids: torch.Tensor | None = None,
        vision_features: torch.Tensor | None = None,
        report_present: torch.Tensor | None = None,
        *,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        **companions: Unpack[CompanionInputs],
    ) -> CoGazePreTrainingOutput:
        """The losses that the inputs allow.

        Args:
            gaze_targets: (N, P) seconds of looking per patch, one row per transcript.
            labels: (B, C) 0 or 1 per label name; NaN leaves an entry out.
            study_ids: (B,) equal numbers for images of one study, on every process; by default all differ.
            report_present: (B,) bool, images that have a report, where some rows of `report_input_ids` stand for none;
                the others are left out of the contrast and of the report's classification. By default all have.

        The rest as in `CoGazeModel.forward`.
        """
        outputs = self.cogaze(
            pixel_values,
            view_position_ids,
            context_input_ids,
            context_attention_mask,
            report_input_ids,
            report_attention_mask,
            transcript_input_ids,
            transcript_attention_mask,
            transcript_image_index,
            vision_features,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            return_dict=True,
            **companions,
        )
        config = self.config
        vision_logits = report_logits = None
        if config.use_classification:
            vision_logits = self.vision_classifier(outputs.image_features)
            if outputs.text_features is not None:
                report_logits = self.report_classifier(outputs.text_features)

        parts = {}
        if config.use_contrastive and outputs.text_features is not None:
            parts["contrastive"] = self._contrastive_loss(
                outputs.image_features, outputs.text_features, study_ids, report_present
            )
        if vision_logits is not None and labels is not None:
            parts["classification"] = self._classification_loss(vision_logits, report_logits, labels, report_present)
        if config.gaze_loss is not None:
            parts["gaze"] = self._gaze_loss(outputs, gaze_targets, transcript_image_index)
        loss = None
        for name, part in parts.items():
            scaled = getattr(config, f"{name}_loss_scale") * part
            loss = scaled if loss is None else loss + scaled
        if loss is not None and self.training:
            loss = loss + self._zero(complete=outputs.text_features is not None and "classification" in parts)
        return CoGazePreTrainingOutput(
            loss=loss,
            **{f"loss_{name}": part.detach() for name, part in parts.items()},
            vision_logits=vision_logits,
            report_logits=report_logits,
            image_embeds=outputs.image_embeds,
            text_embeds=outputs.text_embeds,
            logits_per_image=outputs.logits_per_image,
            gaze_logits=outputs.gaze_logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


__all__ = [
    "CoGazeForPreTraining",
    "CoGazeModel",
    "CoGazeOutput",
    "CoGazePreTrainedModel",
    "CoGazePreTrainingOutput",
]
