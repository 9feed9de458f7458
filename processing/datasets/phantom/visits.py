"""Phantom patients over time: what becomes of their findings from visit to visit, and what a report says of it."""

import random
from collections.abc import Iterable
from dataclasses import dataclass, replace

from ...comparisons import combined, refers_to_past
from ..records import CHEXBERT_OBSERVATIONS, NEGATIVE
from .plan import OBSERVATION_OF, Lesion, StudyPlan
from .study import (
    CHRONIC,
    PREVALENCE,
    REASONS,
    VIEWS,
    StudyContext,
    chance,
    draw_lesion,
    draw_patient,
    draw_study_of,
    make_plan,
    weighted,
)
from .text import DEVICES, EVOLVING, Sentence
from .wording import AFTER_AN_EARLIER_STUDY, GONE, expand

VISITS_OF_BLOCK = (1, 3, 4)  # of the three patients of a block: five of its eight studies have an earlier one
STEP = 0.35  # of severity: what grows or shrinks does so by as much at least, so that it can be seen
# Chance of each course from one visit to the next, where the severity leaves room for it.
COURSES = {
    "chronic": {"same": 0.26, "worse": 0.37, "better": 0.37},
    "acute": {"same": 0.2, "worse": 0.32, "better": 0.32, "resolved": 0.16},
}
KEPT = {"pacemaker": 1.0, "chest_tube": 0.5}  # other devices: 0.6
NEW = 0.4  # the odds of something new, to those of a first visit
LONGEST = 730  # days between visits, at most


@dataclass(frozen=True)
class Past:
    """What was before a study.

    days: since the earlier study; changes: of each lesion of the plan, one of `comparisons.CHANGES`, or "" for devices;
    gone: lesions of the earlier study that are there no longer.
    """

    days: int
    changes: tuple[str, ...]
    gone: tuple[Lesion, ...]


def draw_visit(split: str, index: int, seed: int = 0) -> tuple[StudyPlan, StudyContext, Past | None]:
    """Study `index` of a split of patients who come again; None stands for the past of a first visit.

    It depends on (split, index, seed) alone. Three patients make eight consecutive studies, a patient's in order of
    time; they share no patient with `draw_study`'s.
    """
    block, position = divmod(index, sum(VISITS_OF_BLOCK))
    visits = list(VISITS_OF_BLOCK)
    random.Random(f"visits {seed} {split} {block}").shuffle(visits)
    number = 0
    while position >= visits[number]:
        position -= visits[number]
        number += 1
    patient_id = f"phantom-{seed}-{split}-v{block * len(VISITS_OF_BLOCK) + number:06d}"
    rng = random.Random(f"patient {patient_id}")
    patient = draw_patient(patient_id, rng)
    plan, context = draw_study_of(patient, rng, 0)
    past = None
    for visit in range(1, position + 1):
        study_id = f"{patient_id}-s{visit}"
        rng = random.Random(f"visit {study_id}")
        reason = context.reason
        if rng.random() < 0.2:
            reason = weighted(rng, {name: share for name, (share, _) in REASONS.items()})
        lesions, changes, gone = evolve(plan.lesions, reason, rng)
        days = round(LONGEST ** rng.random())
        plan = make_plan(study_id, patient, lesions, weighted(rng, VIEWS), rng)
        context, past = StudyContext(reason, visit), Past(days, changes, gone)
    return plan, context, past


def evolve(lesions: Iterable[Lesion], reason: str, rng: random.Random) -> tuple[tuple, tuple, tuple]:
    """What is there at the next visit, how each has changed, and what is there no longer."""
    now, changes, gone = [], [], []
    for lesion in lesions:
        change = _course(lesion, rng)
        if change == "removed":
            continue
        if change == "resolved":
            gone.append(lesion)
            continue
        now.append(_changed(lesion, change, rng))
        changes.append(change)
    there = {lesion.kind for lesion in (*now, *gone)}
    taken = {lesion.lobe for lesion in (*now, *gone)} - {""}
    odds = REASONS[reason][1]
    for kind in PREVALENCE:
        if kind not in there and kind not in DEVICES and rng.random() < chance(kind, NEW * odds.get(kind, 1)):
            now.append(draw_lesion(kind, rng, taken))
            taken |= {now[-1].lobe} - {""}
            changes.append("new")
    return tuple(now), tuple(changes), tuple(gone)


