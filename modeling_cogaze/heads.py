"""Downstream heads of both families: image classification and segmentation."""

import torch
from torch import nn
from transformers import initialization as init
from transformers.modeling_outputs import ImageClassifierOutput, SemanticSegmenterOutput

from .distributed import SharedBatchNorm2d
from .dual_encoder import Mixed, freeze, spare_idle_parameters
from .losses_cogaze import class_balanced_focal_loss
from .losses_downstream import (
    class_balanced_sigmoid_focal_loss,
    class_balanced_softmax_focal_loss,
    segmentation_loss,
)


def is_exclusive(config, labels: torch.Tensor, index_ndim: int) -> bool:
    """Whether exactly one class holds: what `config.problem_type` says, else what `labels` look like.

    As in transformers, what was found out is put into the config, where the pipelines read it.

    Args:
        index_ndim: number of dimensions that class indices would have.
    Raises:
        ValueError: regression.
    """
    if config.problem_type == "regression":
        raise ValueError("problem_type: 'regression' is none of this model's; give a classification.")
    if config.problem_type is None:
        indices = labels.ndim == index_ndim and config.num_labels > 1
        config.problem_type = f"{'single' if indices else 'multi'}_label_classification"
    return config.problem_type == "single_label_classification"


class DownstreamMixin(Mixed):
    """For a `PreTrainedModel` with a head on a dual encoder: `config.freeze_encoder` trains the head alone."""

    def post_init(self):
        super().post_init()
        self.train(self.training)

    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, TokenPooling):
            init.normal_(module.token)

    def train(self, mode: bool = True):
        super().train(mode)
        spare_idle_parameters(self.base_model)
        if self.config.freeze_encoder:
            freeze(self.base_model)
        return self


