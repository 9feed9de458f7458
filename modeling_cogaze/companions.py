"""Companions of an image, its study's other views and an earlier study, as tokens beside its own."""

from typing import TypedDict

import torch
from torch import nn
from transformers.utils import torch_compilable_check

# `companion_role_ids`
VIEW, PRIOR = 0, 1


class CompanionInputs(TypedDict, total=False):
    """What a model is given of M companions of a batch, of any number for each image.

    companion_pixel_values (M, 3, H, W), or companion_vision_features (M, P or 1 + P, W), what a frozen encoder made of
    them; companion_index (M,) each one's row in the batch; companion_role_ids (M,) 0 for another view of the study, 1
    for an earlier study; companion_view_ids (M,) view positions, 0 = unknown (by default); companion_days (M,) float32
    days before the study, 0 for views, -1 = unknown (by default).
    """

    companion_pixel_values: torch.Tensor
    companion_vision_features: torch.Tensor
    companion_index: torch.Tensor
    companion_role_ids: torch.Tensor
    companion_view_ids: torch.Tensor
    companion_days: torch.Tensor


class CompanionEmbedding(nn.Module):
    """Adds to a companion's tokens (M, T, D) an embedding of its role, and one of the time, linear in log(1 + days)."""

    def __init__(self, width: int):
        super().__init__()
        self.role_embedding = nn.Embedding(2, width)
        self.time_projection = nn.Linear(1, width, bias=False)

    def forward(self, tokens: torch.Tensor, role_ids: torch.Tensor, days: torch.Tensor) -> torch.Tensor:
        time = self.time_projection(days.clamp(min=0).log1p()[:, None].to(tokens.dtype))
        return tokens + (self.role_embedding(role_ids) + time)[:, None]


def companion_block(
    tokens: torch.Tensor, index: torch.Tensor, read: torch.Tensor, images: int, slots: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The tokens (M, T, D) of companions beside their images' rows: (images, slots x T, D), and a mask of the same.

    Args:
        index: (M,) rows, in any order. read: (M,) bool; the mask leaves the others out.
    Raises:
        ValueError: an image has more than `slots` companions.
    """
    before = (index[:, None] == index).tril(diagonal=-1)
    slot = before.sum(dim=1)
    torch_compilable_check(
        (slot < slots).all(), lambda: f"companion_index: an image has more than max_companions = {slots} companions."
    )
    block = tokens.new_zeros(images, slots, *tokens.shape[1:]).index_put((index, slot), tokens)
    mask = torch.zeros(images, slots, dtype=torch.long, device=tokens.device).index_put((index, slot), read.long())
    return block.flatten(1, 2), mask.repeat_interleave(tokens.shape[1], dim=1)


__all__ = ["PRIOR", "VIEW", "CompanionEmbedding", "CompanionInputs", "companion_block"]
