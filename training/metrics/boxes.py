"""Boxes found for sentences against the boxes that are there, on plain arrays."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RASTER = 256  # cells per side on which unions of boxes are measured


@dataclass(frozen=True)
class GroundedSentence:
    """One question to one picture: the boxes that were found, and those that are there; either may be none.

    Args:
        found (K, 4), scores (K,): x0, y0, x1, y1 in shares of the picture's width and height, best first.
        truth (T, 4): the same.
        label: what the sentence is about, by which average precision is averaged; "" where nobody says.
    """

    found: np.ndarray
    scores: np.ndarray
    truth: np.ndarray
    label: str = ""


def iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(M, N) intersection over union of boxes (M, 4) and (N, 4)."""
    first, second = np.asarray(first, float).reshape(-1, 4), np.asarray(second, float).reshape(-1, 4)
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    inside = np.clip(high - low, 0, None).prod(axis=-1)
    areas = [np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(axis=-1) for boxes in (first, second)]
    union = areas[0][:, None] + areas[1][None] - inside
    return np.divide(inside, union, out=np.zeros_like(inside), where=union > 0)


def union_iou(found: np.ndarray, truth: np.ndarray) -> float:
    """IoU of what all boxes of one side cover with what those of the other cover, on `RASTER` cells a side."""
    first, second = (_covered(boxes) for boxes in (found, truth))
    union = (first | second).sum()
    return float((first & second).sum() / union) if union else 0.0


def _covered(boxes: np.ndarray) -> np.ndarray:
    centres = (np.arange(RASTER) + 0.5) / RASTER
    boxes = np.asarray(boxes, float).reshape(-1, 4)
    across = (centres >= boxes[:, :1]) & (centres < boxes[:, 2:3])
    down = (centres >= boxes[:, 1:2]) & (centres < boxes[:, 3:])
    return (down[:, :, None] & across[:, None, :]).any(axis=0)


def matches(item: GroundedSentence, threshold: float) -> np.ndarray:
    """(K,) bool: which found boxes, best first, are the first to reach that IoU with a box that is there."""
    overlap = iou(item.found, item.truth)
    taken = np.zeros(len(item.truth), bool)
    hits = np.zeros(len(item.found), bool)
    for place, row in enumerate(overlap):
        row = np.where(taken, -1.0, row)
        if len(row) and row.max() >= threshold:
            taken[row.argmax()] = hits[place] = True
    return hits


def average_precision(scores: np.ndarray, hits: np.ndarray, positives: int) -> float:
    """Area under the interpolated precision-recall curve (PASCAL VOC from 2010 on); nan without positives.

    Of equal scores, misses count first: a tie is no merit.

    Args:
        scores, hits: (K,) of all found boxes. positives: how many boxes there are.
    """
    if not positives:
        return float("nan")
    order = np.lexsort((hits, -scores))
    true = np.cumsum(hits[order])
    precision = true / np.arange(1, len(order) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    return float((best * hits[order]).sum() / positives)


class BoxScores:
    """Scores of grounded sentences, or of any choice of them: what a bootstrap asks for again and again."""

    def __init__(self, items: Sequence[GroundedSentence], thresholds: Sequence[float] = (0.3, 0.5)):
        self.labels = np.array([item.label for item in items])
        self.positives = np.array([len(item.truth) for item in items])
        self.found = np.array([len(item.found) for item in items])
        self.overlap = np.array([union_iou(item.found, item.truth) if len(item.truth) else np.nan for item in items])
        self.scores = np.concatenate([np.zeros(0), *(item.scores for item in items)])
        self.hits = {
            level: np.concatenate([np.zeros(0, bool), *(matches(item, level) for item in items)])
            for level in thresholds
        }
        self._begin = np.concatenate([[0], np.cumsum(self.found)])

    def __call__(self, rows: np.ndarray | None = None) -> dict[str, float]:
        """ "box_iou", "box_ap@t" over all boxes, "box_map@t" (the mean over labels that have any), "box_none_accuracy"
        and "box_some_accuracy": shares of sentences without, and with, a box for which none, and one, was found."""
        rows = np.arange(len(self.labels)) if rows is None else np.asarray(rows)
        there = self.positives[rows] > 0
        empty = self.found[rows] == 0
        result = {"box_iou": _mean(self.overlap[rows][there])}
        known = [label for label in np.unique(self.labels[rows][there]) if label]
        for level, hits in self.hits.items():
            result[f"box_ap@{level}"] = self._precision(rows, hits)
            each = [self._precision(rows[self.labels[rows] == label], hits) for label in known]
            result[f"box_map@{level}"] = _mean(np.array(each))
        result["box_none_accuracy"] = _mean(empty[~there])
        result["box_some_accuracy"] = _mean(~empty[there])
        return result

    def by_label(self, level: float) -> dict[str, float]:
        """Average precision of each label that has a box."""
        return {
            str(label): self._precision(np.flatnonzero(self.labels == label), self.hits[level])
            for label in np.unique(self.labels[self.positives > 0])
            if label
        }

    def _precision(self, rows: np.ndarray, hits: np.ndarray) -> float:
        counts = self.found[rows]
        offsets = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        places = np.repeat(self._begin[rows], counts) + offsets
        return average_precision(self.scores[places], hits[places], int(self.positives[rows].sum()))


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")


__all__ = ["BoxScores", "GroundedSentence", "average_precision", "iou", "matches", "union_iou"]
