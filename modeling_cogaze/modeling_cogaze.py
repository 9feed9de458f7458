"""CoGaze (arXiv 2603.26049): a dual encoder for chest radiographs that learns from clinical context and gaze."""

import math
from dataclasses import dataclass

import torch
from torch import nn
from transformers import initialization as init
from transformers.utils import ModelOutput

from .configuration_cogaze import CoGazeConfig
from .configuration_dual_encoder import vision_width
from .distributed import gather_with_grad, mean_over_processes
from .dual_encoder import (
    DualEncoderMixin,
    DualEncoderPreTrainedModel,
    is_trained,
    mask_of,
    masked_token_mean,
    never_empty,
    unit,
    zero_through,
)
from .encoders import build_text_encoder, build_vision_encoder, first_tokens, vision_tokens
from .losses_cogaze import (
    class_balanced_focal_loss,
    gaze_similarity,
    hybrid_positive_contrastive_loss,
    images_with_gaze,
    soft_gaze_loss,
)
from .perceiver import Perceiver


@dataclass
class CoGazeOutput(ModelOutput):
    """What `CoGazeModel` computes; fields that need an input that was not given are None.

    Args:
        image_embeds (B, D): L2-normalised `image_features`.
        text_embeds (B, D): L2-normalised `text_features`, of the reports.
        logits_per_image (B, B): cosines of images and reports x exp(logit_scale). `logits_per_text`: its transpose.
        image_features (B, D): mean vision latent.
        text_features (B, D): mean projected report token, padding left out.
        vision_latents (B, Q, D): what the Perceiver read from the image.
        context_latents (B, Q, D): what it read from the context; the untouched latents for images without context.
        patch_features (B, P, D): projected patch tokens, row by row.
        gaze_logits (N, P): cosines of each transcript with its image's patches x exp(logit_scale_gaze).
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


@dataclass
class CoGazeZeroShotOutput(ModelOutput):
    """`logits_per_image` (B, L): cosines of B images and L prompts x exp(logit_scale), and the unit vectors."""

    logits_per_image: torch.Tensor | None = None
    logits_per_text: torch.Tensor | None = None
    image_embeds: torch.Tensor | None = None
    text_embeds: torch.Tensor | None = None


class CoGazeRMSNorm(nn.Module):
    """x / (||x||_2 / sqrt(d) + 1e-8) x weight."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        x = hidden_states.float()
        rms = x.norm(dim=-1, keepdim=True) * x.shape[-1] ** -0.5
        return (x / (rms + 1e-8)).to(hidden_states.dtype) * self.weight


class CoGazeProjector(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, width: int, config: CoGazeConfig):
        super().__init__()
        self.in_proj = nn.Linear(width, config.intermediate_size)
        self.out_proj = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.out_proj(nn.functional.gelu(self.in_proj(hidden_states)))


class CoGazeImageProjector(nn.Module):
    """Adds the view position's embedding to every vision token, normalises and projects.

    Patches of a convolutional network carry no position: with `patch_positions`, learned ones of their row and column
    are added too, interpolated to other grids than the config's.
    """

    def __init__(self, config: CoGazeConfig):
        super().__init__()
        width = vision_width(config.vision_config)
        self.row_embedding = self.column_embedding = None
        if config.patch_positions:
            rows, columns = config.grid_size
            self.row_embedding, self.column_embedding = nn.Embedding(rows, width), nn.Embedding(columns, width)
        self.view_position_embedding = nn.Embedding(len(config.view_positions), width)
        self.norm = CoGazeRMSNorm(width)
        self.projector = CoGazeProjector(width, config)

    def _positions(self, rows: int, columns: int) -> torch.Tensor:
        """(rows x columns, W)."""
        down, across = (
            embedding.weight
            if len(embedding.weight) == length
            else nn.functional.interpolate(embedding.weight.T[None], length, mode="linear")[0].T
            for embedding, length in ((self.row_embedding, rows), (self.column_embedding, columns))
        )
        return (down[:, None] + across).flatten(0, 1)

    def forward(
        self, tokens: torch.Tensor, view_position_ids: torch.Tensor, grid_size: tuple[int, int]
    ) -> torch.Tensor:
        """(B, P or 1 + P, D) from the vision encoder's tokens (B, P or 1 + P, W) of a grid of P patches."""
        tokens = tokens + self.view_position_embedding(view_position_ids)[:, None]
        if self.row_embedding is not None:
            positions = self._positions(*grid_size)
            others = tokens.shape[1] - len(positions)
            tokens = tokens + nn.functional.pad(positions, (0, 0, others, 0))
        return self.projector(self.norm(tokens))


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


