"""Everything that can be measured of a checkpoint of one kind, and why the rest cannot."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import torch
import yaml
from datasets import Dataset
from scipy.special import expit
from transformers import AutoConfig, AutoModelForPreTraining, AutoModelForSemanticSegmentation, AutoProcessor

from modeling_cogaze import CoGazeForImageClassification
from processing.datasets.phantom.loading import GALLERY_CLASSES, load_phantom_gallery
from processing.datasets.records import facts_of, label_targets

from ..downstream.classifiers import Classifier, finetune_record, open_classifier
from ..downstream.data import FinetuneCollator, Preparation
from ..downstream.finetuning import label_fields
from ..downstream.tasks import SegmentationTask, region_labels
from ..metrics.alignment import bootstrap_intervals
from ..metrics.downstream import classification_scores, f1_thresholds
from ..metrics.reports import FAMILIES, FREE_TEXT_FAMILIES, STRUCTURED_FAMILIES
from ..reports.writing import one_per_study, open_writer, score_rows
from .alignment import PROMPTS, against_normal, gaze_agreement, read_prompts, retrieval, zero_shot
from .classes import PROMPTS as CLASS_PROMPTS
from .classes import combinatorial_prompts, evaluate_classes
from .published import published_measure, published_report_score
from .scorers import load_scorer

# What a dual encoder alone can be asked.
ALIGNMENT = ("zero-shot", "retrieval", "exclusive classes", "class queries", "gaze", "phrase grounding", "disease head")
CHANCE = {"chance": "chance", "mean_map": "mean map", "sentence_type_map": "mean map per type of sentence"}
RETRIEVAL = ("p@1", "p@5", "p@10", "r@5", "r@10")
# Key of a metric -> title, and the published measure that is its like.
ZERO_SHOT = {
    "zero_shot_macro_auroc": ("zero-shot, macro AUROC", None),
    "zero_shot_macro_auroc_context": ("zero-shot with context, macro AUROC", None),
    "zero_shot_macro_auroc_context_blank_image": ("zero-shot with context and a blank image, macro AUROC", None),
    "zero_shot_macro_f1": ("zero-shot, macro F1", None),
}
ENSEMBLES = {"max": ", the best of a class's prompts", "mean": ", the mean of a class's prompts"}
GAZE = {
    "gaze_pointing_game": ("gaze, pointing game", None),
    "gaze_jensen_shannon": ("gaze, Jensen-Shannon divergence (less is better)", None),
}
GROUNDING = {
    "grounding_pointing_game": ("phrase grounding, pointing game", None),
    "grounding_cnr": ("phrase grounding, contrast-to-noise ratio", None),
}


@dataclass
class Score:
    """One number with its 95 % interval, chance levels and baselines by name, and what papers give.

    on: what it is a mean over, where that is not all images.
    """

    value: float
    low: float | None = None
    high: float | None = None
    beside: dict[str, float] = field(default_factory=dict)
    published: list[dict] = field(default_factory=list)
    on: str | None = None


@dataclass
class Evaluation:
    """What evaluations read, and what they found.

    Args:
        data: the images to score.
        validation: of the same label names; thresholds of F1 are chosen on it, if given.
        train: the baselines of gaze agreement are averaged over it, if given.
        gallery: single findings in equal numbers, if the data set is such a sample or has such a companion.
        classes: those findings.
        use_context: False leaves indication and history out of what heads and report generators read.
        metrics: families of report metrics; None: those of the kind of reports.

    `notes` say what must be known of the scores.
    """

    data: Dataset
    validation: Dataset | None = None
    train: Dataset | None = None
    gallery: Dataset | None = None
    classes: Sequence[str] = GALLERY_CLASSES
    use_context: bool = True
    metrics: Sequence[str] | None = None
    rounds: int = 200
    batch_size: int = 32
    device: str = "cpu"
    scores: dict[str, Score] = field(default_factory=dict)
    not_measured: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def name(self) -> str | None:
        """Of the data set: a sample's own, else its source's."""
        facts = facts_of(self.data)
        return facts.get("name") or facts.get("source")

    @property
    def label_names(self) -> list[str]:
        """Of labels that every record has; none where one lacks them."""
        names = facts_of(self.data).get("label_names") or []
        return names if all(self.data["labels"]) else []

    def add(self, metrics: dict, layout: dict[str, tuple[str, str | None]], on: str | None = None) -> None:
        """Take what `layout` names from a flat dictionary of metrics with intervals and chance levels beside them."""
        intervals = {name.removesuffix("_interval"): v for name, v in metrics.items() if name.endswith("_interval")}
        for name, nested in metrics.items():
            intervals |= nested if name.endswith("_intervals") else {}
        for key, (title, measure) in layout.items():
            if not np.isfinite(metrics.get(key, np.nan)):
                continue
            beside = {said: metrics.get(f"{key}_{ending}") for ending, said in CHANCE.items()}
            if beside["chance"] is None:
                beside["chance"] = metrics.get(f"{key.partition('_context')[0]}_chance")
            beside = {said: value for said, value in beside.items() if value is not None}
            published = published_measure(measure, self.name) if measure else []
            interval = intervals.get(key, (np.nan, np.nan))
            low, high = interval if np.isfinite(interval).all() else (None, None)
            self.scores[title] = Score(float(metrics[key]), low, high, beside, published, on)

    def leave_out(self, reason: str, *names: str) -> None:
        self.not_measured |= dict.fromkeys(names, reason)


def measure_alignment(model: str, evaluation: Evaluation) -> None:
    """Zero-shot, retrieval, gaze agreement and grounding of a dual encoder, and its disease head."""
    scorer = load_scorer(model, evaluation.batch_size, evaluation.device)
    data, rounds = evaluation.data, evaluation.rounds
    if len(scorer.conditions) == 1:
        evaluation.leave_out("EGMA reads no context", "zero-shot with context")

    written = read_prompts(PROMPTS)
    by_name = {name.casefold(): sides for name, sides in written["findings"].items()}
    prompts = {name: by_name[name.casefold()] for name in evaluation.label_names if name.casefold() in by_name}
    if not prompts:
        evaluation.leave_out(_no_labels(evaluation, f"{PROMPTS.name} has prompts for"), "zero-shot, macro AUROC")
    else:
        evaluation.add(zero_shot(scorer, evaluation.validation, data, prompts, rounds, groups=False), ZERO_SHOT)
        if "zero-shot, macro AUROC" not in evaluation.scores:
            evaluation.leave_out("no label has ten positives and ten negatives", "zero-shot, macro AUROC")
        elif evaluation.validation is None:
            evaluation.leave_out("its thresholds need --validation_data", "zero-shot, macro F1")
    _measure_against_normal(scorer, evaluation, written["classes"])

    if any(data["findings"]):
        _measure_retrieval(scorer, evaluation, data, "image-to-report", "retrieval_test")
    else:
        evaluation.leave_out("the data have no reports", "retrieval of reports")
    if evaluation.gallery is None:
        reason = "only the phantom comes with one; of MIMIC-CXR, give mimic_5x200 as the data"
        evaluation.leave_out(reason, "retrieval in a balanced gallery")
    elif not any(evaluation.gallery["findings"]):
        evaluation.leave_out("the data have no reports", "retrieval in a balanced gallery")
    else:
        title = "balanced gallery, image-to-report"
        _measure_retrieval(scorer, evaluation, evaluation.gallery, title, "retrieval", evaluation.classes)
    _measure_classes(scorer, evaluation)
    _measure_gaze(scorer, evaluation)
    _measure_disease_head(model, scorer, evaluation)
    evaluation.leave_out("the checkpoint has no such head: fine-tune it", "classification", "segmentation", "reports")


def _measure_against_normal(scorer, evaluation: Evaluation, prompts: dict[str, list[str]]) -> None:
    for name in evaluation.label_names:
        if name.casefold() not in prompts or name.casefold() == "normal":
            continue
        title, measure = f"zero-shot, {name.casefold()} against normal", f"zero_shot_{name.casefold()}"
        found = against_normal(scorer, evaluation.data, name, prompts, evaluation.rounds, evaluation.validation)
        layout = {
            "zero_shot_macro_auroc": (f"{title}: AUROC", f"{measure}_auroc"),
            "zero_shot_macro_auroc_context": (f"{title}, with context: AUROC", None),
            "zero_shot_macro_f1": (f"{title}: F1", f"{measure}_f1"),
        }
        evaluation.add(found, layout, f"{found['positives'] + found['negatives']} images")
        if f"{title}: AUROC" not in evaluation.scores:
            evaluation.leave_out("the data have fewer than ten images of either", title)


def _measure_retrieval(scorer, evaluation: Evaluation, data, title: str, prefix: str, among=None) -> None:
    """Papers give image to report, in a gallery where one of few findings makes reports alike."""
    layout = {}
    for k in RETRIEVAL:
        layout[f"{prefix}_image_to_report_{k}"] = (f"{title} {k.upper()}", among and f"retrieval_{k}")
        back = title.replace("image-to-report", "report-to-image")
        layout[f"{prefix}_report_to_image_{k}"] = (f"{back} {k.upper()}", None)
    images = sum(map(bool, data["findings"]))
    on = f"{images} images of the gallery" if among else f"{images} images with a report"
    evaluation.add(retrieval(scorer, data, prefix, evaluation.rounds, among), layout, on)


def _measure_classes(scorer, evaluation: Evaluation) -> None:
    prompts = yaml.safe_load(CLASS_PROMPTS.read_text(encoding="utf-8"))
    combinations = combinatorial_prompts(prompts["combinations"], 50)
    data, classes = evaluation.data, None
    if evaluation.gallery is not None:
        data, classes = evaluation.gallery, list(evaluation.classes)
    elif not evaluation.label_names:
        evaluation.leave_out("the data have no labels", "exclusive classes", "class queries")
        return
    usual = getattr(scorer, "ensemble", None)
    for ensemble, said in ENSEMBLES.items() if usual else [(None, "")]:
        if ensemble:
            scorer.ensemble = ensemble
        try:
            found = evaluate_classes(scorer, data, combinations, prompts["queries"], classes, evaluation.rounds)
        except ValueError as error:
            evaluation.leave_out(str(error).removeprefix("data: "), "exclusive classes", "class queries")
            break
        layout = {
            "accuracy": (f"exclusive classes, accuracy{said}", "class_accuracy"),
            "macro_f1": (f"exclusive classes, macro F1{said}", "class_f1"),
        }
        evaluation.add(found, layout, f"{found['images']} images of one class each")
    else:
        ways = {"image_to_text": "images of one class each", "text_to_image": "queries, its interval too"}
        for way, each in ways.items():
            said = f"class queries, {way.replace('_', ' ')}"
            layout = {f"{way}_p@{k}": (f"{said} P@{k}", f"{way}_p@{k}") for k in (1, 5, 10)}
            evaluation.add(found, layout, f"{found[f'{way}_queries']} {each}")
    if usual:
        scorer.ensemble = usual


def _measure_gaze(scorer, evaluation: Evaluation) -> None:
    if not any(evaluation.data["gaze"]):
        evaluation.leave_out("the data have no gaze", "gaze", "phrase grounding")
        return
    train = evaluation.train
    if train is None or not any(train["gaze"]):
        train = None
        evaluation.leave_out("they need --train_data with gaze", "baseline maps of gaze and grounding")
    # Some images with gaze may lack a report, which one batch of records would not stand.
    data, train = (each and each.remove_columns("findings") for each in (evaluation.data, train))
    found = gaze_agreement(scorer, train, data, evaluation.rounds)
    evaluation.add(found, GAZE, f"{found['gaze_sentences']} spoken sentences")
    if "grounding_pointing_game" in found:
        evaluation.add(found, GROUNDING, f"{found['grounding_phrases']} sentences with a mask")
    else:
        evaluation.leave_out("the data have no masks that a spoken sentence is about", "phrase grounding")


def _measure_disease_head(model: str, scorer, evaluation: Evaluation) -> None:
    title = "disease head"
    if scorer.model.config.model_type != "cogaze":
        evaluation.leave_out("EGMA has none", title)
        return
    pretrained, loaded = AutoModelForPreTraining.from_pretrained(model, output_loading_info=True)
    if not pretrained.config.use_classification or any("classifier" in name for name in loaded["missing_keys"]):
        evaluation.leave_out("the checkpoint holds none: pretraining with L_cls makes one", title)
        return
    fields = label_fields(list(pretrained.config.label_names))
    classifier = CoGazeForImageClassification.from_pretrained(model, **fields, classifier_pooling="mean")
    classifier.take_disease_head(pretrained)
    classifier = classifier.to(evaluation.device)
    options = {"use_context": evaluation.use_context, "batch_size": evaluation.batch_size}
    _measure_classifier(Classifier(classifier, scorer.processor, **options), evaluation, title, {}, None)


def measure_classification(model: str, evaluation: Evaluation) -> None:
    """AUROC and F1 of a classifier's labels that the data have."""
    evaluation.leave_out("fine-tuned for labels: evaluate the checkpoint that it started from", *ALIGNMENT)
    evaluation.leave_out("it is a classifier", "segmentation", "reports")
    if AutoConfig.from_pretrained(model).problem_type == "single_label_classification":
        evaluation.leave_out("its classes are exclusive; this is for independent labels", "classification")
        return
    options = {"use_context": evaluation.use_context, "batch_size": evaluation.batch_size}
    classifier = open_classifier(model, evaluation.device, **options)
    # On probabilities before any calibration.
    thresholds = finetune_record(model).get("thresholds", {})
    measures = ("classification_auroc", "classification_f1")
    _measure_classifier(classifier, evaluation, "classification", thresholds, measures)


