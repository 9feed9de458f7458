"""Pictures of radiographs with maps painted over them: what speaks for a label, gaze, a report's sentences."""

import textwrap
from pathlib import Path

import numpy as np
import torch

from processing.datasets.records import CHEXBERT_OBSERVATIONS, POSITIVE, label_names, label_targets
from processing.radiographs import read_radiograph

from ..downstream.classifiers import Classifier
from ..downstream.data import chosen_names
from ..evaluation.scorers import Scorer
from ..reports.writing import FRONTAL, ReportWriter
from .canvas import is_phantom, plt, save_figure, title_of
from .saliency import activation_maps, latent_attention, pooling_attention


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
    maps_figure(shown, path, title_of(f"What speaks for {label}. Outline: the finding, where it is known.", dataset))


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
    maps_figure(shown, path, title_of("A reader's gaze, and what is predicted. Outline: the finding.", dataset))


def draw_predicted_gaze(
    scorer: Scorer, dataset, sentences: list[str], path: str | Path, rows: int = 4, label: str | None = None
) -> None:
    """Where a reader who says each of the sentences is predicted to look, on the first `rows` images with a label.

    Outlined where it is known: the label's region.

    Raises:
        ValueError: an unknown label, or no image that has it.
    """
    chosen = range(min(rows, len(dataset)))
    if label is not None:
        (label,) = chosen_names([label], label_names(dataset), "label", "the data set's")
        positive = label_targets(dataset["labels"][:])[:, label_names(dataset).index(label)] > 0
        chosen = np.flatnonzero(positive)[:rows].tolist()
    if not chosen:
        raise ValueError(f"data: none of its {len(dataset)} images has {label!r}.")
    spoken = [{"text": text, "begin": float(place), "end": place + 1.0} for place, text in enumerate(sentences)]
    # A reading needs one; what was looked at is not asked for.
    somewhere = {"x": 1.0, "y": 1.0, "begin": 0.0, "end": 1.0, "sigma_x": 1.0, "sigma_y": 1.0, "shown": []}
    shown = []
    for index in chosen:
        record = dataset[index]
        asked = record | {"gaze": [{"reader": "", "sentences": spoken, "fixations": [somewhere]}]}
        maps = dict(zip(sentences, scorer.gaze_maps([asked])[0], strict=False))
        found = [name for name, yes in zip(label_names(dataset), record["labels"], strict=True) if yes == POSITIVE]
        regions = [region["mask"] for region in record.get("regions") or [] if region["label"] == label]
        shown.append(
            {
                "caption": f"{record['image_id']}: {', '.join(found) or 'no finding'}",
                "panels": _panels(scorer.processor, record, maps),
                "masks": [mask for mask in regions if mask is not None],
            }
        )
    maps_figure(shown, path, title_of("Where a reader who says the sentence is predicted to look.", dataset))


def _gaze_row(scorer: Scorer, dataset, index: int, record: dict, region: dict | None = None) -> dict:
    predicted, recorded, _, _ = scorer.gaze_maps(dataset.select([index]))
    sentences = record["gaze"][0]["sentences"]
    row = int(recorded[: len(sentences)].sum(axis=1).argmax()) if region is None else region["sentence"]
    reader = "simulated gaze" if is_phantom(dataset) else "recorded gaze"
    maps = {reader: recorded[row], "predicted from the sentence": predicted[row]}
    return {
        "caption": f"“{sentences[row]['text']}”",
        "panels": _panels(scorer.processor, record, maps),
        "masks": [region["mask"]] if region and region["mask"] is not None else [],
    }


def draw_report(writer: ReportWriter, test, places: list[int], path: Path) -> None:
    """Where each sentence looks of the first held-out frontal image with a finding whose report has three or more.

    Nothing where there is none.
    """
    for place in places:
        record = test[place]
        if record["view_position"] not in FRONTAL or not positive_names(record["labels"]):
            continue
        _, grounded = writer.write([record], grounding=True)
        if len(grounded.sentences) >= 3:
            break
    else:
        return
    sentences = [
        {"text": text, "text_confidence": text_confidence, "map_confidence": map_confidence}
        for text, text_confidence, map_confidence in zip(
            grounded.sentences, grounded.text_confidence.tolist(), grounded.map_confidence.tolist(), strict=True
        )
    ]
    painted = [writer.processor.paint_gaze(record["image"], gaze_map) for gaze_map in grounded.gaze_maps]
    title = "A generated report of a rendered radiograph, unseen patient: where each sentence is predicted to look."
    grounding_figure(painted, sentences, path, title)


def positive_names(codes) -> list[str]:
    found = label_targets([codes])[0] > 0
    return [name for name, yes in zip(CHEXBERT_OBSERVATIONS, found, strict=True) if yes and name != "No Finding"]


def maps_figure(rows: list[dict], path: str | Path, title: str) -> None:
    """One row per radiograph: the picture, and what has been painted over it.

    Each row holds `caption`, `panels` (title -> PIL picture, the radiograph first), and, where there are any, `masks`
    (PIL, of the whole radiograph), drawn as outlines on the first panel.
    """
    widest = max(len(row["panels"]) for row in rows)
    figure = plt.figure(figsize=(3.2 * widest, 3.75 * len(rows) + 0.6), layout="constrained", facecolor="white")
    figure.suptitle(textwrap.fill(title, 42 * widest), fontsize=9, color="#555555")
    strips = np.atleast_1d(figure.subfigures(len(rows), 1))
    for strip, row in zip(strips, rows, strict=True):
        strip.suptitle(textwrap.fill(row["caption"], 32 * widest), fontsize=10)
        axes = strip.subplots(1, widest, squeeze=False)[0]
        for axis in axes:
            axis.axis("off")
        for axis, (name, picture) in zip(axes, row["panels"].items(), strict=False):
            axis.imshow(picture, cmap="gray", vmin=0, vmax=255)
            axis.set_title(name, fontsize=8, color="#555555")
        size = next(iter(row["panels"].values())).size
        for mask in row.get("masks", ()):
            outline = np.asarray(mask.convert("L").resize(size)) > 127
            if outline.any() and not outline.all():
                axes[0].contour(outline, levels=[0.5], colors="#4cc9f0", linewidths=1)
    save_figure(figure, path)


def grounding_figure(pictures: list, sentences: list[dict], path: str | Path, title: str | None = None) -> None:
    """A report's sentences, each with the picture that its gaze map was painted on.

    Each of `sentences` holds `text`, `map_confidence` and `text_confidence`, which stand below it.
    """
    columns = min(3, len(pictures))
    rows = -(-len(pictures) // columns)
    figure = plt.figure(figsize=(4.2 * columns, 4.6 * rows + 0.4), layout="constrained", facecolor="white")
    if title:
        figure.suptitle(title, fontsize=9, color="#555555")
    for place, (picture, sentence) in enumerate(zip(pictures, sentences, strict=True), 1):
        axis = figure.add_subplot(rows, columns, place)
        axis.imshow(picture)
        axis.axis("off")
        confidence = f"text {sentence['text_confidence']:.2f}, map {sentence['map_confidence']:.2f}"
        axis.set_title(f"{textwrap.fill(sentence['text'], 46)}\n({confidence})", fontsize=9)
    save_figure(figure, path)


def _panels(processor, record: dict, maps: dict[str, np.ndarray]) -> dict:
    panels = {"radiograph": read_radiograph(record["image"], f"image {record['image_id']}")}
    return panels | {name: processor.paint_gaze(record["image"], values) for name, values in maps.items()}
