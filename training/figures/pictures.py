"""Pictures of what a checkpoint has learnt."""

from pathlib import Path

import numpy as np
import torch
from scipy.special import expit
from sklearn.manifold import TSNE

from processing.datasets.records import facts_of, label_names
from processing.radiographs import read_radiograph

from ..downstream.classifiers import Classifier
from ..downstream.data import chosen_names
from ..evaluation.classes import exclusive_classes
from ..evaluation.scorers import Scorer
from ..metrics.alignment import retrieval_scores
from ..metrics.calibration import calibration_scores, reliability
from ..runs.provenance import ON_PHANTOM
from .drawing import features_figure, maps_figure, reliability_figure
from .saliency import activation_maps, latent_attention, pooling_attention

PANELS = {"no_context": "image alone", "context": "image and clinical context"}
NEIGHBOURS = 10


def draw_saliency(
    classifier: Classifier, dataset, label: str, path: str | Path, rows: int = 4, image_ids: list[str] | None = None
) -> None:
    """What speaks for a label on the images named, or on the first ones that have it; outlined: the finding.

    Raises:
        ValueError: an unknown label or image; no image that has the label.
    """
    (label,) = chosen_names([label], classifier.names, "label", "the classifier's")
    column = classifier.names.index(label)
    if image_ids:
        ids = dataset["image_id"][:]
        missing = [name for name in image_ids if name not in ids]
        if missing:
            raise ValueError(f"image_ids: {missing[0]!r} is not in the data set.")
        chosen = [ids.index(name) for name in image_ids]
    else:
        # Not chosen by how well they come out.
        chosen = np.flatnonzero(classifier.targets(dataset)[:, column] > 0)[:rows].tolist()
        if not chosen:
            raise ValueError(f"data: none of its {len(dataset)} images has {label!r}; name some with --image_ids.")
    model, shown = classifier.model, []
    for index in chosen:
        record = dataset[index]
        inputs, columns = classifier.inputs([record]), torch.tensor([column])
        maps = dict(zip(("Grad-CAM", "HiResCAM"), activation_maps(model, inputs, columns), strict=True))
        if model.config.classifier_pooling == "attention":
            maps["attention of the classifier"] = pooling_attention(model, inputs, columns)
        if model.base_model_prefix == "cogaze":
            maps["attention of the latents, whatever the label"] = latent_attention(model, inputs)
        with torch.no_grad():
            probability = model(**inputs).logits[0, column].sigmoid()
        regions = [region for region in record.get("regions") or [] if region["label"].casefold() == label.casefold()]
        shown.append(
            {
                "caption": f"{label}: predicted {probability:.2f}",
                "panels": _panels(classifier.processor, record, {name: values[0] for name, values in maps.items()}),
                "masks": [region["mask"] for region in regions if region["mask"] is not None],
            }
        )
    maps_figure(shown, path, _title(f"What speaks for {label}. Outline: the finding, where it is known.", dataset))


def draw_features(scorer: Scorer, dataset, path: str | Path, labels: list[str] | None = None) -> dict[str, dict]:
    """t-SNE (van der Maaten and Hinton, 2008) of the global features of images with one finding.

    Returns:
        Panel -> `retrieval_scores` among the images' features (not the picture's points), a patient's own left out.
    Raises:
        ValueError: an unknown label; more than ten; fewer than two that images have alone.
    """
    known = label_names(dataset)
    if labels is not None and len(labels) > 10:
        raise ValueError(f"labels: {len(labels)}; more than ten colours cannot be told apart.")
    names, rows, of = exclusive_classes(dataset, chosen_names(labels, known))
    commonest = np.sort(np.argsort(-np.bincount(of, minlength=len(names)), kind="stable")[:10])
    kept = np.isin(of, commonest)
    names, rows, of = [names[index] for index in commonest], rows[kept], np.searchsorted(commonest, of[kept])
    images = dataset.select(rows)
    patients = np.asarray(images["patient_id"])
    apart = patients[:, None] != patients
    places, purity = {}, {}
    for condition, panel in PANELS.items():
        if condition not in scorer.conditions:
            continue
        features = scorer.embed_images(images, condition)
        similarity = np.where(apart, features @ features.T, -np.inf)
        scores = purity[panel] = retrieval_scores(similarity, apart & (of[:, None] == of), (NEIGHBOURS,), ())
        perplexity = min(30.0, (len(rows) - 1) / 3)
        found = f"{panel}: {scores['p@10']:.2f} of the nearest {NEIGHBOURS} alike, chance {scores['p@10_chance']:.2f}"
        places[found] = TSNE(metric="cosine", init="pca", perplexity=perplexity, random_state=0).fit_transform(features)
    title = f"t-SNE of the global features of {len(rows)} images, each with one of these findings."
    features_figure(places, names, of, path, _title(title, dataset))
    return purity