def _measure_classifier(
    classifier: Classifier, evaluation: Evaluation, title: str, thresholds: dict, measures: tuple | None
) -> None:
    """Scores of the labels that classifier and data share.

    F1 is taken at the best thresholds of the validation images, or where there are none at `thresholds`.
    """
    known = {name.casefold(): column for column, name in enumerate(evaluation.label_names)}
    names = [name for name in classifier.names if name.casefold() in known]
    if not names:
        evaluation.leave_out(_no_labels(evaluation, f"the model knows {', '.join(classifier.names)};"), title)
        return
    own = [classifier.names.index(name) for name in names]
    columns = [known[name.casefold()] for name in names]

    def predicted(dataset) -> tuple[np.ndarray, np.ndarray]:
        return expit(classifier.logits(dataset)[:, own]), label_targets(dataset["labels"])[:, columns]

    predictions, targets = predicted(evaluation.data)
    if evaluation.validation is not None:
        thresholds = f1_thresholds(*predicted(evaluation.validation), names)
    with_f1 = [name for name in names if name in thresholds]
    if not with_f1:
        evaluation.leave_out("its thresholds need --validation_data", f"{title}, F1")
    elif with_f1 != names:
        without = (f"{title}, {name}: F1" for name in names if name not in thresholds)
        evaluation.leave_out("no validation image shows it, to choose a threshold by", *without)

    def scores(rows):
        return classification_scores(predictions[rows], targets[rows], names, thresholds)

    found = scores(slice(None))
    partial = any(f"auroc/{name}" not in found for name in evaluation.label_names)
    if partial and measures and evaluation.name in {each["data"] for each in published_measure(measures[0])}:
        measures = None  # published is the mean over all of this data set's labels
    layout = _class_layout(title, "auroc", "AUROC", names, measures and measures[0])
    layout |= _class_layout(title, "f1", "F1", with_f1, measures and measures[1]) if with_f1 else {}
    intervals = bootstrap_intervals(scores, evaluation.data["patient_id"], evaluation.rounds)
    chance = {f"{name}_chance": 0.5 for name in found if "auroc" in name}
    evaluation.add(found | chance | {"class_intervals": intervals}, layout)
    for name in names:
        if f"auroc/{name}" not in found:
            evaluation.leave_out("the data have it always or never", f"{title}, {name}")


