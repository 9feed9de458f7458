"""The bodies that phantom radiographs are taken of: one labelled chest CT under a library of smooth deformations.

The CT (LIDC-IDRI-0001, 2 mm) is turned into density relative to water, its contrast-filled vessels capped, and warped
into `BODIES` different bodies: diaphragm height, heart size, roll and a random smooth field. Each body is computed
once, on first use, and kept on disk under `library_folder()`.
"""

import functools
import hashlib
import json
import os
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from safetensors.torch import load_file
from scipy import ndimage

from .appearance import NARROW, WIDE, Appearance
from .deformation import bump, resize_cubic, varied_deformation

DATA = Path(__file__).parent / "data" / "lidc_idri_0001_2mm"
VERSION = 3  # of the deformations below: a new number makes a new library
BODIES = 24
WIDE_VERSION, WIDE_BODIES = 2, Appearance.bodies  # the same of the wide appearance
SPACING = 2.0  # mm
WATER = 64  # stored density of water: uint8 then reaches 4, above any bone here
SLAB = 4  # voxels: 8 mm, over which the perspective of a chest radiograph shifts less than half a voxel
FRONT = slice(18, 162)  # the part of the axis A that holds the body

SOFT_TISSUE_CAP = 60.0  # HU; contrast agent in vessels, heart and kidneys lies above
# Bone attenuates more per unit of CT number at a radiograph's mean energy than at the CT's; thick bone hardens the
# beam, so the spine's share is less.
BONE_EXCESS, SPINE_EXCESS = 2.4, 1.4

LOBE_LABELS = {
    "right upper lobe": 12,
    "right middle lobe": 13,
    "right lower lobe": 14,
    "left upper lobe": 10,
    "left lower lobe": 11,
}
LUNG_LABELS = {"left": (10, 11), "right": (12, 13, 14)}
HEART_LABELS = (51, 61)
AORTA, TRACHEA, OESOPHAGUS, STOMACH, SUPERIOR_VENA_CAVA = 52, 16, 15, 6, 62
HUMERUS_LABELS = (69, 70)
CLAVICLE_LABELS = {"left": 73, "right": 74}
SPINE_LABELS = tuple(range(29, 47))
RIB_LABELS = {"left": tuple(range(92, 104)), "right": tuple(range(104, 116))}
BONE_LABELS = (*range(29, 47), *range(69, 75), *range(92, 117), 118)
VESSEL_LABELS = (*range(52, 61), 62, 63)

# Parts that TotalSegmentator has no label for, marked in the CT before it is deformed.
ZONES = {
    "right hilum": 1,
    "left hilum": 2,
    "right apex": 3,
    "left apex": 4,
    "right costophrenic angle": 5,
    "left costophrenic angle": 6,
    "mediastinum": 7,
    "diaphragm": 8,
}
STRUCTURES = {
    "left lung": LUNG_LABELS["left"],
    "right lung": LUNG_LABELS["right"],
    **{name: (label,) for name, label in LOBE_LABELS.items()},
    "heart": HEART_LABELS,
    "aorta": (AORTA,),
    "trachea": (TRACHEA,),
    "spine": SPINE_LABELS,
    "ribs": RIB_LABELS["left"] + RIB_LABELS["right"],
    "clavicles": tuple(CLAVICLE_LABELS.values()),
}
STRUCTURE_NAMES = (*STRUCTURES, *ZONES)
SILHOUETTE_STEP = 2  # voxels: silhouettes are kept at 4 mm
SILHOUETTE_DEPTH = 12  # silhouette voxels: 48 mm, in which a structure's outline is taken as flat


@dataclass
class Body:
    """One body on the grid (X toward the left, Y toward the front, Z up) of 2 mm voxels.

    density: uint8, `WATER` = water. labels: uint8, TotalSegmentator's as in the JSON beside the CT. wall: uint8, mm
    from the costal pleura or the diaphragm, inside the lungs and between them. frontal, lateral: uint16 sums of density
    over `SLAB` voxels, (slab, Z, X) and (slab, Z, Y); frontal_bone, lateral_bone: the part above soft tissue.
    frontal_silhouettes, lateral_silhouettes: (structure, thick slab, Z/2, X/2 or Y/2) uint8 0 or 255.
    boxes: (256, 3, 2) int16 bounding boxes of the labels, end exclusive. zones: (9, 3) float32 voxel centres of
    `ZONES`. frontal_outline: (Z/2, X/2) uint8, voxels between front and back, of the wide appearance alone.
    """

    density: np.ndarray
    labels: np.ndarray
    wall: np.ndarray
    frontal: np.ndarray
    frontal_bone: np.ndarray
    lateral: np.ndarray
    lateral_bone: np.ndarray
    frontal_silhouettes: np.ndarray
    lateral_silhouettes: np.ndarray
    boxes: np.ndarray
    zones: np.ndarray
    frontal_outline: np.ndarray | None = None


