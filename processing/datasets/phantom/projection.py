"""Perspective projection of a body: where a point lands, and path lengths along the rays.

The source stands at the side away from the detector, `SOURCE_DISTANCE` from it. A plane parallel to the detector at
distance t from it is magnified by SID / (SID - t), so the integral along rays is, over slabs of such planes, two
sparse interpolation matrices per slab: `sum_d rows[d] @ slab[d] @ columns[d].T`. Patient size, breathing and
rotation only change the coordinates at which the matrices interpolate.

All factors are integers that float32 holds and adds exactly, so a projection has the same bits on every BLAS.
"""

import numpy as np
from scipy import ndimage, sparse

from .anatomy import SILHOUETTE_DEPTH, SILHOUETTE_STEP, SLAB, SPACING, WATER, Body

SOURCE_DISTANCE = {"PA": 1800.0, "AP": 1000.0, "LATERAL": 1800.0}  # mm, source to detector
DETECTOR_GAP = 25.0  # mm of air between body and detector
WEIGHT = 256  # one, as an interpolation weight
MM_PER_UNIT = SPACING / WATER  # mm of water per unit of a slab's sum


def _cubic_taps(fraction):
    """Catmull-Rom weights of the voxels at -1, 0, 1, 2 for positions `fraction` past voxel 0."""
    t = fraction
    return (
        ((2 - t) * t - 1) * t / 2,
        ((3 * t - 5) * t * t + 2) / 2,
        ((4 - 3 * t) * t + 1) * t / 2,
        (t - 1) * t * t / 2,
    )


class Interpolation:
    """Cubic interpolation along one axis, at positions (plane, pixel, sample) in voxels averaged over the samples.

    first: (plane, pixel) int32, the first voxel that a pixel takes from; weights: (plane, pixel, tap) float32, integers
    of sum `WEIGHT` for the voxels from there on.
    """

    def __init__(self, positions, length):
        positions = np.clip(positions, 0, length - 1)
        whole = np.floor(positions)
        outer_left, _, right, outer_right = (np.rint(w * WEIGHT) for w in _cubic_taps(positions - whole))
        taps = np.stack([outer_left, WEIGHT - outer_left - right - outer_right, right, outer_right], -1)
        voxels = np.clip(whole[..., None].astype(np.int32) + np.arange(-1, 3, dtype=np.int32), 0, length - 1)
        planes, pixels, samples = positions.shape
        taps, voxels = (a.reshape(planes * pixels, samples * 4) for a in (taps, voxels))
        first = voxels.min(1)
        span = int((voxels.max(1) - first).max()) + 1
        place = voxels - first[:, None] + np.arange(len(first))[:, None] * span
        weights = np.bincount(place.ravel(), taps.ravel(), len(first) * span)
        self.first = first.reshape(planes, pixels)
        self.weights = np.rint(weights / samples).astype(np.float32).reshape(planes, pixels, span)

    def matrix(self, planes, start, length, summed=False):
        """The sparse matrix that interpolates `length` voxels from `start` on, and the slice of pixels these reach.

        Its columns are (plane, voxel), its rows (plane, pixel), or the pixels alone where `summed` over the planes.
        """
        first, weights = self.first[planes] - start, self.weights[planes]
        span = weights.shape[2]
        reached = np.flatnonzero(((first < length) & (first + span > 0)).any(0))
        pixels = slice(int(reached[0]), int(reached[-1]) + 1) if len(reached) else slice(0, 0)
        first, weights = first[:, pixels], weights[:, pixels]
        voxels = first[:, :, None] + np.arange(span, dtype=np.int32)
        if (first < 0).any() or (first > length - span).any():
            weights = np.where((voxels >= 0) & (voxels < length), weights, 0)
            voxels = np.clip(voxels, 0, length - 1)
        count = len(first)
        voxels = voxels + (np.arange(count, dtype=np.int32) * length)[:, None, None]
        if summed:
            weights, voxels, span = weights.swapaxes(0, 1), voxels.swapaxes(0, 1), count * span
        ends = np.arange(0, weights.size + 1, span, dtype=np.int32)
        shape = (len(ends) - 1, count * length)
        return sparse.csr_array((weights.ravel(), voxels.ravel(), ends), shape=shape), pixels