def _class_layout(title: str, key: str, said: str, names: list[str], measure: str | None) -> dict:
    each = {f"{key}/{name}": (f"{title}, {name}: {said}", None) for name in names}
    return {f"macro_{key}": (f"{title}, macro {said}", measure)} | each


@torch.no_grad()
def measure_segmentation(model: str, evaluation: Evaluation) -> None:
    """Dice of a segmentation model's classes, over all images and over those with a lesion."""
    evaluation.leave_out("fine-tuned for masks: evaluate the checkpoint that it started from", *ALIGNMENT)
    evaluation.leave_out("it is a segmentation model", "classification", "reports")
    data = evaluation.data
    found = region_labels(data)
    if not any(found):
        evaluation.leave_out("the data have no masks or boxes", "segmentation")
        return
    data = data.remove_columns("findings")  # which some images may lack, and no mask is made of
    network = AutoModelForSemanticSegmentation.from_pretrained(model).eval().to(evaluation.device)
    processor = AutoProcessor.from_pretrained(model)
    names = [network.config.id2label[column] for column in range(network.config.num_labels)]
    present = {label.casefold() for labels in found for label in labels}
    lacking = [name for name in names if name.casefold() not in present]
    # One mask of all regions, whatever each is called: as fine-tuning without --labels makes it.
    alone = [name.casefold() for name in evaluation.label_names]
    one_for_all = len(names) == 1 and (names == ["lesion"] or [names[0].casefold()] == alone)
    if one_for_all:
        lacking = []
    if len(lacking) == len(names):
        there = ", ".join(sorted(set().union(*found)))
        reason = f"the model knows {', '.join(names)}; the data have masks of {there}"
        evaluation.leave_out(reason, "segmentation")
        return
    threshold = finetune_record(model).get("settings", {}).get("mask_threshold", 0.5)
    task = SegmentationTask(SimpleNamespace(labels=None if one_for_all else names, mask_threshold=threshold))
    task.choose(names, names)
    collate = FinetuneCollator(processor, Preparation(task, evaluation.use_context), network)
    parts = []
    for start in range(0, len(data), evaluation.batch_size):
        rows = range(start, min(start + evaluation.batch_size, len(data)))
        batch = collate([data[row] for row in rows])
        batch = {name: tensor.to(evaluation.device) for name, tensor in batch.items()}
        masks = batch.pop("labels")
        parts.append(task.summarise(network(**batch).logits.float(), masks))
    predictions, references = (torch.cat(each).cpu().numpy() for each in zip(*parts, strict=True))

    scored = [name for name in names if name not in lacking]

    def scores(rows):
        return task.scores(predictions[rows], references[rows], names=scored)

    intervals = bootstrap_intervals(scores, data["patient_id"], evaluation.rounds)
    layout = {"dice": ("segmentation, Dice over all images", "dice")}
    layout |= {"dice_lesion": ("segmentation, Dice on images with a lesion", None)}
    layout |= {f"dice_lesion/{name}": (f"segmentation, {name}: Dice on images with one", None) for name in scored}
    evaluation.add(scores(slice(None)) | {"dice_intervals": intervals}, layout)
    for name in lacking:
        evaluation.leave_out("the data have no mask of it", f"segmentation, {name}")


