"""The sections of a radiology report, by its headings.

The reference is the parser of MIMIC-CXR's authors (MIT-LCP/mimic-cxr, txt/section_parser.py): a line's upper-case words
before a colon are a heading, however many they are. What headings mean is in `section_headings.yaml`. Unlike the
reference, context never runs on: the indication is its own paragraph, not all that stands up to the next heading.
"""

import difflib
import re
from collections import Counter
from functools import cache, lru_cache
from pathlib import Path

import yaml

from ..reports import split_sentences

SECTIONS = ("indication", "history", "comparison", "technique", "examination", "findings", "impression")
_REPORTED = ("findings", "impression")
# What stands behind them belongs to nothing else.
_APART = ("recommendations", "addendum", "notification", "wet read", "note", "comment", "date", "signature")

_CAPITALS = re.compile(r"[ \t]*([A-Z][A-Z0-9 ()/,&'_+-]*?)[ \t]*:(?=\s|$)")
_COLON = re.compile(r":(?=\s|$)")


@cache
def _headings() -> dict:
    return yaml.safe_load(Path(__file__).with_name("section_headings.yaml").read_text(encoding="utf-8"))


@cache
def _section_of() -> dict[str, str]:
    known = {heading: section for section, headings in _headings()["sections"].items() for heading in headings}
    return known | dict.fromkeys(_headings()["anatomy"], "anatomy")


def _letters(text: str) -> str:
    return " ".join(re.findall(r"[A-Z0-9-]+", text.upper()))


@lru_cache(4096)
def _known(heading: str, fuzzy: bool) -> str | None:
    """The section that a heading's letters stand for, misspelt ones included where `fuzzy`."""
    known = _section_of()
    if heading in known or not fuzzy or len(heading) < 6:
        return known.get(heading)
    near = difflib.get_close_matches(heading, known, n=1, cutoff=0.85)
    return known[near[0]] if near else None


def _names_views(heading: str) -> bool:
    """Made of the words of views alone ("AP UPRIGHT"; not "THE")."""
    words = heading.split()
    return set(words) <= set(_headings()["view_words"]) and not set(words) <= {"OF", "THE", "AND", "WITH", "A", "AN"}


@lru_cache(4096)
def _of_capitals(heading: str) -> str:
    """The section that a line's heading in capitals opens; "unknown" for one that nothing is known of."""
    letters = _letters(heading)
    if section := _known(letters, fuzzy=False):
        return section
    for word, section in _headings()["contain"].items():
        if word in heading:
            return section
    if _names_views(letters) or any(phrase in heading for phrase in _headings()["view_phrases"]):
        return "view"
    return _known(letters, fuzzy=True) or "unknown"


def _within(content: str, begin: int) -> list[tuple[int, int, str]]:
    """(start, end, section) of headings from `begin` on in a line: "Cough. FINDINGS: ..." and "Findings: ...".

    A heading's text runs back from its colon to the last full stop or colon before it; the longest suffix of it that
    is known counts.
    """
    found = []
    for colon in _COLON.finditer(content, begin):
        boundary = max(content.rfind(mark, 0, colon.start()) for mark in ".:;") + 1
        for word in list(re.finditer(r"\S+", content[boundary : colon.start()]))[-14:]:
            start = boundary + word.start()
            heading = content[start : colon.start()].strip()
            leads = not content[:start].strip()
            if not (leads or heading[0].isupper()):
                continue
            section = _known(_letters(heading), fuzzy=leads or heading.isupper())
            if section == "anatomy" and not heading.isupper():
                continue
            follows_heading = content[:start].rstrip().endswith(":")
            if section is None and (leads or heading.isupper()) and not follows_heading:
                section = "view" if _names_views(_letters(heading)) else None
            if section:
                found.append((start, colon.end(), section))
                break
    return found


