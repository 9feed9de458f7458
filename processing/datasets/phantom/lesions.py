"""Disease put into the volume: each lesion is a change of density, confined by the anatomy it lies in."""

import numpy as np
from scipy import ndimage

from .anatomy import (
    HEART_LABELS,
    LOBE_LABELS,
    LUNG_LABELS,
    SPACING,
    TRACHEA,
    WATER,
    ZONES,
)
from .fractures import clavicle_fracture, rib_fracture
from .plan import LOBES, Lesion
from .scene import PLEURAL_AIR, PLEURAL_FLUID, is_any, mm_grid, sides, texture_in


def _near(window, centre, reach):
    """The part of `window` within `reach` (mm, one or one per axis) of the voxel `centre`, along each axis."""
    parts = []
    for s, c, r in zip(window, centre, np.broadcast_to(reach, 3) / SPACING, strict=True):
        low, high = (int(np.clip(end, s.start, s.stop)) for end in (np.floor(c - r), np.ceil(c + r) + 1))
        parts.append(slice(low, high))
    return tuple(parts)


def _inside(part, window):
    """The slices of `part` counted from the first voxel of `window`."""
    return tuple(slice(p.start - s.start, p.stop - s.start) for p, s in zip(part, window, strict=True))


def _distance2(window, centre, radii=(1, 1, 1)):
    """Squared distance in units of `radii` (mm) from the voxel `centre`."""
    grid = mm_grid(window)
    return sum(
        ((g - np.float32(c * SPACING)) / np.float32(r)) ** 2 for g, c, r in zip(grid, centre, radii, strict=True)
    )


def _lobes(lesion):
    """The labels of the lobes that a lesion of the lung lies in, one tuple per side."""
    if lesion.lobe:
        return [(LOBE_LABELS[lesion.lobe],)]
    return [LUNG_LABELS[side] for side in sides(lesion)]


def _seat(scene, labels, rng, depth, clear=1.0):
    """A random voxel of the lobes at least `depth` mm from the wall, where the film is among the `clear` share that
    heart, liver and spine cover least."""
    window = scene.window(labels)
    inside = is_any(scene.labels[window], labels)
    if not inside.any():  # all of it has collapsed or drowned
        inside = is_any(scene.body.labels[window], labels)
    wall = scene.body.wall[window]
    allowed = inside & (wall >= depth)
    if clear < 1:
        column = (window[0], slice(None), window[2])
        dense = scene.density[column] > WATER * 9 // 10
        allowed &= (dense.sum(1) <= np.quantile(dense.sum(1)[inside.any(1)], clear))[:, None]
    if not allowed.any():
        allowed = inside & (wall >= wall[inside].max() * 0.6)
    candidates = np.flatnonzero(allowed)
    chosen = np.unravel_index(candidates[rng.integers(len(candidates))], allowed.shape)
    return np.array([c + s.start for c, s in zip(chosen, window, strict=True)])


def opacity(scene, lesion, rng):
    """Haze in a lobe: soft patches that veil the vessels without hiding them."""
    changes = []
    for labels in _lobes(lesion):
        window = scene.window(labels)
        lobe = is_any(scene.labels[window], labels)
        cover = np.zeros(lobe.shape, np.float32)
        for _ in range(1 + rng.integers(1, 4)):
            centre = _seat(scene, labels, rng, 8, clear=0.7)
            radii = (24 + 22 * lesion.severity) * rng.uniform(0.8, 1.3, 3)
            near = _near(window, centre, 1.1 * radii)
            patch = cover[_inside(near, window)]
            np.maximum(patch, np.clip(1.15 - _distance2(near, centre, radii), 0, 1), out=patch)
        cover *= np.clip(0.8 + 0.35 * texture_in(window, rng), 0.1, 1.6)
        thin = np.clip((1e5 / max(lobe.sum(), 1)) ** (1 / 3), 1, 1.6)  # a thin lobe needs more to show as much
        added = np.float32((0.18 + 0.34 * lesion.severity) * thin) * cover
        density = np.minimum(scene.density[window] / np.float32(WATER) + added, 1.0)
        changes.append(scene.replace(window, density, lobe & (added > 0.01)))
    return changes


