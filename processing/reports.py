"""Report text: sentences, and the structured headers of SRRG."""

import re
from collections.abc import Mapping, Sequence


def _letters(text: str) -> str:
    return " ".join(re.findall(r"[A-Z-]+", text.upper()))


def _clean(text: str) -> str:
    return " ".join(text.split())


_ABBREVIATIONS = re.compile(
    r"(?:\b(?:dr|drs|mr|mrs|ms|vs|approx|no|st|fig|e\.g|i\.e|etc|cf|a\.m|p\.m)\.|\b[A-Z]\.)$", re.I
)
_BOUNDARY = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[\"'(\[]?(?:[A-Z0-9_]))")
_ENUMERATOR = re.compile(r"^\s*(?:\d{1,2}[.)]|[-*•])\s+")


def split_sentences(text: str) -> list[str]:
    """Sentences of report text, numbering and bullets removed.

    Decimals ("1.2 cm"), titles ("Dr. ___"), times of day and list numbers do not end a sentence; a line that begins
    with a bullet or a list number begins one.
    """
    sentences = []
    for block in re.split(r"\n(?=\s*(?:\d{1,2}[.)]|[-*•])\s)|\n\s*\n", text):
        block = _clean(block)
        start = 0
        for boundary in _BOUNDARY.finditer(block):
            ended = block[start : boundary.start()]
            if _ABBREVIATIONS.search(ended) or re.fullmatch(r"\s*\d{1,2}[.)]", ended):
                continue
            sentences.append(ended)
            start = boundary.end()
        sentences.append(block[start:])
    sentences = [_ENUMERATOR.sub("", sentence).strip() for sentence in sentences]
    return [each for each in sentences if re.search(r"\w", each) and each.rstrip(": ") not in STRUCTURED_HEADERS]


def sentence_spans(text: str) -> list[tuple[str, int, int]]:
    """The sentences of `split_sentences` with the places of their first character and of one past the last."""
    letters = [place for place, letter in enumerate(text) if not letter.isspace()]
    dense, cursor, spans = "".join(text[place] for place in letters), 0, []
    for sentence in split_sentences(text):
        own = "".join(sentence.split())
        begin = dense.index(own, cursor)
        cursor = begin + len(own)
        spans.append((sentence, letters[begin], letters[cursor - 1] + 1))
    return spans


REPORT_SECTIONS = ("findings", "impression")
_SECTION = re.compile(r"(?:^|(?<=\s))(Findings|Impression): ")


def join_sections(sections: Mapping[str, str]) -> str:
    """What a generator of both sections writes: "Findings: ... Impression: ...", without what is empty."""
    said = ((name.capitalize(), _clean(sections.get(name) or "")) for name in REPORT_SECTIONS)
    return " ".join(f"{title}: {text}" for title, text in said if text)


def split_report_sections(text: str) -> dict[str, str]:
    """Section -> its text, "" where it is missing, of a text as `join_sections` makes it.

    Tolerant, since generated text is split too: what stands before the first title is findings, and a section that
    comes twice is joined.
    """
    before, *pieces = _SECTION.split(f"{text} ")
    found = {name: [] for name in REPORT_SECTIONS}
    found["findings"].append(before)
    for title, piece in zip(pieces[::2], pieces[1::2], strict=True):
        found[title.lower()].append(piece)
    return {name: " ".join(filter(None, map(_clean, parts))) for name, parts in found.items()}


def without_title(sentence: str) -> str:
    """A sentence without the title of the section that it begins."""
    return _SECTION.sub("", sentence, count=1) if _SECTION.match(sentence) else sentence


def without_sentences(text: str, left_out: Sequence[bool]) -> str:
    """A report without some of its sentences, one flag for each that `sentence_spans` finds; a bullet or a heading that
    nothing is left of goes too."""
    for (_, begin, end), out in reversed(list(zip(sentence_spans(text), left_out, strict=True))):
        if out:
            text = text[:begin] + text[end:]
    lines = [_clean(line) for line in text.splitlines()]
    lines = [line for line in lines if not re.fullmatch(r"[-*•]", line)]
    kept = []
    for place, line in enumerate(lines):
        below = next((other for other in lines[place + 1 :] if other), "")
        if _structured_header(line) and line.endswith(":") and not _BULLET.match(below):
            continue
        if line or (kept and kept[-1]):
            kept.append(line)
    return "\n".join(kept).strip()


# SRRG's findings template (Delbrouck et al., ACL 2025).
STRUCTURED_HEADERS = (
    "Lungs and Airways",
    "Pleura",
    "Cardiovascular",
    "Hila and Mediastinum",
    "Tubes, Catheters, and Support Devices",
    "Musculoskeletal and Chest Wall",
    "Abdominal",
    "Other",
)
_STRUCTURED_OF = {_letters(header): header for header in STRUCTURED_HEADERS}
_BULLET = re.compile(r"^\s*[-*•]\s*(?=\S)")


def _structured_header(line: str) -> str | None:
    return _STRUCTURED_OF.get(_letters(line.split(":")[0])) if ":" in line and not _BULLET.match(line) else None


