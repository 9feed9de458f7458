"""Tubes, lines and pacemakers: curves through the anatomy, drawn where the camera sees them."""

from dataclasses import dataclass

import numpy as np
from scipy.interpolate import CubicSpline

from .anatomy import (
    CLAVICLE_LABELS,
    HEART_LABELS,
    LUNG_LABELS,
    OESOPHAGUS,
    SPACING,
    STOMACH,
    SUPERIOR_VENA_CAVA,
    TRACHEA,
    WATER,
    ZONES,
)
from .scene import Change


@dataclass
class Stroke:
    """A tube along `points` (N, 3 voxels). radius: mm; attenuation: mm of water through its middle."""

    points: np.ndarray
    radius: float
    attenuation: float


def _centreline(scene, label, z):
    """Centre (x, y, z) of a vertical structure at each of the heights `z` (voxels), straight on beyond its ends."""
    window = scene.window((label,))
    inside = scene.body.labels[window] == label
    area = inside.sum((0, 1))
    heights = np.flatnonzero(area > 3)
    x, y = (
        (inside.sum(1 - axis) * np.arange(inside.shape[axis])[:, None]).sum(0)[heights] / area[heights]
        for axis in (0, 1)
    )
    heights = heights + window[2].start
    return np.stack([np.interp(z, heights, x + window[0].start), np.interp(z, heights, y + window[1].start), z], 1)


def _smooth(points, rng, wobble=0.8, count=160):
    """A smooth curve through control points (voxels), each moved a little."""
    points = np.asarray(points, float)
    points = points + rng.normal(0, wobble, points.shape)
    distance = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1) + 1e-6)])
    return CubicSpline(distance, points)(np.linspace(0, distance[-1], count))


def _outward(side):
    return 1 if side == "left" else -1


def _top(scene):
    return scene.density.shape[2] + 12


def endotracheal_tube(scene, lesion, rng):
    carina = scene.body.boxes[TRACHEA, 2, 0]
    tip = carina + rng.uniform(6, 26)
    line = _centreline(scene, TRACHEA, np.linspace(_top(scene), tip, 60))
    line[:, 0] += rng.normal(0, 1.0)
    return [
        Stroke(line, 4.5, 5 + 7 * lesion.severity),
        Stroke(line + (rng.choice((-1.6, 1.6)), 0, 0), 0.9, 20 + 14 * lesion.severity),
    ]


def enteric_tube(scene, lesion, rng):
    low, high = scene.body.boxes[OESOPHAGUS, 2]
    line = _centreline(scene, OESOPHAGUS, np.linspace(_top(scene), low + 2, 10))
    stomach = scene.centroid(STOMACH)
    end = [line[-1] * 0.5 + stomach * 0.5 + (6, 0, 4), stomach, stomach + (rng.uniform(-6, 8), 4, rng.uniform(-16, -6))]
    line = _smooth(np.concatenate([line, end]), rng)
    return [Stroke(line, 1.7, 15 + 14 * lesion.severity)]


def _vein(scene, side, rng):
    """From below the middle of the clavicle to the superior vena cava."""
    clavicle = scene.centroid(CLAVICLE_LABELS[side])
    cava = scene.window((SUPERIOR_VENA_CAVA,))[2]
    upper = _centreline(scene, SUPERIOR_VENA_CAVA, np.array([cava.stop - 2.0]))[0]
    start = clavicle + (_outward(side) * 6, -4, -3)
    middle = start * 0.45 + upper * 0.55 + (0, 0, 5)
    return [start, middle, upper], cava


def central_line(scene, lesion, rng):
    side = "right" if lesion.side not in ("left", "right") else lesion.side
    entry, cava = _vein(scene, side, rng)
    tip = cava.start + rng.uniform(-6, 10)
    lower = _centreline(scene, SUPERIOR_VENA_CAVA, np.linspace(cava.stop - 8, tip, 4))
    if rng.random() < 0.5:  # from the jugular vein
        neck = entry[-1] + (_outward(side) * (14 if side == "left" else 6), 0, 0)
        first = [neck * (1, 1, 0) + (_outward(side) * 6, 0, _top(scene)), neck + (0, 0, 12)]
    else:  # from the arm
        edge = scene.density.shape[0] - 8 if side == "left" else 8
        arm = [edge, entry[0][1] - 6, entry[0][2] - rng.uniform(4, 22)]
        first = [arm, entry[0], entry[1]]
    line = _smooth(np.concatenate([first, entry[-1:], lower]), rng)
    return [Stroke(line, 1.0 + 0.4 * rng.random(), 16 + 14 * lesion.severity)]


