import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_cogaze.losses_cogaze import (
    class_balanced_focal_loss,
    gaze_similarity,
    hybrid_positive_contrastive_loss,
    images_with_gaze,
    sharpen,
    soft_gaze_loss,
)


def softmax(x, axis=-1):
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


def entropy_terms(p, q):
    return sum(a * np.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def jensen_shannon(p, q):
    middle = (p + q) / 2
    return (entropy_terms(p, middle) + entropy_terms(q, middle)) / 2


DIVERGENCES = {
    "js": jensen_shannon,
    "mse": lambda p, q: ((p - q) ** 2).sum(),
    "iou": lambda p, q: 1 - np.minimum(p, q).sum() / np.maximum(p, q).sum(),
}


def top(row, fraction):
    """The largest `fraction` of a row's positive entries, at least one."""
    keep = max(1, int(np.floor(fraction * (row > 0).sum() + 1e-9)))
    kept = np.zeros_like(row)
    order = np.argsort(-row, kind="stable")[:keep]
    kept[order] = row[order]
    return kept


def reference_gaze_loss(similarity, targets, image_index, fraction, weight, divergence, patch_rows):
    """The same loss, image by image and row by row."""
    losses = []
    for image in np.unique(image_index):
        rows = [n for n in range(len(targets)) if image_index[n] == image and targets[n].max() > 0]
        if not rows:
            continue
        raw = np.where(targets[rows] > 0.5 / 255 * targets[rows].max(axis=1, keepdims=True), targets[rows], 0)
        if divergence == "mask":
            p = 1 / (1 + np.exp(-similarity[rows]))
            losses.append(-np.where(raw > 0, np.log(p), np.log(1 - p)).mean())
            continue
        maps = np.stack([top(row, fraction) for row in raw])
        maps = maps / maps.sum(axis=1, keepdims=True)
        distance = DIVERGENCES[divergence]
        forward = np.mean([distance(g, q) for g, q in zip(maps, softmax(similarity[rows]), strict=True)])
        columns = maps.T if patch_rows == "transpose" else np.stack([top(column, fraction) for column in raw.T])
        predictions = softmax(similarity[rows].T)
        backward = np.mean([distance(c / c.sum(), q) for c, q in zip(columns, predictions, strict=True) if c.sum() > 0])
        losses.append(weight * forward + (1 - weight) * backward)
    return np.mean(losses) if losses else 0.0


def gaze_batch(seed, rows=9, patches=20, images=4, empty=2):
    random = np.random.default_rng(seed)
    targets = random.gamma(0.3, 1.0, (rows, patches))
    targets[random.random((rows, patches)) < 0.4] = 0
    targets[random.choice(rows, min(empty, rows), replace=False)] = 0
    return random.normal(0, 4, (rows, patches)), targets, random.integers(0, images, rows)


@pytest.mark.parametrize("patch_rows", ["transpose", "resharpen"])
@pytest.mark.parametrize("divergence", ["js", "mse", "iou", "mask"])
@pytest.mark.parametrize("seed", range(4))
def test_soft_gaze_loss_is_the_papers_equation(divergence, patch_rows, seed):
    similarity, targets, index = gaze_batch(seed)
    loss = soft_gaze_loss(
        torch.tensor(similarity), torch.tensor(targets), torch.tensor(index), 0.25, 0.8, divergence, patch_rows
    )
    assert loss.item() == pytest.approx(
        reference_gaze_loss(similarity, targets, index, 0.25, 0.8, divergence, patch_rows), abs=1e-5
    )


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(1, 12),
    patches=st.integers(1, 30),
    fraction=st.sampled_from([0.05, 0.25, 0.6, 1.0]),
    weight=st.sampled_from([0.0, 0.2, 1.0]),
)
def test_soft_gaze_loss_for_any_shape_fraction_and_weight(seed, rows, patches, fraction, weight):
    similarity, targets, index = gaze_batch(seed, rows, patches, images=5, empty=seed % (rows + 1))
    for patch_rows in ("transpose", "resharpen"):
        loss = soft_gaze_loss(
            torch.tensor(similarity), torch.tensor(targets), torch.tensor(index), fraction, weight, "js", patch_rows
        )
        expected = reference_gaze_loss(similarity, targets, index, fraction, weight, "js", patch_rows)
        assert loss.item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("divergence", ["js", "mse", "iou", "mask"])
