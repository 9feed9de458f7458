"""Radiographs of phantom studies: attenuation along rays, Beer-Lambert, film response.

A study's picture is I = exp(-mu p) + scatter, p the path length in mm of water along the ray, logged and put through
the characteristic curve of a digital film. Everything follows from the plan and the image size.
"""

import numpy as np
from scipy import ndimage

from .anatomy import HEART_LABELS, LUNG_LABELS, SPACING, STRUCTURE_NAMES, WATER, ZONES, body_count, load_body
from .appearance import APPEARANCES, NARROW, Appearance
from .devices import DEVICES, Stroke, draw
from .exposure import aim, expose
from .films import ATTENUATION, blur
from .habitus import surround
from .lesions import VOLUME_LESIONS, check_lesion, enlarge_heart
from .plan import Rendering, StudyPlan
from .projection import SOURCE_DISTANCE, AxisMap, Camera
from .scene import Scene

ANATOMY_SIZE = 64
SHOWN_SHARE = {"pneumothorax": 0.3}  # of the longest path: the air beside the lung, not the film of it in front


def render_study(plan: StudyPlan, image_size: int, appearance: str = NARROW) -> list[Rendering]:
    """Render each view of a study.

    Args:
        plan: what the patient has and which views are taken.
        image_size: S, pixels on a side.
        appearance: "narrow" or "wide"; see `appearance`.

    Returns:
        One `Rendering` per view. The same plan and size give the same bytes, in any process and order.

    Raises:
        ValueError: an appearance, view, lesion kind, lobe, side or severity that does not exist, or an image_size
            under 32.
    """
    check_appearance(appearance)
    _check(plan, image_size)
    number = np.random.default_rng([plan.patient.seed, 1]).integers(body_count(appearance))
    body = load_body(int(number), appearance)
    fluid = any(lesion.kind == "effusion" for lesion in plan.lesions)  # lies elsewhere in a recumbent patient
    scenes = {}
    renderings = []
    for view, seed in zip(plan.views, plan.view_seeds, strict=True):
        upright = view != "AP" or not fluid
        if upright not in scenes:
            scenes[upright] = _put_lesions(body, plan, upright)
        expose_view = _expose if appearance == NARROW else _expose_wide
        scene, healthy, parts = scenes[upright]
        renderings.append(expose_view(body, plan, scene, healthy, parts, view, seed, image_size))
    return renderings


def check_appearance(appearance: str) -> None:
    """Raises ValueError: no such appearance."""
    if appearance not in APPEARANCES:
        raise ValueError(f"appearance: {appearance!r} is none of {', '.join(APPEARANCES)}.")


def _check(plan, image_size):
    if image_size < 32:
        raise ValueError(f"image_size: {image_size} is too small, take 32 or more")
    if len(plan.views) != len(plan.view_seeds):
        raise ValueError(f"view_seeds: {len(plan.view_seeds)} for {len(plan.views)} views of {plan.study_id}")
    for view in plan.views:
        if view not in SOURCE_DISTANCE:
            raise ValueError(f"views: {view!r} of {plan.study_id} is not one of {', '.join(SOURCE_DISTANCE)}")
    for lesion in plan.lesions:
        if lesion.kind not in VOLUME_LESIONS and lesion.kind not in DEVICES:
            raise ValueError(f"lesions: {lesion.kind!r} of {plan.study_id} is not a known kind")
        check_lesion(lesion)


def _put_lesions(body, plan, upright):
    """The scene with all lesions in it, the healthy variation's changes, and each lesion's changes and strokes."""
    scene = Scene(body, upright)
    rng = np.random.default_rng([plan.patient.seed, 2])
    healthy = [enlarge_heart(scene, rng.uniform(0.40, 0.49), rng.uniform(0.85, 1.15))]
    makers = VOLUME_LESIONS | DEVICES
    order = list(makers)
    parts = [None] * len(plan.lesions)
    for index in sorted(range(len(plan.lesions)), key=lambda i: (order.index(plan.lesions[i].kind), i)):
        lesion = plan.lesions[index]
        rng = np.random.default_rng([lesion.seed, order.index(lesion.kind)])
        parts[index] = makers[lesion.kind](scene, lesion, rng)
    return scene, healthy, parts