def chest_tube(scene, lesion, rng):
    side = "left" if lesion.side == "left" else "right"
    out = _outward(side)
    x, y, z = scene.window(LUNG_LABELS[side])
    apex = scene.body.zones[ZONES[f"{side} apex"]]
    lateral = x.stop if side == "left" else x.start
    height = z.start + (z.stop - z.start) * rng.uniform(0.3, 0.45)
    middle = (y.start + y.stop) / 2
    line = _smooth(
        [
            (lateral + out * 30, middle, height - 16),
            (lateral + out * 6, middle, height),
            (lateral - out * 9, middle - 8, height + 14),
            ((lateral + apex[0]) / 2 + out * 6, middle - 14, (height + apex[2]) / 2 + 6),
            apex + (rng.uniform(-5, 5), rng.uniform(-8, 4), rng.uniform(-8, 4)),
        ],
        rng,
        1.5,
    )
    return [
        Stroke(line, 3.6, 5 + 5 * lesion.severity),
        Stroke(line + (0, 0, 1.2), 0.9, 18 + 12 * lesion.severity),
    ]


def pacemaker(scene, lesion, rng):
    """A generator under the skin below the clavicle, and one or two leads to the heart."""
    side = "right" if lesion.side == "right" else "left"
    entry, cava = _vein(scene, side, rng)
    pocket = entry[0] + (_outward(side) * rng.uniform(0, 6), 0, -rng.uniform(13, 19))
    column = scene.density[int(pocket[0]), :, int(pocket[2])] > 32
    pocket[1] = np.flatnonzero(column)[-1] - 5 if column.any() else scene.density.shape[1] - 20
    heart = scene.window(HEART_LABELS)
    low, high = (np.array([s.start for s in heart]), np.array([s.stop for s in heart]))
    atrium = low + (high - low) * (0.14, 0.5, 0.5)
    lower = _centreline(scene, SUPERIOR_VENA_CAVA, np.linspace(cava.stop - 8, cava.start + 2, 3))
    way = np.concatenate([[pocket + (0, 0, 8)], entry, lower, [atrium]])
    apex = low + (high - low) * (0.74, 0.75, 0.16) + rng.normal(0, 2, 3)
    ventricle = [*way, low + (high - low) * (0.3, 0.62, 0.2), apex]
    thickness = 16 + 12 * lesion.severity
    strokes = [Stroke(_smooth(ventricle, rng, 0.5), 1.0, thickness)]
    if rng.random() < 0.6:
        strokes.append(Stroke(_smooth([*way, atrium + (3, 6, 8)], rng, 0.5), 1.0, thickness))
    return strokes + [_generator(scene, pocket, rng)]


def _generator(scene, pocket, rng):
    """A rounded metal can, 7 mm thick, flat against the chest."""
    width, height = rng.uniform(21, 26), rng.uniform(19, 24)
    window = scene.around(pocket, 28)
    x, y, z = (g * SPACING - c * SPACING for g, c in zip(np.ogrid[window], pocket, strict=True))
    can = (np.abs(x / width) ** 3 + np.abs(z / height) ** 3 < 1) & (np.abs(y) < 4)
    density = np.where(can, np.int16(WATER * 7), 0).astype(np.int16)
    return Change(tuple(s.start for s in window), density, can)


DEVICES = {  # (scene, lesion, rng) -> strokes and changes
    "endotracheal_tube": endotracheal_tube,
    "enteric_tube": enteric_tube,
    "central_line": central_line,
    "chest_tube": chest_tube,
    "pacemaker": pacemaker,
}


def draw(strokes: list[Stroke], camera) -> np.ndarray:
    """Path lengths (S, S) in mm of water that tubes add; one thinner than a pixel is drawn as wide, and fainter."""
    size = camera.image_size
    image = np.zeros((size, size))
    for stroke in strokes:
        fine = np.linspace(0, len(stroke.points) - 1, 8 * len(stroke.points))
        points = np.stack([np.interp(fine, np.arange(len(stroke.points)), stroke.points[:, i]) for i in range(3)], 1)
        centre, scale = camera.points(points)
        radius = float(np.median(scale)) * stroke.radius
        soft = max(radius, 0.75)
        strength = stroke.attenuation * min(radius / soft, 1) ** 0.5
        reach = int(np.ceil(soft + 1))
        offset = np.stack(np.meshgrid(*[np.arange(-reach, reach + 1)] * 2), -1).reshape(-1, 2)
        cells = np.rint(centre).astype(int)[:, None] + offset
        distance = np.sqrt(((cells - centre[:, None]) ** 2).sum(-1)) / soft
        value = np.sqrt(np.clip(1 - (distance * 0.9) ** 2, 0, None)) * strength
        inside = ((cells >= 0) & (cells < size)).all(-1) & (value > 0)
        layer = np.zeros(size * size)
        np.maximum.at(layer, (cells[..., 1] * size + cells[..., 0])[inside], value[inside])
        image += layer.reshape(size, size)
    return image