def parse_structured(text: str) -> dict[str, list[str]]:
    """Header -> findings of a structured report, in the report's order.

    Tolerant, since generated text is parsed too: headers in any case, text behind a header's colon, lines without a
    bullet (they continue the finding above), repeated headers (joined). A leading "Findings:" and what stands before
    the first known header are left out.
    """
    sections: dict[str, list[str]] = {}
    current: list[str] | None = None
    for line in text.splitlines():
        if header := _structured_header(line):
            current = sections.setdefault(header, [])
            line = line.split(":", 1)[1]
            if line.strip():
                current.append(_clean(_BULLET.sub("", line)))
        elif current is None or not line.strip():
            continue
        elif _BULLET.match(line) or not current:
            current.append(_clean(_BULLET.sub("", line)))
        else:
            current[-1] = f"{current[-1]} {_clean(line)}"
    return sections


def write_structured(sections: Mapping[str, Sequence[str]]) -> str:
    """A structured report: headers in the template's order, findings as bullets; empty sections are left out.

    Raises:
        ValueError: a header outside `STRUCTURED_HEADERS`.
    """
    unknown = [header for header in sections if header not in STRUCTURED_HEADERS]
    if unknown:
        raise ValueError(f"sections: {unknown[0]!r} is none of the template's headers {STRUCTURED_HEADERS}.")
    blocks = (
        "\n".join([f"{header}:", *(f"- {_clean(finding)}" for finding in sections[header])])
        for header in STRUCTURED_HEADERS
        if sections.get(header)
    )
    return "\n\n".join(blocks)


# The words by which a sentence is put under a header.
_WORDS = {
    "Tubes, Catheters, and Support Devices": r"\b(?:tubes?|catheters?|pacemaker|pacing device|intubated|PICC|"
    r"(?:central |IJ |venous )+line|lines? (?:or|and|tip|terminates)|lines,|devices?|(?:ET|NG|OG) tube)\b|"
    r"\b(?:left|right)(?:-sided)? line\b",
    "Musculoskeletal and Chest Wall": r"\b(?:ribs?|clavic\w+|mid-clavicular|midshaft|fractur\w*|oss\w+|bon[ey]s?|"
    r"spine|degenerative|thoracic cage|soft tissues?|chest wall(?! pacemaker)|nondisplaced|displaced)\b",
    "Pleura": r"\b(?:pleura\w*|effusions?|pneumothora\w+|costophrenic|meniscus|fibrothorax|apical|"
    r"absent lung markings|hemithorax|line at the (?:left|right) apex)\b",
    "Hila and Mediastinum": r"\b(?:mediastin\w+|hil(?:ar|um|a)|vascular pedicle|aort\w+)\b",
    "Cardiovascular": r"\b(?:heart|cardiac(?! pacing)|cardiomegaly|cardiomediastin\w+|"
    r"pulmonary vascul(?:ature|arity))\b",
    "Abdominal": r"\b(?:diaphragm\w*|hemidiaphragm|free air|abdom\w+|bowel|stomach)\b",
    "Lungs and Airways": r"\b(?:lungs?|lobes?|opacit\w+|consolidat\w+|infiltrates?|airspace|pneumonia|infecti\w+|"
    r"atelecta\w+|volume loss|edema|congestion|perihilar|pulmonary|nod\w+|mass\w*|bronch\w+|trache\w+|density|"
    r"basilar|retrocardiac)\b",
}
_ABOUT = {header: re.compile(pattern, re.I) for header, pattern in _WORDS.items()}


def plain_findings(text: str) -> str:
    """A structured report's findings as running text, without headers and bullets; other text as it is."""
    sections = parse_structured(text)
    return " ".join(finding for findings in sections.values() for finding in findings) if sections else text


def structure_findings(text: str) -> str:
    """Free-text findings under the structured headers: each sentence under what it names first.

    A sentence that names nothing known is "Other". Rules over the usual words of chest radiographs, tried on the
    phantom's; no replacement for SRRG's structured reports, whose sentences are also split and reworded.
    """
    sections: dict[str, list[str]] = {}
    for sentence in split_sentences(text):
        found = {header: match.start() for header, about in _ABOUT.items() if (match := about.search(sentence))}
        sections.setdefault(min(found, key=found.__getitem__, default="Other"), []).append(sentence)
    return write_structured(sections)


def structured_validity(text: str) -> float:
    """Share of a report's lines that follow the template, from 0 to 1; 0 for an empty report.

    A header line is right if it is one of `STRUCTURED_HEADERS`, spelt so, behind all headers before it in the
    template's order, and has a bullet under it. A bullet is right under such a header. Everything else is wrong. A
    leading "Findings:" does not count.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if lines and _letters(lines[0]) == "FINDINGS":
        lines = lines[1:]
    right, last, under = 0, -1, False
    for index, line in enumerate(lines):
        if _BULLET.match(line):
            right += under
            continue
        header = line.removesuffix(":")
        rank = STRUCTURED_HEADERS.index(header) if header in STRUCTURED_HEADERS and line.endswith(":") else -1
        under = rank > last
        has_bullet = index + 1 < len(lines) and bool(_BULLET.match(lines[index + 1]))
        right += under and has_bullet
        last = max(last, rank)
    return right / len(lines) if lines else 0.0