def consolidation(scene, lesion, rng):
    """Airspace filled with fluid: dense, sharp where it meets a fissure or the pleura, with air bronchograms."""
    changes = []
    for labels in _lobes(lesion):
        window = scene.window(labels)
        lobe = is_any(scene.labels[window], labels)
        centre = _seat(scene, labels, rng, 6, clear=0.7)
        radii = (25 + 35 * lesion.severity) * rng.uniform(0.85, 1.2, 3)
        distance = np.sqrt(_distance2(window, centre, radii)) + 0.13 * texture_in(window, rng)
        share = lobe * np.clip((1.05 - distance) * 4, 0, 1) * np.float32(0.55 + 0.35 * lesion.severity)
        side = "left" if labels[0] in LUNG_LABELS["left"] else "right"
        hilum = scene.body.zones[ZONES[f"{side} hilum"]]
        for _ in range(5):  # bronchi that still hold air
            end = centre + rng.normal(0, 0.4, 3) * radii / SPACING
            near = _near(window, (hilum + end) / 2, np.abs(end - hilum) / 2 * SPACING + 2.6)
            share[_inside(near, window)] *= 1 - 0.85 * (
                _segment_distance2(near, hilum, end) < rng.uniform(1.5, 2.6) ** 2
            )
        changes.append(scene.blend(window, np.float32(1.0), share))
    return changes


def _segment_distance2(window, start, end):
    """Squared distance (mm) from the segment between two voxels."""
    grid = mm_grid(window)
    start, along = np.asarray(start) * SPACING, (np.asarray(end) - start) * SPACING
    length2 = float((along**2).sum()) + 1e-6
    position = sum((g - np.float32(s)) * np.float32(a / length2) for g, s, a in zip(grid, start, along, strict=True))
    position = np.clip(position, 0, 1)
    return sum((g - np.float32(s) - np.float32(a) * position) ** 2 for g, s, a in zip(grid, start, along, strict=True))


def nodule(scene, lesion, rng, smallest=7.5, largest=14.5):
    """A solid ball with an uneven surface."""
    changes = []
    for labels in _lobes(lesion):
        radius = smallest + (largest - smallest) * lesion.severity
        centre = _seat(scene, labels, rng, min(radius + 3, 22), clear=0.45)
        window = scene.around(centre, radius * 1.5)
        radii = radius * rng.uniform(0.85, 1.18, 3)
        distance = np.sqrt(_distance2(window, centre, radii)) + 0.1 * texture_in(window, rng)
        lung = scene.lung(window, "left") | scene.lung(window, "right")
        changes.append(scene.blend(window, np.float32(1.15), lung * np.clip((1.0 - distance) * 5 + 0.5, 0, 1)))
    return changes


def mass(scene, lesion, rng):
    """As a nodule, above 3 cm across."""
    return nodule(scene, lesion, rng, 16.0, 34.0)


def edema(scene, lesion, rng):
    """Fluid in the interstitium: perihilar haze, full vessels, septal lines at the lower lateral walls."""
    changes = []
    severity = np.float32(lesion.severity)
    for side in sides(lesion):
        window = scene.window(LUNG_LABELS[side])
        lung = scene.lung(window, side)
        hilum = scene.body.zones[ZONES[f"{side} hilum"]]
        wing = np.clip(1 - _distance2(window, hilum - (0, 0, 6), (62, 75, 85)), 0, 1)
        uneven = texture_in(window, rng)  # in place from here on: these arrays are large
        uneven *= 0.45
        uneven += 0.9
        added = (0.10 + 0.30 * severity) * wing
        added *= np.clip(uneven, 0.1, 2.5, out=uneven)
        old = scene.density[window] / np.float32(WATER)
        vessels = old - np.float32(0.22)
        np.clip(vessels, 0, 0.6, out=vessels)
        vessels *= 0.4 + 0.9 * severity
        added += vessels
        added[_septal_lines(window, lung, side, hilum, rng)] += 0.15 + 0.35 * severity
        added += old
        changes.append(scene.replace(window, np.minimum(added, 1.0, out=added), lung, shown=lung & (wing > 0.35)))
    return changes


