"""The wide appearance's bodies: deformations of the CT that vary chest, heart, diaphragm, spine and ribs by themselves.

Each is a displacement of where a voxel takes its density and label from, so lesions put in later follow it.
"""

import numpy as np
from scipy import ndimage

# Voxels of the CT at its 2 mm: the spine's middle, the level of the carina, the back, the domes' middles.
MIDDLE, CARINA, BACK = 84.0, 104.0, 45.0
DOMES = ((56.0, 80.0), (120.0, 68.0))  # (x, z), right and left


def bump(distance):
    """1 at 0, smooth, 0 from 1 on."""
    return np.clip(1 - distance * distance, 0, None) ** 2


def resize_cubic(values, size):
    """(n, m, k) control values -> float32 (size) by cubic interpolation along each axis."""
    for axis, length in enumerate(size):
        basis = ndimage.zoom(np.eye(values.shape[axis]), (length / values.shape[axis], 1), order=3, grid_mode=False)
        values = np.moveaxis(np.tensordot(np.asarray(basis), values, (1, axis)), 0, axis)
    return values.astype(np.float32)


def varied_deformation(rng, shape, heart):
    """Source voxel coordinates (3, X, Y, Z) float32 of each voxel of a body. heart: its centre in voxels."""
    grid = [g.astype(np.float32) for g in np.ogrid[tuple(slice(0, n) for n in shape)]]
    x, y, z = grid
    source = np.stack([resize_cubic(rng.normal(0, (3.0, 2.4, 3.0)[i], (5, 4, 5)), shape) for i in range(3)])
    for axis in range(3):
        source[axis] += grid[axis]
    _bend_spine(source, rng, y, z)
    _shape_chest(source, rng, x, y, z)
    _lower_shoulders(source, rng, x, z)
    _set_domes(source, rng, x, y, z)
    _scale_heart(source, rng, grid, heart)
    return source


def _bend_spine(source, rng, y, z):
    """Scoliosis, the chest following in part; kyphosis, which sinks the apices and tips the chest forward."""
    up = (z - CARINA) / 83
    curve = rng.normal(0, 2.6) * np.sin(np.pi * (up + rng.uniform(-0.5, 0.5))) + rng.normal(0, 1.8) * up
    source[0] += curve * (0.55 + 0.45 * np.clip((90 - y) / 60, 0, 1))
    bent = rng.gamma(1.5, 2.5)
    source[1] += bent * (0.5 - up * up)
    # The slope of the ribs from back to front: level in emphysema, steep in expiration.
    source[2] += rng.normal(0, 0.13) * (y - 70)


def _shape_chest(source, rng, x, y, z):
    """A chest wider above or below, each half by itself, deeper or flatter."""
    up = np.clip((z - CARINA) / 60, -1.2, 1.1)
    for side in (-1, 1):
        half = np.clip(side * (x - MIDDLE), 0, None)
        factor = rng.normal(0, 0.04) + rng.normal(0, 0.06) * up + rng.normal(0, 0.05) * (1 - up * up)
        source[0] += side * half * np.clip(factor, -0.22, 0.22)
    source[1] += (y - 70) * np.clip(rng.normal(0, 0.07) + rng.normal(0, 0.05) * up, -0.18, 0.18)


def _lower_shoulders(source, rng, x, z):
    """Clavicles of raised arms slope upward; those of hanging arms are level."""
    lateral = np.clip(np.abs(x - MIDDLE) - 14, 0, 62)
    upper = np.clip((z - 124) / 22, 0, 1)
    source[2] += rng.uniform(0.05, 0.42) * lateral * upper * upper


def _set_domes(source, rng, x, y, z):
    """Each dome of the diaphragm by itself, lower and flatter than in the recumbent CT, or higher."""
    common, flat = rng.uniform(-4, 16), rng.uniform(0.75, 1.5)
    for centre_x, centre_z in DOMES:
        shift = np.float32(common + rng.uniform(-5, 9))
        across = bump((x - centre_x) / (46 * flat)) * bump((y - 66) / 80)
        source[2] += shift * across * bump((z - centre_z + shift / 2) / 72)


def _scale_heart(source, rng, grid, heart):
    """The heart by its own factors along each axis, shifted; large in the CT for its lungs."""
    x, y, z = grid
    centre = (np.asarray(heart) + (-4, 0, 0) + rng.normal(0, (3.0, 2.0, 3.0))).astype(np.float32)
    common = rng.uniform(0.68, 0.92)
    distance = np.sqrt(((x - centre[0]) / 60) ** 2 + ((y - centre[1]) / 56) ** 2 + ((z - centre[2]) / 56) ** 2)
    near = np.clip(1.6 * bump(distance), 0, 1)
    for axis in range(3):
        scale = np.clip(common * rng.normal(1, 0.06), 0.62, 1.0)
        source[axis] += np.float32(1 / scale - 1) * near * (grid[axis] - centre[axis])
    source[0] += np.float32(rng.normal(0, 3)) * near
