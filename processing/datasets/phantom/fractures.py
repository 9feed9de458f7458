"""Broken ribs and clavicles: a gap in the bone, and its far part displaced."""

import numpy as np
from scipy import ndimage

from .anatomy import (
    CLAVICLE_LABELS,
    RIB_LABELS,
    SPACING,
    WATER,
)
from .scene import mm_grid, sides


def rib_fracture(scene, lesion, rng):
    """Two or three neighbouring ribs broken behind."""
    changes = []
    for side in sides(lesion):
        first = int(rng.integers(3, 8))
        # In the posterior arc, where the film shows a rib over lung and not edge on.
        share = rng.uniform(0.3, 0.8)
        for label in RIB_LABELS[side][first : first + 2 + round(lesion.severity)]:
            changes += _break(scene, label, share + rng.uniform(-0.05, 0.05), lesion.severity, rng, (5.0, 10.0))
    return changes


def clavicle_fracture(scene, lesion, rng):
    """The middle third of the clavicle broken, its outer part sunk."""
    changes = []
    for side in sides(lesion):
        changes += _break(scene, CLAVICLE_LABELS[side], rng.uniform(0.4, 0.6), lesion.severity, rng, (5.0, 11.0))
    return changes


def _break(scene, label, share, severity, rng, step):
    """Break a rib (behind, at the `share` of the way outward) or clavicle: a gap, the far part a `step` of mm away."""
    window = scene.window((label,))
    points = np.argwhere(scene.labels[window] == label) + [s.start for s in window]
    if len(points) < 40:
        return []
    if label not in CLAVICLE_LABELS.values():
        points = points[points[:, 1] < np.median(points[:, 1])]
    outward = points[np.argsort(points[:, 0], kind="stable")]
    seed = outward[int((share if label not in RIB_LABELS["right"] else 1 - share) * (len(outward) - 1))]
    near = points[((points - seed) ** 2).sum(1) < 9**2]
    centre = near.mean(0)
    axis = np.linalg.svd(near - centre, full_matrices=False)[2][0]
    axis *= np.sign(axis[np.argmax(np.abs(axis))])
    window = scene.around(centre, 30)
    grid = np.stack(np.broadcast_arrays(*mm_grid(window)), -1) - np.float32(SPACING) * centre.astype(np.float32)
    along = grid @ axis.astype(np.float32)
    bone = ndimage.binary_dilation(scene.labels[window] == label, iterations=1)
    excess = np.clip(scene.density[window] - WATER, 0, None).astype(np.float32) * bone
    downward = np.array([0, 0, -1.0]) + rng.normal(0, 0.25, 3)
    downward -= (downward @ axis) * axis
    shift = downward / np.linalg.norm(downward) * (step[0] + (step[1] - step[0]) * severity)
    taper = np.clip(1 - along / 30, 0, 1) * (along > 0)
    voxels = np.stack(np.meshgrid(*[np.arange(n) for n in excess.shape], indexing="ij"))
    moved = voxels - taper[None] * (shift / SPACING).reshape(3, 1, 1, 1)
    gap = (np.abs(along) < 1.2 + 1.5 * severity).astype(np.float32)
    ends = 1 + 2.4 * np.clip(1.3 - np.abs(along) / 8, 0, 1)  # the ends are crushed together
    shifted = ndimage.map_coordinates(excess * ends, moved, order=1) * (1 - gap)
    new = scene.density[window] + np.rint(shifted - excess).astype(np.int16)
    reach = (np.abs(along) < 14) & (((grid - along[..., None] * axis) ** 2).sum(-1) < 11**2)
    return [scene.replace(window, new / np.float32(WATER), new != scene.density[window], shown=reach)]
