"""What a report says of the past: comparisons with an earlier study, by rules over radiologists' words.

For English reports. What looks forward ("follow-up is advised") or names a shape ("increased density") is none.
"""

import re
from collections.abc import Iterable

from .reports import sentence_spans, split_sentences

CHANGES = ("better", "same", "worse", "new", "resolved")
# What can be judged of a finding that was there before and is now.
COMPARED = CHANGES[:3]
# Findings whose size can be compared between two radiographs, by CheXbert's names.
CHANGE_FINDINGS = (
    *("Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Lesion", "Edema", "Consolidation", "Atelectasis"),
    *("Pneumothorax", "Pleural Effusion"),
)

_NOUN = r"(?:study|studies|exam\w*|radiographs?|films?|images?|x-?rays?|CT)"
_EARLIER = (
    rf"(?:(?:the |a )?(?:most recent |recent )?(?:prior|previous|earlier|last|preceding)(?: \w+)?(?: {_NOUN})?"
    rf"|the (?:chest )?{_NOUN} (?:of|from) \S+|___|yesterday)"
)
_SINCE = rf"(?:from|since|than (?:on|in)|than|(?:as |when |in )?compar(?:ed|ison) (?:to|with)) {_EARLIER}"
_HOW = r"(?:slightly |mildly |minimally |markedly |significantly |substantially |somewhat |further )?"
# Of each change its words; where several match, the first one does.
_WORDS = {
    "resolved": (
        r"(?:has|have|had|is|are) (?:now |completely |since |)(?:resolved|cleared)",
        r"interval (?:resolution|clearing)|resolution of",
        r"no longer (?:seen|present|visible|identified|evident)",
    ),
    "new": (rf"new(?: {_SINCE})?|newly (?:seen|apparent|developed|visible)", r"interval (?:development|appearance)"),
    "worse": (
        r"worsen(?:ed|ing)|worse|progress(?:ed|ion|ing|ive)|increasing|interval (?:increase|enlargement|worsening)",
        rf"increased(?= {_SINCE})|(?<=, ){_HOW}increased(?=[.;]|$)|(?:has|have) {_HOW}(?:increased|enlarged|grown)",
        rf"(?:larger|more \w+) {_SINCE}",
    ),
    "better": (
        r"improv(?:ed|ing|ement)|decreasing|interval (?:decrease|improvement)|part(?:ially|ly) (?:resolved|cleared)",
        rf"decreased(?= {_SINCE})|(?<=, ){_HOW}decreased(?=[.;]|$)|(?:has|have) {_HOW}(?:decreased|shrunk|diminished)",
        rf"(?:smaller|less \w+) {_SINCE}",
    ),
    "same": (
        r"unchanged|(?:no|without) (?:significant |substantial |interval |appreciable |relevant )*change|stable",
        rf"similar (?:to|in \w+ to|compared (?:to|with)) {_EARLIER}",
        r"persist(?:s|ent|ing)?|again (?:seen|noted|demonstrated)",
        r"remains? (?:in|enlarged|present|small|moderate|large|\w+ly)",
    ),
}
_CHANGE = {name: re.compile(rf"\b(?:{'|'.join(words)})\b", re.I) for name, words in _WORDS.items()}
_PAST = re.compile(rf"\b{_SINCE}|\b(?:previously|interval|again)\b|\bsimilar to {_EARLIER}", re.I)
_NEGATED = re.compile(r"\b(?:no|not|without)\s+(?:\w+\s+)?$", re.I)
_LAST_CLAUSE = re.compile(r",\s+[^,]*$")


def change_in(sentence: str) -> str | None:
    """Which of `CHANGES` a sentence states, None where it compares nothing ("no new effusion" states none)."""
    for name, pattern in _CHANGE.items():
        for found in pattern.finditer(sentence):
            if name in ("resolved", "same") or not _NEGATED.search(sentence[: found.start()]):
                return name
    return None


def refers_to_past(sentence: str) -> bool:
    """Whether a sentence compares with, or speaks of, anything earlier."""
    return change_in(sentence) is not None or _PAST.search(sentence) is not None


def comparisons(text: str) -> list[str]:
    """The sentences of a report that refer to the past."""
    return [sentence for sentence in split_sentences(text) if refers_to_past(sentence)]


def without_comparisons(text: str) -> str:
    """A report as it would have been written without the earlier study.

    A last clause that compares is cut off ("..., unchanged from the prior study."); a sentence that refers to the past
    otherwise is left out whole, with what it says of the present.
    """
    parts, end = [], 0
    for sentence, start, stop in sentence_spans(text):
        if refers_to_past(sentence):
            kept = _without(sentence)
            parts.append((text[end:start] if kept else text[end:start].rstrip()) + kept)
            end = stop
    return ("".join(parts) + text[end:]).strip() if parts else text


def _without(sentence: str) -> str:
    while refers_to_past(sentence):
        clause = _LAST_CLAUSE.search(sentence)
        if clause is None or not refers_to_past(clause[0]):
            return ""
        sentence = sentence[: clause.start()] + "."
    return sentence


def combined(changes: Iterable[str]) -> str | None:
    """The change of a finding whose parts changed so; None where some are better and others worse.

    What is new beside something old is worse, what has resolved beside something that is left is better.
    """
    said = set(changes)
    if len(said) < 2:
        return next(iter(said), None)
    said = {{"new": "worse", "resolved": "better"}.get(change, change) for change in said} - {"same"}
    return next(iter(said)) if len(said) == 1 else None
