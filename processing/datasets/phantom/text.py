"""Reports and clinical context of phantom studies, and what each sentence says and is about."""

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from ..records import CHEXBERT_OBSERVATIONS, NEGATIVE, NOT_MENTIONED, POSITIVE, UNCERTAIN
from . import context_wording, wording
from .plan import OBSERVATION_OF, Lesion, StudyPlan
from .study import CHRONIC, StudyContext
from .wording import expand

LUNGS = ("left lung", "right lung")
HILA = ("left hilum", "right hilum")
APICES = ("left apex", "right apex")
ANGLES = ("left costophrenic angle", "right costophrenic angle")
WHERE_ABSENT = {
    "Enlarged Cardiomediastinum": ("mediastinum",),
    "Cardiomegaly": ("heart",),
    "Lung Opacity": LUNGS,
    "Lung Lesion": LUNGS,
    "Edema": HILA,
    "Consolidation": LUNGS,
    "Pneumonia": LUNGS,
    "Atelectasis": ("left lower lobe", "right lower lobe"),
    "Pneumothorax": APICES,
    "Pleural Effusion": ANGLES,
    "Fracture": ("ribs", "clavicles"),
    "Support Devices": ("mediastinum",),
}
# How often a report says that a finding is absent.
SAYS_ABSENT = {
    "Enlarged Cardiomediastinum": 0.5,
    "Cardiomegaly": 0.8,
    "Lung Opacity": 0.35,
    "Lung Lesion": 0.15,
    "Edema": 0.4,
    "Consolidation": 0.65,
    "Pneumonia": 0.12,
    "Atelectasis": 0.12,
    "Pneumothorax": 0.9,
    "Pleural Effusion": 0.9,
    "Fracture": 0.4,
    "Support Devices": 0.05,
}
DEVICES = tuple(kind for kind, observation in OBSERVATION_OF.items() if observation == "Support Devices")
SECTION_OF = {
    **dict.fromkeys(("opacity", "consolidation", "atelectasis", "edema", "nodule", "mass"), "lungs"),
    **dict.fromkeys(("effusion", "pneumothorax"), "pleura"),
    **dict.fromkeys(("cardiomegaly", "wide_mediastinum"), "heart"),
    **dict.fromkeys(("rib_fracture", "clavicle_fracture"), "bones"),
    **dict.fromkeys(DEVICES, "devices"),
}
CONTOURS = ("cardiomegaly", "wide_mediastinum")
EVOLVING = ("opacity", "consolidation", "atelectasis", "edema", "effusion", "pneumothorax")
ABSENT_SECTION = {
    "lungs": ("Lung Opacity", "Consolidation", "Lung Lesion", "Edema", "Pneumonia", "Atelectasis"),
    "pleura": ("Pleural Effusion", "Pneumothorax"),
    "heart": ("Cardiomegaly", "Enlarged Cardiomediastinum"),
    "bones": ("Fracture",),
    "devices": ("Support Devices",),
}
ORDERS = (
    ("devices", "lungs", "pleura", "heart", "bones"),
    ("lungs", "pleura", "heart", "bones", "devices"),
    ("heart", "lungs", "pleura", "bones", "devices"),
    ("devices", "heart", "lungs", "pleura", "bones"),
)


@dataclass(frozen=True)
class Sentence:
    """text; the indices of the plan's lesions and the names of the anatomy that it is about; observation -> code."""

    text: str
    lesions: tuple[int, ...] = ()
    anatomy: tuple[str, ...] = ()
    mentions: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """findings and impression as sentences; labels: one code per CheXbert observation, over both."""

    indication: str
    history: str
    findings: tuple[Sentence, ...]
    impression: tuple[Sentence, ...]
    labels: tuple[int, ...]


def write_report(
    plan: StudyPlan,
    context: StudyContext,
    compare: Callable[[tuple[Sentence, ...]], tuple[Sentence, ...]] | None = None,
) -> Report:
    """The report of a study; the same plan has the same report.

    compare: findings' sentences that compare nothing -> what a reader writes who knows whether there is an earlier
        study. None: comparisons are drawn at random, whatever was before, or was not.
    """
    rng = random.Random(f"report {plan.study_id} {plan.seed}")
    findings = _findings(plan, context if compare is None else None, rng)
    if compare is not None:
        findings = compare(findings)
    stated = merge_mentions(findings)
    impression = _impression(plan, stated, rng)
    indication, history = _clinical_context(plan, context, rng)
    return Report(indication, history, findings, impression, codes_of(merge_mentions(findings + impression)))


