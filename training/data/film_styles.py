"""A picture as another film or vendor would show it: response, local contrast, sharpness, noise, gradients, marks."""

import numpy as np
from PIL import Image
from scipy import ndimage

from processing.datasets.phantom.overlays import WORDS, mark


def other_film(image: Image.Image, view_position: str, rng: np.random.Generator) -> Image.Image:
    """The picture in grey levels of another film. No place moves; letters, words and blades may hide some.

    view_position: the words that may stand on it; those of a PA film where it is none of `overlays.WORDS`.
    """
    grey = np.asarray(image.convert("L"), np.float32) / 255
    grey = _response(grey, rng)
    unit = min(grey.shape) / 224  # pixels: what follows means the same at any size
    grey = grey + rng.uniform(-0.25, 0.5) * (grey - ndimage.gaussian_filter(grey, 30 * unit, truncate=2))
    grey = grey + rng.uniform(0, 1.2) * (grey - ndimage.gaussian_filter(grey, rng.choice((1.0, 2.5)) * unit))
    softness = rng.uniform(0, 0.9) * unit
    if softness > 0.25:
        grey = ndimage.gaussian_filter(grey, softness)
    height, width = grey.shape
    slope = rng.normal(0, 0.04, 2)
    grey = grey + slope[0] * np.linspace(-1, 1, height)[:, None] + slope[1] * np.linspace(-1, 1, width)
    grey = np.clip(grey + rng.normal(0, rng.uniform(0, 0.025), grey.shape), 0, 1)
    if rng.random() < 0.5:
        grey = _marked(grey, view_position if view_position in WORDS else "PA", rng)
    return Image.fromarray(np.rint(np.clip(grey, 0, 1) * 255).astype(np.uint8))


def _response(grey, rng):
    """A monotone curve from 0 to 1: a power, then a shoulder (k above 0) or a toe (below)."""
    k = rng.uniform(-1.5, 2.0)
    k = k if abs(k) > 0.05 else 0.05
    return (1 - np.exp(-k * grey ** rng.uniform(0.7, 1.4))) / (1 - np.exp(-k))


def _marked(grey, view, rng):
    """With the marks of a square film, stretched to the picture's shape."""
    height, width = grey.shape
    if height == width:
        return mark(grey.astype(np.float64), view, rng)
    side = max(height, width)
    square = ndimage.zoom(grey, (side / height, side / width), order=1, grid_mode=True, mode="nearest")
    marked = mark(square.astype(np.float64), view, rng)
    return ndimage.zoom(marked, (height / side, width / side), order=1, grid_mode=True, mode="nearest")
