"""Drawing phantom studies: patients, why they are examined, what is wrong with them, which views are taken."""

import random
from collections.abc import Collection
from dataclasses import dataclass, replace

from .plan import LOBES, Lesion, Patient, StudyPlan

SPLITS = ("train", "validation", "test", "gallery")
GALLERY_KINDS = ("atelectasis", "cardiomegaly", "consolidation", "edema", "effusion")

# Chance of each kind where nothing points to it. Chest tubes depend on what they drain.
PREVALENCE = {
    "wide_mediastinum": 0.085,
    "cardiomegaly": 0.12,
    "opacity": 0.14,
    "nodule": 0.05,
    "mass": 0.045,
    "edema": 0.08,
    "consolidation": 0.13,
    "atelectasis": 0.14,
    "pneumothorax": 0.09,
    "effusion": 0.13,
    "rib_fracture": 0.06,
    "clavicle_fracture": 0.035,
    "endotracheal_tube": 0.05,
    "enteric_tube": 0.03,
    "central_line": 0.10,
    "pacemaker": 0.06,
}
# Why the patient is examined: share of studies, and how it multiplies the odds of what is found.
REASONS = {
    "infection": (0.20, {"consolidation": 2.6, "opacity": 2.6, "effusion": 1.2, "atelectasis": 1.3}),
    "heart failure": (0.16, {"cardiomegaly": 6.0, "edema": 6.0, "effusion": 3.0, "pacemaker": 3.0}),
    "trauma": (0.13, {"rib_fracture": 7.0, "clavicle_fracture": 7.0, "pneumothorax": 3.0, "wide_mediastinum": 2.5}),
    "malignancy": (0.13, {"nodule": 6.0, "mass": 6.0, "wide_mediastinum": 4.0, "effusion": 1.6, "central_line": 2.0}),
    "critical care": (
        0.12,
        {"endotracheal_tube": 7.0, "enteric_tube": 4.0, "central_line": 4.0, "atelectasis": 2.2, "edema": 1.4},
    ),
    "surgery": (0.09, {"atelectasis": 3.5, "effusion": 1.8, "pneumothorax": 4.0, "central_line": 2.5}),
    "unspecific": (0.17, dict.fromkeys(PREVALENCE, 0.5)),
}
# Present at every visit once a patient has it.
CHRONIC = ("wide_mediastinum", "cardiomegaly", "nodule", "mass", "pacemaker")
VIEWS = {("PA", "LATERAL"): 0.36, ("PA",): 0.2, ("AP",): 0.36, ("AP", "LATERAL"): 0.05, ("LATERAL",): 0.03}
PORTABLE_VIEWS = {("AP",): 0.9, ("AP", "LATERAL"): 0.1}
PATIENTS_PER_BLOCK, VISITS = 5, (1, 1, 1, 2, 3)


@dataclass(frozen=True)
class StudyContext:
    """What the clinician knows. reason: a key of `REASONS`; visit: 0 for the patient's first study."""

    reason: str
    visit: int


def draw_study(split: str, index: int, seed: int = 0) -> tuple[StudyPlan, StudyContext]:
    """Study `index` of a split. It depends on (split, index, seed) alone; splits share no patient.

    Five patients make eight consecutive studies: three come once, one twice, one three times. The split "gallery"
    holds one-visit patients with one frontal view, study i having `GALLERY_KINDS[i % 5]` and nothing else.

    Raises:
        ValueError: an unknown split or a negative index.
    """
    if split not in SPLITS:
        raise ValueError(f"split: {split!r} is none of {', '.join(SPLITS)}.")
    if index < 0:
        raise ValueError(f"index: {index} is negative; studies are numbered from 0.")
    if split == "gallery":
        return _gallery_study(index, seed)
    block, position = divmod(index, sum(VISITS))
    visits = list(VISITS)
    random.Random(f"block {seed} {split} {block}").shuffle(visits)
    number = 0
    while position >= visits[number]:
        position -= visits[number]
        number += 1
    patient_id = f"phantom-{seed}-{split}-{block * PATIENTS_PER_BLOCK + number:06d}"
    rng = random.Random(f"patient {patient_id}")
    return draw_study_of(draw_patient(patient_id, rng), rng, position)


def draw_study_of(patient: Patient, rng: random.Random, visit: int) -> tuple[StudyPlan, StudyContext]:
    """A patient's study, drawn anew but for what is chronic; `rng` is the one that the patient was drawn with."""
    usual_reason = weighted(rng, {reason: share for reason, (share, _) in REASONS.items()})
    chronic = tuple(
        draw_lesion(kind, rng) for kind in CHRONIC if rng.random() < chance(kind, REASONS[usual_reason][1].get(kind, 1))
    )

    study_id = f"{patient.patient_id}-s{visit}"
    rng = random.Random(f"study {study_id}")
    reason = usual_reason
    if visit and rng.random() < 0.4:
        reason = weighted(rng, {reason: share for reason, (share, _) in REASONS.items()})
    lesions = _lesions(reason, chronic, rng)
    portable = any(lesion.kind == "endotracheal_tube" for lesion in lesions) or (
        reason == "critical care" and rng.random() < 0.6
    )
    views = weighted(rng, PORTABLE_VIEWS if portable else VIEWS)
    return make_plan(study_id, patient, lesions, views, rng), StudyContext(reason, visit)