def merge_mentions(sentences: Iterable[Sentence]) -> dict[str, int]:
    """What a report says of each observation: positive before uncertain before negative."""
    merged = {}
    for sentence in sentences:
        for observation, code in sentence.mentions.items():
            merged[observation] = stronger(code, merged.get(observation, NOT_MENTIONED))
    return merged


def stronger(*codes: int) -> int:
    """The code that decides where several were said."""
    return max(codes, key=(NOT_MENTIONED, NEGATIVE, UNCERTAIN, POSITIVE).index)


def codes_of(mentions: dict[str, int]) -> tuple[int, ...]:
    """Codes for `CHEXBERT_OBSERVATIONS`; No Finding is positive where nothing but devices is present or suspected."""
    present = [name for name, code in mentions.items() if code in (POSITIVE, UNCERTAIN) and name != "Support Devices"]
    mentions = mentions | {"No Finding": NOT_MENTIONED if present else POSITIVE}
    return tuple(mentions.get(name, NOT_MENTIONED) for name in CHEXBERT_OBSERVATIONS)


def anatomy_of(lesion: Lesion) -> tuple[str, ...]:
    """Where to look for a lesion: keys of `Rendering.anatomy`."""
    sides = ("left", "right") if lesion.side == "bilateral" else (lesion.side,)
    places = {
        "effusion": [f"{side} costophrenic angle" for side in sides],
        "pneumothorax": [f"{side} apex" for side in sides],
        "edema": HILA,
        "cardiomegaly": ["heart"],
        "wide_mediastinum": ["mediastinum"],
        "rib_fracture": ["ribs"],
        "clavicle_fracture": ["clavicles"],
        "endotracheal_tube": ["trachea"],
        "enteric_tube": ["mediastinum"],
        "central_line": ["mediastinum"],
        "chest_tube": [f"{side} lung" for side in sides],
        "pacemaker": [f"{side} apex" for side in sides] + ["heart"],
    }
    return tuple(places.get(lesion.kind, [lesion.lobe]))


def _slots(lesion: Lesion, rng: random.Random) -> dict[str, str]:
    grade = min(2, int(3 * lesion.severity))
    zones = {
        "upper": ("lobe", "lobe", "lung", "lung zone"),
        "middle": ("lobe", "lobe"),
        "lower": ("lobe", "lobe", "lung"),
    }
    lobe = lesion.lobe
    if lobe:
        side, level, _ = lobe.split()
        lobe = f"{side} {level} {rng.choice(zones[level])}"
    base = f"the {lobe}"
    if "lower" in lobe and rng.random() < 0.25:
        base = f"the {lobe.split()[0]} lung base"
    elif lesion.lobe == "right middle lobe" and rng.random() < 0.2:
        base = "the right mid lung"
    return {
        "side": lesion.side,
        "lobe": base,
        "lobe_name": lobe,
        "size": rng.choice((wording.SIZE if lobe else wording.AMOUNT)[grade]),
        "degree": rng.choice((wording.WIDTH if lesion.kind in CONTOURS else wording.SEVERITY)[grade]),
        "degree_ly": rng.choice(wording.WIDTH_LY[grade]),
        "partly": ("partially", "partially", "completely")[grade],
        "displaced": ("nondisplaced", "minimally displaced", "displaced")[grade],
    }


def _wording_of(lesion: Lesion) -> str:
    return "bilateral effusion" if lesion.kind == "effusion" and lesion.side == "bilateral" else lesion.kind


def _mentions(text: str, lesion: Lesion) -> dict[str, int]:
    code = UNCERTAIN if lesion.uncertain else POSITIVE
    mentions = {OBSERVATION_OF[lesion.kind]: code}
    # CheXpert's Lung Opacity is whatever is called an opacity, edema or atelectasis as well.
    if any(word in text.lower() for word in ("opacit", "infiltrate")):
        mentions["Lung Opacity"] = stronger(code, mentions.get("Lung Opacity", NOT_MENTIONED))
    return mentions


