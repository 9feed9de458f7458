"""Scores of what was put on an encoder: classifiers, segmentation models, report generators."""

import numpy as np
import torch
from scipy.special import expit
from transformers import AutoConfig, AutoModelForPreTraining, AutoModelForSemanticSegmentation, AutoProcessor

from modeling_cogaze import CoGazeForImageClassification
from processing.datasets.records import label_targets

from ..data.collation import Collator
from ..downstream.classifiers import Classifier, finetune_record, open_classifier
from ..downstream.data import TaskPreparation
from ..downstream.finetuning import label_fields
from ..downstream.tasks import SegmentationTask, region_labels
from ..metrics.downstream import classification_scores, f1_thresholds
from ..metrics.reports import FAMILIES, FREE_TEXT_FAMILIES, STRUCTURED_FAMILIES
from ..metrics.scores import Bootstrap
from ..reports.writing import one_per_study, open_writer, score_rows
from .evaluation import Evaluation
from .published import published


def measure_disease_head(evaluation: Evaluation) -> None:
    """AUROC and F1 of the head that L_cls trained."""
    title, scorer = "disease_head", evaluation.scorer
    if scorer.model.config.model_type != "cogaze":
        evaluation.leave_out("EGMA has none", title)
        return
    pretrained, loaded = AutoModelForPreTraining.from_pretrained(evaluation.checkpoint, output_loading_info=True)
    if not pretrained.config.use_classification or any("classifier" in name for name in loaded["missing_keys"]):
        evaluation.leave_out("the checkpoint holds none: pretraining with L_cls makes one", title)
        return
    fields = label_fields(list(pretrained.config.label_names))
    classifier = CoGazeForImageClassification.from_pretrained(
        evaluation.checkpoint, **fields, classifier_pooling="mean"
    )
    classifier.take_disease_head(pretrained)
    classifier = classifier.to(evaluation.device)
    options = {"use_context": evaluation.use_context, "batch_size": evaluation.batch_size}
    _measure_classifier(Classifier(classifier, scorer.processor, **options), evaluation, title, {})


def measure_classification(evaluation: Evaluation) -> None:
    """AUROC and F1 of a classifier's labels that the data have."""
    if AutoConfig.from_pretrained(evaluation.checkpoint).problem_type == "single_label_classification":
        evaluation.leave_out("its classes are exclusive; this is for independent labels", "classification")
        return
    options = {"use_context": evaluation.use_context, "batch_size": evaluation.batch_size}
    classifier = open_classifier(evaluation.checkpoint, evaluation.device, **options)
    # On probabilities before any calibration.
    thresholds = finetune_record(evaluation.checkpoint).get("thresholds", {})
    _measure_classifier(classifier, evaluation, "classification", thresholds)


def _measure_classifier(classifier: Classifier, evaluation: Evaluation, title: str, thresholds: dict) -> None:
    """Scores of the labels that classifier and data share.

    F1 is taken at the best thresholds of the validation images, or where there are none at `thresholds`.
    """
    known = {name.casefold(): column for column, name in enumerate(evaluation.label_names)}
    names = [name for name in classifier.names if name.casefold() in known]
    if not names:
        evaluation.leave_out(evaluation.lacks_labels(f"the model knows {', '.join(classifier.names)};"), title)
        return
    own = [classifier.names.index(name) for name in names]
    columns = [known[name.casefold()] for name in names]

    def predicted(dataset) -> tuple[np.ndarray, np.ndarray]:
        return expit(classifier.logits(dataset)[:, own]), label_targets(dataset["labels"])[:, columns]

    predictions, targets = predicted(evaluation.data)
    if evaluation.validation is not None:
        thresholds = f1_thresholds(*predicted(evaluation.validation), names)

    def scores(rows):
        found = classification_scores(predictions[rows], targets[rows], names, thresholds)
        return {f"{title}_{name}": value for name, value in found.items()}

    found = Bootstrap(evaluation.data["patient_id"], evaluation.rounds).scores(scores)
    for name, score in found.items():
        if "auroc" in name:
            score.chance = 0.5
    of_all = all(f"{title}_auroc/{name}" in found for name in evaluation.label_names)
    papers = {each["data"] for each in published(f"{title}_macro_auroc")}
    # Published is the mean over all of a data set's labels.
    evaluation.add(found.values(), cite=of_all or evaluation.name not in papers)
    _say_what_lacks(evaluation, title, names, thresholds)


