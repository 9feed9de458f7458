import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_cogaze.losses_cogaze import class_balanced_weights
from modeling_cogaze.losses_downstream import (
    class_balanced_sigmoid_focal_loss,
    class_balanced_softmax_focal_loss,
    segmentation_loss,
    soft_dice,
)


def softmax(x: np.ndarray) -> np.ndarray:
    exponentials = np.exp(x - x.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def plain_softmax_focal(logits, labels, weights, gamma) -> float:
    costs = []
    for row, label in zip(softmax(logits), labels, strict=True):
        if label >= 0:
            costs.append(-weights[label] * (1 - row[label]) ** gamma * np.log(row[label]))
    return float(np.mean(costs)) if costs else 0.0


def plain_dice(probability, target, smooth) -> float:
    return (2 * (probability * target).sum() + smooth) / (probability.sum() + target.sum() + smooth)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.integers(2, 5), st.floats(0, 3))
def test_softmax_focal_loss_is_the_papers(seed, classes, gamma):
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 3, (7, classes))
    labels = generator.integers(-1, classes, 7)
    counts = generator.integers(0, 500, classes)
    weights = np.array([(1 - 0.99) / (1 - 0.99**n) if n else 0.0 for n in counts])
    weights = weights / max(weights.sum(), 1e-300) * classes
    found = class_balanced_softmax_focal_loss(torch.tensor(logits), torch.tensor(labels), counts.tolist(), 0.99, gamma)
    assert float(found) == pytest.approx(plain_softmax_focal(logits, labels, weights, gamma), rel=1e-4, abs=1e-6)


def test_softmax_focal_loss_without_weights_and_gamma_is_cross_entropy():
    logits, labels = torch.randn(6, 4), torch.tensor([0, 3, 1, -100, 2, 2])
    expected = torch.nn.functional.cross_entropy(logits, labels, ignore_index=-100)
    torch.testing.assert_close(class_balanced_softmax_focal_loss(logits, labels, gamma=0.0), expected)


def test_certain_predictions_have_finite_gradients():
    logits = torch.tensor([[200.0, 0.0, -200.0], [200.0, 0.0, -200.0]], requires_grad=True)
    loss = class_balanced_softmax_focal_loss(logits, torch.tensor([0, 2]))
    loss.backward()
    assert loss.isfinite() and logits.grad.isfinite().all()


def test_weights_sum_to_the_number_of_classes_and_favour_the_rare():
    weights = class_balanced_weights([10, 1000, 0])
    assert weights.sum() == pytest.approx(3) and weights[2] == 0
    assert weights[0] / weights[1] == pytest.approx((1 - 0.9999**1000) / (1 - 0.9999**10), rel=1e-6)
    one, two, _ = class_balanced_weights([1, 2, 10**7])
    assert one / two == pytest.approx(1 + 0.9999, rel=1e-6)  # float32 would have it 6e-4 off


def test_soft_dice_of_equal_and_of_empty_masks_is_one():
    masks = (torch.rand(3, 2, 8, 8) > 0.5).float()
    torch.testing.assert_close(soft_dice(masks, masks), torch.ones(2))
    torch.testing.assert_close(soft_dice(masks * 0, masks * 0), torch.ones(2))
    assert (soft_dice(masks, 1 - masks) < 0.02).all()


@pytest.mark.parametrize("classes", [1, 3])
def test_independent_masks_cost_focal_and_dice(classes):
    generator = np.random.default_rng(0)
    logits, masks = generator.normal(0, 2, (2, classes, 5, 6)), generator.integers(0, 2, (2, classes, 5, 6))
    probability = 1 / (1 + np.exp(-logits))
    right = np.where(masks == 1, probability, 1 - probability)
    focal = ((1 - right) ** 2 * -np.log(right)).mean()
    dice = [plain_dice(probability[:, c], masks[:, c], 1.0) for c in range(classes)]
    expected = 10 * focal - np.mean(np.log(dice))
    found = segmentation_loss(torch.tensor(logits), torch.tensor(masks))
    assert float(found) == pytest.approx(expected, rel=1e-5)
    if classes == 1:
        assert segmentation_loss(torch.tensor(logits), torch.tensor(masks[:, 0])) == found