def _compared(text: str, lesion: Lesion, context: StudyContext | None, rng: random.Random) -> str:
    if context is None:
        return text
    if rng.random() > (0.45 if context.visit else 0.08) or lesion.uncertain or text.count(",") > 1:
        return text
    draw = rng.random()
    if lesion.kind in CHRONIC or draw < 0.35:
        words = wording.UNCHANGED
    else:
        words = wording.CHANGED if lesion.kind in EVOLVING and draw < 0.65 else wording.NEW
    comparison = expand(rng.choice(words), rng)
    return f"{text[:-1]}, {comparison[0].lower()}{comparison[1:]}."


def _statement(index: int, lesion: Lesion, context: StudyContext | None, rng: random.Random) -> list[Sentence]:
    templates = wording.HEDGED if lesion.uncertain else wording.POSITIVE
    text = expand(rng.choice(templates[_wording_of(lesion)]), rng, **_slots(lesion, rng))
    mentions = _mentions(text, lesion)
    anatomy = anatomy_of(lesion)
    if not lesion.reads_as_pneumonia or rng.random() < 0.1:  # then only the impression says so
        return [Sentence(_compared(text, lesion, context, rng), (index,), anatomy, mentions)]
    code = UNCERTAIN if lesion.uncertain or rng.random() < 0.3 else POSITIVE
    reading = rng.choice(wording.PNEUMONIA[code])
    if reading.startswith("|"):
        own = Sentence(expand(reading[1:], rng), (index,), anatomy, {"Pneumonia": code})
        return [Sentence(_compared(text, lesion, context, rng), (index,), anatomy, mentions), own]
    text = text[:-1] + expand(reading, rng) + "."
    return [Sentence(text, (index,), anatomy, mentions | {"Pneumonia": code})]


def _joined(nouns: list[str], rng: random.Random) -> str:
    if len(nouns) < 3:
        return " or ".join(nouns)
    return ", ".join(nouns[:-1]) + rng.choice([", or ", " or "]) + nouns[-1]


def _absence(observations: list[str], rng: random.Random) -> Sentence:
    anatomy = tuple(dict.fromkeys(name for observation in observations for name in WHERE_ABSENT[observation]))
    if len(observations) == 1:
        text = expand(rng.choice(wording.NEGATIVE[observations[0]]), rng)
    elif set(observations) == {"Cardiomegaly", "Enlarged Cardiomediastinum"}:
        text = expand(rng.choice(wording.NORMAL_CARDIOMEDIASTINUM), rng)
    else:
        nouns = _joined([wording.NEGATIVE_NOUN[observation] for observation in observations], rng)
        templates = wording.NEGATIVE_LIST
        if not {"Consolidation", "Edema", "Lung Lesion", "Lung Opacity"}.issuperset(observations):
            templates = [template for template in templates if "lungs" not in template]
        text = expand(rng.choice(templates).replace("{nouns}", nouns), rng)
    return Sentence(text, (), anatomy, dict.fromkeys(observations, NEGATIVE))


def _absences(absent: list[str], rng: random.Random) -> dict[str, list[Sentence]]:
    """Sentences per section that say what is absent, some of them lists across sections."""
    sections = {section: [] for section in SECTION_OF.values()}
    section_of = {name: section for section, names in ABSENT_SECTION.items() for name in names}
    left = list(absent)
    listed = [name for name in ("Consolidation", "Edema", "Pleural Effusion", "Pneumothorax") if name in left]
    if len(listed) > 1 and rng.random() < 0.6:
        if len(listed) == 4 and rng.random() < 0.5:
            listed.remove("Edema")
        if "Pneumothorax" in listed and rng.random() < 0.3:
            listed = [name for name in listed if name not in ("Consolidation", "Edema")]
        if rng.random() < 0.3:
            rng.shuffle(listed)
        if len(listed) > 1:
            left = [name for name in left if name not in listed]
            sections[section_of[listed[0]]].append(_absence(listed, rng))
    if {"Cardiomegaly", "Enlarged Cardiomediastinum"}.issubset(left) and rng.random() < 0.6:
        left = [name for name in left if name not in ("Cardiomegaly", "Enlarged Cardiomediastinum")]
        sections["heart"].append(_absence(["Cardiomegaly", "Enlarged Cardiomediastinum"], rng))
    for name in left:
        sections[section_of[name]].append(_absence([name], rng))
    return sections


