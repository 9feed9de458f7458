"""Training losses of EGMA (arXiv 2403.12416), L_EGF + L_EGM.

Half precision is lifted to float32. Sentences are padded, (B, S, ...), beside a mask (B, S): a
padded one takes part in no maximum, mean or loss. The defaults are the paper's; where the released code differs, an
argument says so.
"""

from typing import Literal

import torch
from torch import nn

from .losses_cogaze import NON_ZERO, non_zero, precise


def pad_sentences(
    rows: torch.Tensor, image_index: torch.Tensor, keep: torch.Tensor, images: int, width: int
) -> torch.Tensor:
    """Ragged rows as one padded tensor, each image's rows in their order.

    Args:
        rows: (N, ...). image_index: (N,) which of the `images` a row belongs to. keep: (N,) bool, rows that take part.
        width: slots per image: one at least, and the largest number of kept rows of an image.
    Returns:
        (images, width, ...), zero where there is no row.
    """
    slot = _place_within_image(image_index, keep, images)
    # What is left out goes to one spare place behind the others, so that shapes do not depend on the data.
    place = torch.where(keep, image_index * width + slot, images * width)
    padded = rows.new_zeros(images * width + 1, *rows.shape[1:]).index_copy(0, place, rows)
    return padded[:-1].unflatten(0, (images, width))


def sentence_counts(image_index: torch.Tensor, keep: torch.Tensor, images: int) -> torch.Tensor:
    """(images,) number of kept rows of each image."""
    return torch.zeros(images, dtype=torch.int64, device=image_index.device).index_add(0, image_index, keep.long())


def _place_within_image(image_index: torch.Tensor, keep: torch.Tensor, images: int) -> torch.Tensor:
    """(N,) how many kept rows of the same image stand before each row."""
    members = (image_index[:, None] == torch.arange(images, device=image_index.device)).long() * keep[:, None]
    before = members.cumsum(0) - members
    return before.gather(1, image_index[:, None])[:, 0]


def fill_empty_targets(targets: torch.Tensor, image_index: torch.Tensor, is_full: torch.Tensor) -> torch.Tensor:
    """Sentences that nobody looked anywhere for take the target of their reading's full transcript.

    Args:
        targets: (N, P) seconds of looking; each reading's full transcript stands behind its sentences.
        image_index, is_full: (N,).
    Returns:
        (N, P); rows stay empty where the full transcript's is, or where there is none.
    """
    count = len(targets)
    if count == 0:
        return targets
    position = torch.arange(count, device=targets.device)
    following = torch.where(is_full, position, count - 1).flip(0).cummin(0).values.flip(0)
    own = is_full[following] & (image_index[following] == image_index)
    empty = targets.amax(dim=1) <= 0
    return torch.where((empty & own)[:, None], targets[following], targets)


def gaze_strengths(targets: torch.Tensor, cut: float = NON_ZERO) -> torch.Tensor:
    """GS: each row of `targets` (N, P) as a share of its maximum, like the paper's 8-bit heatmaps; dark is zero.

    cut: up to this share of its row's maximum a target is dark.
    """
    targets = non_zero(targets, cut)
    return targets / targets.amax(dim=-1, keepdim=True).clamp(min=torch.finfo(targets.dtype).tiny)


