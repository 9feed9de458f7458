"""What a dual encoder can be asked: alignment with reports and prompts, gaze, exclusive classes."""

from dataclasses import replace
from pathlib import Path

from .alignment import against_normal, retrieval, zero_shot
from .classes import TooFewClasses, evaluate_classes
from .evaluation import Evaluation
from .gaze import gaze_agreement
from .prompts import read_class_prompts, read_prompts


def measure_alignment(evaluation: Evaluation) -> None:
    """Zero-shot, retrieval, gaze agreement and grounding."""
    _zero_shot(evaluation)
    _retrieval(evaluation)
    _gaze(evaluation)


def _zero_shot(evaluation: Evaluation) -> None:
    scorer, data, validation = evaluation.scorer, evaluation.data, evaluation.validation
    if len(scorer.conditions) == 1:
        evaluation.leave_out("EGMA reads no context", "zero_shot_macro_auroc_context")
    written = read_prompts(evaluation.prompts)
    by_name = {name.casefold(): sides for name, sides in written["findings"].items()}
    prompts = {name: by_name[name.casefold()] for name in evaluation.label_names if name.casefold() in by_name}
    if prompts:
        evaluation.add(zero_shot(scorer, validation, data, prompts, evaluation.rounds).values())
        if validation is None:
            evaluation.leave_out("its thresholds need --validation_data", "zero_shot_macro_f1")
    else:
        file = Path(evaluation.prompts).name
        evaluation.leave_out(evaluation.lacks_labels(f"{file} has prompts for"), "zero_shot_macro_auroc")
    for name in evaluation.label_names:
        if name.casefold() in written["classes"] and name.casefold() != "normal":
            found = against_normal(scorer, data, name, written["classes"], evaluation.rounds, validation)
            evaluation.add(found.values())


def _retrieval(evaluation: Evaluation) -> None:
    """Papers give image to report, in a gallery where one of few findings makes reports alike."""
    scorer, rounds, gallery = evaluation.scorer, evaluation.rounds, evaluation.gallery
    if any(evaluation.data["findings"]):
        evaluation.add(retrieval(scorer, evaluation.data, "retrieval_test", rounds).values())
    else:
        evaluation.leave_out("the data have no reports", "retrieval_test_image_to_report")
    if gallery is None:
        reason = "only the phantom comes with one; give --gallery_data, or of MIMIC-CXR mimic_5x200 as the data"
        evaluation.leave_out(reason, "retrieval_image_to_report")
    elif any(gallery["findings"]):
        evaluation.add(retrieval(scorer, gallery, "retrieval", rounds, evaluation.classes).values())
    else:
        evaluation.leave_out("the data have no reports", "retrieval_image_to_report")


def _gaze(evaluation: Evaluation) -> None:
    if not any(evaluation.data["gaze"]):
        evaluation.leave_out("the data have no gaze", "gaze", "grounding")
        return
    train = evaluation.train
    if train is None or not any(train["gaze"]):
        train = None
        evaluation.leave_out("they need --train_data with gaze", "gaze_baseline_maps")
    # Some images with gaze may lack a report, which one batch of records would not stand.
    data, train = (each and each.remove_columns("findings") for each in (evaluation.data, train))
    found = gaze_agreement(evaluation.scorer, train, data, evaluation.rounds)
    evaluation.add(found.values())
    if "grounding_pointing_game" not in found:
        evaluation.leave_out("the data have no masks that a spoken sentence is about", "grounding")


def measure_classes(evaluation: Evaluation) -> None:
    """Exclusive classes and class queries; an EGMA by each of `ensembles`."""
    combinations, queries = read_class_prompts(evaluation.class_prompts, evaluation.prompts_per_class, evaluation.seed)
    data, classes = evaluation.data, None
    if evaluation.gallery is not None:
        data, classes = evaluation.gallery, list(evaluation.classes)
    elif not evaluation.label_names:
        evaluation.leave_out("the data have no labels", "classes")
        return
    scorer, usual = evaluation.scorer, getattr(evaluation.scorer, "ensemble", None)
    try:
        for ensemble in evaluation.ensembles if usual else [None]:
            if usual:
                scorer.ensemble = ensemble
            found = evaluate_classes(scorer, data, combinations, queries, classes, evaluation.rounds).values()
            of_class = [score for score in found if score.name.startswith("class_")]
            evaluation.add(score for score in found if score not in of_class)
            evaluation.add(
                replace(score, name=f"{score.name}_{ensemble}" if ensemble else score.name) for score in of_class
            )
    except TooFewClasses as error:
        evaluation.leave_out(str(error).removeprefix("data: "), "classes")
    finally:
        if usual:
            scorer.ensemble = usual
