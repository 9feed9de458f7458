"""EGMA's losses against plain numpy, image by image, written from the paper's equations."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_cogaze.losses_egma import (
    egf_loss,
    egm_loss,
    fill_empty_targets,
    fine_grained_contrastive_loss,
    gaze_label_loss,
    gaze_strengths,
    mapping_weights,
    multilabel_categorical_cross_entropy,
    pad_sentences,
    sentence_counts,
)

PATCHES, WIDTH, SCALE = 9, 6, 1 / 0.07

# Sentences per image; images without gaze; single sentences; none at all; sentences nobody looked anywhere for.
BATCHES = {
    "ragged, all with gaze": [3, 5, 2, 4],
    "one sentence each": [1, 1, 1],
    "one image": [4],
    "no text at all": [0, 0],
    "with an image without text": [2, 0, 3],
    "one and many": [1, 7, 1, 2],
}


class Batch:
    """Ragged rows as the processor gives them: each image's sentences, then its full transcript."""

    def __init__(self, sentences, seed=0, gaze="all"):
        generator = np.random.default_rng(seed)
        self.sentences = sentences
        self.patches = _unit(generator.normal(size=(len(sentences), PATCHES, WIDTH)))
        self.texts, self.targets = [], []
        for image, count in enumerate(sentences):
            texts = _unit(generator.normal(size=(count, WIDTH)))
            targets = generator.gamma(1, size=(count + 1, PATCHES)) * (generator.random((count + 1, PATCHES)) < 0.4)
            if gaze == "none" or (gaze == "some" and image % 2):
                targets[:] = 0
            if gaze == "black" and count:
                targets[0] = 0
                targets[-1, 3] = 1
            self.texts.append(texts)
            self.targets.append(targets)

    def ragged(self):
        """rows, targets, image_index, is_full."""
        full = np.concatenate([[False] * count + [True] for count in self.sentences])
        index = np.concatenate([[i] * (count + 1) for i, count in enumerate(self.sentences)])
        rows = [np.concatenate([texts, np.full((1, WIDTH), 9.0)]) for texts in self.texts]
        return [torch.from_numpy(x) for x in (np.concatenate(rows), np.concatenate(self.targets), index, full)]

    def padded(self, extra=0):
        """patches, sentences, mask, strengths, as the model makes them."""
        rows, targets, index, full = self.ragged()
        images, width = len(self.sentences), max(1, *self.sentences) + extra
        strengths = gaze_strengths(fill_empty_targets(targets, index, full))
        counts = sentence_counts(index, ~full, images)
        assert counts.tolist() == self.sentences
        return (
            torch.from_numpy(self.patches),
            pad_sentences(rows, index, ~full, images, width),
            torch.arange(width) < counts[:, None],
            pad_sentences(strengths, index, ~full, images, width),
        )

    def images(self):
        """(patches, sentences, strengths) of each image, plainly."""
        for patches, texts, targets in zip(self.patches, self.texts, self.targets, strict=True):
            rows = [row if row.max() > 0 else targets[-1] for row in targets[:-1]]
            strengths = np.array([np.where(r > 0.5 / 255 * r.max(), r, 0) / (r.max() or 1) for r in rows])
            yield patches, texts, strengths.reshape(len(texts), PATCHES)


def _unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def _mlce(scores, labels):
    negative = sum(np.exp(s) for s, label in zip(scores, labels, strict=True) if not label)
    positive = sum(np.exp(-s) for s, label in zip(scores, labels, strict=True) if label)
    return np.log(1 + negative) + np.log(1 + positive)


def reference_labels(batch, weight=0.5):
    values = []
    for patches, texts, strengths in batch.images():
        looked = [i for i in range(len(texts)) if strengths[i].max() > 0]
        if not looked:
            continue
        scores, labels = SCALE * texts[looked] @ patches.T, strengths[looked] > 0
        over_patches = np.mean([_mlce(*pair) for pair in zip(scores, labels, strict=True)])
        over_sentences = np.mean([_mlce(*pair) for pair in zip(scores.T, labels.T, strict=True)])
        values.append(weight * over_patches + (1 - weight) * over_sentences)
    return np.mean(values) if values else 0.0


def reference_contrast(batch, study_ids=None, over_texts=False):
    images = [item for item in batch.images() if len(item[1])]
    kept = [i for i, item in enumerate(batch.images()) if len(item[1])]
    n = len(images)
    if not n:
        return 0.0
    image, text = np.zeros((n, n)), np.zeros((n, n))
    for i, (patches, _, _) in enumerate(images):
        for j, (_, texts, _) in enumerate(images):
            scores = patches @ texts.T
            image[i, j] = scores.max(axis=1).mean()
            text[j, i] = scores.max(axis=0).mean()
    studies = np.arange(n) if study_ids is None else np.asarray(study_ids)[kept]
    total = 0.0
    for i in range(n):
        same = studies == studies[i]
        for row in (image[i], text.T[i] if over_texts else text[i]):
            log_p = SCALE * row - np.log(np.exp(SCALE * row).sum())
            total -= log_p[same].mean() / 2
    return total / n