def _findings(plan: StudyPlan, context: StudyContext | None, rng: random.Random) -> tuple[Sentence, ...]:
    lesions = list(plan.lesions)
    sections = {section: [] for section in SECTION_OF.values()}
    stated = set()
    for index, lesion in enumerate(lesions):
        if index in stated:
            continue
        collapse = next(
            (
                other
                for other, candidate in enumerate(lesions)
                if lesion.kind == "effusion" and candidate.kind == "atelectasis" and other not in stated
                if "lower" in candidate.lobe and candidate.side == lesion.side
                if not (lesion.uncertain or candidate.uncertain)
            ),
            None,
        )
        if collapse is not None and rng.random() < 0.5:
            slots = _slots(lesions[collapse], rng) | {"size": _slots(lesion, rng)["size"]}
            text = expand(rng.choice(wording.EFFUSION_WITH_ATELECTASIS), rng, **slots)
            anatomy = anatomy_of(lesion) + anatomy_of(lesions[collapse])
            mentions = {"Pleural Effusion": POSITIVE, "Atelectasis": POSITIVE}
            sentences = [Sentence(text, (index, collapse), anatomy, mentions)]
            stated.add(collapse)
            sections["lungs"] = [sentence for sentence in sections["lungs"] if sentence.lesions != (collapse,)]
        else:
            sentences = _statement(index, lesion, context, rng)
        stated.add(index)
        sections[SECTION_OF[lesion.kind]] += sentences

    mentioned = merge_mentions(sentence for section in sections.values() for sentence in section)
    absent = [
        observation
        for observation, share in SAYS_ABSENT.items()
        if observation not in mentioned and rng.random() < share and not _contradicts(observation, plan, mentioned)
    ]
    for observation in ("Lung Opacity", "Cardiomegaly", "Pleural Effusion", "Pneumothorax", "Fracture"):
        sayable = observation not in mentioned and not _contradicts(observation, plan, mentioned)
        if len(mentioned) + len(absent) < 6 and sayable and observation not in absent:  # a report is not that short
            absent.append(observation)
    for section, sentences in _absences(absent, rng).items():
        sections[section] += sentences
    order = rng.choice(ORDERS)
    findings = [sentence for section in order for sentence in sections[section]]
    if rng.random() < 0.12:
        findings.append(Sentence(expand(rng.choice(wording.OTHER["abdomen"]), rng), (), ("diaphragm",)))
    if plan.patient.age > 55 and rng.random() < 0.15:
        findings.append(Sentence(expand(rng.choice(wording.OTHER["spine"]), rng), (), ("spine",)))
    if rng.random() < 0.12:
        technique = expand(rng.choice(wording.TECHNIQUE[plan.views]), rng)
        findings.insert(0, Sentence(technique, (), LUNGS))
    return tuple(findings)


def _contradicts(observation: str, plan: StudyPlan, mentioned: dict[str, int]) -> bool:
    """Whether a report would rather not say that this is absent beside what else it says."""
    kinds = {lesion.kind for lesion in plan.lesions}
    parenchymal = kinds & {"opacity", "consolidation", "atelectasis", "edema", "nodule", "mass"}
    return (
        (observation == "Lung Opacity" and bool(parenchymal))
        or (observation == "Pneumonia" and bool(kinds & {"opacity", "consolidation"}))
        or (observation == "Consolidation" and "opacity" in kinds and "Pneumonia" in mentioned)
        or (observation == "Enlarged Cardiomediastinum" and "cardiomegaly" in kinds and bool(plan.seed % 2))
    )