def _say_what_lacks(evaluation: Evaluation, title: str, names: list[str], thresholds: dict) -> None:
    without = [name for name in names if name not in thresholds]
    if without == names:
        evaluation.leave_out("its thresholds need --validation_data", f"{title}_macro_f1")
    else:
        reason = "no validation image shows it, to choose a threshold by"
        evaluation.leave_out(reason, *(f"{title}_f1/{name}" for name in without))
    one_sided = [name for name in names if f"{title}_auroc/{name}" not in evaluation.scores]
    evaluation.leave_out("the data have it always or never", *(f"{title}_auroc/{name}" for name in one_sided))


def measure_segmentation(evaluation: Evaluation) -> None:
    """Dice of a segmentation model's classes, over all images and over those with a lesion."""
    found = region_labels(evaluation.data)
    if not any(found):
        evaluation.leave_out("the data have no masks or boxes", "segmentation")
        return
    network = AutoModelForSemanticSegmentation.from_pretrained(evaluation.checkpoint).eval().to(evaluation.device)
    names = [network.config.id2label[column] for column in range(network.config.num_labels)]
    present = {label.casefold() for labels in found for label in labels}
    # One mask of all regions, whatever each is called: as fine-tuning without --labels makes it.
    alone = [name.casefold() for name in evaluation.label_names]
    one_for_all = len(names) == 1 and (names == ["lesion"] or [names[0].casefold()] == alone)
    lacking = [] if one_for_all else [name for name in names if name.casefold() not in present]
    if len(lacking) == len(names):
        there = ", ".join(sorted(set().union(*found)))
        reason = f"the model knows {', '.join(names)}; the data have masks of {there}"
        evaluation.leave_out(reason, "segmentation")
        return
    threshold = finetune_record(evaluation.checkpoint).get("settings", {}).get("mask_threshold", 0.5)
    labels = None if one_for_all else names
    task = SegmentationTask(labels, threshold)
    task.choose(names, names)
    predictions, references = _masks(evaluation, network, task)
    scored = [name for name in names if name not in lacking]

    def scores(rows):
        found = task.scores(predictions[rows], references[rows], names=scored)
        return {f"segmentation_{name}": value for name, value in found.items()}

    evaluation.add(Bootstrap(evaluation.data["patient_id"], evaluation.rounds).scores(scores).values())
    evaluation.leave_out("the data have no mask of it", *(f"segmentation_dice_lesion/{name}" for name in lacking))


@torch.no_grad()
def _masks(evaluation: Evaluation, network, task: SegmentationTask) -> tuple[np.ndarray, np.ndarray]:
    """What the task keeps of predicted and of recorded masks."""
    data = evaluation.data.remove_columns("findings")  # which some images may lack, and no mask is made of
    processor = AutoProcessor.from_pretrained(evaluation.checkpoint)
    collate = Collator(processor, TaskPreparation(evaluation.use_context, task=task), model=network)
    parts = []
    for start in range(0, len(data), evaluation.batch_size):
        rows = range(start, min(start + evaluation.batch_size, len(data)))
        batch = {name: tensor.to(evaluation.device) for name, tensor in collate([data[row] for row in rows]).items()}
        masks = batch.pop("labels")
        parts.append(task.summarise(network(**batch).logits.float(), masks))
    return tuple(torch.cat(each).cpu().numpy() for each in zip(*parts, strict=True))


def measure_reports(evaluation: Evaluation) -> None:
    """Report metrics of what a generator writes, one report per study."""
    texts = evaluation.data["findings"]
    places = [place for place in one_per_study(evaluation.data) if texts[place]]
    if not places:
        evaluation.leave_out("the data have no reference reports", "reports")
        return
    options = {"batch_size": evaluation.batch_size, "use_context": evaluation.use_context}
    writer = open_writer(evaluation.checkpoint, evaluation.device, **options)
    kind = writer.prepare.report_kind
    if kind == "structured":
        writer.constrain()
    own = ("phantom",) if evaluation.name == "phantom" else ()
    families = evaluation.metrics or (*(STRUCTURED_FAMILIES if kind == "structured" else FREE_TEXT_FAMILIES), *own)
    found = score_rows(list(writer.rows(evaluation.data, places)), families, evaluation.rounds)
    for score in found.scores.values():
        score.on = f"{len(places)} studies"
    evaluation.add(found.scores.values())
    if any(FAMILIES[family].cut_references for family in families):
        evaluation.notes.append(f"References of free text: {found.references.rstrip('.')}.")
