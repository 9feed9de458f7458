"""What can be had without understanding a radiograph: linear models on tiny pictures and on the clinical context."""

import io

import numpy as np
from datasets import Dataset, Image
from PIL import Image as PILImage
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV
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
    return _aurocs(train, test, pixels, scaler.transform(tiny_pictures(test)), PENALTIES)


def context_auroc(train: Dataset, test: Dataset) -> dict[str, float]:
    """Finding -> AUROC of logistic regression on the bag of words of indication and history."""
    words = CountVectorizer(binary=True)
    features = words.fit_transform(_contexts(train))
    return _aurocs(train, test, features, words.transform(_contexts(test)), TEXT_PENALTIES)


def _aurocs(train, test, features, test_features, penalties) -> dict[str, float]:
    """One model per finding, its C the best by mean AUROC over folds of all of `train` that keep a patient together.

    Uncertain counts as positive, not mentioned as negative. Findings of one class in `test`, or on a side of every
    fold of `train`, are left out.
    """
    names = label_names(train)
    if names != label_names(test):
        raise ValueError("test: its label names differ from those of train.")
    patients, group = np.unique(train["patient_id"], return_inverse=True)
    shared = set(patients.tolist()) & set(test["patient_id"])
    if shared:
        raise ValueError(f"test: patient {min(shared)} is in train as well; splits must be by patient.")
    targets, truth = (label_targets(split["labels"][:]) for split in (train, test))
    fold = np.random.default_rng(0).permutation(len(patients))[group] % FOLDS
    splits = [(np.flatnonzero(fold != number), np.flatnonzero(fold == number)) for number in range(FOLDS)]
    found = {}
    for name, known, wanted in zip(names, targets.T, truth.T, strict=True):
        folds = [sides for sides in splits if all(map(_has_both, (known[rows] for rows in sides)))]
        if folds and _has_both(wanted):
            model = LogisticRegression(max_iter=1000)
            search = GridSearchCV(model, {"C": penalties}, scoring="roc_auc", cv=folds).fit(features, known)
            found[name] = float(roc_auc_score(wanted, search.decision_function(test_features)))
    if not found:
        raise ValueError("train, test: no finding has both classes in both splits.")
    return found


def _has_both(targets: np.ndarray) -> bool:
    return len(targets) > 0 and targets.min() < targets.max()


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
