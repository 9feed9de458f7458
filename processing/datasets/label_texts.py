"""Texts composed of labels, for images that come without a report (`label_texts.yaml`).

As CXR-CLIP (You et al., MICCAI 2023) makes prompts of class labels, and MedCLIP (Wang et al., EMNLP 2022) takes images
of equal labels for positives of each other. Labels that are not annotated, or not mentioned, are never said.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import yaml

from .label_spaces import NO_FINDING
from .records import NEGATIVE, POSITIVE, UNCERTAIN

TEMPLATES = Path(__file__).with_name("label_texts.yaml")
SIDES = {POSITIVE: "positive", NEGATIVE: "negative", UNCERTAIN: "uncertain"}


@dataclass(frozen=True)
class LabelTexts:
    """sentences: side -> templates. negatives: fewest and most negative labels said. labels: a label's own."""

    sentences: Mapping[str, Sequence[str]]
    negatives: tuple[int, int]
    labels: Mapping[str, Mapping[str, Sequence[str]]]

    def compose(self, names: Sequence[str], codes: Sequence[int], seed: Sequence) -> str:
        """A text about the labels; "" where there is none to speak of.

        Args:
            codes: one per name, as a record's.
            seed: what order, number and wording follow from, such as (seed, epoch, image_id).
        """
        digest = hashlib.blake2b(repr(tuple(seed)).encode(), digest_size=8).digest()
        rng = np.random.default_rng(int.from_bytes(digest, "big"))
        said = [(name, SIDES[code]) for name, code in zip(names, codes, strict=True) if code in SIDES]
        said = [each for each in said if self._choices(*each)]
        absent = [each for each in said if each[1] == "negative"]
        others = [each for each in said if each[1] != "negative"]
        low, high = self.negatives
        wanted = int(rng.integers(low, high + 1))
        # A text without any finding says at least one that is not there.
        wanted = min(len(absent), wanted if others else max(1, wanted))
        chosen = [absent[place] for place in rng.permutation(len(absent))[:wanted]]
        spoken = others + chosen
        order = rng.permutation(len(spoken))
        return " ".join(self._sentence(spoken[place][0], spoken[place][1], rng) for place in order)

    def _sentence(self, name: str, side: str, rng: np.random.Generator) -> str:
        choices = self._choices(name, side)
        sentence = choices[int(rng.integers(len(choices)))]
        return sentence[:1].upper() + sentence[1:]

    def _choices(self, name: str, side: str) -> list[str]:
        if name == NO_FINDING and side == "negative":
            return []
        own = self.labels.get(name, {})
        words = own.get("words", [name.lower()])
        general = [template.format(word) for template in self.sentences[side] for word in words]
        # A label's own sentences are as likely as all general ones together.
        special = list(own.get(side, []))
        return general + special * max(1, len(general) // max(1, len(special)))

    def all_sentences(self, names: Sequence[str]) -> Iterator[str]:
        """Everything that texts about these labels may say, for a tokenizer."""
        for name in names:
            for side in SIDES.values():
                yield from dict.fromkeys(self._choices(name, side))


def label_set(names: Sequence[str], codes: Sequence[int]) -> str:
    """What two label-composed texts have in common that are positives of each other: labels asked for, and found."""
    annotated = sorted(name for name, code in zip(names, codes, strict=True) if code in (*SIDES, -1))
    found = sorted((name, int(code)) for name, code in zip(names, codes, strict=True) if code in (POSITIVE, UNCERTAIN))
    return repr((annotated, found))


@cache
def read_label_texts(path: str | Path = TEMPLATES) -> LabelTexts:
    """
    Raises:
        ValueError: a side without sentences, a range that is none, a label with an unknown key, or one without words
            and without sentences; names it.
    """
    values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    where = f"label texts: {path}"
    if not isinstance(values, dict):
        raise ValueError(f"{where} holds no `key: value` lines.")
    for side in SIDES.values():
        sentences = values.get(side)
        if not sentences or not all(isinstance(each, str) and "{}" in each for each in sentences):
            raise ValueError(f"{where}: {side!r} needs a list of sentences, each with {{}} for the label.")
    low, high = (values.get("negatives") or [0, 4])[:2]
    if not 0 <= low <= high:
        raise ValueError(f"{where}: negatives [{low}, {high}] is no range from 0 upwards.")
    labels = values.get("labels") or {}
    for name, own in labels.items():
        unknown = sorted(own.keys() - {"words", *SIDES.values()})
        if unknown:
            raise ValueError(
                f"{where}: {name!r} has the key {unknown[0]!r}; known are words, {', '.join(SIDES.values())}."
            )
        if not own.get("words", [name]) and not own.get("positive"):
            raise ValueError(f"{where}: {name!r} has neither words nor positive sentences.")
    return LabelTexts({side: tuple(values[side]) for side in SIDES.values()}, (low, high), labels)
