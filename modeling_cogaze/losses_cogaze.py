"""Training losses of CoGaze (arXiv 2603.26049), L = L_con + L_cls + L_G.

Half precision is lifted to float32. The gaze loss takes ragged sentences as rows with the index of their image. The
defaults are the paper's; where the released code differs, an argument says so.
"""

import math
from collections.abc import Callable

import torch
from torch import nn

# A Gaussian is nowhere zero: "non-zero" is what an 8-bit heatmap would keep, relative to the row's maximum.
NON_ZERO = 0.5 / 255


def hybrid_positive_contrastive_loss(
    image_embeds: torch.Tensor,
    text_embeds: torch.Tensor,
    study_ids: torch.Tensor | None,
    logit_scale: torch.Tensor | float,
    present: torch.Tensor | None = None,
) -> torch.Tensor:
    """L_con: symmetric cross-entropy in which all pairs of one study are positives.

    Targets p_ij = 1{study_i = study_j} / count_i; predictions softmax_j(cos(v_i, t_j) exp(logit_scale)), and the same
    for texts over images; the mean of both directions.

    Args:
        image_embeds, text_embeds: (B, D), of any length.
        study_ids: (B,) equal numbers for the same study; None makes each row a study of its own.
        logit_scale: log of the inverse temperature.
        present: (B,) bool, rows that have a text; the others take no part, neither as images nor as texts. None: all.
    Returns:
        A scalar; zero, with a graph, for an empty batch.
    """
    # `shape[0]`, not `len`, which would fix the size of the batch in an exported model.
    images, texts = image_embeds.shape[0], text_embeds.shape[0]
    if images != texts:
        raise ValueError(f"text_embeds: {texts} rows for {images} images; the loss pairs them row by row.")
    with _full_precision(image_embeds):
        cosines = unit(precise(image_embeds)) @ unit(precise(text_embeds)).T
    logits = cosines * precise(torch.as_tensor(logit_scale)).exp()
    if images == 0:
        return logits.sum()
    if study_ids is None:
        study_ids = torch.arange(images, device=logits.device)
    positives = (study_ids[:, None] == study_ids[None, :]).to(logits)
    cross_entropy = nn.functional.cross_entropy
    if present is None:
        targets = positives / positives.sum(dim=1, keepdim=True)
        return (cross_entropy(logits, targets) + cross_entropy(logits.T, targets)) / 2
    both = present[:, None] & present[None, :]
    # Far below every logit, yet finite: zero times minus infinity is no number.
    logits = logits.masked_fill(~both, -1e9)
    positives = positives * both
    targets = positives / positives.sum(dim=1, keepdim=True).clamp(min=1)
    each = sum(cross_entropy(own, targets, reduction="none") for own in (logits, logits.T)) / 2
    return (each * present).sum() / present.sum().clamp(min=1)


def class_balanced_focal_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    positives_per_class: list[int] | torch.Tensor | None,
    beta: float = 0.9999,
    gamma: float = 0.2,
    epsilon: float | None = None,
) -> torch.Tensor:
    """L_V or L_T: class-balanced focal loss (Cui et al., CVPR 2019) of independent binary labels.

    Entry (i, c) costs w_c (1 - p)^gamma (-log p), with p the probability of its label and w_c the class's weight.
    gamma = 0 is class-balanced binary cross-entropy.

    Args:
        logits: (B, C).
        labels: (B, C) of 0 and 1; NaN leaves an entry out.
        positives_per_class: n_c, C numbers, for `class_balanced_weights`; None weighs all classes alike.
        epsilon: as in `class_balanced_weights`.
    Returns:
        The mean over all entries that count; zero, with a graph, if none does.
    """
    if logits.shape != labels.shape:
        raise ValueError(f"labels: shape {tuple(labels.shape)} for logits of shape {tuple(logits.shape)}.")
    logits, labels = precise(logits), precise(labels)
    counted = ~labels.isnan()
    margin = logits * torch.where(counted, 2 * labels - 1, 0)
    # log(1 - p) instead of (1 - p)^gamma, whose slope at p = 1 is infinite for gamma < 1.
    cost = -nn.functional.logsigmoid(margin) * (gamma * nn.functional.logsigmoid(-margin)).exp()
    if positives_per_class is not None:
        cost = cost * class_balanced_weights(positives_per_class, beta, epsilon).to(logits.device)
    return (cost * counted).sum() / counted.sum().clamp(min=1)