def test_soft_gaze_loss_does_not_depend_on_the_order_of_rows(divergence):
    similarity, targets, index = (torch.tensor(x) for x in gaze_batch(7))
    order = torch.randperm(len(index), generator=torch.Generator().manual_seed(0))
    loss = soft_gaze_loss(similarity, targets, index, divergence=divergence)
    shuffled = soft_gaze_loss(similarity[order], targets[order], index[order], divergence=divergence)
    assert shuffled.item() == pytest.approx(loss.item(), abs=1e-6)


def test_soft_gaze_loss_is_zero_where_prediction_is_the_sharpened_map():
    targets = torch.tensor([[4.0, 3.0, 0.0, 0.0], [0.0, 0.0, 2.0, 2.0]])
    similarity = torch.where(targets > 0, targets.clamp(min=1e-9).log(), torch.tensor(-60.0))
    loss = soft_gaze_loss(similarity, targets, torch.zeros(2, dtype=torch.long), top_fraction=1.0)
    assert loss.item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("divergence", ["js", "mse", "iou", "mask"])
def test_rows_without_gaze_change_nothing_and_get_no_gradient(divergence):
    similarity, targets, index = (torch.tensor(x) for x in gaze_batch(3, empty=0))
    alone = soft_gaze_loss(similarity, targets, index, divergence=divergence)
    padded = torch.cat([similarity, torch.randn(3, 20)]).requires_grad_()
    extended = torch.cat([index, torch.tensor([0, 1, 77])])
    loss = soft_gaze_loss(padded, torch.cat([targets, torch.zeros(3, 20)]), extended, divergence=divergence)
    loss.backward()
    assert loss.item() == pytest.approx(alone.item(), abs=1e-6)
    assert padded.grad[-3:].abs().max() == 0
    assert padded.grad[:-3].abs().max() > 0


@pytest.mark.parametrize("divergence", ["js", "mse", "iou", "mask"])
@pytest.mark.parametrize("rows", [0, 4])
def test_a_batch_without_gaze_costs_nothing_and_keeps_its_graph(divergence, rows):
    similarity = torch.randn(rows, 10, requires_grad=True)
    loss = soft_gaze_loss(similarity, torch.zeros(rows, 10), torch.zeros(rows, dtype=torch.long), divergence=divergence)
    loss.backward()
    assert loss.item() == 0
    assert similarity.grad.shape == (rows, 10)
    assert not similarity.grad.any()


@pytest.mark.parametrize("divergence", ["js", "mse", "iou", "mask"])
def test_gradients_stay_finite_where_softmax_underflows(divergence):
    _, targets, index = (torch.tensor(x) for x in gaze_batch(5))
    similarity = (300 * torch.randn(targets.shape, generator=torch.Generator().manual_seed(0))).requires_grad_()
    soft_gaze_loss(similarity, targets, index, divergence=divergence).backward()
    assert similarity.grad.isfinite().all()


@pytest.mark.parametrize("patch_rows", ["transpose", "resharpen"])
def test_soft_gaze_gradient_is_the_slope(patch_rows):
    similarity, targets, index = (torch.tensor(x) for x in gaze_batch(11, rows=5, patches=7))
    similarity = similarity.float().requires_grad_()
    soft_gaze_loss(similarity, targets, index, patch_rows=patch_rows).backward()
    direction = torch.randn(similarity.shape, generator=torch.Generator().manual_seed(1))
    ends = [
        reference_gaze_loss(
            (similarity.detach() + step * direction).double().numpy(),
            targets.numpy(),
            index.numpy(),
            0.25,
            0.8,
            "js",
            patch_rows,
        )
        for step in (-1e-3, 1e-3)
    ]
    assert (similarity.grad * direction).sum().item() == pytest.approx((ends[1] - ends[0]) / 2e-3, abs=1e-4)


def test_counting_images_with_gaze():
    targets = torch.tensor([[0.0, 1.0], [0.0, 0.0], [2.0, 0.0], [3.0, 0.0], [0.0, 0.0]])
    assert images_with_gaze(targets, torch.tensor([5, 5, 5, 2, 9])) == 2
    assert images_with_gaze(targets / 100, torch.tensor([5, 5, 5, 2, 9])) == 2
    assert images_with_gaze(torch.zeros(0, 2), torch.zeros(0, dtype=torch.long)) == 0