def _course(lesion: Lesion, rng: random.Random) -> str:
    if lesion.kind in DEVICES:
        return "" if rng.random() < KEPT.get(lesion.kind, 0.6) else "removed"
    if lesion.kind not in (*EVOLVING, *CHRONIC):
        return "same"
    courses = dict(COURSES["chronic" if lesion.kind in CHRONIC else "acute"])
    if lesion.severity > 1 - STEP:
        courses["worse"] = 0
    if lesion.severity < STEP:
        courses["better"] = 0
    return weighted(rng, courses)


def _changed(lesion: Lesion, change: str, rng: random.Random) -> Lesion:
    if change == "worse":
        return replace(lesion, severity=rng.uniform(lesion.severity + STEP, 1), uncertain=False)
    if change == "better":
        return replace(lesion, severity=rng.uniform(0, lesion.severity - STEP), uncertain=False)
    return lesion


def changes_of(plan: StudyPlan, past: Past | None) -> list[dict[str, str]]:
    """The truth as records hold it: each finding, devices aside, with its change; mixed ones are left out."""
    if past is None:
        return []
    courses: dict[str, list[str]] = {}
    for lesion, change in zip(
        (*plan.lesions, *past.gone), (*past.changes, *["resolved"] * len(past.gone)), strict=True
    ):
        if change:
            courses.setdefault(OBSERVATION_OF[lesion.kind], []).append(change)
    both = {name: combined(courses[name]) for name in CHEXBERT_OBSERVATIONS if name in courses}
    return [{"label": name, "change": change} for name, change in both.items() if change]


def of_the_present(sentences: Iterable[Sentence]) -> tuple[Sentence, ...]:
    """The sentences without words that would speak of an earlier picture."""
    return tuple(replace(sentence, text=_present(sentence.text)) for sentence in sentences)


def _present(text: str) -> str:
    for before, after in (("again noted", "noted"), ("remains in position", "is in position")):
        text = text.replace(before, after)
    if refers_to_past(text):
        raise ValueError(f"wording: {text!r} speaks of the past; mend the template, or `comparisons`.")
    return text


def compared(sentences: Iterable[Sentence], plan: StudyPlan, past: Past) -> tuple[Sentence, ...]:
    """The findings' sentences, each with how its lesions have changed, then those of what has gone."""
    rng = random.Random(f"comparison {plan.study_id}")
    said, found = [], []
    for sentence in sentences:
        changes = {past.changes[lesion] for lesion in sentence.lesions} - {""}
        of_lesion = set(sentence.mentions) != {"Pneumonia"}  # a reading of what was said before
        if len(changes) == 1 and of_lesion:
            words = expand(rng.choice(AFTER_AN_EARLIER_STUDY[changes.pop()]), rng)
            sentence = replace(sentence, text=f"{sentence.text[:-1]}, {words[0].lower()}{words[1:]}.")
        found.append(sentence)
        said += sentence.mentions
    for lesion in past.gone:
        observation = OBSERVATION_OF[lesion.kind]
        text = expand(rng.choice(GONE), rng, finding=_name(lesion))
        # Where another one is there, this one's absence is none of the finding's.
        found.append(Sentence(text, (), (), {} if observation in said else {observation: NEGATIVE}))
    return tuple(found)


def _name(lesion: Lesion) -> str:
    place = f"{lesion.lobe} " if lesion.lobe else f"{lesion.side} " if lesion.kind != "edema" else "pulmonary "
    return place + {"effusion": "pleural effusion"}.get(lesion.kind, lesion.kind)