@functools.cache
def library_folder(appearance: str = NARROW) -> Path:
    """Where the bodies are kept: `phantom-bodies-<digest>` in the cache folder of Hugging Face datasets."""
    from datasets import config

    name = f"{VERSION} {BODIES}" if appearance == NARROW else f"{appearance} {WIDE_VERSION} {WIDE_BODIES}"
    digest = hashlib.sha256(DATA.with_suffix(".npz").read_bytes() + name.encode()).hexdigest()
    return Path(config.HF_DATASETS_CACHE) / f"phantom-bodies-{digest[:12]}"


def body_count(appearance: str) -> int:
    return BODIES if appearance == NARROW else WIDE_BODIES


@functools.cache
def load_body(index: int, appearance: str = NARROW) -> Body:
    """Body `index` of an appearance's library, computed and stored first where it is missing."""
    if not 0 <= index < body_count(appearance):
        raise ValueError(f"index: body {index} is not in 0 to {body_count(appearance) - 1}")
    path = _body_path(index, appearance)
    if not path.exists():
        body = make_body(index, appearance)
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
        os.close(handle)
        arrays = {f.name: getattr(body, f.name) for f in fields(Body) if getattr(body, f.name) is not None}
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, temporary)
        os.replace(temporary, path)
    return Body(**{name: tensor.numpy() for name, tensor in load_file(path).items()})  # mapped, not read


def _body_path(index, appearance):
    return library_folder(appearance) / f"body-{index:02d}.safetensors"


def build_library(processes: int = 1, appearance: str = NARROW) -> Path:
    """Compute the bodies that are missing on disk, in `processes` processes; returns the folder."""
    missing = [i for i in range(body_count(appearance)) if not _body_path(i, appearance).exists()]
    if processes == 1 or len(missing) < 2:
        for index in missing:
            load_body(index, appearance)
    else:
        with ProcessPoolExecutor(processes) as pool:
            list(pool.map(_store_body, missing, [appearance] * len(missing)))
    return library_folder(appearance)


def _store_body(index, appearance):
    load_body(index, appearance)


@functools.lru_cache(maxsize=1)
def _source(appearance=NARROW):
    """The CT as float32 density, uint8 labels, float32 wall distance (mm) and uint8 zones."""
    with np.load(DATA.with_suffix(".npz")) as arrays:
        hu = arrays["hu_q"][:, FRONT].astype(np.float32) * 12 - 1024
        labels = arrays["labels"][:, FRONT]
    spacing = json.loads(DATA.with_suffix(".json").read_text())["spacing_mm"]
    if spacing != [SPACING] * 3:
        raise ValueError(f"{DATA}.json: spacing_mm is {spacing}, expected {SPACING} mm")
    bone = np.asarray(ndimage.binary_dilation(np.isin(labels, BONE_LABELS)), bool)
    bone &= ~np.isin(labels, VESSEL_LABELS + HEART_LABELS)
    excess = np.clip(hu - SOFT_TISSUE_CAP, 0, 900) * bone
    excess *= np.where(ndimage.binary_dilation(np.isin(labels, SPINE_LABELS)), SPINE_EXCESS, BONE_EXCESS)
    if appearance == WIDE:
        excess = _sharpen_bone(excess, labels)
    density = np.clip((np.minimum(hu, SOFT_TISSUE_CAP) + 1000 + excess) / 1000, 0, 255 / WATER)

    lungs = np.isin(labels, LUNG_LABELS["left"] + LUNG_LABELS["right"])
    across = np.maximum.accumulate(lungs, 0) & np.maximum.accumulate(lungs[::-1], 0)[::-1]
    wall = np.asarray(ndimage.distance_transform_edt(across)) * SPACING
    return density * WATER, labels, wall.astype(np.float32), _mark_zones(labels, across, wall)


