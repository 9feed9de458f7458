"""One exposure in the wide appearance: pose, field, breath, all that surrounds the CT, film, and what lies on it.

After projection the picture is bent smoothly and turned; masks and anatomy with it, by the same displacement.
"""

import numpy as np
from scipy import ndimage

from .anatomy import LUNG_LABELS, SPACING, STRUCTURE_NAMES, ZONES
from .appearance import Appearance
from .deformation import resize_cubic
from .films import varied_film
from .overlays import mark, objects
from .projection import AxisMap, Camera

BEND_POINTS = 4  # control points across the picture


def aim(body, patient, view, rng, size, look: Appearance) -> Camera:
    """The camera: the patient's proportions and breath, the pose, and a field about the lungs."""
    person = np.random.default_rng([patient.seed, 5])
    sex = 0.025 if patient.sex == "M" else -0.025
    scales = 1 + np.array(look.size) * person.normal(size=3) + sex + np.array([0.04, 0.14, 0.0]) * (patient.build - 0.4)
    breath = rng.uniform(*look.breath) * (0.9 if view == "AP" else 1.0)
    if rng.random() < look.poor_breath[0]:
        breath *= look.poor_breath[1]
    lungs = body.boxes[list(LUNG_LABELS["left"] + LUNG_LABELS["right"])]
    low, high = lungs[:, :, 0].min(0), lungs[:, :, 1].max(0)
    axes = []
    for axis, scale in enumerate(scales):
        length = body.density.shape[axis]
        knots = np.linspace(0, length, 7)
        stretch = np.full(6, scale)
        if axis == 2:  # breath lengthens the lungs
            knots = np.r_[0, np.linspace(max(low[2], 4), min(high[2], length - 2), 5), length]
            stretch *= np.r_[1.2, np.full(4, breath), 1.2]
        stretch *= person.uniform(0.92, 1.08, 6)
        axes.append(AxisMap(knots, np.cumsum(np.r_[0, np.diff(knots) * SPACING * stretch])))
    low, high = (np.array([axes[i].to_mm(float(end[i])) for i in range(3)]) for end in (low, high))
    turn = np.deg2rad(np.clip(rng.normal(0, look.turn), -11, 11))
    tilt = np.deg2rad(rng.normal(0, 3.0) + (rng.uniform(-3, 9) if view == "AP" else 0))
    magnified = 1.09 if view != "AP" else 1.16
    across = 1 if view == "LATERAL" else 0
    share = np.clip(rng.normal(*look.lung_share), 0.42, 0.9) * (0.78 if view == "LATERAL" else 1)
    above = np.clip(rng.normal(*look.above), -0.03, 0.24)
    angle = axes[2].to_mm(min(body.zones[ZONES[f"{side} costophrenic angle"], 2] for side in ("left", "right")))
    field = magnified * max((high[across] - low[across]) / share, (high[2] - angle) / (1 - above))
    centre = (low[across] + high[across]) / 2 + rng.normal(0, look.off_centre)
    up = high[2] + (field * above - field / 2) / magnified
    return Camera(view, axes, body.density.shape, turn, tilt, (centre, up), field, size)


def expose(path, masks, anatomy, body, plan, camera, rng, look: Appearance):
    """Film a patient: path lengths (S, S), lesion masks and anatomy -> picture (S, S) uint8, and both as it shows them.

    path: with all lesions in it, already surrounded by what the CT lacks.
    """
    shift = bend(plan.patient, camera, rng, look)
    path = warp(path, shift, order=3)
    if masks:
        masks = list(warp_all(np.stack(masks).astype(np.float32), shift) > 0.5)
    cells = len(anatomy[STRUCTURE_NAMES[0]])
    coarse = np.stack([warp_map(s, cells) for s in shift]) * (cells / camera.image_size)
    anatomy = dict(zip(anatomy, warp_all(np.stack(list(anatomy.values())), coarse), strict=True))
    path = path + objects(camera.image_size, camera.view, anatomy, camera.pixel, rng)
    lungs = np.maximum(anatomy["left lung"], anatomy["right lung"]) > 0.5
    inside = warp_map(lungs.astype(np.float32), camera.image_size) > 0.5
    grey = mark(varied_film(path, inside, rng, camera.pixel, look), camera.view, rng)
    return np.rint(np.clip(grey, 0, 1) * 255).astype(np.uint8), masks, anatomy


def bend(patient, camera, rng, look: Appearance) -> np.ndarray:
    """(2, S, S) pixels by which rows and columns are displaced: the patient's shape, and a turn of this exposure."""
    size = camera.image_size
    person = np.random.default_rng([patient.seed, 9])
    noise = person.normal(0, look.bend / camera.pixel, (2, BEND_POINTS, BEND_POINTS, 1))
    shift = np.stack([resize_cubic(n, (size, size, 1))[..., 0] for n in noise])
    angle = np.deg2rad(rng.normal(0, look.roll))
    from_middle = np.arange(size) - (size - 1) / 2
    shift[0] += np.float32(np.sin(angle)) * from_middle
    shift[1] -= np.float32(np.sin(angle)) * from_middle[:, None]
    return shift


def warp(image, shift, order=1):
    """An image (S, S) at each pixel displaced by `shift` (2, S, S) pixels; its edges go on beyond."""
    rows, columns = np.arange(shift.shape[1])[:, None], np.arange(shift.shape[2])
    return ndimage.map_coordinates(image, (rows + shift[0], columns + shift[1]), order=order, mode="nearest")


def warp_all(images, shift):
    """Several images (N, S, S) at once, each linearly as by `warp`, with the places looked up once."""
    size = images.shape[1]
    places = np.arange(size)[:, None] + shift[0], np.arange(size) + shift[1]
    rows, columns = (np.clip(p, 0, size - 1) for p in places)
    top, left = (np.minimum(p.astype(np.intp), size - 2) for p in (rows, columns))
    down, across = (rows - top).astype(np.float32), (columns - left).astype(np.float32)
    flat, first = images.reshape(len(images), -1), top * size + left
    corner = [flat.take(first + step, 1) for step in (0, 1, size, size + 1)]
    upper = corner[0] + across * (corner[1] - corner[0])
    lower = corner[2] + across * (corner[3] - corner[2])
    return upper + down * (lower - upper)


def warp_map(image, size):
    """An image resized to (size, size), cell centres on cell centres, linearly."""
    places = (np.arange(size) + 0.5) * image.shape[0] / size - 0.5
    return ndimage.map_coordinates(image, np.meshgrid(places, places, indexing="ij"), order=1, mode="nearest")
