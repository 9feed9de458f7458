"""The released losses in plain loops, image by image and row by row, written from what the authors' code computes.

Nothing here knows this project's losses. Features are those of `tests.training.released`.
"""

import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, normalize, softmax


def _js(p, q):
    m = (p + q) / 2
    terms = [torch.xlogy(a, a) - a * m.log() for a in (p, q)]
    return (terms[0].sum() + terms[1].sum()) / 2


def _top(row, fraction):
    """The largest `fraction` of a row's non-zeros (at least one), as a distribution."""
    count = max(1, int(float((row > 0).sum()) * fraction))
    kept = torch.zeros_like(row)
    for place in row.argsort(descending=True)[:count]:
        kept[place] = row[place]
    return kept / kept.sum()


def cogaze_gaze(similarity, targets, image_index, fraction=0.25, weight=0.2):
    """L_G of sentences (N, P): each image's, then the mean over all images that have a sentence."""
    losses = []
    for image in image_index.unique():
        own, maps = similarity[image_index == image], targets[image_index == image]
        loss = own.sum() * 0
        for scores, heat, share in ((own, maps, weight), (own.T, maps.T, 1 - weight)):
            rows = [
                _js(_top(row, fraction), softmax(score, 0))
                for score, row in zip(scores, heat, strict=True)
                if row.any()
            ]
            loss = loss + share * (sum(rows) / len(rows) if rows else 0)
        losses.append(loss)
    return sum(losses) / len(losses)


def balanced_bce(logits, labels, counts, beta=0.9999):
    """L_V or L_T: binary cross-entropy by class-balanced weights, 1e-8 under the fraction of each."""
    weights = torch.tensor([(1 - beta) / (1 - beta**count + 1e-8) for count in counts], dtype=torch.float64)
    return binary_cross_entropy_with_logits(logits, labels, weight=weights / weights.sum() * len(counts))


def contrast(images, texts, studies, scale):
    """L_con, with all pairs of one study as positives."""
    logits = scale * normalize(images, dim=-1) @ normalize(texts, dim=-1).T
    same = torch.tensor([[a == b for b in studies] for a in studies]).to(logits)
    same = same / same.sum(dim=1, keepdim=True)
    return (cross_entropy(logits, same) + cross_entropy(logits.T, same)) / 2


def _mlce(scores, labels):
    one = torch.ones((), dtype=scores.dtype)
    negative = one + sum(score.exp() for score, label in zip(scores, labels, strict=True) if not label)
    positive = one + sum((-score).exp() for score, label in zip(scores, labels, strict=True) if label)
    return negative.log() + positive.log()


def egma_labels(patches, sentences, targets, scale, weight=0.8):
    """MLCE of all sentences of the images that have gaze."""
    losses = []
    for own, texts, maps in zip(patches, sentences, targets, strict=True):
        if not maps.any():
            continue
        scores, labels = scale * texts @ own.T, maps > 0
        over_patches = sum(_mlce(*pair) for pair in zip(scores, labels, strict=True)) / len(scores)
        over_sentences = sum(_mlce(*pair) for pair in zip(scores.T, labels.T, strict=True)) / len(own)
        losses.append(weight * over_patches + (1 - weight) * over_sentences)
    return sum(losses) / len(losses)


def egma_contrast(patches, sentences, scale):
    """Both fine-grained terms with a softmax over texts; a text shorter than the longest has zeros to its name."""
    longest = max(map(len, sentences))
    image, text = (torch.empty(len(patches), len(sentences), dtype=patches[0].dtype) for _ in range(2))
    for i, own in enumerate(patches):
        for j, texts in enumerate(sentences):
            scores = scale * own @ texts.T
            best = scores.max(dim=1).values
            image[i, j] = (best.clamp(min=0) if len(texts) < longest else best).mean()
            text[i, j] = scores.max(dim=0).values.mean()
    own = torch.arange(len(patches))
    return (cross_entropy(image, own) + cross_entropy(text, own)) / 2


def egma_mapping(patches, sentences, targets, scale, weight=0.3, threshold=2 / 7):
    """L_EGM: mapped features as they come, told apart in both directions; one sentence is held to its mapped one."""

    def mapped(scores, gaze, features):
        rows = []
        for row, seen in zip(scores, gaze, strict=True):
            span = row.max() - row.min()
            share = (row - row.min()) / (span if span > 0 else 1)
            share = torch.where(share < threshold, 0, share) + 0.01
            share = share / share.sum()
            rows.append(((share + seen) / 2 if gaze.any() else share) @ features)
        return torch.stack(rows)

    def told_apart(mapped, features):
        logits, own = scale * mapped @ features.T, torch.arange(len(features))
        return (cross_entropy(logits, own) + cross_entropy(logits.T, own)) / 2

    losses = []
    for own, texts, maps in zip(patches, sentences, targets, strict=True):
        gaze = torch.stack([row / row.max() if row.any() else row for row in maps])
        scores = texts @ own.T
        from_patches = mapped(scores, gaze, own)
        if len(texts) == 1:
            losses.append(weight * (from_patches - texts).square().sum())
            continue
        from_texts = mapped(scores.T, gaze.T, texts)
        losses.append(weight * told_apart(from_patches, texts) + (1 - weight) * told_apart(from_texts, own))
    return sum(losses) / len(losses)
