"""Simulated readings of phantom radiographs: a search, then dictation with the eyes on what is being said."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from .plan import Rendering
from .text import Sentence

READERS = ("R1", "R2", "R3", "R4", "R5")
DEGREE = 0.046  # of the picture's side: one degree of visual angle, the whole picture being on screen
ELSEWHERE = 0.22  # share of fixations during a sentence that rest on something else
ZOOMED = 0.3  # share of sentences about a small lesion that are read with the picture magnified
SMALL_LESION = 0.05  # of the picture's area
NOTICED = 0.3  # share of the search that rests on lesions
# Where a reader looks who looks for nothing in particular, and how much.
SEARCHED = {
    "left lung": 2,
    "right lung": 2,
    "mediastinum": 1,
    "heart": 1,
    "diaphragm": 1,
    "left apex": 1,
    "right apex": 1,
    "left hilum": 1,
    "right hilum": 1,
}


def simulate_reading(
    sentences: Sequence[Sentence],
    rendering: Rendering,
    image_size: tuple[int, int],
    rng: np.random.Generator,
    reader: str = READERS[0],
    leave_out: float = 0.0,
) -> dict:
    """One reading of a picture in the record schema: `{reader, sentences, fixations}`.

    The reader first searches lungs, heart and mediastinum for some seconds, then dictates at two to three words per
    second. From 0.5 to 1 s before a sentence begins until it ends, most fixations (150 to 600 ms) lie on its lesions,
    or, where this view does not show them, on the anatomy that it names; the others rest anywhere in the chest.
    Magnified stretches have a smaller `shown` and sigma (one degree of visual angle, in pixels of the original).

    Args:
        sentences: of the report's findings.
        rendering: the picture's lesion masks and anatomy.
        image_size: width and height of the original, to which fixations refer.
        leave_out: share of sentences about no lesion that the reader does not say. With 0 the spoken sentences match
            `sentences` one to one.
    """
    kept = [s for s, draw in zip(sentences, rng.random(len(sentences)), strict=True) if s.lesions or draw >= leave_out]
    spoken, stretches = [], []
    clock = rng.uniform(2.0, 6.0)
    stretches.append((0.15, clock - 0.6, None))
    for sentence in kept:
        text = dictated(sentence.text, rng)
        begin = clock
        end = begin + len(text.split()) / rng.uniform(2.0, 3.0) + 0.2
        spoken.append({"text": text, "begin": round(begin, 2), "end": round(end, 2)})
        stretches.append((begin - rng.uniform(0.5, 1.0), end - rng.uniform(0.0, 0.2), sentence))
        clock = end + rng.uniform(0.3, 1.4)

    gaze = _Gaze(rendering, image_size, rng)
    time = 0.0
    for begin, end, sentence in stretches:
        time = gaze.dwell(max(time, begin), end, sentence)
    return {"reader": reader, "sentences": spoken, "fixations": gaze.fixations}


def dictated(text: str, rng: np.random.Generator) -> str:
    """A written sentence as it is spoken: some lose their "There is", some what they are compared with."""
    if rng.random() < 0.25:
        text = re.sub(
            r", (?:unchanged|stable|similar|new|slightly|progressed|increased|decreased|improved)\b[^,]*\.$", ".", text
        )
    if rng.random() < 0.3:
        short = re.sub(r"^There (?:is|are) (?:an? )?", "", text)
        text = short[:1].upper() + short[1:]
    return text


class _Gaze:
    """The eyes on one picture. Positions are shares of the picture until they are written down."""

    def __init__(self, rendering: Rendering, image_size: tuple[int, int], rng: np.random.Generator):
        self.rendering, self.rng = rendering, rng
        self.width, self.height = image_size
        self.degree = DEGREE * rng.uniform(0.9, 1.1)
        self.fixations = []
        self._places = {}

    def dwell(self, begin: float, end: float, sentence: Sentence | None) -> float:
        """Fixate from `begin` to `end`; returns when the last fixation ended."""
        rng = self.rng
        count = int(max(0.0, end - begin) / 0.15) + 2
        lasting = np.clip(rng.lognormal(np.log(0.27), 0.4, count), 0.15, 0.6)
        pauses = rng.uniform(0.02, 0.06, count)
        begins = begin + np.concatenate([[0.0], np.cumsum(lasting + pauses)[:-1]])
        count = int((begins + lasting <= end).sum())
        if not count:
            return begin
        points, shown = self._points(count, sentence)
        sigma = self.degree * (shown[2] - shown[0])
        noise = rng.normal(0.0, 0.25 * sigma, points.shape)
        # Eye trackers and eyes miss, but what is not shown is not looked at.
        points = np.clip(points + noise, np.array(shown[:2]) + 1e-3, np.array(shown[2:]) - 1e-3)
        rectangle = [shown[0] * self.width, shown[1] * self.height, shown[2] * self.width, shown[3] * self.height]
        self.fixations += [
            {
                "x": round(x * self.width, 1),
                "y": round(y * self.height, 1),
                "begin": round(start, 3),
                "end": round(start + length, 3),
                "sigma_x": round(sigma * self.width, 1),
                "sigma_y": round(sigma * self.height, 1),
                "shown": rectangle,
            }
            for (x, y), start, length in zip(
                points.tolist(), begins[:count].tolist(), lasting[:count].tolist(), strict=True
            )
        ]
        return float(begins[count - 1] + lasting[count - 1])

    def _points(self, count: int, sentence: Sentence | None) -> tuple[np.ndarray, tuple[float, ...]]:
        rng, whole = self.rng, (0.0, 0.0, 1.0, 1.0)
        if sentence is None:
            return self._search(count), whole
        lesions = [index for index in sentence.lesions if self.rendering.lesion_masks[index].any()]
        elsewhere = rng.random(count) < ELSEWHERE
        parts = len(lesions) or len(sentence.anatomy)
        # From one part to the next, as the sentence names them.
        turn = (np.arange(count) * parts // count) if parts else np.zeros(count, int)
        points = np.empty((count, 2))
        for part in range(parts):
            where = turn == part
            amount = int(where.sum())
            points[where] = (
                self._in_lesion(lesions[part], amount) if lesions else self._in_anatomy(sentence.anatomy[part], amount)
            )
        shown = self._magnified(lesions) if lesions else whole
        if elsewhere.any() or not parts:
            others = self._anywhere(count)
            left, top, right, bottom = shown
            if shown != whole:  # look around within what is magnified
                others = np.array([left, top]) + others * np.array([right - left, bottom - top])
            points = np.where((elsewhere | (parts == 0))[:, None], others, points)
        return points, shown

    def _search(self, count: int) -> np.ndarray:
        points = self._anywhere(count)
        visible = [index for index, mask in enumerate(self.rendering.lesion_masks) if mask.any()]
        noticed = np.flatnonzero(self.rng.random(count) < NOTICED) if visible else []
        for place in noticed:
            points[place] = self._in_lesion(visible[self.rng.integers(len(visible))], 1)[0]
        return points

    def _magnified(self, lesions: list[int]) -> tuple[float, float, float, float]:
        rng, whole = self.rng, (0.0, 0.0, 1.0, 1.0)
        mask = np.logical_or.reduce([self.rendering.lesion_masks[index] for index in lesions])
        draw, zoom = rng.random(), rng.uniform(1.4, 2.5)
        if mask.mean() > SMALL_LESION or draw > ZOOMED:
            return whole
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        size = 1 / zoom
        low_x, high_x = columns[0] / mask.shape[1], (columns[-1] + 1) / mask.shape[1]
        low_y, high_y = rows[0] / mask.shape[0], (rows[-1] + 1) / mask.shape[0]
        if max(high_x - low_x, high_y - low_y) > 0.8 * size:
            return whole
        left = min(max((low_x + high_x - size) / 2 + rng.normal(0, 0.03), 0.0), 1 - size)
        top = min(max((low_y + high_y - size) / 2 + rng.normal(0, 0.03), 0.0), 1 - size)
        return left, top, left + size, top + size

    def _anywhere(self, count: int) -> np.ndarray:
        return self._sampled(("search",), self._search_density, count)

    def _search_density(self) -> Any:
        maps = {name: self.rendering.anatomy[name] for name in SEARCHED if name in self.rendering.anatomy}
        return sum(SEARCHED[name] * map / map.sum() for name, map in maps.items() if map.any()) if maps else None

    def _in_lesion(self, index: int, count: int) -> np.ndarray:
        return self._sampled(("lesion", index), lambda: self.rendering.lesion_masks[index], count)

    def _in_anatomy(self, name: str, count: int) -> np.ndarray:
        return self._sampled(("anatomy", name), lambda: self.rendering.anatomy.get(name), count)

    def _sampled(self, key, values, count: int) -> np.ndarray:
        """Points in shares of the picture, as dense as the map's values; around the middle where it has none."""
        if key not in self._places:
            density = values()
            density = np.zeros((1, 1)) if density is None else np.asarray(density)
            total = np.cumsum(density, dtype=np.float64)
            self._places[key] = (density.shape, total) if total[-1] > 0 else None
        if self._places[key] is None:
            return np.clip(self.rng.normal(0.5, 0.12, (count, 2)), 0.02, 0.98)
        (rows, columns), total = self._places[key]
        cells = np.searchsorted(total, self.rng.random(count) * total[-1], side="right")
        offset = self.rng.random((count, 2))
        return np.stack([(cells % columns + offset[:, 0]) / columns, (cells // columns + offset[:, 1]) / rows], axis=1)