def class_balanced_weights(
    examples_per_class: list[int] | torch.Tensor, beta: float = 0.9999, epsilon: float | None = None
) -> torch.Tensor:
    """(C,) w_c proportional to (1 - beta) / (1 - beta^n_c), scaled to sum to C (Cui et al., CVPR 2019, eq. 4).

    Args:
        epsilon: added to 1 - beta^n_c. None: a class without examples has weight zero, since as n_c = 1 it would
            outweigh all others together; 1e-8 (released code): it has nearly all of the weight.
    """
    # In float64: 1 - beta^n of few examples cancels to four digits in float32.
    counts = torch.as_tensor(examples_per_class, dtype=torch.float64)
    if epsilon is None:
        weights = torch.where(counts > 0, (1 - beta) / (1 - beta ** counts.clamp(min=1)), 0).float()
    else:
        weights = ((1 - beta) / (1 - beta**counts + epsilon)).float()
    return weights / weights.sum().clamp(min=torch.finfo(weights.dtype).tiny) * len(weights)


def gaze_similarity(
    patch_features: torch.Tensor, text_features: torch.Tensor, image_index: torch.Tensor
) -> torch.Tensor:
    """cos(t, x): each sentence against the patches of its own image.

    Args:
        patch_features: (B, P, D). text_features: (N, D). image_index: (N,) rows of `patch_features`.
    Returns:
        (N, P) float32 cosines.
    """
    text_features = unit(precise(text_features))
    # Products are divided by the patches' lengths, which spares a normalised copy of all patches.
    if torch.compiler.is_compiling():
        # Static shapes; the compiler fuses the gather into the sum.
        patches = precise(patch_features)[image_index]
        products = (patches * text_features[:, None]).sum(dim=-1)
        return products / patches.norm(dim=-1).clamp(min=1e-12)
    # One matrix product per image that has sentences, without a copy of its patches per sentence.
    images, slot, counts = image_index.unique(return_inverse=True, return_counts=True)
    patches = precise(patch_features.index_select(0, images))
    order = slot.argsort(stable=True)
    place = torch.empty_like(slot)
    place[order] = torch.arange(len(slot), device=slot.device) - (counts.cumsum(0) - counts)[slot[order]]
    width = int(counts.max()) if len(counts) else 0
    texts = text_features.new_zeros(len(images), width, text_features.shape[-1])
    texts = texts.index_put((slot, place), text_features)
    with _full_precision(texts):
        products = texts @ patches.transpose(1, 2)
    return (products / patches.norm(dim=-1).clamp(min=1e-12)[:, None])[slot, place]


def non_zero(targets: torch.Tensor, cut: float = NON_ZERO) -> torch.Tensor:
    """`targets` (N, P) with entries up to `cut` of their row's maximum set to zero, float32."""
    targets = precise(targets)
    if targets.shape[1] == 0:
        return targets
    return torch.where(targets > cut * targets.amax(dim=1, keepdim=True), targets, 0)


def sharpen(targets: torch.Tensor, top_fraction: float, cut: float = NON_ZERO) -> torch.Tensor:
    """Each row's `top_fraction` largest non-zero entries (at least one), as a distribution.

    Args:
        targets: (N, P) seconds of looking. Non-zero means above `cut` (0.5/255) of the row's maximum.
    Returns:
        (N, P) rows that sum to 1; all zero where nothing was looked at.
    """
    values, order = non_zero(targets, cut).sort(dim=1, descending=True, stable=True)
    places = torch.arange(values.shape[1], device=values.device)
    values = values * (places < _number_kept((values > 0).sum(dim=1, keepdim=True), top_fraction))
    return _distribution(torch.zeros_like(values).scatter(1, order, values), lambda x: x.sum(dim=1, keepdim=True))


def images_with_gaze(
    targets: torch.Tensor, image_index: torch.Tensor, count_empty_images: bool = False
) -> torch.Tensor:
    """How many images have a row with gaze, for `soft_gaze_loss`'s `num_images` summed or averaged over processes.

    count_empty_images: how many have a row at all.
    """
    counted = (targets > 0).any(dim=1) | count_empty_images
    images = torch.where(counted, image_index, -1).sort().values
    return (images.diff(prepend=images.new_full((1,), -1)) != 0).sum()


