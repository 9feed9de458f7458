"""What a report's sentence states: that something is there, or that nothing is.

By cues and their scope, in the manner of NegEx (Chapman et al., Journal of Biomedical Informatics 2001), with the
words that radiologists have for what is normal.
"""

import re
from collections.abc import Sequence

# A cue rules over what follows it, up to the next border.
_DENIAL = (
    r"\bno(?! longer\b| change\b| significant (?:interval )?change\b)\b|\bnor\b|\bneither\b|\bwithout\b|\bfree of\b|"
    r"\bclear of\b|\bnegative for\b|\babsence of\b|\bnot(?! (?:be )?excluded\b)\b|\brather than\b"
)
# Behind the finding: "pneumothorax is not seen" is told by "not" before these, the others by themselves.
_RULED_OUT = r"\b(?:is|are|was|were|has|have)(?: been)? (?:absent|excluded|ruled out|resolved)\b|\bresolution of\b"
_NORMAL = (
    r"\bnormal(?:ly)?\b|\bunremarkable\b|\bintact\b|\bwithin (?:normal )?limits\b|\bpreserved\b|\bsharp\b|\bclear\b|"
    r"\bmidline\b|\bwell[ -](?:expanded|inflated|aerated)\b|\bfully (?:expanded|inflated)\b|\bnot engorged\b|"
    r"\b(?:lungs|lung volumes) are (?:expanded|inflated)\b|\bno acute\b"
)
_DOUBT = r"\b(?:cannot|can not|not) (?:be )?(?:entirely |completely )?excluded\b"
_BORDER = re.compile(
    r"[;:]\s|,? (?:but|although|though|however|while|whereas|yet|except(?: for)?|apart from|other than)\b,?\s|"
    r",\s(?=with\b)|"
    r"\s(?=without\b|with no\b|and no\b|and there is no\b|with (?!no\b))|\.\s",
    re.I,
)
_DENIAL_RE, _RULED_OUT_RE, _NORMAL_RE, _DOUBT_RE = (
    re.compile(pattern, re.I) for pattern in (_DENIAL, _RULED_OUT, _NORMAL, _DOUBT)
)
# "The lungs are" before "without consolidation"; how the picture was taken.
_EMPTY = re.compile(
    r"\b(?:is|are|was|were|remains?)\s*$|\b(?:views?|radiographs?|images?|films?)\b[^.]*\b(?:obtained|provided)\b", re.I
)
_FILLER = re.compile(r"\b(?:there|is|are|a|an|the|of|evidence|with|and|seen|identified|again)\b|\W", re.I)


def affirms(sentence: str) -> bool:
    """Whether a sentence states something abnormal, or a device, as present or possible.

    "No effusion", "The lungs are clear" and "Normal heart size" do not; "Small effusion without pneumothorax" does.
    """
    return any(_clause_affirms(clause) for clause in _BORDER.split(sentence))


def _clause_affirms(clause: str) -> bool:
    if not _FILLER.sub("", clause) or _EMPTY.search(clause):
        return False
    if _DOUBT_RE.search(clause):
        return True
    if _RULED_OUT_RE.search(clause) or _NORMAL_RE.search(clause):
        return False
    return not _DENIAL_RE.search(clause)


def topic(sentence: str) -> str:
    """The sentence without its words of denial: what it is about, whichever it states."""
    return " ".join(re.sub(_DENIAL, " ", sentence, flags=re.I).split()) or sentence


def agreement(sentence: str, others: Sequence[str]) -> float:
    """How much of a sentence others say: the best F1 of their words, 0 to 1, among those that affirm or deny alike."""
    own, kind = _words(sentence), affirms(sentence)
    best = 0.0
    for other in others:
        words = _words(other)
        if own and words and affirms(other) == kind:
            best = max(best, 2 * len(own & words) / (len(own) + len(words)))
    return best


def _words(text: str) -> set[str]:
    return {word for word in re.findall(r"[a-z]+", text.lower()) if not _FILLER.fullmatch(word)}


__all__ = ["affirms", "agreement", "topic"]