def test_sharpening_keeps_the_top_quarter_of_what_an_8_bit_heatmap_keeps():
    row = torch.zeros(1, 12)
    row[0, :9] = torch.tensor([255.0, 200, 150, 100, 50, 25, 10, 1, 0.4])
    # Eight entries are above half a grey level: two of them are kept.
    torch.testing.assert_close(sharpen(row, 0.25)[0, :3], torch.tensor([255 / 455, 200 / 455, 0]))
    assert sharpen(row, 0.01).tolist() == [[1.0] + 11 * [0.0]]
    assert sharpen(torch.zeros(2, 3), 0.25).tolist() == [[0.0] * 3] * 2


def test_every_fraction_of_the_entries_is_kept_to_the_last_one():
    for count in (7, 29, 58, 100, 200):
        row = torch.arange(1.0, count + 1)[None] + count
        kept = [int((sharpen(row, number / count) > 0).sum()) for number in range(1, count + 1)]
        assert kept == list(range(1, count + 1))


@pytest.mark.parametrize("images", [0.25, 0.5, 4.0])
def test_the_number_of_images_may_be_a_mean_over_processes(images):
    similarity, targets, _ = (torch.tensor(x) for x in gaze_batch(2, empty=0))
    index = torch.zeros(len(targets), dtype=torch.long)
    alone = soft_gaze_loss(similarity, targets, index)
    loss = soft_gaze_loss(similarity, targets, index, num_images=torch.tensor(images))
    assert loss.item() == pytest.approx(alone.item() / images, rel=1e-5)


def test_gaze_loss_refuses_bad_arguments():
    similarity, targets, index = (torch.tensor(x) for x in gaze_batch(0))
    with pytest.raises(ValueError, match="targets: shapes"):
        soft_gaze_loss(similarity[:-1], targets, index)
    with pytest.raises(ValueError, match="divergence: 'kl'"):
        soft_gaze_loss(similarity, targets, index, divergence="kl")
    with pytest.raises(ValueError, match="patch_rows: 'rows'"):
        soft_gaze_loss(similarity, targets, index, patch_rows="rows")


@pytest.mark.parametrize("index", [[0, 0, 2, 2, 2, 1], [2, 0, 2, 1, 0, 2], [1, 1, 1, 1, 1, 1], []])
def test_gaze_similarity_is_the_cosine_with_the_own_images_patches(index):
    generator = torch.Generator().manual_seed(0)
    patches = torch.randn(3, 5, 4, generator=generator, requires_grad=True)
    texts = torch.randn(len(index), 4, generator=generator, requires_grad=True)
    index = torch.tensor(index, dtype=torch.long)
    similarity = gaze_similarity(patches, texts, index)
    expected = torch.cosine_similarity(patches[index], texts[:, None], dim=-1)
    torch.testing.assert_close(similarity, expected)
    weights = torch.randn(similarity.shape, generator=generator)
    got = torch.autograd.grad((similarity * weights).sum(), (patches, texts))
    torch.testing.assert_close(got, torch.autograd.grad((expected * weights).sum(), (patches, texts)))


def reference_contrastive(images, texts, studies, scale):
    images = images / np.linalg.norm(images, axis=1, keepdims=True)
    texts = texts / np.linalg.norm(texts, axis=1, keepdims=True)
    same = studies[:, None] == studies[None, :]
    total = 0
    for logits in (images @ texts.T * np.exp(scale), texts @ images.T * np.exp(scale)):
        log_probability = np.log(softmax(logits))
        total += np.mean([-log_probability[i][same[i]].mean() for i in range(len(logits))]) / 2
    return total


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), size=st.integers(1, 10), studies=st.integers(1, 6))
def test_contrastive_loss_spreads_over_the_images_of_a_study(seed, size, studies):
    random = np.random.default_rng(seed)
    images, texts = random.normal(size=(2, size, 6))
    ids = random.integers(0, studies, size)
    loss = hybrid_positive_contrastive_loss(torch.tensor(images), torch.tensor(texts), torch.tensor(ids), 2.0)
    assert loss.item() == pytest.approx(reference_contrastive(images, texts, ids, 2.0), abs=1e-5)