def _gallery_study(index: int, seed: int) -> tuple[StudyPlan, StudyContext]:
    patient_id = f"phantom-{seed}-gallery-{index:06d}"
    rng = random.Random(f"patient {patient_id}")
    patient = draw_patient(patient_id, rng)
    kind = GALLERY_KINDS[index % len(GALLERY_KINDS)]
    odds = {reason: share * chance(kind, changes.get(kind, 1)) for reason, (share, changes) in REASONS.items()}
    reason = weighted(rng, odds)
    lesion = replace(draw_lesion(kind, rng), uncertain=False)
    lesion = replace(lesion, reads_as_pneumonia=_reads_as_pneumonia(lesion, reason, rng))
    view = ("AP",) if rng.random() < 0.5 else ("PA",)
    return make_plan(f"{patient_id}-s0", patient, (lesion,), view, rng), StudyContext(reason, 0)


def make_plan(study_id, patient, lesions, views, rng) -> StudyPlan:
    view_seeds = tuple(rng.getrandbits(31) for _ in views)
    return StudyPlan(study_id, patient, lesions, views, view_seeds, rng.getrandbits(31))


def draw_patient(patient_id: str, rng: random.Random) -> Patient:
    age = min(94, max(18, round(rng.gauss(60, 18))))
    sex = "F" if rng.random() < 0.47 else "M"
    return Patient(patient_id, rng.getrandbits(31), age, sex, rng.betavariate(2, 2.5))


def _lesions(reason: str, chronic: tuple[Lesion, ...], rng: random.Random) -> tuple[Lesion, ...]:
    odds = REASONS[reason][1]
    present = {lesion.kind for lesion in chronic}

    def occurs(kind: str, also: float = 1.0) -> bool:
        if kind not in CHRONIC and rng.random() < chance(kind, odds.get(kind, 1) * also):
            present.add(kind)
        return kind in present

    failing = occurs("edema", 2.0 if "cardiomegaly" in present else 0.85)
    injured = occurs("rib_fracture") | occurs("clavicle_fracture")
    consolidated = occurs("consolidation")
    occurs("opacity")
    fluid = occurs("effusion", (2.0 if failing else 1.0) * (1.5 if consolidated else 1.0))
    occurs("atelectasis", 1.7 if fluid else 1.0)
    occurs("pneumothorax", 2.0 if injured else 1.0)
    occurs("enteric_tube", 20.0 if occurs("endotracheal_tube") else 1.0)
    occurs("central_line", 2.0 if "endotracheal_tube" in present else 1.0)

    lesions = list(chronic)
    taken = {lesion.lobe for lesion in chronic if lesion.kind == "mass"}
    for kind in PREVALENCE:
        if kind not in present or kind in CHRONIC:
            continue
        for _ in range(2 if kind in ("opacity", "consolidation") and rng.random() < 0.2 else 1):
            lesion = draw_lesion(kind, rng, taken)
            if kind == "effusion" and failing and rng.random() < 0.5:
                lesion = replace(lesion, side="bilateral")
            taken |= {lesion.lobe} - {""}
            lesions.append(replace(lesion, reads_as_pneumonia=_reads_as_pneumonia(lesion, reason, rng)))
    for lesion in list(lesions):
        drained = 0.3 if lesion.kind == "pneumothorax" else 0.12 if lesion.kind == "effusion" else 0.0
        if rng.random() < drained and not any(other.kind == "chest_tube" for other in lesions):
            side = lesion.side if lesion.side != "bilateral" else rng.choice(["left", "right"])
            lesions.append(replace(draw_lesion("chest_tube", rng), side=side))
    return tuple(lesions)


def draw_lesion(kind: str, rng: random.Random, taken: Collection[str] = ()) -> Lesion:
    severity, seed = rng.random(), rng.getrandbits(31)
    uncertain = rng.random() < 0.3 * (1 - severity)
    side, lobe = rng.choice(["left", "right"]), ""
    if kind in ("opacity", "nodule", "mass", "consolidation", "atelectasis"):
        weights = (1.0, 0.9, 1.6, 1.0, 1.6) if kind != "atelectasis" else (0.8, 0.8, 2.0, 0.7, 2.2)
        weights = dict(zip(LOBES, weights, strict=True))
        lobe = weighted(rng, {name: weights[name] for name in LOBES if name not in taken} or weights)
        side = lobe.split()[0]
    elif kind == "effusion":
        side = weighted(rng, {"left": 0.38, "right": 0.38, "bilateral": 0.24})
    elif kind == "edema":
        side = "bilateral"
    elif kind in ("wide_mediastinum", "cardiomegaly", "endotracheal_tube", "enteric_tube"):
        side = "midline"
    elif kind == "central_line":
        side = weighted(rng, {"right": 0.75, "left": 0.25})
    elif kind == "pacemaker":
        side = weighted(rng, {"left": 0.85, "right": 0.15})
    if kind in ("endotracheal_tube", "enteric_tube", "central_line", "pacemaker", "chest_tube"):
        uncertain = False
    return Lesion(kind, side, lobe, severity, seed, uncertain=uncertain)


def _reads_as_pneumonia(lesion: Lesion, reason: str, rng: random.Random) -> bool:
    likely = {"consolidation": 0.65, "opacity": 0.55}.get(lesion.kind, 0.0)
    return rng.random() < likely * {"infection": 1.4, "unspecific": 1.0, "critical care": 1.0}.get(reason, 0.8)


def chance(kind: str, odds_ratio: float) -> float:
    odds = PREVALENCE[kind] / (1 - PREVALENCE[kind]) * odds_ratio
    return odds / (1 + odds)


def weighted(rng: random.Random, weights: dict):
    return rng.choices(list(weights), list(weights.values()))[0]