def reference_mapping(batch, weight=0.5, threshold=1 / 7, binary=True):
    def weights(scores, strengths):
        rows = []
        for row, gaze in zip(scores, strengths, strict=True):
            share = (row - row.min()) / (row.max() - row.min())
            kept = share >= threshold
            w = (kept.astype(float) if binary else np.where(kept, share, 0) + 0.01) + gaze
            rows.append(w / w.sum())
        return np.array(rows)

    def contrast(mapped, targets):
        logits = SCALE * _unit(mapped) @ targets.T
        return np.mean([np.log(np.exp(row).sum()) - row[i] for i, row in enumerate(logits)])

    values = []
    for patches, texts, strengths in batch.images():
        if len(texts) < 2:
            continue
        scores = texts @ patches.T
        of_sentences = contrast(weights(scores, strengths) @ patches, texts)
        of_patches = contrast(weights(scores.T, strengths.T) @ texts, patches)
        values.append(weight * of_sentences + (1 - weight) * of_patches)
    return np.mean(values) if values else 0.0


every_batch = pytest.mark.parametrize("gaze", ["all", "some", "none", "black"])
every_shape = pytest.mark.parametrize("sentences", BATCHES.values(), ids=BATCHES)


@every_batch
@every_shape
def test_label_loss_equals_the_equation(sentences, gaze):
    batch = Batch(sentences, gaze=gaze)
    patches, texts, mask, strengths = batch.padded()
    for weight in (0.5, 0.8):
        loss = gaze_label_loss(SCALE * texts @ patches.mT, strengths, mask, weight)
        assert loss.item() == pytest.approx(reference_labels(batch, weight), abs=1e-6, rel=1e-9)


@every_shape
def test_fine_grained_contrast_equals_the_equation(sentences):
    batch = Batch(sentences)
    patches, texts, mask, _ = batch.padded()
    studies = torch.tensor([7, 8, 7, 7][: len(sentences)])
    for ids in (None, studies):
        for over in ("both", "texts"):
            loss = fine_grained_contrastive_loss(patches, texts, mask, SCALE, ids, over)
            expected = reference_contrast(batch, None if ids is None else ids.numpy(), over == "texts")
            assert loss.item() == pytest.approx(expected, abs=1e-6, rel=1e-9)


@every_batch
@every_shape
def test_mapping_loss_equals_the_equation(sentences, gaze):
    batch = Batch(sentences, gaze=gaze)
    for options in ({}, {"weight": 0.3, "threshold": 3 / 7, "binary": False}):
        names = {"weight": "sentence_weight"}
        loss = egm_loss(*batch.padded(), SCALE, **{names.get(k, k): v for k, v in options.items()})
        assert loss.item() == pytest.approx(reference_mapping(batch, **options), abs=1e-6, rel=1e-9)


@every_batch
@every_shape
def test_egf_is_the_sum_of_its_two_terms(sentences, gaze):
    batch = Batch(sentences, gaze=gaze)
    loss = egf_loss(*batch.padded(), SCALE)
    assert loss.item() == pytest.approx(reference_labels(batch) + reference_contrast(batch), abs=1e-6, rel=1e-9)


@every_batch
@every_shape
def test_padded_sentences_change_nothing(sentences, gaze):
    batch = Batch(sentences, gaze=gaze)
    for loss in (egf_loss, egm_loss):
        narrow, wide = loss(*batch.padded(), SCALE), loss(*batch.padded(extra=3), SCALE)
        assert wide.item() == pytest.approx(narrow.item(), abs=1e-12)
    patches, texts, mask, strengths = batch.padded(extra=3)
    noisy = torch.where(mask[..., None], texts, 5.0), mask, torch.where(mask[..., None], strengths, 0.5)
    for loss in (egf_loss, egm_loss):
        assert loss(patches, *noisy, SCALE).item() == pytest.approx(
            loss(patches, texts, mask, strengths, SCALE).item(), abs=1e-12
        )


@every_batch
@every_shape
def test_gradients_are_finite_and_right(sentences, gaze):
    batch = Batch(sentences, gaze=gaze)
    patches, texts, mask, strengths = batch.padded(extra=1)
    patches.requires_grad_()
    texts.requires_grad_()
    for loss in (egf_loss, egm_loss):
        value = loss(patches, texts, mask, strengths, SCALE)
        value.backward()
        assert torch.isfinite(patches.grad).all() and torch.isfinite(texts.grad).all()
        assert (texts.grad[~mask] == 0).all()
        patches.grad = texts.grad = None


