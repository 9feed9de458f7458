"""What surrounds the CT on a wide field: shoulders, arms, neck, breasts, abdominal gas. Path lengths in the picture.

The CT ends at the chest wall, arms raised. Its soft tissue is continued by an outline in the frontal plane: at each
height a superellipse of the patient's width and depth, whose thickness beyond the CT's own is filled with soft tissue.
All positions are mm of the patient at the depth of the body's middle; X grows toward the left, Z upward.
"""

from dataclasses import dataclass

import numpy as np

from .anatomy import HEART_LABELS, LUNG_LABELS, SPINE_LABELS, TRACHEA, ZONES, Body
from .appearance import Appearance

FAT = 0.93  # density of what surrounds the chest, between fat and muscle
ABDOMEN = 0.97  # of what lies below the CT
CORTEX = 1.5  # what cortical bone adds to soft tissue, mm of water per mm
MARROW = 0.35


@dataclass
class Landmarks:
    """Of a patient, mm: middle and half width of the lungs, their top and bottom, those of the CT, height of the
    domes.

    spine, trachea: x where they leave the CT upward.
    """

    middle: float
    half: float
    apex: float
    base: float
    top: float
    bottom: float
    dome: float
    spine: float
    trachea: float


def landmarks(body: Body, camera) -> Landmarks:
    lungs = body.boxes[list(LUNG_LABELS["left"] + LUNG_LABELS["right"])]
    low, high = lungs[:, :, 0].min(0), lungs[:, :, 1].max(0)
    x, z = camera.axes[0].to_mm, camera.axes[2].to_mm
    spine = body.boxes[list(SPINE_LABELS[-4:])]
    spine = spine[spine[:, 0, 1] > 0][:, 0].mean() if (spine[:, 0, 1] > 0).any() else 80.0
    left, right = float(x(float(high[0]))), float(x(float(low[0])))
    return Landmarks(
        middle=(left + right) / 2,
        half=(left - right) / 2,
        apex=float(z(float(high[2]))),
        base=float(z(float(low[2]))),
        top=float(z(float(body.density.shape[2] - 1))),
        bottom=float(z(0.0)),
        dome=float(z(float(body.zones[ZONES["diaphragm"], 2] + 4))),
        spine=float(x(float(spine))),
        trachea=float(x(float(body.boxes[TRACHEA, 0].mean()))),
    )


