"""What can be had without understanding a radiograph: linear models on tiny pictures and on the clinical context."""

import io

import numpy as np
from datasets import Dataset, Image
from PIL import Image as PILImage
from scipy.optimize import minimize
from scipy.sparse import issparse
from scipy.special import expit
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from processing.datasets.records import label_names, label_targets

from ..metrics.scores import Score
from .evaluation import Evaluation

PIXELS = 32
PENALTIES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)  # C, for standardised pixels, from strong to weak
TEXT_PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)  # C, for word counts
FOLDS = 3


def shortcut_auroc(train: Dataset, test: Dataset) -> dict[str, Score]:
    """AUROC of two shortcuts, fitted on all of `train` and scored on `test`, both in the record schema.

    Returns:
        `shortcut_pixels_auroc`, `shortcut_context_auroc`: macro averages over the findings, which stand behind "/".
    Raises:
        ValueError: the splits name different labels, share a patient, or have no finding with both classes.
    """
    scores = []
    for name, found in (("pixels", pixels_auroc(train, test)), ("context", context_auroc(train, test))):
        scores.append(Score(f"shortcut_{name}_auroc", float(np.mean(list(found.values()))), chance=0.5))
        scores += [Score(f"shortcut_{name}_auroc/{finding}", value, chance=0.5) for finding, value in found.items()]
    return {score.name: score for score in scores}


def measure_shortcuts(evaluation: Evaluation) -> None:
    """What data give away of their labels, whatever the checkpoint."""
    if evaluation.train is None:
        evaluation.leave_out("they are fitted on --train_data", "shortcuts")
    else:
        evaluation.add(shortcut_auroc(evaluation.train, evaluation.data).values())


def pixels_auroc(train: Dataset, test: Dataset) -> dict[str, float]:
    """Finding -> AUROC of logistic regression on every picture, averaged down to 32x32 and standardised per pixel.

    All images of a split count, lateral ones too. See `_aurocs` for how the model is chosen.
    """
    scaler = StandardScaler()
    pixels = scaler.fit_transform(tiny_pictures(train))
    _, axes = np.linalg.eigh(pixels.T @ pixels)  # a rotation: it leaves the penalty, and so the model, as they are
    return _aurocs(train, test, pixels @ axes, scaler.transform(tiny_pictures(test)) @ axes, PENALTIES)


def context_auroc(train: Dataset, test: Dataset) -> dict[str, float]:
    """Finding -> AUROC of logistic regression on the bag of words of indication and history."""
    words = CountVectorizer(binary=True)
    features = words.fit_transform(_contexts(train))
    return _aurocs(train, test, features, words.transform(_contexts(test)), TEXT_PENALTIES)


def _aurocs(train, test, features, test_features, penalties) -> dict[str, float]:
    """One model per finding, its C the best by mean AUROC over folds of all of `train` that keep a patient together.

    Uncertain counts as positive, not mentioned as negative. Findings with too few positives or negatives in `train`
    for the folds, or of one class in `test`, are left out.
    """
    names = label_names(train)
    if names != label_names(test):
        raise ValueError("test: its label names differ from those of train.")
    patients, group = np.unique(train["patient_id"], return_inverse=True)
    shared = set(patients.tolist()) & set(test["patient_id"])
    if shared:
        raise ValueError(f"test: patient {min(shared)} is in train as well; splits must be by patient.")
    targets, truth = (label_targets(split["labels"][:]) for split in (train, test))
    usable = (np.minimum(targets.sum(0), (1 - targets).sum(0)) >= FOLDS) & (truth.min(0) < truth.max(0))
    if not usable.any():
        raise ValueError("train, test: no finding has both classes in both splits.")
    targets, truth = targets[:, usable], truth[:, usable]

    fold = np.random.default_rng(0).permutation(len(patients))[group] % FOLDS
    scores = np.full((FOLDS, len(penalties), targets.shape[1]), np.nan)
    for number in range(FOLDS):
        fit, held = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
        model = None
        for row, penalty in enumerate(penalties):
            model = logistic_regression(features[fit], targets[fit], penalty, start=model)
            scores[number, row] = _auroc_per_column(targets[held], features[held] @ model[:-1])
    best = np.nanmean(scores, axis=0).argmax(axis=0)
    predicted = np.empty(truth.shape)
    for row in np.unique(best):
        chosen = best == row
        model = logistic_regression(features, targets[:, chosen], penalties[row])
        predicted[:, chosen] = test_features @ model[:-1]
    aurocs = _auroc_per_column(truth, predicted)
    return dict(zip(np.array(names)[usable].tolist(), aurocs.tolist(), strict=True))


def logistic_regression(
    features, targets: np.ndarray, penalty: float, start=None, tolerance: float = 1e-2
) -> np.ndarray:
    """L2-regularised logistic regressions of all findings at once, scikit-learn's objective with `C=penalty`.

    L-BFGS, each weight scaled by an estimate of its curvature: exact if the features are uncorrelated, as principal
    axes are, so that some twenty steps do where the plain method takes hundreds.

    Args:
        features: (N, D), dense or scipy sparse. targets: (N, K), 0 or 1. start: weights to begin with.
    Returns:
        (D + 1, K), the last row the intercepts, which are not penalised.
    """
    count, size = features.shape
    shape = size + 1, targets.shape[1]
    share = targets.mean(axis=0)
    curvature = np.maximum(share * (1 - share), 1 / count)
    squares = np.asarray(features.multiply(features).sum(axis=0) if issparse(features) else (features**2).sum(axis=0))
    scale = np.vstack([np.outer(squares.ravel(), curvature) + 1 / penalty, count * curvature]) ** -0.5

    def objective(scaled):
        weights = scaled.reshape(shape) * scale
        logits = features @ weights[:-1] + weights[-1]
        loss = np.logaddexp(0, logits).sum() - (targets * logits).sum() + (weights[:-1] ** 2).sum() / (2 * penalty)
        residual = expit(logits) - targets
        gradient = np.vstack([features.T @ residual + weights[:-1] / penalty, residual.sum(axis=0)])
        return loss, (gradient * scale).ravel()

    begin = np.zeros(shape) if start is None else start / scale
    options = {"maxiter": 1000, "gtol": tolerance, "ftol": 0.0}
    found = minimize(objective, begin.ravel(), jac=True, method="L-BFGS-B", options=options)
    return found.x.reshape(shape) * scale


def _auroc_per_column(truth: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """(K,) AUROC, nan for a column of one class."""
    both = truth.min(axis=0) < truth.max(axis=0)
    columns = zip(truth.T, scores.T, both, strict=True)
    return np.array([roc_auc_score(wanted, score) if usable else np.nan for wanted, score, usable in columns])


def tiny_pictures(dataset: Dataset, size: int = PIXELS) -> np.ndarray:
    """Every picture of the data set, averaged down to `size` x `size` grey pixels: (N, size * size) float32."""
    stored = dataset.select_columns("image").cast_column("image", Image(decode=False))
    rows = []
    for record in stored:
        source = io.BytesIO(record["image"]["bytes"]) if record["image"]["bytes"] else record["image"]["path"]
        with PILImage.open(source) as picture:
            small = picture.convert("L").resize((size, size), PILImage.Resampling.BOX)
        rows.append(np.asarray(small, np.float32).ravel())
    return np.stack(rows)


def _contexts(dataset: Dataset) -> list[str]:
    return [f"{i} {h}" for i, h in zip(dataset["indication"], dataset["history"], strict=True)]