def _expose(body, plan, scene, healthy, parts, view, seed, size):
    rng = np.random.default_rng([seed, 3])
    camera = _aim(body, plan.patient, view, rng, size)
    bone_strength = np.random.default_rng([plan.patient.seed, 4]).uniform(0.75, 1.25) - 0.004 * (plan.patient.age - 50)
    path = _project_body(body, camera, bone_strength)
    path += _soft_tissue(body, plan.patient, camera) * np.clip(path / 60, 0, 1)
    for change in healthy:
        path += camera.project_box(change.start, change.density)
    anatomy, masks = _add_lesions(path, body, plan, parts, camera)
    image = film(path, rng, camera.pixel, view != "LATERAL")
    return Rendering(image=image, lesion_masks=masks, anatomy=anatomy)


def _expose_wide(body, plan, scene, healthy, parts, view, seed, size):
    look = Appearance()
    rng = np.random.default_rng([seed, 7])
    camera = aim(body, plan.patient, view, rng, size, look)
    bone_strength = np.random.default_rng([plan.patient.seed, 4]).uniform(*look.bone) - 0.004 * (plan.patient.age - 50)
    path = _project_body(body, camera, bone_strength)
    for change in healthy:
        path += camera.project_box(change.start, change.density)
    if view == "LATERAL":
        path += _soft_tissue(body, plan.patient, camera) * np.clip(path / 60, 0, 1)
    else:
        path = surround(path, body, plan.patient, camera, look, rng)
    anatomy, masks = _add_lesions(path, body, plan, parts, camera)
    return Rendering(*expose(path, masks, anatomy, body, plan, camera, rng, look))


def _project_body(body, camera, bone_strength):
    """Path lengths (S, S) of the body as it is in the library, its bone weighted."""
    lateral = camera.view == "LATERAL"
    slabs, bone = (body.lateral, body.lateral_bone) if lateral else (body.frontal, body.frontal_bone)
    slabs = slabs + np.float32(bone_strength - 1) * bone
    return camera.project(np.rint(slabs, out=slabs))


def _add_lesions(path, body, plan, parts, camera):
    """Anatomy and lesion masks of this view; what the lesions add goes into `path`, in place."""
    anatomy = dict(zip(STRUCTURE_NAMES, camera.silhouettes(body, ANATOMY_SIZE), strict=True))
    masks = []
    for lesion, part in zip(plan.lesions, parts, strict=True):
        added, mask = _add_lesion(camera, part, lesion)
        path += added
        masks.append(mask)
        if lesion.kind == "cardiomegaly":
            anatomy["heart"] = np.maximum(anatomy["heart"], _shrink(mask))
    return anatomy, masks


def _add_lesion(camera, parts, lesion):
    """Path length that a lesion adds, and where its mask shows it."""
    strokes = [p for p in parts if isinstance(p, Stroke)]
    added = draw(strokes, camera)
    mask = added > 0.5
    if strokes:
        mask = ndimage.binary_dilation(mask, iterations=max(1, round(2.0 / camera.pixel)))
    for change in (p for p in parts if not isinstance(p, Stroke)):
        path = camera.project_box(change.start, change.density)
        added += path
        if change.shown is None:
            extent = np.abs(path)
            visible = extent[extent > 0.3]
            mask |= extent > max(1.0, 0.25 * np.percentile(visible, 95) if visible.size else 0.0)
        else:
            thickness = np.where(change.shown, np.int16(WATER), np.int16(0))
            shown = camera.project_box(change.start, thickness)
            mask |= shown > max(4.0, SHOWN_SHARE.get(lesion.kind, 0) * shown.max())
    if lesion.kind == "wide_mediastinum" and camera.view != "LATERAL":
        mask = np.maximum.accumulate(mask, 1) & np.maximum.accumulate(mask[:, ::-1], 1)[:, ::-1]
    return added, mask