class AxisMap:
    """Monotone map between voxel coordinates of a body's axis and millimetres in this patient."""

    def __init__(self, voxels, millimetres):
        self.voxels, self.millimetres = np.asarray(voxels, float), np.asarray(millimetres, float)
        if (np.diff(self.millimetres) <= 0).any() or (np.diff(self.voxels) <= 0).any():
            raise ValueError("millimetres: an axis map must increase")

    def to_mm(self, voxels):
        return self._apply(voxels, self.voxels, self.millimetres)

    def to_voxels(self, millimetres):
        return self._apply(millimetres, self.millimetres, self.voxels)

    @staticmethod
    def _apply(values, source, target):
        inside = np.interp(values, source, target)
        low = (target[1] - target[0]) / (source[1] - source[0])
        high = (target[-1] - target[-2]) / (source[-1] - source[-2])
        return inside + np.minimum(values - source[0], 0) * low + np.maximum(values - source[-1], 0) * high


class Camera:
    """One exposure of one patient.

    view: "PA", "AP" or "LATERAL" (left side on the detector, front toward the viewer's left). axes: the patient's
    `AxisMap` of X, Y, Z. turn, tilt: radians of rotation about the vertical and of caudal angulation, small.
    centre: (across, up) mm where the central ray meets the middle of the body. field: mm of detector on a side.
    """

    def __init__(self, view, axes, shape, turn, tilt, centre, field, image_size):
        self.view, self.axes, self.image_size = view, axes, image_size
        self.depth_axis, self.across_axis = (0, 1) if view == "LATERAL" else (1, 0)
        self.shape, self.turn, self.tilt = shape, turn, tilt
        self.centre, self.pixel = centre, field / image_size
        ends = axes[self.depth_axis].to_mm(np.array([0, shape[self.depth_axis] - 1]))
        self.middle = ends.mean()
        # The body's surface nearest the detector: front for PA, back for AP, left for the lateral view.
        self.toward = -1 if view == "AP" else 1
        self.surface = ends[0 if view == "AP" else 1] + self.toward * DETECTOR_GAP
        self.flip = -1 if view == "LATERAL" else 1
        starts = np.arange(0, shape[self.depth_axis], SLAB)
        self.slab_depth = axes[self.depth_axis].to_mm(starts + (SLAB - 1) / 2)
        edges = axes[self.depth_axis].to_mm(np.append(starts, shape[self.depth_axis]) - 0.5)
        self.unit = MM_PER_UNIT * (edges[-1] - edges[0]) / (SPACING * shape[self.depth_axis])
        self.rows = Interpolation(self._voxels(2, self.slab_depth, image_size), shape[2])
        self.columns = Interpolation(self._voxels(self.across_axis, self.slab_depth, image_size), self._width)

    @property
    def _width(self):
        return self.shape[self.across_axis]

    def magnification(self, depth):
        distance = SOURCE_DISTANCE[self.view]
        return distance / (distance - self.toward * (self.surface - depth))

    def _voxels(self, axis, depth, size, samples=None):
        """Where the rays of `size` pixels meet planes at `depth` (mm), in voxels of `axis`: (plane, pixel, sample)."""
        pixel = self.pixel * self.image_size / size
        if samples is None:
            samples = int(np.ceil(pixel / SPACING))
        detector = (np.arange(size)[:, None] + (np.arange(samples) + 0.5) / samples - size / 2) * pixel
        vertical = axis == 2
        detector = detector * (-1 if vertical else self.flip)
        skew = np.tan(self.tilt if vertical else self.turn) * (depth - self.middle)
        position = self.centre[int(vertical)] + detector / self.magnification(depth)[:, None, None]
        return self.axes[axis].to_voxels(position - skew[:, None, None])

    def points(self, voxels):
        """(N, 3) voxel coordinates -> (N, 2) column and row in pixels, and (N,) pixels per mm there."""
        voxels = np.asarray(voxels, float)
        x, y, z = (self.axes[i].to_mm(voxels[:, i]) for i in range(3))
        depth, across = (x, y) if self.depth_axis == 0 else (y, x)
        scale = self.magnification(depth) / self.pixel
        across = across + np.tan(self.turn) * (depth - self.middle) - self.centre[0]
        up = z + np.tan(self.tilt) * (depth - self.middle) - self.centre[1]
        middle = self.image_size / 2 - 0.5
        return np.stack([middle + self.flip * across * scale, middle - up * scale], 1), scale

    def plane(self):
        """Columns' X (or Y) and rows' Z in mm where their rays meet the middle of the body."""
        detector = (np.arange(self.image_size) + 0.5 - self.image_size / 2) * self.pixel
        scale = self.magnification(self.middle)
        return self.centre[0] + self.flip * detector / scale, self.centre[1] - detector / scale

    def outline(self, flat):
        """(Z, across) voxels of depth at every `SILHOUETTE_STEP`th voxel -> (S, S) mm, as if all lay in the middle."""
        columns, rows = (
            self.axes[axis].to_voxels(mm) / SILHOUETTE_STEP
            for axis, mm in zip((self.across_axis, 2), self.plane(), strict=True)
        )
        where = np.broadcast_arrays(rows[:, None], columns[None])
        thick = ndimage.map_coordinates(flat, where, np.float32, order=1, mode="nearest")
        return thick * SPACING * self.unit / MM_PER_UNIT

    def project(self, slabs):
        """(slab, Z, across) integers -> (S, S) float64 mm of water."""
        return self._project(slabs, slice(0, len(slabs)), 0, 0)

    def _project(self, slabs, planes, low, left):
        """As `project`, of the slabs `planes` whose first voxel is at `low` and `left`."""
        count, height, width = slabs.shape
        rows, v = self.rows.matrix(planes, low, height)
        columns, u = self.columns.matrix(planes, left, width, summed=True)
        pixels = v.stop - v.start
        partial = (rows @ slabs.reshape(-1, width).astype(np.float32, copy=False)).reshape(count, pixels, width)
        turned = np.empty((count, width, pixels), np.float32)
        np.rint(np.multiply(partial.swapaxes(1, 2), np.float32(1 / WEIGHT), out=turned), out=turned)
        image = np.zeros((self.image_size, self.image_size))
        image[v, u] = (columns @ turned.reshape(count * width, pixels)).T
        image *= self.unit / WEIGHT
        return image

    def project_box(self, start, change):
        """Path lengths (S, S) of a change of density (int16, `WATER` = water) whose first voxel is `start`."""
        depth, across = start[self.depth_axis], start[self.across_axis]
        moved = np.moveaxis(change, self.depth_axis, 0)
        first = depth // SLAB
        last = (depth + len(moved) - 1) // SLAB
        slabs = np.zeros((last + 1 - first, *moved.shape[1:]), np.int16)
        for offset in range(SLAB):
            layer = (offset - depth) % SLAB  # the first that lies at `offset` within a slab
            layers = moved[layer::SLAB]
            begin = (depth + layer) // SLAB - first
            slabs[begin : begin + len(layers)] += layers
        return self._project(slabs.swapaxes(1, 2), slice(first, last + 1), start[2], across)

    def silhouettes(self, body: Body, size):
        """(structure, size, size) float32: share of each cell that each of `STRUCTURE_NAMES` covers."""
        flat = body.lateral_silhouettes if self.view == "LATERAL" else body.frontal_silhouettes
        structures, planes, height, width = flat.shape
        thickness = SILHOUETTE_DEPTH * SILHOUETTE_STEP
        voxels = np.minimum((np.arange(planes) + 0.5) * thickness, self.shape[self.depth_axis])
        depth = self.axes[self.depth_axis].to_mm(voxels)
        rows, columns = (
            Interpolation(self._voxels(axis, depth, size, samples=3) / SILHOUETTE_STEP, length)
            for axis, length in ((2, height), (self.across_axis, width))
        )
        rows, _ = rows.matrix(slice(None), 0, height)
        columns = columns.matrix(slice(None), 0, width)[0].toarray()
        columns = columns.reshape(planes, size, planes, width)[range(planes), :, range(planes)]
        cover = (flat > 0).transpose(1, 2, 0, 3).astype(np.float32, order="C")
        cover = (rows @ cover.reshape(planes * height, -1)).reshape(planes, -1, width)
        cover = np.matmul(cover, columns.swapaxes(1, 2)).max(0).reshape(size, structures, size)
        return np.clip(cover.swapaxes(0, 1) / WEIGHT**2, 0, 1)