def smoothstep(values, low, high):
    """0 below `low`, 1 above `high`, smooth between."""
    t = np.clip((values - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def surround(path, body: Body, patient, camera, look: Appearance, rng) -> np.ndarray:
    """The frontal path lengths of the CT (S, S), continued beyond it. rng: of this exposure."""
    person = np.random.default_rng([patient.seed, 8])
    marks = landmarks(body, camera)
    x, z = camera.plane()
    x, z = x[None] - marks.middle, z[:, None]
    width, depth = _outline(z, marks, patient, person, rng)
    inside = smoothstep(width - np.abs(x), -3, 9)
    # Above and below the CT goes on with its last slice, which is not what lies there.
    kept = inside * (1 - smoothstep(z, marks.top - 16, marks.top - 2)) * smoothstep(z, marks.bottom, marks.bottom + 60)
    own = camera.outline(body.frontal_outline) * kept
    torso = depth * np.sqrt(np.clip(1 - np.abs(x / width) ** 3.5, 0, None))
    path = path * kept
    limbs, bones = np.zeros_like(path), np.zeros_like(path)
    if rng.random() < look.arms:
        limbs, bones = _arms(x, z, width, marks, patient, person, rng)
    whole = np.maximum(torso, limbs) + 0.35 * np.minimum(torso, limbs)
    below = 1 - smoothstep(z, marks.bottom, marks.bottom + 60)
    path = path + (FAT + (ABDOMEN - FAT) * below) * np.clip(whole - own, 0, None) + bones
    above = smoothstep(z, marks.apex + 4, marks.top + 4)
    path = path + above * _neck(x, z, marks, person)
    path = path + below * _column(x - (marks.spine - marks.middle), z, 20, person.uniform(24, 34), 36)
    if patient.sex == "F":
        path = path + _breasts(body, patient, camera, person, look)
    return np.maximum(path + _gas(x, z, marks, rng) * (path > 60), 0)


def _outline(z, marks, patient, person, rng):
    """Half width and depth (mm) of the outline at each height: neck, the slope of the shoulders, chest, waist."""
    fat = 60 * np.clip(patient.build - 0.2, 0, 1) * person.uniform(0.5, 1.2)
    neck = person.uniform(54, 74) + 0.4 * fat
    shoulder = marks.half * person.uniform(1.35, 1.6) + 0.4 * fat
    chest = marks.half + person.uniform(22, 48) + fat
    raised = rng.normal(0, 12)  # shoulders shrugged or hanging
    acromion = marks.apex - 30 + raised + person.normal(0, 10)
    collar = marks.apex + person.uniform(40, 75) + 0.4 * raised
    slope = np.clip((collar - z) / (collar - acromion), 0, 1) ** person.uniform(0.8, 1.5)
    upper = neck + (shoulder - neck) * slope
    axilla = acromion - person.uniform(70, 120)
    belly = smoothstep(-z, -marks.dome - 40, 80 - marks.dome)
    lower = chest + (person.uniform(-10, 14) + 0.6 * fat) * belly
    share = smoothstep(z, axilla, acromion - 12)
    thick = person.uniform(200, 240) + 1.4 * fat
    below = thick + (0.7 * fat + person.uniform(-10, 20)) * belly
    depth = below + (150 + 0.5 * fat - below) * smoothstep(z, marks.apex - 50, collar + 30)
    return share * upper + (1 - share) * lower, depth


def _chord(distance, radius):
    """Length within a cylinder or ball of the ray that passes at `distance`."""
    return 2 * np.sqrt(np.clip(radius * radius - distance * distance, 0, None))


def _segment(x, z, start, end):
    """Distance from a segment and position along it (0 to 1)."""
    along = np.subtract(end, start)
    t = np.clip(((x - start[0]) * along[0] + (z - start[1]) * along[1]) / (along @ along), 0, 1)
    return np.hypot(x - start[0] - t * along[0], z - start[1] - t * along[1]), t


def _arms(x, z, width, marks, patient, person, rng):
    """Soft tissue and bone (mm of water) of both upper arms, hanging or held away from the chest."""
    soft, bone = 0, 0
    fat = 18 * np.clip(patient.build - 0.2, 0, 1)
    away = np.deg2rad(rng.uniform(3, 30))
    drop = person.uniform(18, 38)
    size = person.uniform(0.88, 1.12)
    reach = np.interp(marks.apex - 30, z[::-1, 0], width[::-1, 0]) if np.ndim(width) else width
    for side in (-1, 1):
        angle = away + np.deg2rad(rng.normal(0, 4))
        joint = np.array([side * (reach - 30 * size), marks.apex - drop])
        elbow = joint + 330 * np.array([side * np.sin(angle), -np.cos(angle)])
        distance, t = _segment(x, z, joint, elbow)
        radius = (58 + fat - 14 * t) * size
        soft = np.maximum(soft, _chord(distance, radius))
        # The shaft widens to the head, whose cortex is thin.
        wide = np.exp(-t / 0.07)
        outer = (11.5 + 11 * wide) * size
        tube = _chord(distance, outer)
        inner = _chord(distance, outer - 3.6 + 2.6 * wide)
        bone = bone + CORTEX * (tube - inner) + MARROW * (0.3 + 0.7 * wide) * inner
        head = joint + np.array([-side * 5, 4])
        # The socket and the edge of the shoulder blade, thin plates behind.
        socket = head + np.array([-side * 26, -4])
        plate, t = _segment(x, z, socket, socket + np.array([-side * 30, -person.uniform(90, 125)]))
        bone = bone + 7 * np.exp(-((plate / 4.5) ** 2)) * (0.4 + 0.6 * (1 - t))
    return soft, bone


def _neck(x, z, marks, person):
    """Vertebrae and windpipe above the CT, and the jaw where the field reaches it; mm of water added."""
    bone = _column(x - (marks.spine - marks.middle), z - marks.top, 17, person.uniform(10, 17), person.uniform(16, 19))
    air = -_chord(x - (marks.trachea - marks.middle), person.uniform(7, 10)) * person.uniform(0.7, 1.0)
    jaw = marks.apex + person.uniform(85, 140)
    head = np.clip(1 - (x / 70) ** 2 - ((z - jaw - 70) / 74) ** 2, 0, None)
    return bone + air + person.uniform(60, 110) * np.sqrt(head)


def _column(x, z, half, thick, period):
    """Vertebrae in the midline: `thick` mm of water over 2 * `half` mm, with discs every `period` mm."""
    return thick * np.clip(1 - (x / half) ** 4, 0, None) * (0.75 + 0.25 * np.cos(2 * np.pi * z / period))


def _breasts(body, patient, camera, person, look):
    """Path lengths of both breasts, one missing after a mastectomy."""
    heart = body.boxes[HEART_LABELS[0]].mean(1)
    missing = person.choice((-1, 1)) * (person.random() < look.mastectomy)
    up, thick = person.uniform(-22, 4), (12 + 34 * patient.build) * person.uniform(0.4, 1.3)
    spread, round_ = person.uniform(26, 36), person.uniform(0.85, 1.2)
    total = 0
    for side, outward in (("left", 1), ("right", -1)):
        hilum = body.zones[ZONES[f"{side} hilum"]]
        place = [[hilum[0] + outward * (spread - 14), 110.0, heart[2] + up + person.normal(0, 2)]]
        if outward == missing:
            continue
        point, scale = camera.points(place)
        pixels = np.arange(camera.image_size)
        du = (pixels - point[0, 0]) / (scale[0] * (54 + 34 * patient.build) * round_)
        dv = (pixels[:, None] - point[0, 1]) / (scale[0] * (58 + 36 * patient.build))
        dv = np.where(dv > 0, dv * 1.5, dv)
        total = total + 1.3 * thick * np.clip(1 - du * du - dv * dv, 0, None) ** 0.6
    return total


def _gas(x, z, marks, rng):
    """Air in the stomach below the left dome and in the bowel: mm of water taken away."""
    taken = np.zeros(np.broadcast(x, z).shape)
    places = [(rng.uniform(30, 80), marks.dome - rng.uniform(22, 45), rng.uniform(12, 34))] * (rng.random() < 0.6)
    for _ in range(rng.integers(0, 5)):
        places.append((rng.uniform(-120, 120), marks.dome - rng.uniform(60, 160), rng.uniform(7, 20)))
    for across, up, radius in places:
        flat, angle, phase = rng.uniform(0.5, 1), rng.uniform(-0.6, 0.6), rng.uniform(0, 6)
        near = np.ix_(np.abs(z[:, 0] - up) < 1.2 * radius, np.abs(x[0] - across) < 1.2 * radius)
        u, v = x[:, near[1][0]] - across, z[near[0][:, 0]] - up
        u, v = u * np.cos(angle) + v * np.sin(angle), (v * np.cos(angle) - u * np.sin(angle)) / flat
        edge = 1 + 0.07 * np.sin(3 * np.arctan2(v, u) + phase)
        taken[near] -= 0.9 * _chord(np.hypot(u, v) / edge, radius)
    return taken