def soft_gaze_loss(
    similarity: torch.Tensor,
    targets: torch.Tensor,
    image_index: torch.Tensor,
    top_fraction: float = 0.25,
    weight: float = 0.8,
    divergence: str = "js",
    patch_rows: str = "transpose",
    num_images: torch.Tensor | None = None,
    cut: float = NON_ZERO,
    keep_empty_rows: bool = False,
    count_empty_images: bool = False,
) -> torch.Tensor:
    """L_G: soft gaze guidance, weight JS(G || softmax S) + (1 - weight) JS(G^T || softmax S^T).

    G holds the sharpened gaze maps of an image's sentences (`sharpen`), S their similarities to its patches. The first
    softmax is over patches, the second over the sentences of the same image. JS is the Jensen-Shannon divergence
    in nats. Rows without gaze take no part, not in the second softmax either. Means are over the rows (patches) of an
    image with any mass, then over the images with gaze.

    Args:
        similarity: (N, P) scaled similarities of N sentences to the patches of their own image.
        targets: (N, P) seconds of looking.
        image_index: (N,) which rows belong to one image; in any order.
        top_fraction: rho.
        weight: lambda, of the transcript-to-patch term.
        divergence: "js"; the ablations "mse" (squared differences, summed over the entries of a row), "iou" (one minus
            the soft intersection over union), or "mask" (binary cross-entropy of sigmoid S against "was looked at";
            both directions are the same).
        patch_rows: what G^T is: "transpose", each patch's column of G over its sum, or "resharpen" (released code),
            the top fraction again among the sentences that looked at the patch, from the maps before sharpening.
        num_images: what the sum over images is divided by, if not their number here (several processes).
        cut: up to this share of its row's maximum a target counts as zero.
        keep_empty_rows: rows without gaze stay in the second softmax (released code).
        count_empty_images: images whose rows are all without gaze count as zero in the mean (released code).
    Returns:
        A scalar; zero, with a graph, if no row has gaze.
    Raises:
        ValueError: shapes that disagree, or an unknown `divergence` or `patch_rows`.
    """
    if similarity.shape != targets.shape or image_index.shape != targets.shape[:1]:
        raise ValueError(
            f"targets: shapes {tuple(similarity.shape)} of similarity, {tuple(targets.shape)} of targets and "
            f"{tuple(image_index.shape)} of image_index disagree; they must be (N, P), (N, P) and (N,)."
        )
    if divergence not in (*DIVERGENCES, "mask"):
        raise ValueError(f"divergence: {divergence!r} is none of {(*DIVERGENCES, 'mask')}.")
    if patch_rows not in ("transpose", "resharpen"):
        raise ValueError(f"patch_rows: {patch_rows!r} is neither 'transpose' nor 'resharpen'.")
    similarity = precise(similarity)
    if similarity.numel() == 0:
        return similarity.sum()

    raw = non_zero(targets, cut).to(similarity)
    looked_at = (raw > 0).any(dim=1)
    slot = _slots(image_index, looked_at | keep_empty_rows)
    if num_images is None:
        num_images = images_with_gaze(raw, image_index, count_empty_images)
    # A mean over processes may lie below one.
    num_images = num_images.to(similarity).clamp(min=1e-6)

    def over_image(values: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(values).index_add(0, slot, values)

    row_weight = looked_at / over_image(looked_at.to(similarity))[slot].clamp(min=1) / num_images
    if divergence == "mask":
        cross_entropy = nn.functional.binary_cross_entropy_with_logits(
            similarity, (raw > 0).to(similarity), reduction="none"
        )
        return (row_weight * cross_entropy.mean(dim=1)).sum()
    distance = DIVERGENCES[divergence]

    # Transcript to patch.
    maps = sharpen(targets, top_fraction, cut).to(similarity)
    to_patches = distance(maps, similarity.log_softmax(dim=1), lambda x: x.sum(dim=1))

    # Patch to transcript: the rows of G^T are the columns of an image's block of G.
    rows = maps if patch_rows == "transpose" else _top_of_image(raw, slot, over_image, top_fraction)
    # One row of each image stands for its patches; all others have gathered nothing.
    has_mass = over_image(rows) > 0
    rows = _distribution(rows, lambda x: over_image(x)[slot])
    to_sentences = distance(rows, _log_softmax_of_image(similarity, slot, over_image), over_image)
    patch_weight = has_mass / has_mass.sum(dim=1, keepdim=True).clamp(min=1) / num_images

    return weight * (row_weight * to_patches).sum() + (1 - weight) * (patch_weight * to_sentences).sum()


Total = Callable[[torch.Tensor], torch.Tensor]


def _jensen_shannon(target: torch.Tensor, log_prediction: torch.Tensor, total: Total) -> torch.Tensor:
    log_mixture = torch.logaddexp(target.log(), log_prediction) - math.log(2)
    towards_target = torch.xlogy(target, target) - target * log_mixture
    towards_prediction = log_prediction.exp() * (log_prediction - log_mixture)
    return total(towards_target + towards_prediction) / 2


def _squared_error(target: torch.Tensor, log_prediction: torch.Tensor, total: Total) -> torch.Tensor:
    return total((target - log_prediction.exp()).square())


def _soft_iou(target: torch.Tensor, log_prediction: torch.Tensor, total: Total) -> torch.Tensor:
    prediction = log_prediction.exp()
    union = total(torch.maximum(target, prediction)).clamp(min=1e-6)
    return 1 - total(torch.minimum(target, prediction)) / union


DIVERGENCES = {"js": _jensen_shannon, "mse": _squared_error, "iou": _soft_iou}


def unit(features: torch.Tensor) -> torch.Tensor:
    """Features (..., D) brought to length one."""
    return nn.functional.normalize(features, dim=-1)


def precise(values: torch.Tensor) -> torch.Tensor:
    """float32, or float64 where it is that already."""
    return values if values.dtype == torch.float64 else values.float()


def _full_precision(tensor: torch.Tensor) -> torch.autocast:
    return torch.autocast(tensor.device.type, enabled=False)


def _slots(image_index: torch.Tensor, members: torch.Tensor) -> torch.Tensor:
    """(N,) for each row the first member of its image; a row that is no member stands alone."""
    together = (image_index[:, None] == image_index[None, :]) & members[:, None] & members[None, :]
    together |= torch.eye(len(image_index), dtype=torch.bool, device=image_index.device)
    if len(image_index) == 0:
        return image_index
    return together.int().argmax(dim=1)


def _number_kept(non_zeros: torch.Tensor, top_fraction: float) -> torch.Tensor:
    # The margin keeps 0.29 x 100 at 29.
    return (non_zeros * top_fraction + 1e-4).floor().clamp(min=1)


def _distribution(values: torch.Tensor, total: Total) -> torch.Tensor:
    return values / total(values).clamp(min=torch.finfo(values.dtype).tiny)


def _log_softmax_of_image(similarity: torch.Tensor, slot: torch.Tensor, over_image: Total) -> torch.Tensor:
    """Log-softmax down each column, among the rows of one image."""
    index = slot[:, None].expand_as(similarity)
    highest = torch.full_like(similarity, -torch.inf).scatter_reduce(0, index, similarity.detach(), "amax")[slot]
    shifted = similarity - highest
    return shifted - over_image(shifted.exp())[slot].log()


def _top_of_image(values: torch.Tensor, slot: torch.Tensor, over_image: Total, top_fraction: float) -> torch.Tensor:
    """`values` (N, P) with only the largest `top_fraction` of each column's non-zeros within an image kept."""
    # Sorted by value, then stably by image: the place within the image's run is the rank.
    by_value = values.argsort(dim=0, descending=True, stable=True)
    order = by_value.gather(0, slot[by_value].argsort(dim=0, stable=True))
    sizes = torch.zeros_like(slot).index_add(0, slot, torch.ones_like(slot))
    places = torch.arange(len(slot), device=slot.device)[:, None].expand_as(values)
    place = torch.empty_like(order).scatter(0, order, places)
    rank = place - (sizes.cumsum(0) - sizes)[slot][:, None]
    return values * (rank < _number_kept(over_image((values > 0).to(values))[slot], top_fraction))


__all__ = [
    "class_balanced_focal_loss",
    "class_balanced_weights",
    "gaze_similarity",
    "hybrid_positive_contrastive_loss",
    "images_with_gaze",
    "precise",
    "sharpen",
    "soft_gaze_loss",
    "unit",
]