def test_contrastive_loss_without_studies_is_clips():
    images, texts = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0))
    expected = hybrid_positive_contrastive_loss(images, texts, torch.arange(5), 1.0)
    assert hybrid_positive_contrastive_loss(images, texts, None, 1.0) == expected


def test_contrastive_loss_of_an_empty_batch_keeps_its_graph():
    images = torch.zeros(0, 4, requires_grad=True)
    loss = hybrid_positive_contrastive_loss(images, torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), 1.0)
    loss.backward()
    assert loss.item() == 0
    with pytest.raises(ValueError, match="text_embeds: 2 rows for 3 images"):
        hybrid_positive_contrastive_loss(torch.ones(3, 4), torch.ones(2, 4), None, 1.0)


def reference_focal(logits, labels, positives, beta, gamma):
    weights = np.where(positives > 0, (1 - beta) / (1 - beta ** np.maximum(positives, 1)), 0)
    weights = weights / weights.sum() * len(weights)
    probability = 1 / (1 + np.exp(-logits))
    of_label = np.where(labels == 1, probability, 1 - probability)
    cost = weights * (1 - of_label) ** gamma * -np.log(of_label)
    return cost[~np.isnan(labels)].mean()


@pytest.mark.parametrize("gamma", [0.0, 0.2, 2.0])
@pytest.mark.parametrize("beta", [0.9999, 0.9])
def test_focal_loss_is_cuis_equation(beta, gamma):
    random = np.random.default_rng(0)
    logits = random.normal(0, 2, (6, 5))
    labels = random.integers(0, 2, (6, 5)).astype(float)
    labels[0, 1] = labels[3, 4] = np.nan
    positives = [3, 0, 5000, 40, 1]
    loss = class_balanced_focal_loss(torch.tensor(logits), torch.tensor(labels), positives, beta, gamma)
    assert loss.item() == pytest.approx(reference_focal(logits, labels, np.array(positives), beta, gamma), rel=1e-4)


def test_focal_loss_without_focus_and_counts_is_binary_cross_entropy():
    logits, labels = torch.randn(4, 3), torch.randint(0, 2, (4, 3)).float()
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)
    torch.testing.assert_close(class_balanced_focal_loss(logits, labels, None, gamma=0.0), expected)


def test_focal_loss_gradient_is_finite_for_sure_predictions_and_left_out_labels():
    logits = torch.tensor([[200.0, -200.0, 200.0, 3.0]], requires_grad=True)
    labels = torch.tensor([[1.0, 0.0, 0.0, torch.nan]])
    class_balanced_focal_loss(logits, labels, [1, 2, 3, 4]).backward()
    assert logits.grad.isfinite().all()
    assert logits.grad[0, 2] > 0
    assert logits.grad[0, 3] == 0
    nothing = class_balanced_focal_loss(logits, torch.full_like(labels, torch.nan), None)
    nothing.backward()
    assert nothing.item() == 0
    with pytest.raises(ValueError, match="labels: shape"):
        class_balanced_focal_loss(logits, labels[:, :2], None)


def test_focal_loss_has_the_papers_beta_and_gamma():
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    labels, counts = torch.tensor([[0.0, 1, 1]]).expand(5, 3), [3, 400, 50000]
    loss = class_balanced_focal_loss(logits, labels, counts)
    assert loss == class_balanced_focal_loss(logits, labels, counts, beta=0.9999, gamma=0.2)
    assert loss != class_balanced_focal_loss(logits, labels, counts, beta=0.999, gamma=0.2)


def test_focal_loss_of_one_label_is_its_cost():
    logits, labels = torch.tensor([[1.5, -2.0]]), torch.tensor([[1.0, torch.nan]])
    assert class_balanced_focal_loss(logits, labels, None, gamma=0.0).item() == pytest.approx(np.log1p(np.exp(-1.5)))


def test_gaze_similarity_is_the_same_where_it_is_compiled(monkeypatch):
    patches, texts = torch.randn(3, 5, 4) / 10, torch.randn(6, 4)
    index = torch.tensor([2, 0, 2, 1, 0, 2])
    expected = gaze_similarity(patches, texts, index)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    torch.testing.assert_close(gaze_similarity(patches, texts, index), expected)
