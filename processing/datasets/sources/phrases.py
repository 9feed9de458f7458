"""Phrases with boxes as a text and its regions."""

from collections.abc import Sequence

from ...reports import sentence_spans, split_sentences


def grounded_text(phrases: Sequence[tuple[str, Sequence[tuple[str, list[float]]]]]) -> tuple[str, list[dict]]:
    """A findings text of phrases, and regions whose `sentence` counts the text's sentences.

    Args:
        phrases: (text, [(label, box in pixels of the original), ...]) in order. One without boxes is a sentence only,
            one without words leaves its boxes without a sentence; one of several sentences is grounded at its first.

    Returns:
        (findings, regions), as in the record schema.
    """
    text, begins = "", []
    for phrase, _ in phrases:
        phrase = " ".join(phrase.split())
        if not split_sentences(phrase):
            begins.append(None)
            continue
        text += " " * bool(text)
        begins.append(len(text))
        text += phrase if phrase.endswith((".", "?", "!")) else f"{phrase}."
    # Where a sentence ends is told by the whole text: "Dr." and the like read on.
    ends = [end for _, _, end in sentence_spans(text)]
    regions = []
    for begin, (_, boxes) in zip(begins, phrases, strict=True):
        sentence = -1 if begin is None else next((place for place, end in enumerate(ends) if end > begin), -1)
        regions += [{"label": label, "box": box, "mask": None, "sentence": sentence} for label, box in boxes]
    return text, regions