def _septal_lines(window, lung, side, hilum, rng):
    """Kerley B lines: short, thin and level, at the lateral edge of the lower lung. Bool."""
    x, _, z = np.ogrid[window]
    columns = lung.any(1)
    edge = lung.shape[0] - 1 - columns[::-1].argmax(0) if side == "left" else columns.argmax(0)
    inward = np.abs(x - x[0] - edge)
    level = z - np.rint(0.15 * inward)
    starts = np.cumsum(rng.integers(4, 14, lung.shape[2])) + window[2].start
    return lung & np.isin(level, starts) & (inward < rng.integers(6, 11)) & (z < hilum[2] - 8)


def effusion(scene, lesion, rng):
    """Free fluid: it fills the hemithorax from below and climbs along the wall (meniscus)."""
    changes = []
    for side in sides(lesion):
        labels = (*LUNG_LABELS[side], PLEURAL_AIR)
        window = scene.window(LUNG_LABELS[side])
        pleural = is_any(scene.labels[window], labels)
        _, y, z = mm_grid(window)
        wall = scene.body.wall[window].astype(np.float32)
        bottom, top = z[0, 0, 0], z[0, 0, -1]
        angle = scene.body.zones[ZONES[f"{side} costophrenic angle"], 2] * SPACING
        severity = lesion.severity * rng.uniform(0.85, 1.1)
        level = max(angle + 4, bottom + 24) + severity * (0.48 * (top - bottom) - 20)
        meniscus = (14 + 34 * severity) / (1 + (wall / np.float32(7 + 6 * severity)) ** 2)
        surface = np.float32(level) + meniscus
        if not scene.upright:  # the fluid also layers behind the lung of a recumbent patient
            behind = np.clip(1 - (y - y.min()) / np.float32(30 + 40 * severity), 0, 1)
            surface = surface - 12 + behind * np.float32(40 + 90 * severity)
        share = pleural * np.clip((surface - z) / 4 + 0.5, 0, 1)
        changes.append(scene.blend(window, np.float32(1.02), share, label=PLEURAL_FLUID))
    return changes


def pneumothorax(scene, lesion, rng):
    """Air between lung and wall, most at the apex: no vessels there, and a thin pleural line where the lung begins."""
    changes = []
    for side in sides(lesion):
        window = scene.window(LUNG_LABELS[side])
        lung = scene.lung(window, side)
        z = mm_grid(window)[2]
        height = (z - z.min()) / (z.max() - z.min())
        rise = np.clip((height - 0.25) / 0.75, 0, 1)
        widest = 13 + 44 * lesion.severity * rng.uniform(0.85, 1.15)
        gap = np.float32(widest) * (rise * rise * (3 - 2 * rise) + np.float32(0.35 * lesion.severity))
        wall = scene.body.wall[window].astype(np.float32)
        # Recoil is toward the hilum: less in front of and behind the lung than at its side and apex.
        columns = np.flatnonzero(lung.any((1, 2)))
        lateral = (np.arange(lung.shape[0]) - columns[0]) / (columns[-1] - columns[0])
        lateral = (lateral if side == "left" else 1 - lateral)[:, None, None].astype(np.float32)
        gap = gap * np.clip(np.maximum(0.25 + 1.1 * lateral, 4 * (height - 0.8)), 0, 1)
        inside = wall - gap
        air = lung & (inside < 0)
        line = np.clip(2.2 - np.abs(inside - 1.3), 0, 1) * (gap > 3)
        old = scene.density[window] / np.float32(WATER)
        collapsed = np.minimum(old * np.float32(1 + 0.5 * lesion.severity), 1.1)
        density = np.where(air, 0, collapsed + line * np.clip(0.95 - collapsed, 0, None))
        change = scene.replace(window, density, lung, shown=air)
        scene.labels[window][air] = PLEURAL_AIR
        changes.append(change)
    return changes