def _sharpen_bone(excess, labels):
    """Bone as its cortex would have it, which 2 mm voxels blur; without the raised arms, which hang on a wide field."""
    blurred = ndimage.gaussian_filter(excess, 1.2)
    arms = np.asarray(ndimage.binary_dilation(np.isin(labels, HUMERUS_LABELS), iterations=2), bool)
    return np.clip(excess + 1.2 * (excess - blurred), 0, None) * ~arms


def _mark_zones(labels: np.ndarray, across: np.ndarray, wall: np.ndarray) -> np.ndarray:
    x, y, z = np.ogrid[tuple(slice(0, n) for n in labels.shape)]
    zones = np.zeros(labels.shape, np.uint8)
    heart = np.isin(labels, HEART_LABELS)
    heart_bottom = np.where(heart.any((0, 1)))[0][0]
    between = across & ~np.isin(labels, (*LUNG_LABELS["left"], *LUNG_LABELS["right"], *HEART_LABELS, *SPINE_LABELS))
    zones[between & (z > heart_bottom + 15) & (wall > 6)] = ZONES["mediastinum"]
    veins = np.argwhere(labels == 53).mean(0)
    for side, outward in (("left", 1), ("right", -1)):
        lung = np.isin(labels, LUNG_LABELS[side])
        columns = np.asarray(lung.any(2))
        bottom = np.where(columns, lung.argmax(2), 0)
        top_of_lung = np.where(lung.any((0, 1)))[0][-1]
        near_bottom = (np.abs(z - bottom[:, :, None]) <= 3) & columns[:, :, None]
        dome = np.percentile(bottom[columns & (bottom < heart_bottom + 22)], 97)
        zones[near_bottom & (np.abs(z - dome + 4) < 8) & (zones == 0)] = ZONES["diaphragm"]
        height = np.where(lung.any((0, 1)))[0][-1] - np.where(lung.any((0, 1)))[0][0]
        zones[lung & (z > top_of_lung - 0.17 * height)] = ZONES[f"{side} apex"]
        points = np.argwhere(lung)
        hilum = veins + (outward * 20, 0, 4)
        ball = ((x - hilum[0]) ** 2 + (y - hilum[1]) ** 2 + (z - hilum[2]) ** 2) <= 11**2
        zones[ball] = ZONES[f"{side} hilum"]
        reach = (points[:, 0] * outward).max()
        lateral = points[points[:, 0] * outward > reach - 14]
        angle = lateral[lateral[:, 2] <= np.percentile(lateral[:, 2], 3)].mean(0)
        ball = ((x - angle[0]) ** 2 + ((y - angle[1]) / 1.6) ** 2 + (z - angle[2]) ** 2) <= 11**2
        zones[ball & (lung | (zones == ZONES["diaphragm"]))] = ZONES[f"{side} costophrenic angle"]
    return zones


def _deformation(index, shape, labels):
    """Source voxel coordinates (3, X, Y, Z) float32 of each voxel of body `index`."""
    rng = np.random.default_rng([VERSION, index])
    grid = [g.astype(np.float32) for g in np.ogrid[tuple(slice(0, n) for n in shape)]]
    x, y, z = grid
    source = np.stack([resize_cubic(rng.normal(0, (2.4, 2.0, 2.4)[i], (5, 4, 5)), shape) for i in range(3)])
    # Roll in the frontal plane, about the spine.
    roll = np.deg2rad(rng.uniform(-3.5, 3.5))
    middle_x, middle_z = np.float32(86), np.float32(90)
    source[0] += x + np.float32(np.sin(roll)) * (z - middle_z)
    source[2] += z - np.float32(np.sin(roll)) * (x - middle_x)
    source[1] += y
    # Each dome of the diaphragm is lower than in the CT, where the patient lies: standing, a deep breath.
    for centre_x, centre_z, shift in ((58, 80, rng.uniform(6, 24)), (118, 68, rng.uniform(0, 15))):
        dome = bump((x - centre_x) / 52) * bump((y - 66) / 80)
        source[2] += np.float32(shift) * dome * bump((z - centre_z + shift / 2) / 72)
    # The heart of the CT is large for its lungs at full inspiration.
    centre = np.argwhere(np.isin(labels, HEART_LABELS)).mean(0) + (-4, 0, 0)
    scale = rng.uniform(0.72, 0.85)
    distance = np.sqrt(
        ((x - np.float32(centre[0])) / 60) ** 2
        + ((y - np.float32(centre[1])) / 56) ** 2
        + ((z - np.float32(centre[2])) / 56) ** 2
    )
    pull = np.float32(1 / scale - 1) * np.clip(1.6 * bump(distance), 0, 1)
    for axis in range(3):
        source[axis] += pull * (grid[axis] - np.float32(centre[axis]))
    return source


