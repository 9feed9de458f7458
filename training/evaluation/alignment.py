"""Retrieval and zero-shot classification of a dual encoder on held-out patients.

Alignment is scored with context, without it, and with context and a blank image: what the last one reaches, the text
gives away. Zero-shot scores are the cosine with the finding's positive prototype minus that with its negative one.
Labels: uncertain counts as positive, not mentioned as negative.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from processing.datasets.phantom.loading import GALLERY_CLASSES
from processing.datasets.records import facts_of, label_names, label_targets

from ..data.feature_cache import weights_fingerprint
from ..metrics.alignment import auroc_per_label, best_f1_threshold, f1_at, retrieval_hits, retrieval_scores
from ..metrics.scores import Bootstrap, Score, mean
from ..runs.provenance import measured_on
from .gaze import gaze_agreement
from .scorers import Scorer

TOO_FEW = "no label has ten positives and ten negatives"
BLANK = "with a blank image"


def facts(scorer: Scorer, test) -> dict:
    """What stands beside scores in a file: data and the fingerprint of the weights."""
    known = facts_of(test)
    return {
        "measured_on": measured_on(test),
        "test_data": {name: known.get(name) for name in ("source", "split")},
        "weights": weights_fingerprint(scorer.model),
    }


def measure(scorer: Scorer, train, validation, test, gallery, prompts: dict, rounds: int = 200) -> dict[str, Score]:
    """Every score of alignment, gaze and grounding."""
    scores = zero_shot(scorer, validation, test, prompts["findings"], rounds)
    scores |= retrieval(scorer, test, "retrieval_test", rounds)
    if gallery is not None:
        scores |= retrieval(scorer, gallery, "retrieval", rounds, among=GALLERY_CLASSES)
    return scores | gaze_agreement(scorer, train, test, rounds)


def zero_shot(
    scorer: Scorer, validation, test, prompts: Mapping[str, Mapping], rounds: int, groups: bool = True
) -> dict[str, Score]:
    """AUROC of every finding that prompts and labels have, and F1 at thresholds chosen on the validation images.

    Args:
        validation: None leaves F1 out. groups: score groups of patients too (`by_group`).
    """
    names = [name for name in label_names(test) if name in prompts]
    columns = [label_names(test).index(name) for name in names]
    classes = scorer.embed_classes([prompts[name][side] for side in ("positive", "negative") for name in names])

    def contrast(dataset, condition):
        positive, negative = np.hsplit(scorer.class_scores(dataset, condition, classes), 2)
        return positive - negative

    targets = label_targets(test["labels"])[:, columns]
    draws = Bootstrap(test["patient_id"], rounds)
    scores: dict[str, Score] = {}
    for condition in scorer.conditions:
        found = contrast(test, condition)
        suffix = "" if condition == "no_context" else f"_{condition}"
        scores |= _aurocs(found, targets, names, draws, suffix)
        if suffix:
            continue
        if groups:
            scores |= by_group(found, targets, names, test, rounds)
        if validation is not None:
            known = label_targets(validation["labels"])[:, columns]
            scores |= _f1(found, targets, names, draws, contrast(validation, condition), known)
    blank = scores.get("zero_shot_macro_auroc_context_blank_image")
    if blank and blank.value is not None:
        scores["zero_shot_macro_auroc_context"].baselines[BLANK] = blank.value
    return scores


def _aurocs(scores, targets, names: list[str], draws: Bootstrap, suffix: str) -> dict[str, Score]:
    title = f"zero_shot_macro_auroc{suffix}"

    def macro(rows):
        return {title: mean(auroc_per_label(scores[rows], targets[rows], names).values())}

    found = draws.scores(macro, chance=0.5)
    if found[title].value is None:
        found[title].not_computed = TOO_FEW
    each = auroc_per_label(scores, targets, names)
    return found | {
        name: Score(name, value, chance=0.5)
        for name, value in ((f"zero_shot_auroc{suffix}/{own}", value) for own, value in each.items())
    }


def _f1(scores, targets, names: list[str], draws: Bootstrap, chosen_on, known) -> dict[str, Score]:
    """F1 of the findings that have an AUROC and a positive validation image, at the best thresholds of the latter."""
    told = auroc_per_label(scores, targets, names)
    columns = [c for c, name in enumerate(names) if name in told]
    thresholds = {c: best_f1_threshold(chosen_on[:, c], known[:, c]) for c in columns if known[:, c].any()}

    def each(rows):
        return {names[c]: f1_at(scores[rows, c], targets[rows, c], value) for c, value in thresholds.items()}

    # All called positive: what F1 is without looking.
    shares = [targets[:, column].mean() for column in columns]
    chance = mean(2 * share / (1 + share) for share in shares) if shares else None
    found = draws.scores(lambda rows: {"zero_shot_macro_f1": mean(each(rows).values())}, chance=chance)
    if found["zero_shot_macro_f1"].value is None:
        found["zero_shot_macro_f1"].not_computed = TOO_FEW
    names_of = {f"zero_shot_f1/{name}": value for name, value in each(slice(None)).items()}
    return found | {name: Score(name, value) for name, value in names_of.items()}


def against_normal(scorer: Scorer, data, name: str, prompts: dict, rounds: int, validation=None) -> dict[str, Score]:
    """Zero-shot as the CoGaze paper scores RSNA and Shenzhen: a disease against normal, no other finding beside it.

    Args:
        name: of the disease's label. prompts: of exclusive classes, by name in lower case, "normal" among them.
    Returns:
        "zero_shot_<name>_auroc" and the like.
    """
    data, positives = _with_or_normal(data, name)
    own = name.casefold()
    if not 0 < positives < len(data):
        title = f"zero_shot_{own}_auroc"
        return {title: Score(title, not_computed=f"{positives} of {len(data)} images show it; both are needed")}
    if validation is not None:
        validation = _with_or_normal(validation, name)[0]
    sides = {name: {"positive": prompts[own], "negative": prompts["normal"]}}
    found = zero_shot(scorer, validation or None, data, sides, rounds, groups=False)
    on = f"{len(data)} images, {positives} of them positive"
    renamed = [
        replace(score, name=score.name.replace("zero_shot_macro", f"zero_shot_{own}"), on=on)
        for score in found.values()
        if "/" not in score.name
    ]
    return {score.name: score for score in renamed}


def _with_or_normal(data, name: str):
    """The images with a label and those without any finding; how many of the former."""
    names = label_names(data)
    targets = label_targets(data["labels"]) > 0
    findings = [column for column, other in enumerate(names) if other.casefold() != "no finding"]
    positive = targets[:, names.index(name)]
    return data.select(np.flatnonzero(positive | ~targets[:, findings].any(axis=1))), int(positive.sum())


def by_group(scores: np.ndarray, targets: np.ndarray, names: list[str], dataset, rounds: int) -> dict[str, Score]:
    """Macro AUROC among the images of one view position, of women or men, and of one range of age.

    Args:
        scores, targets: (N, C). rounds: at most 100 are drawn.
    Returns:
        "zero_shot_macro_auroc/<attribute>/<group>", over the findings with positives and negatives enough among the
        group's images. Groups without any are left out.
    """
    attributes = {
        "view position": [view or "unknown" for view in dataset["view_position"]],
        "sex": [sex or "unknown" for sex in dataset["patient_sex"]],
        "age": [_age_range(age) for age in dataset["patient_age"]],
    }
    patients = np.asarray(dataset["patient_id"])
    found: dict[str, Score] = {}
    for attribute, values in attributes.items():
        for group in sorted(set(values)):
            rows = np.flatnonzero(np.asarray(values) == group)
            kept = tuple(auroc_per_label(scores[rows], targets[rows], names))
            if not kept:
                continue
            own = np.ix_(rows, [names.index(name) for name in kept])
            title = f"zero_shot_macro_auroc/{attribute}/{group}"

            def macro(drawn, title=title, scores=scores[own], targets=targets[own], kept=kept):
                return {title: mean(auroc_per_label(scores[drawn], targets[drawn], kept).values())}

            on = f"{len(rows)} images, {len(kept)} findings"
            found |= Bootstrap(patients[rows], min(rounds, 100)).scores(macro, chance=0.5, on=on)
    return found


def _age_range(age: float | None) -> str:
    if age is None or not np.isfinite(age):
        return "unknown"
    return "0 to 39" if age < 40 else "40 to 59" if age < 60 else "60 to 79" if age < 80 else "80 and over"


def retrieval(
    scorer: Scorer, dataset, prefix: str, rounds: int, among: Sequence[str] | None = None
) -> dict[str, Score]:
    """Image to report and back; relevant = the same set of positive labels, and also the same study.

    Only images with a report take part. `among` names the labels that are compared: a gallery's classes.
    """
    if not all(dataset["findings"]):
        dataset = dataset.select([row for row, text in enumerate(dataset["findings"]) if text])
    on = f"{len(dataset)} images {'of the gallery' if among else 'with a report'}"
    texts = scorer.embed_texts(dataset["findings"])
    names = label_names(dataset)
    labels = label_targets(dataset["labels"])[:, [names.index(name) for name in among or names]]
    same_labels = (labels[:, None] == labels[None]).all(axis=2)
    studies = np.asarray(dataset["study_id"])
    scores: dict[str, Score] = {}
    for condition in scorer.conditions:
        similarity = scorer.similarity(dataset, condition, texts)
        plain = condition == "no_context"
        draws = Bootstrap(dataset["patient_id"], rounds if plain else 0)
        suffix = "" if plain else f"_{condition}"
        for direction, found in (("image_to_report", similarity), ("report_to_image", similarity.T)):
            scores |= ranked(draws, found, same_labels, f"{prefix}_{direction}_", suffix, on)
        if plain:
            same_study = studies[:, None] == studies[None]
            scores |= ranked(Bootstrap(studies, 0), similarity, same_study, f"{prefix}_same_study_", "", on)
    return scores


def ranked(
    draws: Bootstrap, similarity: np.ndarray, relevant: np.ndarray, prefix: str, suffix: str, on: str, **at
) -> dict[str, Score]:
    """P@k and R@k of `retrieval_scores` with their chance levels, as `prefix`p@k`suffix`."""
    levels = retrieval_scores(similarity, relevant, **at)
    hits = retrieval_hits(similarity, relevant, **at)
    scores = draws.means({f"{prefix}{name}{suffix}": values for name, values in hits.items()}, on=on)
    for name in hits:
        scores[f"{prefix}{name}{suffix}"].chance = levels.get(f"{name}_chance")
    return scores