def _impression(plan: StudyPlan, stated: dict[str, int], rng: random.Random) -> tuple[Sentence, ...]:
    found = [(index, lesion) for index, lesion in enumerate(plan.lesions) if lesion.kind not in DEVICES]
    if not found:
        return (Sentence(expand(rng.choice(wording.NORMAL_IMPRESSION), rng)),)
    items = []
    for index, lesion in found:
        if len(found) > 3 and lesion.severity < 0.4 and not lesion.reads_as_pneumonia and rng.random() < 0.5:
            continue
        slots = _slots(lesion, rng)
        text = expand(wording.IMPRESSION[_wording_of(lesion)], rng, **slots)
        if lesion.reads_as_pneumonia and not lesion.uncertain and stated.get("Pneumonia") != UNCERTAIN:
            if rng.random() < 0.5:
                items.append(
                    Sentence(expand("{lobe_name} pneumonia.", rng, **slots), (index,), (), {"Pneumonia": POSITIVE})
                )
                continue
            text += rng.choice([" consistent with pneumonia", ", compatible with pneumonia"])
            mentions = _mentions(text, lesion) | {"Pneumonia": POSITIVE}
        elif lesion.reads_as_pneumonia:
            text += rng.choice([", possibly pneumonia", ", concerning for pneumonia", " which may represent pneumonia"])
            mentions = _mentions(text, lesion) | {"Pneumonia": UNCERTAIN}
        else:
            mentions = _mentions(text, lesion)
        if lesion.uncertain:
            text = rng.choice(["Possible ", "Questionable ", "Suspected "]) + text[0].lower() + text[1:]
        items.append(Sentence(text + ".", (index,), (), mentions))
    if not items:
        return (Sentence("Findings as described above."),)
    rng.shuffle(items)
    if (
        "Pneumonia" not in merge_mentions(items)
        and "Pneumonia" not in stated
        and not _contradicts("Pneumonia", plan, {})
    ):
        if rng.random() < 0.12:
            text = expand("No (evidence of |radiographic evidence of |)pneumonia.", rng)
            items.append(Sentence(text, (), (), {"Pneumonia": NEGATIVE}))
    if len(items) > 1 and rng.random() < 0.3:
        items = [replace(item, text=f"{number}. {item.text}") for number, item in enumerate(items, 1)]
    return tuple(items)


def _clinical_context(plan: StudyPlan, context: StudyContext, rng: random.Random) -> tuple[str, str]:
    """Indication and history; one may be empty, and 3 % of the studies have neither."""
    draw = rng.random()
    if draw < 0.03:
        return "", ""
    patient = plan.patient
    noun = {"M": ("man", "male", "M", "gentleman"), "F": ("woman", "female", "F", "woman")}[patient.sex]
    age = "___" if rng.random() < 0.6 else str(patient.age)
    person = rng.choice(
        [f"{age}-year-old {noun[0]}", f"{age}-year-old {noun[1]}", f"{age} year old {noun[3]}", f"{age}{noun[2]}"]
    )
    if age == "___" and rng.random() < 0.5:
        person = f"___ year old {noun[0]}"
    told = (
        context.reason
        if rng.random() < 0.9
        else rng.choice(["unspecific", rng.choice(list(context_wording.COMPLAINTS))])
    )
    complaints = context_wording.COMPLAINTS[told]
    pneumonia = any(lesion.reads_as_pneumonia for lesion in plan.lesions)
    if pneumonia and rng.random() < 0.5:
        told, complaints = "infection", context_wording.PNEUMONIA_COMPLAINTS
    indication, history = "", ""
    if draw < 0.90:
        question = rng.choice(context_wording.QUESTIONS[told if rng.random() < 0.7 else "unspecific"])
        ask = expand(rng.choice(context_wording.ASK), rng, question=question) if rng.random() < 0.75 else ""
        template = rng.choice(context_wording.INDICATION)
        indication = expand(template, rng, person=person, complaint=rng.choice(complaints), ask=ask)
    if draw > 0.45:
        known = context.reason if rng.random() < 0.8 else rng.choice(list(context_wording.PAST))
        past = [rng.choice(context_wording.PAST[known])]
        past += [
            term
            for term in rng.sample(context_wording.PAST["unspecific"], rng.choice((0, 0, 1, 2)))
            if term not in past
        ]
        rng.shuffle(past)
        listed = past[0] if len(past) == 1 else ", ".join(past[:-1]) + rng.choice([" and ", ", "]) + past[-1]
        template = rng.choice(context_wording.HISTORY)
        if indication:
            template = template.replace("{person} with (a |)history of", "History of")
        history = expand(template, rng, person=person, past=listed)
    return indication, history
