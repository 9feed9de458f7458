"""Phrases with boxes as a text and its regions."""

from collections.abc import Sequence

from ...reports import split_sentences


def grounded_text(phrases: Sequence[tuple[str, Sequence[tuple[str, list[float]]]]]) -> tuple[str, list[dict]]:
    """A findings text of phrases, and regions whose `sentence` counts the text's sentences.

    Args:
        phrases: (text, [(label, box in pixels of the original), ...]) in order; one without boxes is a sentence only. A
            phrase that holds several sentences is grounded at its first.

    Returns:
        (findings, regions), as in the record schema.
    """
    text, regions = "", []
    for phrase, boxes in phrases:
        sentence = len(split_sentences(text))
        phrase = " ".join(phrase.split())
        if phrase:
            text = f"{text} {phrase}{'' if phrase.endswith(('.', '?', '!')) else '.'}".strip()
        regions += [
            {"label": label, "box": box, "mask": None, "sentence": sentence if phrase else -1} for label, box in boxes
        ]
    return text, regions