class TokenPooling(nn.Module):
    """What a learned token reads from others (B, N, D), in one attention layer of 8 heads (CoGaze's released code).

    The token takes part among the keys; a feed-forward layer of half the width follows, each between LayerNorms.
    """

    heads = 8

    def __init__(self, width: int):
        super().__init__()
        if width % self.heads:
            raise ValueError(f"classifier_pooling: 'token' needs a width that {self.heads} divides, not {width}.")
        self.token = nn.Parameter(torch.empty(width))
        self.norm = nn.LayerNorm(width)
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))
        self.norm_attended = nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(nn.Linear(width, width // 2), nn.GELU(), nn.Linear(width // 2, width))
        self.norm_out = nn.LayerNorm(width)

    def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The pooled feature (B, D), and the token's weights (B, 1 + N) on itself and the others, mean of the heads."""
        tokens = self.norm(torch.cat([self.token.expand(len(tokens), 1, -1), tokens], dim=1))
        token = tokens[:, :1]
        query, key, value = (
            project(states).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for project, states in ((self.q_proj, token), (self.k_proj, tokens), (self.v_proj, tokens))
        )
        weights = (query @ key.mT * query.shape[-1] ** -0.5).softmax(dim=-1)
        attended = self.out_proj((weights @ value).transpose(1, 2).flatten(2))
        token = self.norm_attended(attended + token)
        return self.norm_out(token + self.feed_forward(token))[:, 0], weights.mean(dim=1)[:, 0]


class ClassificationHead(nn.Module):
    """A linear layer on the global feature, on what a token reads, or on each label's own weighted mean of the tokens.

    "attention": label c's logit is the mean of linear_c(LayerNorm(token)), weighted by the softmax over the tokens of a
    score of its own (label-wise attention, Mullenbach et al., NAACL 2018), so that small findings keep their place.
    "token": `TokenPooling` of the tokens.

    Args:
        config: with `num_labels`, `problem_type`, `classifier_pooling`, `classifier_loss`, `examples_per_class`,
            `class_balance_beta`, `focal_gamma`, `logit_temperature`.
        width: of the features.
    Raises:
        ValueError: `examples_per_class` has not one count per label, or `logit_temperature` not one above 0.
    """

    def __init__(self, config, width: int):
        super().__init__()
        counts = config.examples_per_class
        if counts is not None and len(counts) != config.num_labels:
            raise ValueError(f"examples_per_class: {len(counts)} counts for {config.num_labels} labels; give one each.")
        temperatures = config.logit_temperature
        if temperatures is not None and (len(temperatures) != config.num_labels or min(temperatures) <= 0):
            raise ValueError(
                f"logit_temperature: {temperatures} for {config.num_labels} labels; give each one above 0, or None."
            )
        self.config = config
        self.linear = nn.Linear(width, config.num_labels)
        if config.classifier_pooling == "attention":
            self.norm = nn.LayerNorm(width)
            self.score = nn.Linear(width, config.num_labels)
        if config.classifier_pooling == "token":
            self.pool = TokenPooling(width)

    def forward(
        self,
        features: torch.Tensor,
        tokens: torch.Tensor,
        labels: torch.Tensor | None = None,
        output_attentions: bool | None = None,
        hidden_states: tuple[torch.Tensor, ...] | None = None,
        attentions: tuple[torch.Tensor, ...] | None = None,
    ) -> ImageClassifierOutput:
        """Logits (B, C), divided by the temperatures; with labels the loss, which does without them.

        Args:
            features: (B, D) global features. tokens: (B, N, D), patches last, row by row.
            labels: (B, C) of 0 and 1, NaN left out, or with exclusive classes (B,) indices, negative ones left out.
            output_attentions: with attention pooling the last of `attentions` is (B, C, N), the tokens' weights for
                each label; with a token (B, 1, N), one for all.
            hidden_states, attentions: of the vision encoder, which go along.
        Raises:
            ValueError: labels of another shape; attention asked where there is none.
        """
        if self.config.classifier_pooling == "attention":
            tokens = self.norm(tokens)
            weights = self.score(tokens).softmax(dim=1)
            logits = (weights * self.linear(tokens)).sum(dim=1)
            attentions = (*(attentions or ()), weights.mT) if output_attentions else attentions
        elif self.config.classifier_pooling == "token":
            pooled, weights = self.pool(tokens)
            logits = self.linear(pooled)
            attentions = (*(attentions or ()), weights[:, None, 1:]) if output_attentions else attentions
        else:
            logits = self.linear(features)
        if output_attentions and not attentions:
            raise ValueError(
                "output_attentions: the mean is taken over all tokens alike, and the vision encoder gives no attention "
                "weights; set classifier_pooling='attention', or load an encoder with attention as 'eager'."
            )
        loss = None if labels is None else self.loss(logits, labels)
        if self.config.logit_temperature is not None:
            logits = logits / logits.new_tensor(self.config.logit_temperature)
        return ImageClassifierOutput(loss=loss, logits=logits, hidden_states=hidden_states, attentions=attentions)

    def loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """`config.classifier_loss` of logits (B, C), a mean over the batch."""
        config = self.config
        exclusive = is_exclusive(config, labels, index_ndim=1)
        balanced = config.classifier_loss != "cross_entropy"
        counts, gamma = (config.examples_per_class, config.focal_gamma) if balanced else (None, 0.0)
        labels = labels.to(logits.device)
        if exclusive and config.classifier_loss == "sigmoid_focal":
            return class_balanced_sigmoid_focal_loss(logits, labels, counts, config.class_balance_beta, gamma)
        if exclusive:
            return class_balanced_softmax_focal_loss(logits, labels, counts, config.class_balance_beta, gamma)
        if labels.ndim == 1 and config.num_labels == 1:
            labels = labels[:, None]
        return class_balanced_focal_loss(logits, labels, counts, config.class_balance_beta, gamma)


class SegmentationHead(nn.Module):
    """CoGaze's mask decoder (arXiv 2603.26049, supplement).

    The latents (B, Q, D) are expanded to one token per patch by a 1x1 convolution over the tokens and added to the
    projected patches (B, P, D); LayerNorm; as a map, four times [3x3 convolution, batch norm, ReLU, upsampling x 2];
    one channel per label, resized to the picture.

    Args:
        config: with `grid_size`, `segmentation_channels`, `num_labels`, `problem_type`.
        latents: Q. A family without latents gives its global feature as the only one: each patch then receives that
            feature, scaled by a weight of the patch's own.
        width: D.
    """

    def __init__(self, config, latents: int, width: int):
        super().__init__()
        self.config = config
        rows, columns = config.grid_size
        self.expand = nn.Conv1d(latents, rows * columns, kernel_size=1)
        self.norm = nn.LayerNorm(width)
        widths = [width, *config.segmentation_channels]
        self.blocks = nn.Sequential(*(_block(before, after) for before, after in zip(widths, widths[1:], strict=False)))
        self.classifier = nn.Conv2d(widths[-1], config.num_labels, kernel_size=1)

    def forward(
        self,
        latents: torch.Tensor,
        patches: torch.Tensor,
        size: tuple[int, int],
        labels: torch.Tensor | None = None,
        hidden_states: tuple[torch.Tensor, ...] | None = None,
        attentions: tuple[torch.Tensor, ...] | None = None,
    ) -> SemanticSegmenterOutput:
        """Logits (B, C, H, W) at `size` (H, W), with labels the loss (`segmentation_loss`).

        `hidden_states` and `attentions` are those of the vision encoder, which go along.

        Raises:
            ValueError: another number of patches than the config's; labels of another shape.
        """
        rows, columns = self.config.grid_size
        if patches.shape[1] != rows * columns:
            raise ValueError(
                f"pixel_values: {patches.shape[1]} patches; the decoder is made for {rows} x {columns}, which pictures "
                f"of {' x '.join(map(str, self.config.image_size))} pixels have."
            )
        tokens = self.norm(self.expand(latents) + patches)
        maps = self.blocks(tokens.mT.unflatten(-1, (rows, columns)))
        logits = nn.functional.interpolate(self.classifier(maps), size=size, mode="bilinear", align_corners=True)
        loss = None
        if labels is not None:
            labels = labels.to(logits.device)
            exclusive = is_exclusive(self.config, labels, index_ndim=3)
            loss = segmentation_loss(logits, labels, exclusive, dice=self.config.segmentation_dice)
        return SemanticSegmenterOutput(loss=loss, logits=logits, hidden_states=hidden_states, attentions=attentions)


def _block(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, kernel_size=3, padding=1, bias=False),
        SharedBatchNorm2d(after),
        nn.ReLU(),
        nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
    )


__all__ = ["ClassificationHead", "DownstreamMixin", "SegmentationHead"]