def cardiomegaly(scene, lesion, rng):
    """The heart grows, mostly to the left and downward."""
    return [enlarge_heart(scene, 0.54 + 0.18 * lesion.severity, rng.uniform(0.9, 1.1))]


def enlarge_heart(scene, cardiothoracic_ratio, roundness):
    """Scale the heart to a share of the width of the lungs, by less along the other axes; lung gives way to it."""
    window = scene.window(HEART_LABELS)
    lungs = scene.window(LUNG_LABELS["left"] + LUNG_LABELS["right"])[0]
    width = cardiothoracic_ratio * (lungs.stop - lungs.start) / (window[0].stop - window[0].start)
    width = max(width, 1.0)
    heart = is_any(scene.labels[window], HEART_LABELS).astype(np.float32)
    heart = np.rint(ndimage.uniform_filter(heart, 3) * 128) / np.float32(128)
    scale = (width, 1 + (width - 1) * 0.7, 1 + (width - 1) * 0.75 * roundness)
    anchor = [s.start + share * (s.stop - s.start) for s, share in zip(window, (0.3, 0.4, 0.62), strict=True)]
    grown = []
    for axis, (s, k, a) in enumerate(zip(window, scale, anchor, strict=True)):
        low = max(int(a - (a - s.start) * k) - 1, 0)
        high = min(int(a + (s.stop - a) * k) + 2, scene.density.shape[axis])
        source = np.clip((np.arange(low, high) - a) / k + a - s.start, -1, s.stop - s.start)
        weights = np.maximum(1 - np.abs(source[:, None] - np.arange(s.stop - s.start)), 0)
        heart = np.moveaxis(np.tensordot((np.rint(weights * 128) / 128).astype(np.float32), heart, (1, axis)), 0, axis)
        grown.append(slice(low, high))
    grown = tuple(grown)
    yielding = scene.lung(grown, "left") | scene.lung(grown, "right") | (scene.labels[grown] == 0)
    share = (yielding & (scene.density[grown] < WATER)) * np.clip(heart * 2 - 0.5, 0, 1)
    shown = (heart > 0.5) | is_any(scene.labels[grown], HEART_LABELS)
    return scene.blend(grown, np.float32(1.05), share, label=HEART_LABELS[0], shown=shown)


def wide_mediastinum(scene, lesion, rng):
    """The vascular pedicle widens: soft tissue takes the place of the lung beside the great vessels."""
    changes = []
    carina, front = scene.body.boxes[TRACHEA, 2, 0], scene.centroid(TRACHEA)[1] + 4
    for side in ("left", "right"):
        window = scene.window(LUNG_LABELS[side])
        width = (9 + 24 * lesion.severity) * rng.uniform(0.8, 1.2)
        middle = carina + rng.uniform(4, 14)
        tall = rng.uniform(38, 52)
        window = (window[0], *_near(window, (0, front, middle), (0, 48, tall))[1:])
        lung = scene.lung(window, side)
        x, y, z = mm_grid(window)
        # Distance from the medial surface, row by row.
        edge = lung.argmax(0) if side == "left" else lung.shape[0] - 1 - lung[::-1].argmax(0)
        medial = np.abs(x - (x[0] + edge[None] * np.float32(SPACING)))
        along = np.clip(1 - ((z - np.float32(middle * SPACING)) / np.float32(tall)) ** 2, 0, 1)
        around = np.clip(1 - ((y - np.float32(front * SPACING)) / 48) ** 2, 0, 1)
        reach = np.float32(width) * along * around
        share = lung * np.clip((reach - medial) / 3 + 0.3, 0, 1) * (reach > 1)
        changes.append(scene.blend(window, np.float32(1.05), share))
    return changes