def test_gradients_equal_finite_differences():
    patches, texts, mask, strengths = Batch([3, 1, 2], gaze="some").padded()
    inputs = (patches[:, :4].requires_grad_(), texts.requires_grad_())
    strengths = strengths[..., :4]
    assert torch.autograd.gradcheck(lambda p, t: egf_loss(p, t, mask, strengths, 3.0), inputs, eps=1e-7, atol=1e-5)
    # Binary weights are constant almost everywhere.
    assert torch.autograd.gradcheck(lambda p, t: egm_loss(p, t, mask, strengths, 3.0), inputs, eps=1e-7, atol=1e-5)


def test_an_image_without_text_is_as_if_it_were_not_there():
    whole, without = Batch([2, 0, 3]), Batch([2, 3])
    without.patches, without.texts = whole.patches[[0, 2]], [whole.texts[0], whole.texts[2]]
    without.targets = [whole.targets[0], whole.targets[2]]
    for loss in (egf_loss, egm_loss):
        torch.testing.assert_close(loss(*whole.padded(), SCALE), loss(*without.padded(), SCALE))


def test_half_precision_is_lifted():
    inputs = [x.to(torch.bfloat16) if x.is_floating_point() else x for x in Batch([3, 2]).padded()]
    for loss in (egf_loss, egm_loss):
        assert loss(*inputs, SCALE).dtype == torch.float32


@given(st.lists(st.tuples(st.floats(-30, 30), st.booleans(), st.booleans()), min_size=1, max_size=12))
def test_multilabel_cross_entropy_is_the_equation_on_what_the_mask_keeps(entries):
    scores, labels, mask = (list(column) for column in zip(*entries, strict=True))
    value = multilabel_categorical_cross_entropy(
        torch.tensor(scores, dtype=torch.float64), torch.tensor(labels), torch.tensor(mask)
    )
    kept = [(s, label) for s, label, keep in entries if keep]
    expected = _mlce(*zip(*kept, strict=True)) if kept else 0.0
    assert value.item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_multilabel_cross_entropy_of_large_scores_stays_finite():
    scores = torch.tensor([[1000.0, -1000.0]])
    assert multilabel_categorical_cross_entropy(scores, torch.tensor([[True, False]])).item() == 0
    assert multilabel_categorical_cross_entropy(scores, torch.tensor([[False, True]])).item() == 2000


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=15))
def test_padding_keeps_every_row_in_its_order(rows):
    index = torch.tensor([image for image, _ in rows])
    keep = torch.tensor([kept for _, kept in rows])
    values = torch.arange(len(rows), dtype=torch.float64)[:, None] + 1
    counts = sentence_counts(index, keep, 4)
    width = int(counts.max()) + 1
    padded = pad_sentences(values, index, keep, 4, width)
    for image in range(4):
        own = [v.item() for v, i, k in zip(values, index, keep, strict=True) if i == image and k]
        assert padded[image, :, 0].tolist() == own + [0.0] * (width - len(own))


def test_black_heatmaps_take_their_own_readings_transcript():
    targets = torch.tensor([[0.0, 0], [1, 2], [3, 4], [0, 0], [5, 6], [0, 0], [0, 0]])
    image_index = torch.tensor([0, 0, 0, 0, 0, 1, 1])
    is_full = torch.tensor([False, False, True, False, True, False, False])
    filled = fill_empty_targets(targets, image_index, is_full)
    # Two readings of image 0; image 1 has no transcript to fall back to.
    assert filled.tolist() == [[3, 4], [1, 2], [3, 4], [5, 6], [5, 6], [0, 0], [0, 0]]
    assert fill_empty_targets(targets[:0], image_index[:0], is_full[:0]).shape == (0, 2)


def test_a_black_heatmap_never_takes_another_images_transcript():
    targets = torch.tensor([[0.0, 0], [0, 0], [1, 2]])
    filled = fill_empty_targets(targets, torch.tensor([0, 1, 1]), torch.tensor([False, False, True]))
    assert filled.tolist() == [[0, 0], [1, 2], [1, 2]]


def test_mapping_weights_are_distributions_over_what_the_mask_keeps():
    scores = torch.randn(4, 5, dtype=torch.float64)
    scores[1] = 0.3
    mask = torch.tensor([[True] * 5, [True] * 5, [False] * 5, [True, False, True, False, False]])
    weights = mapping_weights(scores, torch.zeros_like(scores), mask)
    assert weights.sum(dim=1).tolist() == pytest.approx([1, 1, 0, 1])
    assert (weights[~mask] == 0).all()
    assert weights[1].tolist() == pytest.approx([0.2] * 5)
