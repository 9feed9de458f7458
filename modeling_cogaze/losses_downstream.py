"""Losses of the downstream heads: exclusive classes, and masks."""

from typing import Literal

import torch
from torch import nn

from .losses_cogaze import class_balanced_focal_loss, class_balanced_weights, precise


def class_balanced_softmax_focal_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    examples_per_class: list[int] | torch.Tensor | None = None,
    beta: float = 0.9999,
    gamma: float = 0.2,
) -> torch.Tensor:
    """Class-balanced focal loss (Cui et al., CVPR 2019, sec. 4.3) of classes of which exactly one holds.

    Row i costs w_y (1 - p_y)^gamma (-log p_y), with p_y the softmax probability of its class y. gamma = 0 without
    weights is cross-entropy.

    Args:
        logits: (N, C), C at least 2.
        labels: (N,) class indices; a negative one leaves its row out.
        examples_per_class: n_c, C numbers, for `class_balanced_weights`; None weighs all classes alike.
    Returns:
        The mean over all rows that count; zero, with a graph, if none does.
    Raises:
        ValueError: shapes that disagree.
    """
    if labels.shape != logits.shape[:1]:
        raise ValueError(f"labels: shape {tuple(labels.shape)} for logits of shape {tuple(logits.shape)}.")
    counted = labels >= 0
    labels = labels.clamp(min=0)
    log_probabilities = logits.float().log_softmax(dim=-1)
    own = nn.functional.one_hot(labels, logits.shape[-1]).bool()
    log_own = log_probabilities.gather(1, labels[:, None])[:, 0]
    # log(1 - p) as the sum of the others: stays exact, with a finite slope, where p is nearly 1.
    log_others = log_probabilities.masked_fill(own, -torch.inf).logsumexp(dim=-1)
    cost = -log_own * (gamma * log_others).exp()
    if examples_per_class is not None:
        cost = cost * class_balanced_weights(examples_per_class, beta).to(cost.device)[labels]
    return (cost * counted).sum() / counted.sum().clamp(min=1)


def class_balanced_sigmoid_focal_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    examples_per_class: list[int] | torch.Tensor | None = None,
    beta: float = 0.9999,
    gamma: float = 0.2,
) -> torch.Tensor:
    """Class-balanced focal loss of exclusive classes, each a sigmoid of its own (CoGaze's released code).

    Row i costs w_y times the mean over the classes of (1 - p)^gamma (-log p), with p the probability of each entry of
    its one-hot label. Arguments, result and errors as for `class_balanced_softmax_focal_loss`.
    """
    if labels.shape != logits.shape[:1]:
        raise ValueError(f"labels: shape {tuple(labels.shape)} for logits of shape {tuple(logits.shape)}.")
    counted = labels >= 0
    labels = labels.clamp(min=0)
    margin = precise(logits) * (2 * nn.functional.one_hot(labels, logits.shape[-1]) - 1)
    log_sigmoid = nn.functional.logsigmoid
    cost = (-log_sigmoid(margin) * (gamma * log_sigmoid(-margin)).exp()).mean(dim=-1)
    if examples_per_class is not None:
        cost = cost * class_balanced_weights(examples_per_class, beta).to(cost.device)[labels]
    return (cost * counted).sum() / counted.sum().clamp(min=1)


def soft_dice(
    probabilities: torch.Tensor, targets: torch.Tensor, smooth: float = 1.0, per_image: bool = False
) -> torch.Tensor:
    """Each class's soft Dice over all pixels of the batch, (2 sum p y + smooth) / (sum p + sum y + smooth).

    Args:
        probabilities, targets: (B, C, H, W); a target that is NaN leaves its pixel out.
        per_image: the mean of each image's own; one without any target has the mean of 1 - p (CoGaze's released code,
            for SIIM).
    Returns:
        (C,) within 0 and 1; 1 where there are no pixels.
    """
    counted = ~targets.isnan()
    probabilities = torch.where(counted, probabilities.float(), 0)
    targets = torch.where(counted, targets.float(), 0)
    pixels = (2, 3) if per_image else (0, 2, 3)
    overlap = (probabilities * targets).sum(dim=pixels)
    mass, wanted = probabilities.sum(dim=pixels), targets.sum(dim=pixels)
    dice = (2 * overlap + smooth) / (mass + wanted + smooth)
    if not per_image:
        return dice
    empty = 1 - mass / counted.sum(dim=pixels).clamp(min=1)
    return torch.where(wanted == 0, empty, dice).sum(dim=0) / max(len(dice), 1) + (len(dice) == 0)


def segmentation_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    exclusive: bool = False,
    focal_weight: float = 10.0,
    gamma: float = 2.0,
    smooth: float = 1.0,
    dice: Literal["batch", "image"] = "batch",
) -> torch.Tensor:
    """10 x focal (gamma 2) - log(soft Dice), as CoGaze is fine-tuned for masks (arXiv 2603.26049).

    Soft Dice is that of the batch as a whole, so that an image without a lesion costs nothing by itself; several
    classes count alike.

    Args:
        logits: (B, C, H, W).
        labels: independent classes: (B, C, H, W) of 0 and 1, where C is 1 also (B, H, W); exclusive ones: (B, H, W)
            class indices, 0 the background, which has no Dice. NaN or a negative number leaves a pixel out.
        exclusive: softmax over the classes; otherwise a sigmoid each.
        dice: "image" takes the mean of each image's own (`soft_dice`).
    Returns:
        A scalar; zero, with a graph, for an empty batch.
    Raises:
        ValueError: labels of another shape or size than the logits.
    """
    wanted = (logits.shape[0], *logits.shape[2:]) if exclusive else logits.shape
    if not exclusive and logits.shape[1] == 1 and labels.ndim == 3:
        labels = labels[:, None]
    if labels.shape != wanted:
        raise ValueError(f"labels: shape {tuple(labels.shape)}; masks for these logits have shape {tuple(wanted)}.")
    logits = logits.float()
    if exclusive:
        focal = class_balanced_softmax_focal_loss(logits.movedim(1, -1).flatten(0, -2), labels.flatten(), gamma=gamma)
        one_hot = nn.functional.one_hot(labels.clamp(min=0), logits.shape[1]).movedim(-1, 1).float()
        targets = one_hot.masked_fill((labels < 0)[:, None], torch.nan)[:, 1:]
        probabilities = logits.softmax(dim=1)[:, 1:]
    else:
        targets = labels.float()
        targets = targets.masked_fill(targets < 0, torch.nan)
        focal = class_balanced_focal_loss(logits, targets, None, gamma=gamma)
        probabilities = logits.sigmoid()
    return focal_weight * focal - soft_dice(probabilities, targets, smooth, dice == "image").log().mean()


__all__ = [
    "class_balanced_sigmoid_focal_loss",
    "class_balanced_softmax_focal_loss",
    "segmentation_loss",
    "soft_dice",
]
