"""Label codes from report text, by rules over the wording of phantom reports.

In the manner of NegBio and CheXpert (Irvin et al., AAAI 2019): mentions of each observation, then negation and hedges
within the clause. It knows the phantom's vocabulary, and is no substitute for CheXbert on real reports.
"""

import re

from ..records import CHEXBERT_OBSERVATIONS, NEGATIVE, NOT_MENTIONED, POSITIVE, UNCERTAIN
from .text import codes_of, stronger

_NORMAL = r"(?:normal|unremarkable|within normal limits|preserved)"
_HEART = r"(?:heart|cardiac|cardiomediastinal)"
_MEDIASTINUM = r"(?:mediastin\w+|cardiomediastinal|vascular pedicle)"

# Words that state a finding, unless negated or hedged.
MENTIONS = {
    "Enlarged Cardiomediastinum": rf"widening of the (?:superior |upper )?mediastin\w+|mediastinal widening|"
    rf"{_MEDIASTINUM}[^,.]*?\b(?P<state>wide|widened|enlarged)\b|wide vascular pedicle|widened mediastin\w+|"
    r"enlarged cardiomediastin\w+",
    "Cardiomegaly": r"cardiomegaly|(?:enlargement of the|enlarged) (?:heart|cardiac silhouette)|"
    r"\b(?:heart|heart size|cardiac silhouette)\b[^.]*?\b(?P<state>enlarged|increased)\b",
    "Lung Opacity": r"opacit\w+|infiltrates?\b|airspace disease|hazy lung",
    "Lung Lesion": r"\bnodul\w+|\bmass(?:es)?\b|lung lesion",
    "Edema": r"\bedema\b|vascular congestion",
    "Consolidation": r"\bconsolidat\w+",
    "Pneumonia": r"\bpneumonia\b",
    "Atelectasis": r"\batelecta\w+|\bcollapsed\b",
    "Pneumothorax": r"\bpneumothora\w+",
    "Pleural Effusion": r"\beffusions?\b|pleural fluid",
    "Pleural Other": r"pleural (?:thickening|plaques?|scarring)|fibrothorax|thickened pleura",
    "Fracture": r"\bfractured?s?\b",
    "Support Devices": r"(?:endotracheal|enteric|nasogastric|orogastric|feeding|chest|thoracostomy) tube|"
    r"\b(?:ET|NG|OG) tube|"
    r"\b(?:catheters?|pacemaker|PICC|pacing device|support devices?|indwelling (?:devices?|lines?)|medical devices)\b|"
    r"\blines?,? (?:or|and|tip|terminates|or tubes)\b|central (?:venous )?line|\btubes, lines\b",
}
# Statements that a structure is as it should be: the finding is absent.
ABSENCES = {
    "Enlarged Cardiomediastinum": rf"mediastin\w+\b[^.]*\b(?:{_NORMAL}|of normal width)|normal (?:cardio)?mediastin\w+",
    "Cardiomegaly": rf"\b{_HEART}\b[^.]*\b(?:{_NORMAL}|of normal size)|normal (?:heart|cardiac) size",
    "Lung Opacity": r"\blungs\b[^.]*\bclear\b|\bclear lungs\b",
    "Edema": rf"\bvascula(?:ture|rity)\b[^.]*\b(?:{_NORMAL}|not engorged)",
    "Atelectasis": r"\blungs\b[^.]*\b(?:expanded|inflated)|\bno (?:evidence of )?volume loss",
    "Pleural Effusion": r"costophrenic angles are (?:clear|sharp|preserved)",
    "Fracture": rf"\b(?:osseous structures|bones|bony structures|bony thorax)\b[^.]*\b(?:intact|{_NORMAL})|"
    r"\bno acute (?:osseous|bony) (?:abnormality|findings?)",
}
_CLAUSE = re.compile(r"; |, but |, although |, however,? ", re.IGNORECASE)
_NEGATION = re.compile(r"\b(?:no|not(?! (?:be )?excluded)|without|free of|clear of|negative for)\b", re.I)
_HEDGE_BEFORE = re.compile(
    r"\bpossibl[ey]\b|\bquestionable\b|\bsuspected\b|\bprobabl[ey]\b|\b(?:may|might|could)\b|"
    r"\bconcern(?:ing)? for\b|\bsuspicious for\b|\bworrisome for\b|\bsuggestive of\b",
    re.I,
)
_HEDGE_AFTER = re.compile(
    r"\bcannot be excluded\b|\b(?:is|are) (?:not excluded|possible|suspected)\b|\bmay be present\b", re.I
)
_GONE = re.compile(r"\b(?:resolved|no longer present|resolution)\b", re.I)
_MENTIONS = {name: re.compile(pattern, re.I) for name, pattern in MENTIONS.items()}
_ABSENCES = {name: re.compile(pattern, re.I) for name, pattern in ABSENCES.items()}


def phantom_labels(text: str) -> list[int]:
    """One code per `CHEXBERT_OBSERVATIONS`: 1 positive, 0 negative, 2 uncertain, -1 not mentioned.

    Where a text says several things of one observation, positive wins over uncertain, and that over negative. No
    Finding is positive where nothing but support devices is present or suspected, else not mentioned; an empty text
    mentions nothing.
    """
    if not text.strip():
        return [NOT_MENTIONED] * len(CHEXBERT_OBSERVATIONS)
    mentions = {}
    for sentence in re.split(r"(?<=[.?!])\s+", text):
        for clause in _CLAUSE.split(sentence):
            for name, code in _clause_mentions(clause):
                mentions[name] = stronger(code, mentions.get(name, NOT_MENTIONED))
    return list(codes_of(mentions))


def _clause_mentions(clause: str):
    for name, pattern in _MENTIONS.items():
        for match in pattern.finditer(clause):
            groups = match.groupdict()
            begin = match.start("state") if groups.get("state") else match.start()
            before, after = clause[:begin], clause[match.end() :]
            if _NEGATION.search(before) or _GONE.search(clause):
                yield name, NEGATIVE
            elif _HEDGE_BEFORE.search(before) or _HEDGE_AFTER.search(after):
                yield name, UNCERTAIN
            else:
                yield name, POSITIVE
    for name, pattern in _ABSENCES.items():
        if pattern.search(clause):
            yield name, NEGATIVE