def _silhouettes(masks, depth_axis) -> np.ndarray:
    """(structure, X, Y, Z) bool at 4 mm -> (structure, thick slab, Z, across) uint8, 255 where the structure lies."""
    moved = np.moveaxis(masks, (1 + depth_axis, 3), (1, 2))
    padding = -moved.shape[1] % SILHOUETTE_DEPTH
    moved = np.pad(moved, ((0, 0), (0, padding), (0, 0), (0, 0)))
    shape = (moved.shape[0], -1, SILHOUETTE_DEPTH, *moved.shape[2:])
    return np.where(moved.reshape(shape).any(2), np.uint8(255), np.uint8(0))


def slab_sums(density, depth_axis):
    """(X, Y, Z) integers -> (slab, Z, across) sums over `SLAB` voxels of axis 0 (lateral) or 1 (frontal)."""
    moved = np.moveaxis(density, (depth_axis, 2), (0, 1))
    return moved.reshape(-1, SLAB, *moved.shape[1:]).sum(1, dtype=np.uint16)


def make_body(index: int, appearance: str = NARROW) -> Body:
    """Compute body `index`; `load_body` keeps what this returns."""
    density, labels, wall, zones = _source(appearance)
    if appearance == NARROW:
        source = _deformation(index, labels.shape, labels)
    else:
        rng = np.random.default_rng([WIDE_VERSION, index, 1])
        source = varied_deformation(rng, labels.shape, np.argwhere(np.isin(labels, HEART_LABELS)).mean(0))
    density = ndimage.map_coordinates(density, source, order=1, mode="nearest")
    density = np.clip(np.rint(density), 0, 255).astype(np.uint8)
    labels = ndimage.map_coordinates(labels, source, order=0, mode="nearest")
    wall = np.minimum(ndimage.map_coordinates(wall, source, order=1, mode="nearest"), 255).astype(np.uint8)
    coarse = slice(None, None, SILHOUETTE_STEP)
    zones = ndimage.map_coordinates(zones, source[:, coarse, coarse, coarse], order=0, mode="nearest")
    coarse_labels = labels[coarse, coarse, coarse]
    masks = np.stack(
        [np.isin(coarse_labels, members) for members in STRUCTURES.values()] + [zones == z for z in ZONES.values()]
    )
    boxes = np.zeros((256, 3, 2), np.int16)
    for label, box in enumerate(ndimage.find_objects(labels), 1):
        if box is not None:
            boxes[label] = [(s.start, s.stop) for s in box]
    centres = np.zeros((len(ZONES) + 1, 3), np.float32)
    for code in ZONES.values():
        centres[code] = np.argwhere(zones == code).mean(0) * SILHOUETTE_STEP
    bone = density - np.minimum(density, np.uint8(round(WATER * (1 + SOFT_TISSUE_CAP / 1000))))
    return Body(
        density=density,
        labels=labels,
        wall=wall,
        frontal=slab_sums(density, 1),
        frontal_bone=slab_sums(bone, 1),
        lateral=slab_sums(density, 0),
        lateral_bone=slab_sums(bone, 0),
        frontal_silhouettes=_silhouettes(masks, 1),
        lateral_silhouettes=_silhouettes(masks, 0),
        boxes=boxes,
        zones=centres,
        frontal_outline=None if appearance == NARROW else _outline(density),
    )


def _outline(density):
    """Voxels between the front and the back of the body, (Z/2, X/2) uint8, at every second voxel."""
    body = ndimage.binary_opening(density[::SILHOUETTE_STEP, :, ::SILHOUETTE_STEP] > WATER // 2)
    across = np.maximum.accumulate(body, 1) & np.maximum.accumulate(body[:, ::-1], 1)[:, ::-1]
    return across.sum(1).T.astype(np.uint8)