class CoGazeModel(DualEncoderMixin, CoGazePreTrainedModel):
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
        self.logit_scale = nn.Parameter(torch.tensor(config.logit_scale_init_value))
        self.logit_scale_gaze = nn.Parameter(torch.tensor(config.logit_scale_init_value))
        self.post_init()
        self.vision_model.requires_grad_(not config.freeze_vision_encoder)

    def get_vision_features(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, tuple[int, int]]:
        """The vision encoder's own tokens (B, P or 1 + P, W), global token first, and the patches' rows and columns.

        pixel_values: (B, 3, H, W).
        """
        outputs, grid_size = self.run_vision_encoder(pixel_values)
        global_token, patches = vision_tokens(outputs, math.prod(grid_size))
        return (patches if global_token is None else torch.cat([global_token, patches], dim=1)), grid_size

    def _stored_features(self, vision_features: torch.Tensor) -> torch.Tensor:
        if not self.config.freeze_vision_encoder or is_trained(self.vision_model):
            raise ValueError("vision_features: the vision encoder is trained; freeze it, or give pixel_values.")
        rows, columns = self.config.grid_size
        if vision_features.shape[1] - rows * columns not in (0, 1):
            raise ValueError(
                f"vision_features: {vision_features.shape[1]} tokens; the vision encoder gives {rows} x {columns} "
                "patches and at most one global token."
            )
        return vision_features

    def encode_patches(
        self,
        pixel_values: torch.Tensor | None = None,
        view_position_ids: torch.Tensor | None = None,
        vision_features: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """All projected vision tokens (B, P or 1 + P, D), and those of the patches alone (B, P, D).

        Args:
            pixel_values: (B, 3, H, W).
            view_position_ids: (B,); unknown (0) by default.
            vision_features: (B, P or 1 + P, W) what a frozen vision encoder gave (`get_vision_features`), in place of
                `pixel_values`.

        Raises:
            ValueError: both or neither of the two; features for an encoder that is not frozen, or of another grid.
        """
        if (pixel_values is None) == (vision_features is None):
            raise ValueError("pixel_values and vision_features: give one of them.")
        if vision_features is None:
            tokens, grid_size = self.get_vision_features(pixel_values)
        else:
            tokens, grid_size = self._stored_features(vision_features), self.config.grid_size
        if view_position_ids is None:
            view_position_ids = torch.zeros(len(tokens), dtype=torch.long, device=tokens.device)
        tokens = self.image_projector(tokens.to(self.dtype), view_position_ids, grid_size)
        return tokens, tokens[:, -math.prod(grid_size) :]

    def encode_text(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Hidden states (N, L, W) of the text encoder, before the projector; of no use where the mask is 0."""
        return self.run_text_encoder(input_ids, attention_mask).last_hidden_state

    def encode_image(
        self,
        tokens: torch.Tensor,
        context_input_ids: torch.Tensor | None = None,
        context_attention_mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Vision latents and context latents, (B, Q, D) each, from projected vision tokens and the context's ids.

        A row whose context mask is all zero has no context: its vision latents begin as shared + image latents, which
        also stand for its context latents.
        """
        context, image = self.shared_latents + self.latent_types[:, None]
        start = image.expand(len(tokens), -1, -1)
        if context_input_ids is not None and self.config.use_context:
            mask = mask_of(context_input_ids, context_attention_mask)
            hidden_states = self.text_projector(self.encode_text(context_input_ids, mask))
            read = self.perceiver(context.expand_as(start), hidden_states, never_empty(mask))
            start = torch.where(mask.any(dim=1)[:, None, None], read, start)
        return self.perceiver(start, tokens), start

    def get_image_features(
        self,
        pixel_values: torch.Tensor,
        view_position_ids: torch.Tensor | None = None,
        context_input_ids: torch.Tensor | None = None,
        context_attention_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """(B, D) mean vision latents, not normalised.

        Args:
            pixel_values: (B, 3, H, W).
            view_position_ids: (B,); unknown (0) by default.
            context_input_ids, context_attention_mask: (B, Lc) indication and history; a row of zeros has none.
        """
        tokens, _ = self.encode_patches(pixel_values, view_position_ids)
        return self.encode_image(tokens, context_input_ids, context_attention_mask)[0].mean(dim=1)

    def get_text_features(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """(N, D) mean projected tokens of reports (N, L), padding left out; not normalised."""
        mask = mask_of(input_ids, attention_mask)
        hidden_states = self.text_projector(self.encode_text(input_ids, mask))
        return masked_token_mean(hidden_states, mask)

    def get_transcript_features(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """(N, D) projected first tokens of sentences (N, L), which patches are compared with; not normalised."""
        features = first_tokens(self.encode_text, input_ids, mask_of(input_ids, attention_mask))
        return self.text_projector(features)

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

    def gaze_logits(
        self, patch_features: torch.Tensor, transcript_features: torch.Tensor, image_index: torch.Tensor
    ) -> torch.Tensor:
        """(N, P) cosines x exp(logit_scale_gaze), float32."""
        return gaze_similarity(patch_features, transcript_features, image_index) * self.logit_scale_gaze.float().exp()

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
        **kwargs,
    ) -> CoGazeOutput:
        """Encode images and, where given, their context, reports and transcripts.

        Args:
            pixel_values: (B, 3, H, W).
            view_position_ids: (B,); unknown (0) by default.
            context_input_ids, context_attention_mask: (B, Lc); a row whose mask is all zero has no context.
            report_input_ids, report_attention_mask: (B, L), one report per image.
            transcript_input_ids, transcript_attention_mask: (N, Lt) spoken sentences.
            transcript_image_index: (N,) each sentence's row in `pixel_values`.
            vision_features: (B, P or 1 + P, W) stored tokens of the frozen encoder, in place of `pixel_values`.
        """
        tokens, patches = self.encode_patches(pixel_values, view_position_ids, vision_features)
        vision_latents, context_latents = self.encode_image(tokens, context_input_ids, context_attention_mask)
        image_features = vision_latents.mean(dim=1)
        outputs = {
            "image_embeds": unit(image_features),
            "image_features": image_features,
            "vision_latents": vision_latents,
            "context_latents": context_latents,
            "patch_features": patches,
        }
        if report_input_ids is not None:
            text_features = self.get_text_features(report_input_ids, report_attention_mask)
            logits = unit(image_features) @ unit(text_features).T * self.logit_scale.exp()
            outputs |= {
                "text_embeds": unit(text_features),
                "logits_per_image": logits,
                "logits_per_text": logits.T,
                "text_features": text_features,
            }
        if transcript_input_ids is not None and len(transcript_input_ids) > 0:
            if transcript_image_index is None:
                raise ValueError("transcript_image_index: missing; give each transcript's row in pixel_values.")
            transcripts = self.get_transcript_features(transcript_input_ids, transcript_attention_mask)
            outputs["gaze_logits"] = self.gaze_logits(patches, transcripts, transcript_image_index)
        return CoGazeOutput(**outputs)


class CoGazeForPreTraining(CoGazePreTrainedModel):
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
        **kwargs,
    ) -> CoGazePreTrainingOutput:
        """The losses that the inputs allow.

        Args:
            gaze_targets: (N, P) seconds of looking per patch, one row per transcript.
            labels: (B, C) 0 or 1 per label name; NaN leaves an entry out.
            study_ids: (B,) equal numbers for images of one study, on every process; by default all differ.

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
        )
        config = self.config
        vision_logits = report_logits = None
        if config.use_classification:
            vision_logits = self.vision_classifier(outputs.image_features)
            if outputs.text_features is not None:
                report_logits = self.report_classifier(outputs.text_features)

        parts = {}
        if config.use_contrastive and outputs.text_features is not None:
            parts["contrastive"] = self._contrastive_loss(outputs.image_features, outputs.text_features, study_ids)
        if vision_logits is not None and labels is not None:
            parts["classification"] = self._classification_loss(vision_logits, report_logits, labels)
        if config.gaze_loss is not None:
            parts["gaze"] = self._gaze_loss(outputs.gaze_logits, gaze_targets, transcript_image_index)
        loss = sum(getattr(config, f"{name}_loss_scale") * part for name, part in parts.items()) if parts else None
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
        )

    def _contrastive_loss(self, image_features, text_features, study_ids):
        if self.config.contrastive_targets == "single":
            study_ids = None
        if self.training:
            joined = gather_with_grad(torch.cat([image_features, text_features], dim=-1).float())
            image_features, text_features = joined.chunk(2, dim=-1)
            study_ids = None if study_ids is None else gather_with_grad(study_ids)
        return hybrid_positive_contrastive_loss(image_features, text_features, study_ids, self.cogaze.logit_scale)

    def _classification_loss(self, vision_logits, report_logits, labels):
        config = self.config
        logits = [vision_logits] if report_logits is None else [vision_logits, report_logits]
        if self.training:
            *logits, labels = gather_with_grad(torch.stack([*logits, labels.to(vision_logits)], dim=1)).unbind(dim=1)
        gamma = config.focal_gamma if config.classification_loss == "focal" else 0.0
        losses = [
            class_balanced_focal_loss(each, labels, config.positives_per_class, config.class_balance_beta, gamma)
            for each in logits
        ]
        return sum(losses) / len(losses)

    def _gaze_loss(self, gaze_logits, gaze_targets, image_index):
        config = self.config
        if gaze_logits is None or gaze_targets is None:
            gaze_logits = gaze_targets = self.cogaze.logit_scale_gaze.new_zeros(0, 1)
            image_index = torch.zeros(0, dtype=torch.long, device=gaze_logits.device)
        num_images = None
        if self.training:
            num_images = mean_over_processes(images_with_gaze(gaze_targets, image_index).float())
        return soft_gaze_loss(
            gaze_logits,
            gaze_targets,
            image_index,
            top_fraction=config.gaze_top_fraction,
            weight=config.gaze_loss_weight,
            divergence=config.gaze_loss,
            patch_rows=config.gaze_patch_rows,
            num_images=num_images,
        )

    def _zero(self, complete: bool) -> torch.Tensor:
        """Zero, with a graph to the parameters that this batch left out: DDP waits for each one's gradient."""
        idle = [self.cogaze.logit_scale, self.cogaze.logit_scale_gaze]
        if not complete:
            idle = self.parameters()
        return zero_through(idle)


class CoGazeForZeroShotImageClassification(CoGazePreTrainedModel):
    """Scores images against prompts; what the `zero-shot-image-classification` pipeline runs."""

    def __init__(self, config: CoGazeConfig):
        super().__init__(config)
        self.cogaze = CoGazeModel(config)
        self.post_init()

    def forward(
        self,
        input_ids: torch.Tensor,
        pixel_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        view_position_ids: torch.Tensor | None = None,
        context_input_ids: torch.Tensor | None = None,
        context_attention_mask: torch.Tensor | None = None,
        **kwargs,
    ) -> CoGazeZeroShotOutput:
        """Every image against every prompt.

        Args:
            input_ids, attention_mask: (L, T) prompts, tokenized as reports are.
            pixel_values: (B, 3, H, W).
            view_position_ids, context_input_ids, context_attention_mask: as in `CoGazeModel.forward`.
        """
        image_embeds = unit(
            self.cogaze.get_image_features(pixel_values, view_position_ids, context_input_ids, context_attention_mask)
        )
        text_embeds = unit(self.cogaze.get_text_features(input_ids, attention_mask))
        logits = image_embeds @ text_embeds.T * self.cogaze.logit_scale.exp()
        return CoGazeZeroShotOutput(
            logits_per_image=logits, logits_per_text=logits.T, image_embeds=image_embeds, text_embeds=text_embeds
        )


__all__ = [
    "CoGazeForPreTraining",
    "CoGazeForZeroShotImageClassification",
    "CoGazeModel",
    "CoGazeOutput",
    "CoGazePreTrainedModel",
    "CoGazePreTrainingOutput",
    "CoGazeZeroShotOutput",
]
