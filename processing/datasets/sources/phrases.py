"""Phrases with boxes as a text and its regions."""

from collections.abc import Sequence

from ...reports import split_sentences


def grounded_text(phrases: Sequence[tuple[str, Sequence[tuple[str, list[float]]]]]) -> tuple[str, list[dict]]:
    """A findings text of phrases, and regions whose `sentence` counts the text's sentences.

    Args:
        phrases: (text, [(label, box in pixels of the original), ...]) in order. One without boxes is a sentence only,
            one without words leaves its boxes without a sentence; one of several sentences is grounded at its first.

    Returns:
        (findings, regions), as in the record schema.
    """
    text, regions = "", []
    for phrase, boxes in phrases:
        phrase, sentence = " ".join(phrase.split()), -1
        if split_sentences(phrase):
            before = len(split_sentences(text))
            text = f"{text} {phrase}{'' if phrase.endswith(('.', '?', '!')) else '.'}".strip()
            # A phrase that reads on from the one before it is grounded at that sentence.
            sentence = min(before, len(split_sentences(text)) - 1)
        regions += [{"label": label, "box": box, "mask": None, "sentence": sentence} for label, box in boxes]
    return text, regions