def _aim(body, patient, view, rng, size):
    """The camera: the patient's size and breath, the pose, and the field of view about the lungs."""
    person = np.random.default_rng([patient.seed, 5])
    tall = person.uniform(0.93, 1.07) + (0.03 if patient.sex == "M" else -0.03)
    wide = tall * person.uniform(0.93, 1.06) + 0.05 * (patient.build - 0.4)
    deep = tall * person.uniform(0.93, 1.08) + 0.12 * (patient.build - 0.4)
    breath = rng.uniform(1.08, 1.32) if view != "AP" else rng.uniform(0.98, 1.22)
    lungs = body.boxes[list(LUNG_LABELS["left"] + LUNG_LABELS["right"])]
    low, high = lungs[:, :, 0].min(0), lungs[:, :, 1].max(0)
    axes = []
    for axis, scale in enumerate((wide, deep, tall)):
        length = body.density.shape[axis]
        knots = np.linspace(0, length, 7)
        stretch = np.full(6, scale)
        if axis == 2:  # breath lengthens the lungs; what lies above and below the CT is made of its last slices
            knots = np.r_[0, np.linspace(low[2], high[2], 5), length]
            stretch *= np.r_[1.2, np.full(4, breath), 1.7]
        stretch *= person.uniform(0.95, 1.05, 6)
        axes.append(AxisMap(knots, np.cumsum(np.r_[0, np.diff(knots) * SPACING * stretch])))
    low, high = (np.array([axes[i].to_mm(float(end[i])) for i in range(3)]) for end in (low, high))
    turn = np.deg2rad(np.clip(rng.normal(0, 2.2), -6, 6))
    tilt = np.deg2rad(rng.normal(0, 2.0) + (rng.uniform(-2, 7) if view == "AP" else 0))
    stretch = 1.09 if view != "AP" else 1.16
    across = 1 if view == "LATERAL" else 0
    share = rng.uniform(0.7, 0.88) if view != "LATERAL" else rng.uniform(0.52, 0.64)
    angle = axes[2].to_mm(min(body.zones[ZONES[f"{side} costophrenic angle"], 2] for side in ("left", "right")))
    above, below = rng.uniform(0.02, 0.09), rng.uniform(-0.01, 0.07)
    field = stretch * max((high[across] - low[across]) / share, (high[2] - angle + 8) / (1 - above - below))
    margin = field * above / stretch
    centre = (low[across] + high[across]) / 2 + rng.normal(0, 9)
    up = high[2] + margin - field / 2 / stretch
    return Camera(view, axes, body.density.shape, turn, tilt, (centre, up), field, size)


def _soft_tissue(body, patient, camera):
    """Fat and breasts over the CT's thin chest, in mm of water."""
    person = np.random.default_rng([patient.seed, 6])
    size = camera.image_size
    v, u = np.mgrid[:size, :size] / size
    fat = np.clip(patient.build - 0.25, 0, 1) * 55 * (0.6 + 0.5 * v + 0.25 * np.abs(u - 0.5))
    extra = fat * person.uniform(0.7, 1.2)
    if patient.sex == "F":
        heart = body.boxes[HEART_LABELS[0]].mean(1)
        for side, outward in (("left", 1), ("right", -1)):
            hilum = body.zones[ZONES[f"{side} hilum"]]
            x = hilum[0] + outward * person.uniform(12, 20)
            chest = np.flatnonzero(body.density[int(np.clip(x, 0, 179)), :, int(heart[2])] > 32)
            front = chest[-1] if len(chest) else 120
            point, scale = camera.points([[x, front, heart[2] + person.uniform(-12, 6)]])
            across, up = (48 + 26 * patient.build, 44 + 30 * patient.build)
            thick = (14 + 28 * patient.build) * person.uniform(0.6, 1.2)
            if camera.view == "LATERAL":
                across, thick = thick, across * 0.7
            pixels = np.arange(size)
            du = (pixels - point[0, 0]) / (scale[0] * across)
            dv = (pixels[:, None] - point[0, 1]) / (scale[0] * up)
            dv = np.where(dv > 0, dv * 1.5, dv)
            extra = extra + 1.3 * thick * np.clip(1 - du * du - dv * dv, 0, None) ** 0.8
    return extra