def measure_reports(model: str, evaluation: Evaluation) -> None:
    """Report metrics of what a generator writes, one report per study."""
    evaluation.leave_out("trained for reports: evaluate the checkpoint that it started from", *ALIGNMENT)
    evaluation.leave_out("it is a report generator", "classification", "segmentation")
    texts = evaluation.data["findings"]
    places = [place for place in one_per_study(evaluation.data) if texts[place]]
    if not places:
        evaluation.leave_out("the data have no reference reports", "reports")
        return
    options = {"batch_size": evaluation.batch_size, "use_context": evaluation.use_context}
    writer = open_writer(model, evaluation.device, **options)
    kind = writer.prepare.report_kind
    if kind == "structured":
        writer.constrain()
    own = ("phantom",) if evaluation.name == "phantom" else ()
    families = evaluation.metrics or (*(STRUCTURED_FAMILIES if kind == "structured" else FREE_TEXT_FAMILIES), *own)
    found = score_rows(list(writer.rows(evaluation.data, places)), families, evaluation.rounds)
    for row in found.scores.values():
        title = f"reports, {row.name}"
        if row.not_computed:
            evaluation.leave_out(row.not_computed, title)
        else:
            evaluation.scores[title] = Score(
                row.value,
                *(row.interval or (None, None)),
                {},
                published_report_score(row.name),
                f"{len(places)} studies",
            )
    if any(FAMILIES[family].cut_references for family in families):
        evaluation.notes.append(f"References of free text: {found.references.rstrip('.')}.")


def phantom_gallery(options: dict, size_per_class: int) -> Dataset:
    """The balanced gallery that goes with a phantom of these options."""
    own = {name: options[name] for name in ("seed", "image_size", "num_proc", "cache_dir") if name in options}
    return load_phantom_gallery(size_per_class, **own)


def _no_labels(evaluation: Evaluation, known: str) -> str:
    if not evaluation.label_names:
        return "the data have no labels"
    return f"{known} none of the data's labels: {', '.join(evaluation.label_names)}"


@dataclass
class Kind:
    """How checkpoints of one kind are measured, and which fields of an `Evaluation` that reads beside the data."""

    measure: Callable[[str, Evaluation], None]
    reads: tuple[str, ...] = ()


_DUAL_ENCODER = Kind(measure_alignment, ("validation", "train", "gallery"))
# By the end of the architecture's name.
KINDS = {
    "ForPreTraining": _DUAL_ENCODER,
    "Model": _DUAL_ENCODER,
    "ForZeroShotImageClassification": _DUAL_ENCODER,
    "ForImageClassification": Kind(measure_classification, ("validation",)),
    "ForSemanticSegmentation": Kind(measure_segmentation),
    "ForConditionalGeneration": Kind(measure_reports),
}
