"""Predicted gaze maps against recorded ones and against lesion masks."""

import numpy as np

from processing.datasets.phantom.labeler import phantom_labels

from ..metrics.alignment import gaze_pointing_game, jensen_shannon, phrase_grounding
from ..metrics.scores import Bootstrap, Score
from .scorers import Scorer

MEAN_MAP, MEAN_MAP_OF_TYPE = "mean map", "mean map per type of sentence"


def gaze_agreement(scorer: Scorer, train, test, rounds: int) -> dict[str, Score]:
    """Predicted maps of spoken sentences against the recorded ones, and against lesion masks where there are any.

    The baselines are averaged over `train`; None leaves them out.
    """
    spoken = with_gaze(test)
    if not len(spoken):
        return {}
    predicted, recorded, image, full = scorer.gaze_maps(spoken)
    kept = ~full & (recorded.sum(axis=1) > 0)
    baselines = {} if train is None else _baseline_maps(mean_maps(scorer, with_gaze(train)), spoken, full)
    truth = _distribution(recorded[kept])

    def measures(maps: np.ndarray) -> dict[str, np.ndarray]:
        return {
            "gaze_pointing_game": gaze_pointing_game(maps[kept], recorded[kept]),
            "gaze_jensen_shannon": jensen_shannon(_distribution(maps[kept]), truth),
        }

    patients = np.asarray(spoken["patient_id"])[image]
    draws = Bootstrap(patients[kept], rounds)
    scores = _with_baselines(draws, measures, predicted, baselines, f"{int(kept.sum())} spoken sentences")
    uniform = np.full_like(truth, 1 / truth.shape[1])
    scores["gaze_pointing_game"].chance = 0.25
    scores["gaze_jensen_shannon"].chance = float(jensen_shannon(uniform, truth).mean())
    rows, coverage = _regions(scorer, spoken, image)
    if len(rows):
        assert not full[rows].any()
        draws = Bootstrap(patients[rows], rounds)
        scores |= _grounding(draws, predicted, baselines, rows, coverage)
    return scores


def _baseline_maps(means: dict, dataset, full: np.ndarray) -> dict[str, np.ndarray]:
    """For each row of `scorer.gaze_maps`, the mean map and that of its type of sentence (none for a whole text)."""
    views = dataset["view_position"][:]
    types = [sentence_type(views[index], text) for index, text in _sentences(dataset)]
    by_type = np.zeros((len(full), len(means[None])), means[None].dtype)
    by_type[~full] = [means.get(kind, means[None]) for kind in types]
    return {MEAN_MAP: np.broadcast_to(means[None], by_type.shape), MEAN_MAP_OF_TYPE: by_type}


def _with_baselines(draws: Bootstrap, measures, predicted, baselines: dict, on: str) -> dict[str, Score]:
    """Scores of what `measures` says of each sentence's predicted map, beside the means of what it says of others."""
    scores = draws.means(measures(predicted), on=on)
    for said, maps in baselines.items():
        for name, values in measures(maps).items():
            scores[name].baselines[said] = float(values.mean())
    return scores


def _regions(scorer: Scorer, dataset, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of `scorer.gaze_maps` that are about a region with a mask (of an image's first reading), and its patches."""
    first_row = np.searchsorted(image, np.arange(len(dataset)))
    rows, coverage = [], []
    for index in range(len(dataset)):
        record = dataset[index]
        for region in record["regions"] or []:
            if region["sentence"] is None or region["sentence"] < 0 or region["mask"] is None:
                continue
            share = scorer.mask_coverage(record, region["mask"])
            if share.any():
                rows.append(first_row[index] + region["sentence"])
                coverage.append(share)
    return np.asarray(rows, dtype=int), np.asarray(coverage)


def _grounding(draws: Bootstrap, predicted, baselines: dict, rows: np.ndarray, coverage: np.ndarray) -> dict:
    def measures(maps: np.ndarray) -> dict[str, np.ndarray]:
        hits, contrast = phrase_grounding(maps[rows], coverage)
        return {"grounding_pointing_game": hits, "grounding_cnr": contrast}

    scores = _with_baselines(draws, measures, predicted, baselines, f"{len(rows)} sentences with a mask")
    scores["grounding_pointing_game"].chance = float((coverage > 0).mean())
    scores["grounding_cnr"].chance = 0.0
    return scores


def mean_maps(scorer: Scorer, train) -> dict:
    """The mean recorded map of each type of sentence, and under None that of all."""
    if not len(train):
        raise ValueError("train_data: it has no gaze, so there is no baseline for gaze agreement.")
    recorded, full = [], []
    for batch in scorer.batches(train):
        recorded.append(batch["gaze_targets"].cpu().numpy())
        full.append(batch["transcript_is_full"].cpu().numpy())
    recorded = np.concatenate(recorded)[~np.concatenate(full)]
    views = train["view_position"][:]
    kinds = [sentence_type(views[index], text) for index, text in _sentences(train)]
    looked = recorded.sum(axis=1) > 0
    groups: dict = {None: []}
    for kind, row, valid in zip(kinds, _distribution(recorded), looked, strict=True):
        if valid:
            groups[None].append(row)
            groups.setdefault(kind, []).append(row)
    return {kind: np.mean(rows, axis=0) for kind, rows in groups.items()}


def sentence_type(view_position: str, text: str) -> tuple:
    """Frontal or lateral, and which findings the sentence affirms, denies or hedges."""
    frontal = view_position not in ("LATERAL", "LL")
    return (frontal, *phantom_labels(text))


def with_gaze(dataset):
    """The images with gaze that somebody spoke to, and no other gaze of theirs."""
    spoken = [[bool(reading["sentences"]) for reading in readings] for readings in dataset["gaze"]]
    dataset = dataset.select([row for row, readings in enumerate(spoken) if any(readings)])
    if all(all(readings) for readings in spoken):
        return dataset
    return dataset.map(_keep_spoken, input_columns="gaze")


def _keep_spoken(gaze: list[dict]) -> dict:
    return {"gaze": [reading for reading in gaze if reading["sentences"]]}


def _sentences(dataset) -> list[tuple[int, str]]:
    """(image's row, text) of every spoken sentence in the processor's order."""
    return [
        (row, sentence["text"])
        for row, readings in enumerate(dataset["gaze"])
        for reading in readings
        for sentence in reading["sentences"]
    ]


def _distribution(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(rows.sum(axis=1, keepdims=True), 1e-12)
