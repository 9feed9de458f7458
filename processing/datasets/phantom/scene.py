"""A body that lesions are put into, part by part, and what each of them has changed."""

import functools
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from .anatomy import (
    LUNG_LABELS,
    SPACING,
    WATER,
    Body,
)

PLEURAL_AIR, PLEURAL_FLUID = 250, 251  # labels of what was lung before a lesion took its place
TEXTURE_SIZE = 64  # voxels: the period of the noise that gives lesions their texture


@dataclass
class Change:
    """What a lesion does to the volume. start: its first voxel; density: change, int16, `WATER` = water.

    shown: bool of the same shape, what the lesion's mask shows; None where that is the change itself.
    """

    start: tuple[int, int, int]
    density: np.ndarray
    shown: np.ndarray | None = None


@functools.cache
def texture():
    """(64, 64, 64) float32 noise of zero mean and unit variance, periodic, a mixture of three scales."""
    rng = np.random.default_rng(64)
    total = np.zeros((TEXTURE_SIZE,) * 3)
    for scale, weight in ((1.2, 0.6), (3.0, 0.8), (7.0, 0.6)):
        noise = ndimage.gaussian_filter(rng.normal(size=total.shape), scale, mode="wrap")
        total += weight * noise / noise.std()
    return (total / total.std()).astype(np.float32)


class Scene:
    """A body as the lesions put so far have left it. upright: the patient stands, so that pleural fluid sinks."""

    def __init__(self, body: Body, upright: bool):
        self.body, self.upright = body, upright
        self.density = body.density.astype(np.int16)
        self.labels = body.labels.copy()

    def window(self, labels):
        """The slices that hold all of `labels`."""
        boxes = self.body.boxes[list(labels)]
        boxes = boxes[boxes[:, 0, 1] > 0]
        return tuple(slice(int(a), int(b)) for a, b in zip(boxes[:, :, 0].min(0), boxes[:, :, 1].max(0), strict=True))

    def around(self, centre, radius):
        """The slices of a cube of `radius` mm about a voxel."""
        reach = int(radius / SPACING) + 2
        return tuple(
            slice(max(int(c) - reach, 0), min(int(c) + reach + 1, n))
            for c, n in zip(centre, self.density.shape, strict=True)
        )

    def lung(self, window, side):
        return is_any(self.labels[window], LUNG_LABELS[side])

    def centroid(self, *labels):
        window = self.window(labels)
        return np.argwhere(is_any(self.body.labels[window], labels)).mean(0) + [s.start for s in window]

    def replace(self, window, density, where, label=None, shown=None):
        """Set `density` (array, 1 = water) in `window` where `where`; returns the `Change`."""
        present = self.density[window]
        scaled = np.float32(WATER) * density
        change = np.rint(scaled, out=scaled).astype(np.int16)
        change -= present
        change *= where
        present += change
        if label is not None:
            self.labels[window][where] = label
        return Change(tuple(s.start for s in window), change, shown)

    def blend(self, window, density, share, label=None, shown=None):
        """As `replace`, mixing in a `share` of 0 to 1 of `density`."""
        old = self.density[window].astype(np.float32) / WATER
        mixed = share * (density - old)
        mixed += old
        return self.replace(window, mixed, share > 0, label, shown)


def is_any(labels, members):
    """Where `labels` are one of a few: as `np.isin`, but faster."""
    found = labels == members[0]
    for member in members[1:]:
        found |= labels == member
    return found


def mm_grid(window):
    """Open grid of mm in the body along each axis of `window`, float32."""
    return [g * np.float32(SPACING) for g in np.ogrid[window]]


def texture_in(window, rng):
    offset = rng.integers(TEXTURE_SIZE, size=3)
    x, y, z = ((np.arange(s.start, s.stop) + o) % TEXTURE_SIZE for s, o in zip(window, offset, strict=True))
    return texture().take(z, 2).take(y, 1).take(x, 0)  # faster than all at once


def sides(lesion):
    return ("left", "right") if lesion.side == "bilateral" else (lesion.side,)
