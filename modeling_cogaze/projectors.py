"""How CoGaze brings the tokens of its encoders to one width."""

import torch
from torch import nn

from .configuration_cogaze import CoGazeConfig
from .configuration_dual_encoder import vision_width
from .losses_cogaze import precise


class CoGazeRMSNorm(nn.Module):
    """x / (||x||_2 / sqrt(d) + 1e-8) x weight."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        x = precise(hidden_states)
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
        self.row_embedding: nn.Embedding | None = None
        self.column_embedding: nn.Embedding | None = None
        if config.patch_positions:
            rows, columns = config.grid_size
            self.row_embedding, self.column_embedding = nn.Embedding(rows, width), nn.Embedding(columns, width)
        self.view_position_embedding = nn.Embedding(len(config.view_positions), width)
        self.norm = CoGazeRMSNorm(width)
        self.projector = CoGazeProjector(width, config)

    def forward(
        self, tokens: torch.Tensor, view_position_ids: torch.Tensor, grid_size: tuple[int, int]
    ) -> torch.Tensor:
        """(B, P or 1 + P, D) from the vision encoder's tokens (B, P or 1 + P, W) of a grid of P patches."""
        tokens = tokens + self.view_position_embedding(view_position_ids)[:, None]
        if self.row_embedding is not None and self.column_embedding is not None:
            down = _positions(self.row_embedding, grid_size[0], tokens.device)
            across = _positions(self.column_embedding, grid_size[1], tokens.device)
            positions = (down[:, None] + across).flatten(0, 1)
            others = tokens.shape[1] - positions.shape[0]
            tokens = tokens + nn.functional.pad(positions, (0, 0, others, 0))
        return self.projector(self.norm(tokens))


def _positions(embedding: nn.Embedding, length: int, device: torch.device) -> torch.Tensor:
    """(length, W) an embedding's rows, interpolated where it has another number of them."""
    # Through its `forward`, which brings offloaded weights in; those name no device of their own.
    rows = embedding(torch.arange(embedding.num_embeddings, device=device))
    return rows if rows.shape[0] == length else nn.functional.interpolate(rows.T[None], length, mode="linear")[0].T


__all__ = ["CoGazeImageProjector", "CoGazeProjector", "CoGazeRMSNorm"]