def multilabel_categorical_cross_entropy(
    scores: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """MLCE, eq. 5: log(1 + sum over negatives of e^s) + log(1 + sum over positives of e^-s), along the last dimension.

    Args:
        scores: (..., C). labels: (..., C) bool, or numbers of which those above zero are positive.
        mask: broadcast to (..., C), bool; entries where it is False take no part. None: all do.
    Returns:
        (...), zero where no entry takes part.
    """
    scores = precise(scores)
    positive = labels > 0
    negative = ~positive
    if mask is not None:
        positive, negative = positive & mask, negative & mask
    zero = scores.new_zeros(*scores.shape[:-1], 1)

    def log_one_plus_sum(values, members):
        return torch.cat([zero, values.masked_fill(~members, -torch.inf)], dim=-1).logsumexp(dim=-1)

    return log_one_plus_sum(scores, negative) + log_one_plus_sum(-scores, positive)


def gaze_label_loss(
    scores: torch.Tensor,
    strengths: torch.Tensor,
    sentence_mask: torch.Tensor,
    sentence_weight: float = 0.5,
    keep_empty_sentences: bool = False,
) -> torch.Tensor:
    """The first term of L_EGF (eq. 6): MLCE of sentences over patches and of patches over sentences.

    Labels are GL = [GS > 0]. Mean over an image's sentences (patches), then over the images that have gaze; a sentence
    without any counts neither as a row nor as a label of the patches.

    Args:
        scores: (B, S, P) similarities by temperature. strengths: (B, S, P) GS. sentence_mask: (B, S).
        sentence_weight: weight of sentences over patches, the rest is that of patches over sentences. 0.5 is the
            paper's, 0.8 the released code's.
        keep_empty_sentences: sentences without gaze count as ones whose patches are all negative, in images where
            others have some (released code).
    Returns:
        A scalar; zero, with a graph, where no image has gaze.
    """
    looked = sentence_mask & (strengths > 0).any(dim=-1)
    if keep_empty_sentences:
        looked = sentence_mask & looked.any(dim=-1, keepdim=True)
    over_patches = _masked_mean(multilabel_categorical_cross_entropy(scores, strengths), looked)
    over_sentences = multilabel_categorical_cross_entropy(scores.mT, strengths.mT, looked[:, None]).mean(dim=-1)
    per_image = sentence_weight * over_patches + (1 - sentence_weight) * over_sentences
    return _masked_mean(per_image, looked.any(dim=-1))


def fine_grained_similarity(
    patch_embeds: torch.Tensor,
    sentence_embeds: torch.Tensor,
    sentence_mask: torch.Tensor,
    zero_padding: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """z_I and z_T, as in FILIP (Yao et al., ICLR 2022), of every image and text: the mean over patches of the best
    sentence, and the mean over sentences of the best patch.

    Args:
        patch_embeds: (B, P, D), sentence_embeds: (T, S, D), of length one. sentence_mask: (T, S).
        zero_padding: a padded sentence enters the maximum as a similarity of zero (released code).
    Returns:
        z_I (B, T) and z_T (B, T), zero for a text without sentences.
    """
    mask = sentence_mask[None, :, :, None]
    scores = torch.einsum("bpd,tsd->btsp", precise(patch_embeds), precise(sentence_embeds))
    best_sentence = scores.masked_fill(~mask, 0 if zero_padding else -torch.inf).amax(dim=2).mean(dim=-1)
    image = best_sentence.masked_fill(~sentence_mask.any(dim=1), 0)
    return image, _masked_mean(scores.amax(dim=3), sentence_mask[None])


def fine_grained_contrastive_loss(
    patch_embeds: torch.Tensor,
    sentence_embeds: torch.Tensor,
    sentence_mask: torch.Tensor,
    scale: torch.Tensor | float,
    study_ids: torch.Tensor | None = None,
    softmax_over: Literal["both", "texts"] = "both",
    zero_padding: bool = False,
) -> torch.Tensor:
    """The second term of L_EGF (eq. 6): half the sum of two contrasts, of images over texts by z_I and of texts over
    images by z_T.

    Args:
        patch_embeds: (B, P, D), sentence_embeds: (B, S, D), of length one. sentence_mask: (B, S). An image without
            sentences is left out of the batch.
        scale: inverse temperature.
        study_ids: (B,) texts of the same study are positives too; None: the own text alone (paper).
        softmax_over: "texts" normalises both terms over the texts (released code).
        zero_padding: as in `fine_grained_similarity`.
    Returns:
        A scalar; zero, with a graph, where no image has sentences.
    """
    valid = sentence_mask.any(dim=1)
    image, text = fine_grained_similarity(patch_embeds, sentence_embeds, sentence_mask, zero_padding)
    if study_ids is None:
        study_ids = torch.arange(len(valid), device=valid.device)
    positives = (study_ids[:, None] == study_ids) & valid[:, None] & valid
    targets = positives / positives.sum(dim=1, keepdim=True).clamp(min=1)
    rows = (image, text if softmax_over == "texts" else text.mT)
    # Not -inf: an image that is left out has no column at all, and its row must stay free of NaN.
    hidden = torch.finfo(image.dtype).min
    losses = [
        -(targets * (scale * similarity).masked_fill(~valid, hidden).log_softmax(dim=1)).sum(dim=1)
        for similarity in rows
    ]
    return _masked_mean((losses[0] + losses[1]) / 2, valid)


def egf_loss(
    patch_embeds: torch.Tensor,
    sentence_embeds: torch.Tensor,
    sentence_mask: torch.Tensor,
    strengths: torch.Tensor,
    scale: torch.Tensor | float,
    study_ids: torch.Tensor | None = None,
    sentence_weight: float = 0.5,
    softmax_over: Literal["both", "texts"] = "both",
    keep_empty_sentences: bool = False,
    zero_padding: bool = False,
) -> torch.Tensor:
    """L_EGF (eq. 6): `gaze_label_loss` of the similarities by temperature, plus `fine_grained_contrastive_loss`.

    Args:
        patch_embeds: (B, P, D), sentence_embeds: (B, S, D), of length one. sentence_mask: (B, S).
        strengths: (B, S, P) GS, zero without gaze. scale: inverse temperature. The rest as in the two terms.
    """
    scores = scale * (precise(sentence_embeds) @ precise(patch_embeds).mT)
    labels = gaze_label_loss(scores, strengths, sentence_mask, sentence_weight, keep_empty_sentences)
    return labels + fine_grained_contrastive_loss(
        patch_embeds, sentence_embeds, sentence_mask, scale, study_ids, softmax_over, zero_padding
    )


def mapping_weights(
    scores: torch.Tensor,
    strengths: torch.Tensor,
    mask: torch.Tensor | None = None,
    threshold: float = 1 / 7,
    binary: bool = True,
    blend: Literal["sum", "mean"] = "sum",
) -> torch.Tensor:
    """W = norm(w(x) + GS), eq. 7, along the last dimension.

    w scales a row to [0, 1] by its least and greatest entry and drops what lies below `threshold`; the rest becomes 1.

    Args:
        scores: (B, R, C). strengths: (B, R, C) GS, all zero where there is no gaze.
        mask: broadcast to (B, R, C), bool; entries where it is False get no weight.
        threshold: 1/7, to 3/7 in some variants of the released code.
        binary: False keeps the entries that stay, and adds 0.01 to all (released code).
        blend: "mean" is the mean of norm(w) and GS in images with gaze, whose rows then have any sum, and norm(w) in
            others (released code).
    Returns:
        (B, R, C) rows that sum to 1 ("sum"); zero where no entry takes part.
    """
    mask = torch.ones_like(scores, dtype=torch.bool) if mask is None else mask.expand_as(scores)
    least = scores.masked_fill(~mask, torch.inf).amin(dim=-1, keepdim=True)
    span = scores.masked_fill(~mask, -torch.inf).amax(dim=-1, keepdim=True) - least
    flat = ~(span > 0)
    # A row of equal entries, or of none, has no least one to drop.
    share = torch.where(flat, 1, (scores - torch.where(flat, 0, least)) / torch.where(flat, 1, span))
    kept = share >= threshold
    weights = kept.to(scores.dtype) if binary else torch.where(kept, share, 0) + 0.01
    weights = torch.where(mask, weights + strengths if blend == "sum" else weights, 0)
    weights = weights / weights.sum(dim=-1, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)
    if blend == "sum":
        return weights
    has_gaze = (strengths > 0).flatten(1).any(dim=1)[:, None, None]
    return torch.where(has_gaze, (weights + strengths) / 2, weights)


def egm_loss(
    patch_embeds: torch.Tensor,
    sentence_embeds: torch.Tensor,
    sentence_mask: torch.Tensor,
    strengths: torch.Tensor,
    scale: torch.Tensor | float,
    sentence_weight: float = 0.5,
    threshold: float = 1 / 7,
    binary: bool = True,
    blend: Literal["sum", "mean"] = "sum",
    normalize: bool = True,
    softmax_over: Literal["targets", "both"] = "targets",
    match_single: bool = False,
) -> torch.Tensor:
    """L_EGM (eq. 7-10): each modality's features rebuilt from the other's, and told apart inside the image.

    Cross_P = W^{I2T} S is contrasted with the patches P, Cross_S = W^{T2I} P with the sentences S: -log softmax of
    scale * cos(mapped feature i, target j) at j = i. Mean over patches (sentences), then over images. An image with
    fewer than two sentences has nothing to tell apart and is left out.

    Args:
        patch_embeds: (B, P, D), sentence_embeds: (B, S, D), of length one. sentence_mask: (B, S).
        strengths: (B, S, P) GS, zero without gaze. scale: inverse temperature.
        sentence_weight: weight of Cross_S; Cross_P has the rest. 0.5 is the paper's, 0.3 the released code's.
        threshold, binary, blend: as in `mapping_weights`.
        normalize: mapped features are brought to length one; False leaves them as they are (released code).
        softmax_over: "targets" (paper), or "both": the mean with the softmax over the mapped features (released code).
        match_single: an image with one sentence costs `sentence_weight` times the squared distance of that sentence
            from the mapped one (released code), in place of being left out.
    Returns:
        A scalar; zero, with a graph, where no image has two sentences.
    """
    patches, sentences = precise(patch_embeds), precise(sentence_embeds)
    scores = sentences @ patches.mT
    columns = sentence_mask[:, None]
    mapped_sentences = mapping_weights(scores, strengths, None, threshold, binary, blend) @ patches
    mapped_patches = mapping_weights(scores.mT, strengths.mT, columns, threshold, binary, blend) @ sentences
    hidden = torch.finfo(scores.dtype).min

    def contrast(mapped, targets, kept=None):
        mapped = nn.functional.normalize(mapped, dim=-1) if normalize else mapped
        logits = mapped @ targets.mT * scale
        sides = [logits] if softmax_over == "targets" else [logits, logits.mT]
        sides = sides if kept is None else [side.masked_fill(~kept, hidden) for side in sides]
        matches = [side.log_softmax(dim=-1).diagonal(dim1=1, dim2=2) for side in sides]
        return -matches[0] if len(matches) == 1 else -(matches[0] + matches[1]) / 2

    of_sentences = _masked_mean(contrast(mapped_sentences, sentences, columns), sentence_mask)
    of_patches = contrast(mapped_patches, patches).mean(dim=-1)
    per_image = sentence_weight * of_sentences + (1 - sentence_weight) * of_patches
    counts = sentence_mask.sum(dim=1)
    if match_single:
        distance = (mapped_sentences - sentences).square().sum(dim=-1)
        per_image = torch.where(counts == 1, sentence_weight * (distance * sentence_mask).sum(dim=1), per_image)
    return _masked_mean(per_image, counts >= (1 if match_single else 2))


def _masked_mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean along the last dimension of the entries that `mask` (broadcast) keeps; zero where it keeps none."""
    return torch.where(mask, values, 0).sum(dim=-1) / mask.sum(dim=-1).clamp(min=1)


__all__ = [
    "egf_loss",
    "egm_loss",
    "fill_empty_targets",
    "fine_grained_contrastive_loss",
    "fine_grained_similarity",
    "gaze_label_loss",
    "gaze_strengths",
    "mapping_weights",
    "multilabel_categorical_cross_entropy",
    "pad_sentences",
    "sentence_counts",
]
