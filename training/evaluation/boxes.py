"""Boxes that a dual encoder's gaze maps give for sentences, against the boxes of radiologists or of lesions."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product

import numpy as np
import torch

from processing.boxes import BoxSettings, map_confidence
from processing.reports import split_sentences
from processing.statements import affirms

from ..metrics.boxes import BoxScores, GroundedSentence
from ..metrics.scores import Bootstrap, Score
from .evaluation import Evaluation
from .gaze import mean_maps, sentence_type, with_gaze
from .scorers import Scorer

NO_BOXES = "the data have no boxes"
MEAN_MAP, WHOLE_LUNG = "mean map per type of sentence", "whole lungs"
SEARCH = {
    "threshold": (0.3, 0.4, 0.5, 0.6, 0.7),
    "smoothing": (0, 0.75, 1.5),
    "min_share": (0.1, 0.3, 0.5),
}
SEARCHED = 250  # sentences with a box that settings are chosen on
NO_BOX = np.zeros((0, 4))


@dataclass(frozen=True)
class Question:
    """A sentence that a picture is asked for. row: of the data set; truth: (T, 4) boxes in shares of the picture."""

    row: int
    text: str
    truth: np.ndarray
    label: str


def questions(dataset) -> list[Question]:
    """What the pictures of a data set with boxes can be asked.

    Where boxes belong to sentences (phantom, MS-CXR, PadChest-GR), all sentences of a report are asked, those without
    a box too. Where they have labels alone (VinDr-CXR, RSNA, NIH), each picture is asked for each label that has a box
    anywhere: "There is ...".
    """
    records = list(dataset.select_columns(["image_id", "regions", "gaze", "findings", "image_width", "image_height"]))
    if any(_grounded(region) for record in records for region in record["regions"] or ()):
        return [question for row, record in enumerate(records) for question in _sentences(row, record)]
    names = sorted({region["label"] for record in records for region in record["regions"] or ()})
    return [
        Question(row, f"There is {name.lower()}.", _boxes(record, "label", name), name)
        for row, record in enumerate(records)
        for name in names
    ]


def _grounded(region: dict) -> bool:
    return region["sentence"] is not None and region["sentence"] >= 0


def _sentences(row: int, record: dict) -> list[Question]:
    """All that was said of a picture; where it was read aloud, what the first reader said."""
    spoken = record["gaze"][0]["sentences"] if record["gaze"] else []
    texts = [sentence["text"] for sentence in spoken] or split_sentences(record["findings"] or "")
    label_of = {region["sentence"]: region["label"] for region in record["regions"] or () if _grounded(region)}
    return [
        Question(row, text, _boxes(record, "sentence", place), label_of.get(place, ""))
        for place, text in enumerate(texts)
    ]


def _boxes(record: dict, field: str, value) -> np.ndarray:
    """(T, 4) in shares, of the regions that have this value."""
    size = np.array([record["image_width"], record["image_height"]] * 2, float)
    boxes = np.array([each["box"] for each in record["regions"] or () if each[field] == value], float).reshape(-1, 4)
    beyond = (boxes[:, :2] >= size[:2]).any() or (boxes[:, 2:] <= 0).any() or (boxes[:, 2:] <= boxes[:, :2]).any()
    if beyond:
        raise ValueError(
            f"regions of image {record['image_id']}: {boxes.tolist()} are no boxes x0, y0, x1, y1 within its "
            f"{record['image_width']} x {record['image_height']} pixels; mend them, or leave the image out."
        )
    return np.clip(boxes / size, 0, 1)


@torch.no_grad()
def maps_of(scorer: Scorer, dataset, asked: Sequence[Question]) -> torch.Tensor:
    """(N, P) the predicted map of each question."""
    order = sorted(range(len(asked)), key=lambda place: asked[place].row)
    maps = torch.zeros(len(asked), int(np.prod(scorer.processor.grid_size)))
    for places, rows in _batches(order, asked, scorer.batch_size):
        records = [dataset[row] | {"gaze": [], "findings": "", "labels": None} for row in rows]
        batch = scorer.processor.collate(records).to(scorer.model.device)
        tokens = scorer.processor.tokenize_sentences([asked[place].text for place in places]).to(scorer.model.device)
        index = torch.tensor([rows.index(asked[place].row) for place in places], device=scorer.model.device)
        views = {name: batch[name] for name in ("view_position_ids",) if name in batch}
        found = scorer.model.get_gaze_maps(batch["pixel_values"], **tokens, image_index=index, **views)
        maps[places] = found.float().cpu()
    return maps


def _batches(order: list[int], asked: Sequence[Question], size: int) -> Iterator[tuple[list[int], list[int]]]:
    """Places of questions, and the rows of at most `size` pictures that they are asked of."""
    places, rows = [], []
    for place in order:
        row = asked[place].row
        if row not in rows and len(rows) == size:
            yield places, rows
            places, rows = [], []
        places.append(place)
        rows += [row] * (row not in rows)
    if places:
        yield places, rows


def frames_of(dataset, asked: Sequence[Question]) -> dict[int, tuple]:
    """Row -> (width, height) of the original and of the stored picture."""
    pictures = dataset.select_columns(["image"])
    sizes = list(zip(dataset["image_width"], dataset["image_height"], strict=True))
    return {row: (sizes[row], pictures[row]["image"].size) for row in {question.row for question in asked}}


def ground(scorer: Scorer, frames: dict[int, tuple], asked: Sequence[Question], maps: torch.Tensor, settings: dict):
    """A `GroundedSentence` for each question; sentences that deny have no box, whatever their map."""
    boxes, scores = scorer.processor.sentence_boxes(maps, [question.text for question in asked], **settings)
    items = []
    for question, found, sure in zip(asked, boxes, scores, strict=True):
        size, stored = frames[question.row]
        found = scorer.processor.boxes_of_original(found, size, stored).numpy() / np.array(size * 2)
        items.append(GroundedSentence(found, sure.numpy(), question.truth, question.label))
    return items


def choose_settings(scorer: Scorer, dataset, maps=None, asked=None) -> BoxSettings:
    """The settings with the best mean of mAP at 0.3 and 0.5 on sentences that have a box; then the confidence below
    which there is none, by the mean of both accuracies on all that affirm.

    Raises:
        ValueError: the data have no boxes.
    """
    asked = questions(dataset) if asked is None else asked
    kept = [place for place, question in enumerate(asked) if len(question.truth) and affirms(question.text)][:SEARCHED]
    if not kept:
        raise ValueError(f"validation_data: {NO_BOXES}.")
    maps = maps_of(scorer, dataset, asked) if maps is None else maps
    frames = frames_of(dataset, [asked[place] for place in kept])

    def value(settings: BoxSettings) -> float:
        found = BoxScores(ground(scorer, frames, [asked[p] for p in kept], maps[kept], asdict(settings)))()
        return (found["box_map@0.3"] + found["box_map@0.5"]) / 2

    choices = [BoxSettings(**dict(zip(SEARCH, each, strict=True))) for each in product(*SEARCH.values())]
    best = max(choices, key=value)
    return replace(best, min_confidence=_least_confidence(asked, maps))


def _least_confidence(asked: Sequence[Question], maps: torch.Tensor) -> float:
    kept = [place for place, question in enumerate(asked) if affirms(question.text)]
    sure = map_confidence(maps[kept]).numpy()
    there = np.array([len(asked[place].truth) > 0 for place in kept])
    if there.all():
        return 0.0
    levels = np.concatenate([[0.0], np.quantile(sure, np.linspace(0.02, 0.98, 49))])
    balanced = [((sure[there] >= level).mean() + (sure[~there] < level).mean()) / 2 for level in levels]
    # Nothing is thrown away for what chance would give.
    return round(float(levels[int(np.argmax(balanced))]), 4) if max(balanced) > 0.55 else 0.0


def measure_boxes(evaluation: Evaluation) -> None:
    """Box scores of a dual encoder, beside a box of the mean map per type of sentence, and one around the lungs."""
    data = evaluation.data
    if not any(data["regions"]):
        evaluation.leave_out(NO_BOXES, "boxes")
        return
    settings = getattr(evaluation.scorer.model.config, "box_settings", None) or {}
    evaluation.add(box_scores(evaluation.scorer, data, settings, evaluation.train, evaluation.rounds).values())


def box_scores(scorer: Scorer, data, settings: dict, train, rounds: int) -> dict[str, Score]:
    """Scores by name; `train` gives the baselines, None leaves them out."""
    asked = questions(data)
    frames = frames_of(data, asked)
    measured = BoxScores(ground(scorer, frames, asked, maps_of(scorer, data, asked), settings))
    patients = np.asarray(data["patient_id"])[[question.row for question in asked]]
    there = int((measured.positives > 0).sum())
    on = f"{len(asked)} sentences, {there} with a box"
    scores = Bootstrap(patients, rounds).scores(measured, on=on)
    for name, found in _baselines(scorer, data, frames, asked, train).items():
        for score, value in BoxScores(found)().items():
            if np.isfinite(value):
                scores[score].baselines[name] = value
    for label, value in measured.by_label(0.3).items():
        scores[f"box_ap@0.3/{label}"] = Score(f"box_ap@0.3/{label}", value)
    return scores


def _mean_maps_of(asked: Sequence[Question], views: Sequence[str], means: dict) -> torch.Tensor:
    types = [sentence_type(views[question.row], question.text) for question in asked]
    return torch.tensor(np.stack([means.get(kind, means[None]) for kind in types])).float()


def _own_settings(scorer: Scorer, train, means: dict) -> dict:
    """The baseline's best settings, on the images that it is averaged over."""
    asked = questions(train)
    return asdict(choose_settings(scorer, train, _mean_maps_of(asked, train["view_position"][:], means), asked))


def _baselines(scorer: Scorer, data, frames: dict, asked: Sequence[Question], train) -> dict[str, list]:
    if train is None:
        return {}
    found = {}
    looked = with_gaze(train)
    if len(looked):
        means = mean_maps(scorer, looked)
        maps = _mean_maps_of(asked, data["view_position"][:], means)
        found[MEAN_MAP] = ground(scorer, frames, asked, maps, _own_settings(scorer, looked, means))
    boxes = np.concatenate([question.truth for question in questions(train)] or [NO_BOX])
    if len(boxes):
        ends = np.quantile(boxes, 0.05, axis=0)[:2], np.quantile(boxes, 0.95, axis=0)[2:]
        lungs = np.concatenate(ends)[None]
        one = {True: (lungs, np.ones(1)), False: (NO_BOX, np.zeros(0))}
        found[WHOLE_LUNG] = [
            GroundedSentence(*one[affirms(question.text)], question.truth, question.label) for question in asked
        ]
    return found


__all__ = ["Question", "box_scores", "choose_settings", "frames_of", "ground", "maps_of", "measure_boxes", "questions"]
