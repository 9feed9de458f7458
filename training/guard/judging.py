"""How many pictures of each kind the guard lets through, and how many it refuses."""

import numpy as np
from PIL import Image

from processing.guard import FRONTAL, LATERAL, judge, kind_probabilities

TURNS = {"rotated_90": 1, "rotated_180": 2, "rotated_270": 3}


def rates(judged: dict[str, np.ndarray], weights=None) -> dict[str, tuple[int, float, str]]:
    """Kind -> how many pictures, the share that is as it should be, and whether that is "let through" or "refused".

    Args:
        judged: kind -> (N, H, W) uint8 pictures; radiographs are also judged turned and inverted, and told as the
            other view.
        weights: of the network; the package's by default.
    """
    found = {}
    for kind, pictures in judged.items():
        if kind not in (FRONTAL, LATERAL):
            found[kind] = (len(pictures), 1 - accepted(pictures, weights), "refused")
            continue
        views = ("PA", "LATERAL") if kind == FRONTAL else ("LATERAL", "PA")
        found[kind] = (len(pictures), accepted(pictures, weights, views[0]), "let through")
        if kind == FRONTAL:
            found[f"{kind}, told as lateral"] = (len(pictures), 1 - accepted(pictures, weights, views[1]), "refused")
        changed = {"inverted": 255 - pictures} | {
            name: np.rot90(pictures, turn, axes=(1, 2)) for name, turn in TURNS.items()
        }
        for name, own in changed.items():
            found[f"{kind}, {name}"] = (len(own), 1 - accepted(own, weights, views[0]), "refused")
    return found


def accepted(pictures: np.ndarray, weights=None, view: str | None = None) -> float:
    """The share of (N, H, W) uint8 pictures that are let through as this view."""
    probabilities = kind_probabilities([Image.fromarray(np.ascontiguousarray(each)) for each in pictures], weights)
    return float(np.mean([judge(row, view).accepted for row in probabilities]))