def _shrink(mask):
    """(S, S) bool -> (64, 64) float32 share of each cell."""
    size = mask.shape[0]
    edges = np.linspace(0, size, ANATOMY_SIZE + 1)
    pixels = np.arange(size)
    inside = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    weights = np.clip(inside, 0, 1) * ANATOMY_SIZE / size
    return (weights @ mask @ weights.T).astype(np.float32)


def film(path, rng, pixel, frontal):
    """Path lengths (mm of water) -> (S, S) uint8, bright = dense. pixel: mm on the detector."""
    size = path.shape[0]
    primary = np.exp(-ATTENUATION * path)
    scatter = rng.uniform(0.15, 0.5) * blur(primary, 28 / pixel)
    exposure = primary + scatter
    dose = 10 ** rng.uniform(3.9, 4.8) * pixel**2  # quanta per pixel in the open beam
    noise = ndimage.gaussian_filter(rng.spawn(1)[0].normal(size=(size, size)), 0.5)
    exposure = exposure * (1 + noise / np.sqrt(dose * exposure))
    dense = -np.log(np.maximum(exposure, 1e-5))
    # Processing of a digital film: less of the coarse contrast, more of the edges.
    dense -= rng.uniform(0.05, 0.3) * (blur(dense, 45 / pixel) - dense.mean())
    dense += rng.uniform(0.8, 1.8) * (dense - ndimage.gaussian_filter(dense, 3.0 / pixel, truncate=2.5))
    low, high = np.percentile(dense[path > 25], (4, 92))
    level = np.maximum((dense - low) / (high - low), -1)
    dark, bright = rng.uniform(0.05, 0.38), rng.uniform(0.74, 0.9)
    curve = rng.uniform(0.7, 1.05)
    grey = dark + (bright - dark) * np.where(level > 0, np.abs(level) ** curve, level)
    grey = np.where(grey > 0.8, 0.8 + 0.2 * np.tanh((grey - 0.8) / 0.2), grey)
    air = np.clip(path / 40, 0, 1)
    grey = _collimate_and_mark(np.clip(grey * air, 0, 1), rng, frontal)
    return np.rint(grey * 255).astype(np.uint8)


GLYPHS = {  # 5 x 7, one number per row
    "L": (16, 16, 16, 16, 16, 16, 31),
    "R": (30, 17, 17, 30, 20, 18, 17),
}


def _collimate_and_mark(grey, rng, frontal):
    """Blades at some edges, and the lead letter of a side in its upper corner (frontal views)."""
    size = grey.shape[0]
    for edge in range(4):
        width = int(size * rng.uniform(0, 0.05)) if rng.random() < 0.2 else 0
        np.rot90(grey, edge)[:width] *= 0.04
    if frontal and rng.random() < 0.7:
        letter = "LR"[int(rng.random() < 0.3)]
        glyph = np.array([[row >> (4 - bit) & 1 for bit in range(5)] for row in GLYPHS[letter]], bool)
        scale = max(1, round(size * rng.uniform(0.006, 0.011)))
        glyph = np.kron(glyph, np.ones((scale, scale), bool))
        top = int(size * rng.uniform(0.03, 0.12))
        inset = int(size * rng.uniform(0.03, 0.10))
        left = inset if letter == "R" else size - inset - glyph.shape[1]
        patch = grey[top : top + glyph.shape[0], left : left + glyph.shape[1]]
        patch[glyph] = np.maximum(patch, rng.uniform(0.85, 1.0))[glyph]
    return grey


__all__ = ["render_study"]
