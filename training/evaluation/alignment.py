"""Retrieval, zero-shot classification and gaze agreement of a checkpoint on held-out patients.

    cogaze evaluate --checkpoint outputs/demo/cogaze-tiny

Alignment is scored with context, without it, and with context and a blank image: what the last one reaches, the text
gives away. Zero-shot scores are the cosine with the finding's positive prototype minus that with its negative one;
grounding stands beside two baselines, the training set's mean gaze map and its mean map per type of sentence. Chance
levels stand beside every number. Labels: uncertain counts as positive, not mentioned as negative.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import yaml

from processing.datasets.phantom.labeler import phantom_labels
from processing.datasets.phantom.loading import GALLERY_CLASSES, load_phantom_gallery
from processing.datasets.records import facts_of, label_names, label_targets

from ..data.feature_cache import weights_fingerprint
from ..data.loading import load_data, load_together
from ..metrics.alignment import (
    auroc_per_label,
    best_f1_threshold,
    bootstrap_intervals,
    f1_at,
    gaze_pointing_game,
    grouped_bootstrap,
    jensen_shannon,
    mean_intervals,
    phrase_grounding,
    retrieval_hits,
    retrieval_scores,
)
from ..runs.command_line import mapping, parse_arguments
from ..runs.files import CONFIGS, write_json
from ..runs.provenance import measured_on
from .scorers import Scorer, load_scorer

PROMPTS = CONFIGS / "evaluation" / "prompts.yaml"


@dataclass
class EvaluationArguments:
    checkpoint: str = field(metadata={"help": "folder or Hub id"})
    test_data: str = field(default='{"name": "phantom", "split": "test"}', metadata={"help": "JSON"})
    validation_data: str = field(
        default='{"name": "phantom", "split": "validation"}', metadata={"help": "JSON: F1 thresholds are chosen on it"}
    )
    train_data: str = field(
        default='{"name": "phantom", "split": "train", "size": 500}',
        metadata={"help": "JSON: the gaze baselines are averaged over it"},
    )
    gallery_data: str | None = field(default=None, metadata={"help": "JSON: a balanced single-finding gallery"})
    prompts: str = field(default=str(PROMPTS), metadata={"help": "YAML file of prompts"})
    batch_size: int = 32
    bootstrap: int = field(default=200, metadata={"help": "rounds of the bootstrap over patients; 0 = none"})
    device: str = "cpu"
    output: str | None = field(default=None, metadata={"help": "JSON file"})


def main(argv: list[str] | None = None) -> dict:
    (arguments,) = parse_arguments((EvaluationArguments,), argv, __doc__)
    scorer = load_scorer(arguments.checkpoint, arguments.batch_size, arguments.device)
    named = {f"{split}_data": getattr(arguments, f"{split}_data") for split in ("train", "validation", "test")}
    data = {name.removesuffix("_data"): dataset for name, dataset in load_together(named).items()}
    gallery = _gallery(arguments, data["test"])
    metrics = evaluate(
        scorer, **data, gallery=gallery, prompts=read_prompts(arguments.prompts), rounds=arguments.bootstrap
    )
    if arguments.output:
        write_json(arguments.output, metrics)
    return metrics


def evaluate(scorer: Scorer, train, validation, test, gallery, prompts: dict, rounds: int = 200) -> dict:
    """Every score as one flat dictionary (nested where a score is per finding)."""
    metrics = zero_shot(scorer, validation, test, prompts["findings"], rounds)
    metrics |= retrieval(scorer, test, "retrieval_test", rounds)
    if gallery is not None:
        metrics |= retrieval(scorer, gallery, "retrieval", rounds, among=GALLERY_CLASSES)
    metrics |= gaze_agreement(scorer, train, test, rounds)
    facts = facts_of(test)
    return metrics | {
        "measured_on": measured_on(test),
        "test_data": {name: facts.get(name) for name in ("source", "split")},
        "weights": weights_fingerprint(scorer.model),
    }


def zero_shot(scorer: Scorer, validation, test, prompts: dict, rounds: int, groups: bool = True) -> dict:
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
    metrics = {}
    for condition in scorer.conditions:
        scores = contrast(test, condition)
        per_finding = auroc_per_label(scores, targets, names)
        suffix = "" if condition == "no_context" else f"_{condition}"
        metrics[f"zero_shot_macro_auroc{suffix}"] = _mean(per_finding.values())
        metrics[f"zero_shot_macro_auroc{suffix}_interval"] = grouped_bootstrap(
            lambda rows, s=scores: _mean(auroc_per_label(s[rows], targets[rows], names).values()),
            test["patient_id"],
            rounds,
        )
        metrics[f"zero_shot_auroc{suffix}"] = per_finding
        if condition == "no_context" and groups:
            metrics["zero_shot_groups"] = by_group(scores, targets, names, test, rounds)
        if condition == "no_context" and validation is not None:
            chosen_on, known = contrast(validation, condition), label_targets(validation["labels"])[:, columns]
            scored = [c for c, name in enumerate(names) if name in per_finding and known[:, c].any()]
            thresholds = {c: best_f1_threshold(chosen_on[:, c], known[:, c]) for c in scored}

            def f1(rows, s=scores, chosen=thresholds):
                return {names[c]: f1_at(s[rows, c], targets[rows, c], value) for c, value in chosen.items()}

            metrics["zero_shot_f1"] = f1(slice(None))
            metrics["zero_shot_macro_f1"] = _mean(metrics["zero_shot_f1"].values())
            metrics["zero_shot_intervals"] = bootstrap_intervals(
                lambda rows, f1=f1: {"zero_shot_macro_f1": _mean(f1(rows).values())}, test["patient_id"], rounds
            )
            # All called positive: what F1 is without looking.
            metrics["zero_shot_macro_f1_chance"] = _mean(
                2 * targets[:, c].mean() / (1 + targets[:, c].mean()) for c, n in enumerate(names) if n in per_finding
            )
    return metrics | {"zero_shot_macro_auroc_chance": 0.5}


def against_normal(scorer: Scorer, data, name: str, prompts: dict, rounds: int, validation=None) -> dict:
    """Zero-shot as the CoGaze paper scores RSNA and Shenzhen: a disease against normal, no other finding beside it.

    Args:
        name: of the disease's label. prompts: of exclusive classes, by name in lower case, "normal" among them.
    Returns:
        As `zero_shot`, and the numbers of "positives" and "negatives"; these alone where one of them is 0.
    """
    data, positives = _with_or_normal(data, name)
    counts = {"positives": positives, "negatives": len(data) - positives}
    if not all(counts.values()):
        return counts
    if validation is not None:
        validation = _with_or_normal(validation, name)[0]
    sides = {name: {"positive": prompts[name.casefold()], "negative": prompts["normal"]}}
    return counts | zero_shot(scorer, validation or None, data, sides, rounds, groups=False)


def _with_or_normal(data, name: str):
    """The images with a label and those without any finding; how many of the former."""
    names = label_names(data)
    targets = label_targets(data["labels"]) > 0
    findings = [column for column, other in enumerate(names) if other.casefold() != "no finding"]
    positive = targets[:, names.index(name)]
    return data.select(np.flatnonzero(positive | ~targets[:, findings].any(axis=1))), int(positive.sum())


def by_group(scores: np.ndarray, targets: np.ndarray, names: list[str], dataset, rounds: int) -> dict:
    """Macro AUROC among the images of one view position, of women or men, and of one range of age.

    Args:
        scores, targets: (N, C). rounds: at most 100 are drawn.
    Returns:
        attribute -> group -> {"images", "findings", "macro_auroc", "macro_auroc_interval"}; `findings` counts those
        with positives and negatives enough among the group's images. Groups without any are left out.
    """
    attributes = {
        "view position": [view or "unknown" for view in dataset["view_position"]],
        "sex": [sex or "unknown" for sex in dataset["patient_sex"]],
        "age": [_age_range(age) for age in dataset["patient_age"]],
    }
    patients = np.asarray(dataset["patient_id"])
    found: dict = {}
    for attribute, values in attributes.items():
        for group in sorted(set(values)):
            rows = np.flatnonzero(np.asarray(values) == group)
            per_finding = auroc_per_label(scores[rows], targets[rows], names)
            if per_finding:
                kept = tuple(per_finding)
                own = np.ix_(rows, [names.index(name) for name in kept])
                found.setdefault(attribute, {})[group] = {
                    "images": len(rows),
                    "findings": len(kept),
                    "macro_auroc": _mean(per_finding.values()),
                    "macro_auroc_interval": grouped_bootstrap(
                        lambda drawn, s=scores[own], t=targets[own], k=kept: _mean(
                            auroc_per_label(s[drawn], t[drawn], k).values()
                        ),
                        patients[rows],
                        min(rounds, 100),
                    ),
                }
    return found


def _age_range(age: float | None) -> str:
    if age is None or not np.isfinite(age):
        return "unknown"
    return "0 to 39" if age < 40 else "40 to 59" if age < 60 else "60 to 79" if age < 80 else "80 and over"


def retrieval(scorer: Scorer, dataset, prefix: str, rounds: int, among: Sequence[str] | None = None) -> dict:
    """Image to report and back; relevant = the same set of positive labels, and also the same study.

    Only images with a report take part. `among` names the labels that are compared: a gallery's classes.
    """
    dataset = dataset.select([row for row, text in enumerate(dataset["findings"]) if text])
    texts = scorer.embed_texts(dataset["findings"])
    names = label_names(dataset)
    labels = label_targets(dataset["labels"])[:, [names.index(name) for name in among or names]]
    same_labels = (labels[:, None] == labels[None]).all(axis=2)
    studies = np.asarray(dataset["study_id"])
    patients = dataset["patient_id"]
    metrics = {f"{prefix}_intervals": {}}
    for condition in scorer.conditions:
        similarity = scorer.similarity(dataset, condition, texts)
        suffix = "" if condition == "no_context" else f"_{condition}"
        for direction, scores in (("image_to_report", similarity), ("report_to_image", similarity.T)):
            for name, value in retrieval_scores(scores, same_labels).items():
                metrics[f"{prefix}_{direction}_{name}{suffix}"] = value
            if condition == "no_context":
                for name, interval in mean_intervals(retrieval_hits(scores, same_labels), patients, rounds).items():
                    metrics[f"{prefix}_intervals"][f"{prefix}_{direction}_{name}"] = interval
        if condition == "no_context":
            name = f"{prefix}_image_to_report_p@1"
            metrics[f"{name}_interval"] = _interval(metrics[f"{prefix}_intervals"], name)
            metrics[f"{prefix}_same_study"] = retrieval_scores(similarity, studies[:, None] == studies[None])
    return metrics


def gaze_agreement(scorer: Scorer, train, test, rounds: int) -> dict:
    """Predicted maps of spoken sentences against the recorded ones, and against lesion masks where there are any.

    The baselines are averaged over `train`; None leaves them out.
    """
    with_gaze = _with_gaze(test)
    if not len(with_gaze):
        return {}
    predicted, recorded, image, full = scorer.gaze_maps(with_gaze)
    sentences = _sentences(with_gaze)
    kept = ~full & (recorded.sum(axis=1) > 0)
    maps = {"": predicted}
    if train is not None:
        baselines = mean_maps(scorer, _with_gaze(train))
        views = with_gaze["view_position"][:]
        types = [sentence_type(views[i], text) for i, text in sentences]
        by_type = np.zeros_like(predicted)
        by_type[~full] = [baselines.get(kind, baselines[None]) for kind in types]
        maps |= {"_mean_map": np.broadcast_to(baselines[None], predicted.shape), "_sentence_type_map": by_type}

    patients = np.asarray(with_gaze["patient_id"])[image]
    truth = _distribution(recorded[kept])
    metrics = {"gaze_sentences": int(kept.sum()), "gaze_pointing_game_chance": 0.25}
    for suffix, values in maps.items():
        hits = gaze_pointing_game(values[kept], recorded[kept])
        divergence = jensen_shannon(_distribution(values[kept]), truth)
        metrics[f"gaze_pointing_game{suffix}"] = float(hits.mean())
        metrics[f"gaze_jensen_shannon{suffix}"] = float(divergence.mean())
        if not suffix:
            own = {"gaze_pointing_game": hits, "gaze_jensen_shannon": divergence}
            metrics["gaze_intervals"] = mean_intervals(own, patients[kept], rounds)
            metrics["gaze_pointing_game_interval"] = _interval(metrics["gaze_intervals"], "gaze_pointing_game")
    uniform = np.full_like(truth, 1 / truth.shape[1])
    metrics["gaze_jensen_shannon_chance"] = float(jensen_shannon(uniform, truth).mean())
    return metrics | _grounding(scorer, with_gaze, maps, image, full, rounds)


def _grounding(scorer, dataset, maps, image, full, rounds) -> dict:
    """Phrase grounding: a region's sentence is one of the first reading's."""
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
    if not rows:
        return {}
    rows, coverage = np.asarray(rows), np.stack(coverage)
    assert not full[rows].any()
    patients = np.asarray(dataset["patient_id"])[image[rows]]
    metrics = {"grounding_phrases": len(rows), "grounding_pointing_game_chance": float((coverage > 0).mean())}
    for suffix, values in maps.items():
        hits, contrast = phrase_grounding(values[rows], coverage)
        metrics[f"grounding_pointing_game{suffix}"] = float(hits.mean())
        metrics[f"grounding_cnr{suffix}"] = float(contrast.mean())
        if not suffix:
            own = {"grounding_pointing_game": hits, "grounding_cnr": contrast}
            found = metrics["grounding_intervals"] = mean_intervals(own, patients, rounds)
            metrics["grounding_pointing_game_interval"] = _interval(found, "grounding_pointing_game")
    return metrics | {"grounding_cnr_chance": 0.0}


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


def read_prompts(path: str | Path) -> dict:
    """Raises ValueError if a finding has no positive or no negative prompt."""
    prompts = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    for name, sides in prompts.get("findings", {}).items():
        for side in ("positive", "negative"):
            if not sides.get(side):
                raise ValueError(f"prompts: {path} has no {side} prompts for {name!r}.")
    return prompts


def _gallery(arguments, test):
    if arguments.gallery_data:
        return load_data(arguments.gallery_data, "gallery_data")
    options = mapping(arguments.test_data, "test_data")
    if options["name"] == "phantom":
        return load_phantom_gallery(seed=options.get("seed", 0), image_size=options.get("image_size", 224))
    return None


def _with_gaze(dataset):
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


def _interval(intervals: dict, name: str) -> tuple[float, float]:
    return intervals.get(name, (float("nan"), float("nan")))


def _distribution(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(rows.sum(axis=1, keepdims=True), 1e-12)


def _mean(values) -> float:
    values = list(values)
    return float(np.mean(values)) if values else float("nan")


if __name__ == "__main__":
    main()