def draw_gaze(scorer: Scorer, dataset, path: str | Path, rows: int = 4) -> None:
    """Radiographs with the recorded gaze and the map predicted for one spoken sentence.

    The first `rows` of different findings that a sentence localises are shown, not chosen by how well they came out;
    where a data set localises none, the sentence of each radiograph that was looked at longest.

    Raises:
        ValueError: a data set without gaze.
    """
    shown, others, kinds = [], [], set()
    for index in range(len(dataset)):
        record = dataset[index]
        if not record["gaze"] or not record["gaze"][0]["sentences"] or record["view_position"] == "LATERAL":
            continue
        regions = [r for r in record.get("regions") or [] if r["sentence"] is not None and r["sentence"] >= 0]
        region = next((region for region in regions if region["label"] not in kinds), None)
        if region is not None:
            kinds.add(region["label"])
            shown.append(_gaze_row(scorer, dataset, index, record, region))
        elif not regions and len(others) < rows:
            others.append(index)
        if len(shown) == rows:
            break
    shown = shown or [_gaze_row(scorer, dataset, index, dataset[index]) for index in others]
    if not shown:
        raise ValueError("data: none of its images has gaze.")
    maps_figure(shown, path, _title("A reader's gaze, and what is predicted. Outline: the finding.", dataset))


def _gaze_row(scorer: Scorer, dataset, index: int, record: dict, region: dict | None = None) -> dict:
    predicted, recorded, _, _ = scorer.gaze_maps(dataset.select([index]))
    sentences = record["gaze"][0]["sentences"]
    row = int(recorded[: len(sentences)].sum(axis=1).argmax()) if region is None else region["sentence"]
    reader = "simulated gaze" if _is_phantom(dataset) else "recorded gaze"
    maps = {reader: recorded[row], "predicted from the sentence": predicted[row]}
    return {
        "caption": f"“{sentences[row]['text']}”",
        "panels": _panels(scorer.processor, record, maps),
        "masks": [region["mask"]] if region and region["mask"] is not None else [],
    }


def draw_calibration(
    logits: np.ndarray, targets: np.ndarray, names: list[str], temperatures: np.ndarray, dataset, path: str | Path
) -> None:
    """Reliability over all labels and each one's calibration error, before and after the temperatures.

    Args:
        logits, targets: (N, C), the former before they are divided by `temperatures` (C,).
        dataset: what they are of.
    """
    variants = {"before": logits}
    if not np.all(temperatures == 1):
        variants["after temperature scaling"] = logits / temperatures
    curves, errors = {}, {}
    for name, values in variants.items():
        scores = calibration_scores(values, targets, names)
        name = f"{name}: ECE {scores['ece_pooled']:.3f}"
        curves[name] = reliability(expit(values), targets)
        errors[name] = scores["ece_per_label"]
    reliability_figure(curves, errors, path, _title(f"Calibration on {len(targets)} images.", dataset))


def _panels(processor, record: dict, maps: dict[str, np.ndarray]) -> dict:
    panels = {"radiograph": read_radiograph(record["image"], f"image {record['image_id']}")}
    return panels | {name: processor.paint_gaze(record["image"], values) for name, values in maps.items()}


def _title(text: str, dataset) -> str:
    return f"{text} {ON_PHANTOM}" if _is_phantom(dataset) else text


def _is_phantom(dataset) -> bool:
    return facts_of(dataset).get("source") == "phantom"
