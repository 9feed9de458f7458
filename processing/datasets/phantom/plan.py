"""What is drawn for one phantom study: the vocabulary that rendering, text and gaze share."""

from dataclasses import dataclass, field
from typing import Any

LOBES = (
    "right upper lobe",
    "right middle lobe",
    "right lower lobe",
    "left upper lobe",
    "left lower lobe",
)

# What a lesion is -> the CheXbert observation that its presence makes positive. "Lung Opacity" and "Pneumonia" also
# follow from how the report reads a consolidation or opacity, "No Finding" from the absence of everything.
OBSERVATION_OF = {
    "wide_mediastinum": "Enlarged Cardiomediastinum",
    "cardiomegaly": "Cardiomegaly",
    "opacity": "Lung Opacity",
    "nodule": "Lung Lesion",
    "mass": "Lung Lesion",
    "edema": "Edema",
    "consolidation": "Consolidation",
    "atelectasis": "Atelectasis",
    "pneumothorax": "Pneumothorax",
    "effusion": "Pleural Effusion",
    "rib_fracture": "Fracture",
    "clavicle_fracture": "Fracture",
    "endotracheal_tube": "Support Devices",
    "enteric_tube": "Support Devices",
    "central_line": "Support Devices",
    "chest_tube": "Support Devices",
    "pacemaker": "Support Devices",
}


@dataclass(frozen=True)
class Lesion:
    """One thing put into the volume.

    kind: a key of `OBSERVATION_OF`; side: "left", "right" (the patient's), "bilateral" or "midline"; lobe: one of
    `LOBES` for what lies in a lobe, else ""; severity: 0 (just visible) to 1 (gross); seed: its own randomness;
    reads_as_pneumonia: the report calls this consolidation or opacity a pneumonia; uncertain: the report hedges.
    """

    kind: str
    side: str
    lobe: str = ""
    severity: float = 0.5
    seed: int = 0
    reads_as_pneumonia: bool = False
    uncertain: bool = False


@dataclass(frozen=True)
class Patient:
    """seed drives the deformation, size, heart and lung scale; build: 0 (slim) to 1 (obese); sex: "M" or "F"."""

    patient_id: str
    seed: int
    age: int
    sex: str
    build: float


@dataclass(frozen=True)
class StudyPlan:
    """One study: the patient, what is wrong, and the views taken ("PA", "AP" or "LATERAL"), one seed each."""

    study_id: str
    patient: Patient
    lesions: tuple[Lesion, ...]
    views: tuple[str, ...]
    view_seeds: tuple[int, ...]
    seed: int = 0


@dataclass
class Rendering:
    """One radiograph of a study.

    image: (S, S) uint8, bright = dense, patient's left toward the right on frontal views. lesion_masks: one (S, S)
    bool per lesion of the plan, all False where this view does not show it. anatomy: name -> (64, 64) float32 share
    of the cell covered by the projected structure: "left lung", "right lung", the five lobes, "heart", "mediastinum",
    "aorta", "trachea", "left hilum", "right hilum", "left apex", "right apex", "left costophrenic angle",
    "right costophrenic angle", "diaphragm", "spine", "ribs", "clavicles".
    """

    image: Any
    lesion_masks: list
    anatomy: dict = field(default_factory=dict)