def test_exclusive_masks_have_no_dice_of_the_background():
    generator = np.random.default_rng(1)
    logits, masks = generator.normal(0, 2, (2, 3, 4, 5)), generator.integers(0, 3, (2, 4, 5))
    flat = np.moveaxis(logits, 1, -1).reshape(-1, 3)
    probability = np.moveaxis(softmax(flat).reshape(2, 4, 5, 3), -1, 1)
    focal = plain_softmax_focal(flat, masks.ravel(), np.ones(3), 2.0)
    dice = [plain_dice(probability[:, c], masks == c, 1.0) for c in (1, 2)]
    found = segmentation_loss(torch.tensor(logits), torch.tensor(masks), exclusive=True)
    assert float(found) == pytest.approx(10 * focal - np.mean(np.log(dice)), rel=1e-5)


@pytest.mark.parametrize("exclusive", [False, True])
def test_ignored_pixels_do_not_count(exclusive):
    logits = torch.randn(2, 2, 4, 4)
    masks = torch.randint(0, 2, (2, 4, 4) if exclusive else (2, 2, 4, 4))
    masks[..., 0] = -100
    changed = logits.clone()
    changed[..., 0] += 5
    assert segmentation_loss(logits, masks, exclusive) == segmentation_loss(changed, masks, exclusive)


@pytest.mark.parametrize("exclusive", [False, True])
def test_an_empty_batch_is_a_zero_loss_with_a_graph(exclusive):
    logits = torch.zeros(0, 2, 4, 4, requires_grad=True)
    loss = segmentation_loss(logits, torch.zeros((0, 4, 4) if exclusive else (0, 2, 4, 4), dtype=torch.long), exclusive)
    assert loss == 0 and loss.requires_grad
    logits = torch.zeros(0, 3, requires_grad=True)
    loss = class_balanced_softmax_focal_loss(logits, torch.zeros(0, dtype=torch.long))
    assert loss == 0 and loss.requires_grad


def test_masks_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"labels: shape \(2, 4, 5\).*\(2, 4, 4\)"):
        segmentation_loss(torch.zeros(2, 3, 4, 4), torch.zeros(2, 4, 5), exclusive=True)
    with pytest.raises(ValueError, match="labels: shape"):
        segmentation_loss(torch.zeros(2, 3, 4, 4), torch.zeros(2, 4, 4))
    with pytest.raises(ValueError, match="labels: shape"):
        class_balanced_softmax_focal_loss(torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.long))


@pytest.mark.parametrize("gamma", [0.0, 0.2])
def test_sigmoid_focal_loss_is_the_released_codes(gamma):
    """Written as a loop over rows and classes."""
    generator = torch.Generator().manual_seed(1)
    logits, labels, counts = torch.randn(5, 3, generator=generator), torch.tensor([0, 2, 1, -1, 2]), [30, 4, 500]
    weights = np.array([(1 - 0.9999) / (1 - 0.9999**count) for count in counts])
    weights = weights / weights.sum() * 3
    costs = []
    for row, label in zip(logits.double().numpy(), labels.tolist(), strict=True):
        for place, value in enumerate(row if label >= 0 else []):
            p = 1 / (1 + np.exp(-value if place == label else value))
            costs.append(weights[label] * (1 - p) ** gamma * -np.log(p))
    loss = class_balanced_sigmoid_focal_loss(logits, labels, counts, gamma=gamma)
    assert loss.item() == pytest.approx(np.mean(costs), rel=1e-5)


def test_dice_per_image_is_the_released_codes():
    """A loop over images; one without a lesion has the mean of 1 - p."""
    generator = torch.Generator().manual_seed(1)
    p = torch.rand(4, 2, 5, 5, generator=generator)
    y = (torch.rand(4, 2, 5, 5, generator=generator) < 0.3).float()
    y[1] = 0
    for label, dice in enumerate(soft_dice(p, y, per_image=True)):
        each = [
            (2 * (a * b).sum() + 1) / (a.sum() + b.sum() + 1) if b.any() else (1 - a).mean()
            for a, b in zip(p[:, label], y[:, label], strict=True)
        ]
        assert dice.item() == pytest.approx(sum(each).item() / 4, rel=1e-5)
    logits = torch.logit(p)
    difference = segmentation_loss(logits, y, dice="image") - segmentation_loss(logits, y)
    expected = soft_dice(p, y).log().mean() - soft_dice(p, y, per_image=True).log().mean()
    assert difference.item() == pytest.approx(expected.item(), abs=1e-5)
    assert soft_dice(p[:0], y[:0], per_image=True).tolist() == [1.0, 1.0]
