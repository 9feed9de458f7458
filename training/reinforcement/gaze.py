"""A reward for looking at the right place while saying what a radiologist said there."""

import re
from collections.abc import Sequence

import numpy as np
import torch
from torch.nn.functional import adaptive_avg_pool2d

from processing import CoGazeProcessor
from processing.reports import split_sentences
from processing.targets import mask_tensor

from ..metrics.alignment import gaze_pointing_game, jensen_shannon

PATCHES = "patch_features"  # under this name a record brings the projected patches (P, D) of its encoded image
_LEAST_ALIKE = 0.5
_FINE = 8  # pixels that a patch's side is divided into, to say which share of it a mask covers


class GazeReward:
    """The agreement of a report's predicted gaze maps with where a radiologist looked while saying the same.

    Each generated sentence is matched with the spoken sentence that shares the most words with it, one to one, and
    never with one that shares fewer than half. A matched pair counts by the mean of the pointing game (does the map's
    peak lie in the quarter of the patches that was looked at longest) and of 1 - JS (Jensen-Shannon divergence, base
    2), between 0 and 1. With S the sum over pairs, a report of n sentences on a reading of m has 2 S / (n + m): it
    gains by saying what was said, and by looking there; not by saying little. An image without a reading that has
    lesion masks with sentences (`regions`) is rewarded for the peak's lying on the mask, where n counts the matched
    sentences alone. An image without either: None.

    Args:
        model, processor: of the report generator, whose `predict_gaze` gives the maps; nothing is learnt through them.
    """

    def __init__(self, model, processor):
        self.model = model
        self.processor = processor

    def __call__(self, completions: Sequence[str], records: Sequence[dict]) -> list[float | None]:
        distinct = {id(record): record for record in records}  # the reports of an image bring the same one
        known = {key: self._looked_at(record) for key, record in distinct.items()}
        pairs, rewards = [], [None] * len(completions)
        for place, (text, record) in enumerate(zip(completions, records, strict=True)):
            spoken, _, whole_reading = known[id(record)]
            if not spoken:
                continue
            written = split_sentences(text)
            found = matched(written, spoken)
            count = len(written) if whole_reading else len(found)
            rewards[place] = 0.0
            pairs += [(place, written[i], j, 2 / (count + len(spoken))) for i, j in found]
        if pairs:
            maps = self._maps([sentence for _, sentence, _, _ in pairs], [records[place] for place, *_ in pairs])
            targets = np.stack([known[id(records[place])][1][j] for place, _, j, _ in pairs])
            whole = np.array([known[id(records[place])][2] for place, *_ in pairs])
            for (place, *_, share), agreement in zip(pairs, agreements(maps, targets, whole), strict=True):
                rewards[place] += share * float(agreement)
        return rewards

    def _looked_at(self, record: dict) -> tuple[list[str], np.ndarray | None, bool]:
        """Sentences, where each was looked at (N, P), and whether a reading says so or lesion masks do."""
        size = (record["image_width"], record["image_height"])
        gaze = [reading for reading in record["gaze"] or [] if reading["sentences"] and reading["fixations"]]
        if gaze:
            batch = CoGazeProcessor.__call__(self.processor, gaze=[gaze[:1]], image_size=[size])
            targets = batch["gaze_targets"].numpy()[:-1]
            kept = targets.sum(axis=1) > 0
            spoken = [each["text"] for each, there in zip(gaze[0]["sentences"], kept, strict=True) if there]
            return spoken, targets[kept], True
        sentences = split_sentences(record.get("findings") or "")
        spoken, masks = [], []
        for region in record["regions"] or []:
            number = -1 if region["sentence"] is None else region["sentence"]
            if region["mask"] is not None and 0 <= number < len(sentences):
                spoken.append(sentences[number])
                masks.append(self._coverage(np.asarray(region["mask"]) > 0, record, size))
        return spoken, np.stack(masks) if masks else None, False

    def _coverage(self, mask: np.ndarray, record: dict, size: tuple[int, int]) -> np.ndarray:
        """(P,) the share of each patch that a mask of the whole radiograph covers."""
        box = self.processor.crop_box(record["image"].size, size)
        rows, columns = self.processor.grid_size
        fine = mask_tensor([mask.astype(np.uint8)], [size], [box], rows * _FINE, columns * _FINE).float()
        return adaptive_avg_pool2d(fine, (rows, columns)).numpy().reshape(-1)

    @torch.no_grad()
    def _maps(self, sentences: list[str], records: list[dict]) -> np.ndarray:
        """(N, P) the predicted map of each sentence on its record's image."""
        distinct = list({id(record): record for record in records}.values())
        place_of = {id(record): place for place, record in enumerate(distinct)}
        device = self.model.device
        patches = torch.stack([record[PATCHES] for record in distinct]).to(device)
        image_index = torch.tensor([place_of[id(record)] for record in records], device=device)
        tokens = self.processor.tokenize_sentences(sentences).to(device)
        maps = self.model.predict_gaze(patches, tokens["input_ids"], tokens["attention_mask"], image_index)
        return maps.float().cpu().numpy()


def agreements(maps: np.ndarray, targets: np.ndarray, readings: np.ndarray) -> np.ndarray:
    """(N,) between 0 and 1: of maps (N, P) with gaze, or where not `readings`, with a mask's share of each patch."""
    on_mask = np.take_along_axis(targets, maps.argmax(axis=1)[:, None], axis=1)[:, 0] > 0
    truth = targets / targets.sum(axis=1, keepdims=True)
    closeness = 1 - jensen_shannon(maps / maps.sum(axis=1, keepdims=True), truth) / np.log(2)
    with_gaze = (gaze_pointing_game(maps, targets) + closeness) / 2
    return np.where(readings, with_gaze, on_mask)


def matched(written: Sequence[str], spoken: Sequence[str]) -> list[tuple[int, int]]:
    """(written, spoken) places of sentences that say alike, one to one, the most alike first.

    Alike is Dice's share of the distinct words of both; of two that are equally alike, the earlier.
    """
    words = [[set(re.findall(r"[a-z0-9]+", text.lower())) for text in texts] for texts in (written, spoken)]
    alike = {
        (i, j): 2 * len(a & b) / max(1, len(a) + len(b)) for i, a in enumerate(words[0]) for j, b in enumerate(words[1])
    }
    found: list[tuple[int, int]] = []
    for i, j in sorted(alike, key=lambda pair: (-alike[pair], pair)):
        if alike[i, j] >= _LEAST_ALIKE and all(i != a and j != b for a, b in found):
            found.append((i, j))
    return sorted(found)
