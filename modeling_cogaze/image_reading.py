"""How CoGaze reads images: vision tokens, those of companions beside them, and the latents that read both."""

import math
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn

from .calls import layers_of, standard_call
from .companions import PRIOR, CompanionInputs, companion_block
from .dual_encoder import DualEncoderMixin, is_trained, mask_of, never_empty, zero_through
from .encoders import vision_tokens


class ImageReadingMixin(DualEncoderMixin):
    """Of `CoGazeModel`."""

    image_projector: nn.Module
    text_projector: nn.Module
    perceiver: nn.Module
    companion_embedding: nn.Module | None
    shared_latents: nn.Parameter
    latent_types: nn.Parameter
    encode_text: Callable[..., torch.Tensor]

    def get_vision_features(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, tuple[int, int]]:
        """The vision encoder's own tokens (B, P or 1 + P, W), global token first, and the patches' rows and columns.

        pixel_values: (B, 3, H, W).
        """
        tokens, grid_size, _ = self._vision_features(pixel_values)
        return tokens, grid_size

    def _vision_features(self, pixel_values: torch.Tensor, **asked):
        outputs, grid_size = self.run_vision_encoder(pixel_values, **asked)
        global_token, patches = vision_tokens(outputs, math.prod(grid_size))
        tokens = patches if global_token is None else torch.cat([global_token, patches], dim=1)
        return tokens, grid_size, layers_of(outputs)

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
        tokens, grid_size, _ = self._tokens(pixel_values, view_position_ids, vision_features)
        return tokens, tokens[:, -math.prod(grid_size) :]

    def _tokens(self, pixel_values, view_position_ids, vision_features=None, **asked):
        if (pixel_values is None) == (vision_features is None):
            raise ValueError("pixel_values and vision_features: give one of them.")
        layers = {}
        if vision_features is None:
            tokens, grid_size, layers = self._vision_features(pixel_values, **asked)
        else:
            tokens, grid_size = self._stored_features(vision_features), self.config.grid_size
        if view_position_ids is None:
            view_position_ids = torch.zeros(tokens.shape[0], dtype=torch.long, device=tokens.device)
        return self.image_projector(tokens.to(self.dtype), view_position_ids, grid_size), grid_size, layers

    @standard_call
    def encode_image(
        self,
        tokens: torch.Tensor,
        context_input_ids: torch.Tensor | None = None,
        context_attention_mask: torch.Tensor | None = None,
        beside: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Vision latents and context latents, (B, Q, D) each, from projected vision tokens and the context's ids.

        A row whose context mask is all zero has no context: its vision latents begin as shared + image latents, which
        also stand for its context latents.

        beside: further tokens (B, L, D) that the vision latents read, those of companions, and their mask (B, L).
        """
        context, image = self.shared_latents + self.latent_types[:, None]
        start = image.expand(tokens.shape[0], -1, -1)
        if context_input_ids is not None and self.config.use_context:
            mask = mask_of(context_input_ids, context_attention_mask)
            hidden_states = self.text_projector(self.encode_text(context_input_ids, mask))
            read = self.perceiver(context.expand_as(start), hidden_states, never_empty(mask))
            start = torch.where(mask.any(dim=1)[:, None, None], read, start)
        elif self.config.use_context and self.training:
            start = start + zero_through([*self.text_model.parameters(), *self.text_projector.parameters()])
        if beside is None:
            return self.perceiver(start, tokens), start
        more, mask = beside
        mask = torch.cat([mask.new_ones(tokens.shape[:2]), mask], dim=1)
        return self.perceiver(start, torch.cat([tokens, more], dim=1), mask), start

    def read_images(
        self,
        pixel_values: torch.Tensor | None = None,
        view_position_ids: torch.Tensor | None = None,
        context_input_ids: torch.Tensor | None = None,
        context_attention_mask: torch.Tensor | None = None,
        vision_features: torch.Tensor | None = None,
        companions: CompanionInputs | None = None,
        **asked,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, dict]:
        """Vision latents and context latents (B, Q, D), projected patches (B, P, D), and what the encoder was asked.

        Arguments as in `CoGazeModel.forward`. Companions that the config does not read are left aside; where none is
        left, the result is bit for bit that of the images alone.

        Raises:
            ValueError: companions without their rows or roles, or other inputs than their images.
        """
        first: Any = pixel_values if vision_features is None else vision_features
        main = {"pixel_values": pixel_values, "vision_features": vision_features}
        companions = self._read_companions(companions or {})
        if companions:
            _join(main, companions)
            view_position_ids = _joined_views(view_position_ids, companions, first)
        tokens, grid_size, layers = self._tokens(
            main["pixel_values"], view_position_ids, main["vision_features"], **asked
        )
        beside = None
        if companions:
            images = first.shape[0]
            layers = {name: tuple(layer[:images] for layer in value) for name, value in layers.items()}
            tokens, others = tokens[:images], tokens[images:]
            beside = self._beside(others, companions, images)
        latents = self.encode_image(tokens, context_input_ids, context_attention_mask, beside)
        if beside is None and self.training and self.companion_embedding is not None:
            latents = latents[0] + zero_through(self.companion_embedding.parameters()), latents[1]
        return *latents, tokens[:, -math.prod(grid_size) :], layers

    def _read_companions(self, companions: CompanionInputs) -> CompanionInputs:
        """Those given, empty where there is none or the config reads none."""
        pictures = companions.get("companion_pixel_values", companions.get("companion_vision_features"))
        if self.companion_embedding is None or pictures is None or pictures.shape[0] == 0:
            return {}
        for name in ("companion_index", "companion_role_ids"):
            if companions.get(name) is None:
                raise ValueError(f"{name}: missing; give one for each companion.")
        return companions

    def _beside(self, tokens: torch.Tensor, companions: Any, images: int):
        roles, config = companions["companion_role_ids"], self.config
        days = companions.get("companion_days")
        days = torch.full_like(roles, -1) if days is None else days
        tokens = cast(nn.Module, self.companion_embedding)(tokens, roles, days)
        read = (roles == PRIOR) & config.use_priors | (roles != PRIOR) & config.use_views
        return companion_block(tokens, companions["companion_index"], read, images, config.max_companions)


def _join(main: dict, companions: Any) -> None:
    """Put the companions behind the images: one batch, and one set of batch statistics, for the encoder."""
    for name, images in main.items():
        others = companions.get(f"companion_{name}")
        if (images is None) != (others is None):
            raise ValueError(f"companion_{name}: give companions in the form of their images, pixels or features.")
        if images is not None:
            main[name] = torch.cat([images, others.to(images)])


def _joined_views(views: Any, companions: Any, images: torch.Tensor) -> torch.Tensor:
    roles, others = companions["companion_role_ids"], companions.get("companion_view_ids")
    views = roles.new_zeros(images.shape[0]) if views is None else views
    return torch.cat([views, torch.zeros_like(roles) if others is None else others])


__all__ = ["ImageReadingMixin"]