def _find_headings(text: str, unknown: Counter | None) -> list[tuple[int, int, str]]:
    """(start, end, section) of every heading, in order. `end` lies behind the colon."""
    found = []
    for line in re.finditer(r"[^\n]+", text):
        content, begin = line.group(), 0
        if content.isupper() and ":" not in content.rstrip(" :."):
            if section := _known(_letters(content.strip()), fuzzy=False):
                found.append((line.start(), line.end(), section))
                continue
        if capitals := _CAPITALS.match(content):
            section, begin = _of_capitals(capitals[1]), capitals.end()
            if section == "unknown" and unknown is not None:
                unknown[capitals[1][:60]] += 1
            found.append((line.start(), line.start() + begin, section))
        found += [(line.start() + s, line.start() + e, section) for s, e, section in _within(content, begin)]
    return found


def _clean(text: str) -> str:
    return " ".join(text.split())


def _is_title(paragraph: str, text: str) -> bool:
    """No sentence: without a letter, or in capitals in a report that is not."""
    return not re.search(r"[^\W\d_]", paragraph) or (paragraph.isupper() and not text.isupper())


def split_sections(text: str, study: str = "", unknown: Counter | None = None) -> dict[str, str]:
    """The sections of a free-text radiology report.

    A heading is a line's upper-case words before a colon. Known headings may also be misspelt, lack their colon on a
    line of their own, stand in the middle of a line or be written in any case at its start. A heading that names views
    ("CHEST, PA AND LATERAL:") opens the findings if the report has no other; what stands under an unknown heading is
    left out. "FINDINGS AND IMPRESSION" is an impression. Repeated sections are joined. Runs of white space become one
    space; de-identified spans (`___`) stay.

    Args:
        study: a study of MIMIC-CXR ("s50913680"); those whose findings stand elsewhere are known by name.
        unknown: counts the headings in capitals that nothing is known of.

    Returns:
        every name of `SECTIONS` and "unlabelled" -> text, "" where absent. "unlabelled" is what stands in paragraphs
        of their own behind a section of context, where many reports put findings without a heading.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if span := _headings()["studies"]["spans"].get(study):
        return split_sections(text[: span[0]]) | {
            "findings": _clean(text[slice(*span)]),
            "impression": "",
            "unlabelled": "",
        }
    parts: dict[str, list[str]] = {name: [] for name in (*SECTIONS, *_APART, "view", "unlabelled")}
    headings = [(0, 0, "preamble"), *_find_headings(text, unknown)]
    ends = [start for start, _, _ in headings[1:]] + [len(text)]
    last, later = "", []
    for (_, begin, section), end in zip(headings, ends, strict=True):
        paragraphs = [_clean(part) for part in re.split(r"\n\s*\n", text[begin:end]) if part.strip()]
        if section in (*_REPORTED, "view", "anatomy"):
            parts["findings" if section == "anatomy" else section] += paragraphs
            continue
        first = 0 if section == "preamble" else 1
        parts.setdefault(section, []).extend(paragraphs[:first])
        later = [part for part in paragraphs[first:] if not _is_title(part, text)]
        if section not in _APART:
            parts["unlabelled"] += later
        last = section
    if not parts["findings"]:
        parts["findings"] = [part for part in parts["view"] if re.search(r"[^\W\d_]", part)]
    if last in _APART and not any(parts[name] for name in (*_REPORTED, "unlabelled")):
        parts["unlabelled"] = later
    if (elsewhere := _headings()["studies"]["headings"].get(study)) and parts[elsewhere]:
        parts["findings"], parts[elsewhere] = parts[elsewhere] + parts["unlabelled"], []
        parts["unlabelled"] = []
    return {name: " ".join(parts[name]) for name in (*SECTIONS, "unlabelled")}


def leaked_sentence(context: str, findings: str) -> str | None:
    """The first sentence of the findings that the context says word for word, whatever case and punctuation.

    A model that is given such a context is given its answer.
    """
    said = f" {_words(context)} "
    if not said.strip() or not findings:
        return None
    sentences = ((sentence, _words(sentence)) for sentence in split_sentences(findings))
    return next((sentence for sentence, words in sentences if words and f" {words} " in said), None)


def _words(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold()))
