"""Images as points: t-SNE of their features."""

import textwrap
from pathlib import Path

import numpy as np
from sklearn.manifold import TSNE

from processing.datasets.records import label_names

from ..downstream.data import chosen_names
from ..evaluation.classes import exclusive_classes
from ..evaluation.scorers import Scorer
from ..metrics.alignment import retrieval_scores
from .canvas import plt, save_figure, title_of

PANELS = {"no_context": "image alone", "context": "image and clinical context"}
NEIGHBOURS = 10


def draw_features(scorer: Scorer, dataset, path: str | Path, labels: list[str] | None = None) -> dict[str, dict]:
    """t-SNE (van der Maaten and Hinton, 2008) of the global features of images with one finding.

    Returns:
        Panel -> `retrieval_scores` among the images' features (not the picture's points), a patient's own left out.
    Raises:
        ValueError: an unknown label; more than ten; fewer than two that images have alone.
    """
    known = label_names(dataset)
    if labels is not None and len(labels) > 10:
        raise ValueError(f"labels: {len(labels)}; more than ten colours cannot be told apart.")
    names, rows, of = exclusive_classes(dataset, chosen_names(labels, known))
    commonest = np.sort(np.argsort(-np.bincount(of, minlength=len(names)), kind="stable")[:10])
    kept = np.isin(of, commonest)
    names, rows, of = [names[index] for index in commonest], rows[kept], np.searchsorted(commonest, of[kept])
    images = dataset.select(rows)
    patients = np.asarray(images["patient_id"])
    apart = patients[:, None] != patients
    places, purity = {}, {}
    for condition, panel in PANELS.items():
        if condition not in scorer.conditions:
            continue
        features = scorer.embed_images(images, condition)
        similarity = np.where(apart, features @ features.T, -np.inf)
        scores = purity[panel] = retrieval_scores(similarity, apart & (of[:, None] == of), (NEIGHBOURS,), ())
        perplexity = min(30.0, (len(rows) - 1) / 3)
        found = f"{panel}: {scores['p@10']:.2f} of the nearest {NEIGHBOURS} alike, chance {scores['p@10_chance']:.2f}"
        places[found] = TSNE(metric="cosine", init="pca", perplexity=perplexity, random_state=0).fit_transform(features)
    title = f"t-SNE of the global features of {len(rows)} images, each with one of these findings."
    features_figure(places, names, of, path, title_of(title, dataset))
    return purity


def features_figure(places: dict[str, np.ndarray], names: list[str], of: np.ndarray, path: str | Path, title: str):
    """Images as points, coloured by class.

    Args:
        places: panel's title -> (N, 2).
        names: of the classes, at most ten. of: (N,) each image's class.
    """
    size = (4.6 * len(places) + 2.0, 5.2)
    figure, axes = plt.subplots(1, len(places), figsize=size, layout="constrained", squeeze=False, facecolor="white")
    figure.suptitle(textwrap.fill(title, 60 * len(places)), fontsize=9, color="#555555")
    for axis, (name, points) in zip(axes[0], places.items(), strict=True):
        for index, label in enumerate(names):
            own = points[of == index]
            axis.scatter(*own.T, s=14, alpha=0.8, linewidths=0, color=f"C{index}", label=f"{label} ({len(own)})")
        axis.set_title(name, fontsize=9)
        axis.set(xticks=[], yticks=[])
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside right center", fontsize=8, frameon=False)
    save_figure(figure, path)