def atelectasis(scene, lesion, rng):
    """Lung without air: bands across the base, a raised half of the diaphragm, crowded and denser lung."""
    changes = []
    for labels in _lobes(lesion):
        side = "left" if labels[0] in LUNG_LABELS["left"] else "right"
        lower = not lesion.lobe or "upper" not in lesion.lobe
        window = scene.window(LUNG_LABELS[side] if lower else labels)
        lung = scene.lung(window, side)
        inside = is_any(scene.labels[window], labels)
        wall = scene.body.wall[window].astype(np.float32)
        old = scene.density[window] / np.float32(WATER)
        density = old.copy()
        for _ in range(1 + rng.integers(1, 3)):  # plates
            centre = _seat(scene, labels, rng, 8)
            tilt = rng.normal(0, 0.35, 2)
            radii = np.array([26 + 24 * lesion.severity, 34 + 20 * lesion.severity, 40])
            near = _near(window, centre, radii)
            x, y, z = mm_grid(near)
            cx, cy, cz = (np.float32(c * SPACING) for c in centre)
            height = z - cz - np.float32(tilt[0]) * (x - cx) - np.float32(tilt[1]) * (y - cy)
            thickness = np.float32(2.4 + 2.6 * lesion.severity)
            plate = np.clip(thickness - np.abs(height) + 0.5, 0, 1) * (_distance2(near, centre, radii) < 1)
            part = density[_inside(near, window)]
            np.maximum(part, plate * np.float32(0.9), out=part)
        if lower:  # the diaphragm follows
            bottom = np.where(lung.any(2), lung.argmax(2), 0)[:, :, None] * np.float32(SPACING)
            z = mm_grid(window)[2]
            raised = np.float32(8 + 22 * lesion.severity * rng.uniform(0.7, 1.2))
            above = z - z[0, 0, 0] - bottom
            lifted = np.clip((raised * np.clip(wall / 25 + 0.35, 0, 1) - above) / 3 + 0.5, 0, 1)
            density = density + lifted * np.clip(1.04 - density, 0, None)
            crowded = np.clip(1 - (above - raised) / np.float32(40), 0, 1)
        else:  # the lobe shrinks toward its apex and the mediastinum
            crowded = np.clip(1 - (wall - 6) / 40, 0, 1)
        crowded = crowded * np.clip(1 + 0.4 * texture_in(window, rng), 0, 2)
        denser = np.minimum(density + np.float32(0.12 + 0.25 * lesion.severity) * crowded, 1.04)
        density = np.where(inside, denser, density)
        changes.append(scene.replace(window, density, lung & (density != old)))
    return changes


VOLUME_LESIONS = {  # (scene, lesion, rng) -> changes, in the order in which they take their place
    "cardiomegaly": cardiomegaly,
    "wide_mediastinum": wide_mediastinum,
    "pneumothorax": pneumothorax,
    "atelectasis": atelectasis,
    "consolidation": consolidation,
    "mass": mass,
    "nodule": nodule,
    "opacity": opacity,
    "edema": edema,
    "effusion": effusion,
    "rib_fracture": rib_fracture,
    "clavicle_fracture": clavicle_fracture,
}
SIDED = frozenset(VOLUME_LESIONS) - {"cardiomegaly", "wide_mediastinum"}


def check_lesion(lesion: Lesion) -> None:
    """Raises ValueError: a lobe or side that does not exist, or does not suit the kind; a severity outside 0 to 1."""
    if lesion.lobe and lesion.lobe not in LOBES:
        raise ValueError(f"lobe: {lesion.lobe!r} of a {lesion.kind} is not one of {', '.join(LOBES)}")
    if lesion.side not in ("left", "right", "bilateral", "midline"):
        raise ValueError(f"side: {lesion.side!r} of a {lesion.kind} is not left, right, bilateral or midline")
    if lesion.side == "midline" and not lesion.lobe and lesion.kind in SIDED:
        raise ValueError(f"side: a {lesion.kind} is left, right or bilateral, not midline")
    if not 0 <= lesion.severity <= 1:
        raise ValueError(f"severity: {lesion.severity} of a {lesion.kind} is not in 0 to 1")
