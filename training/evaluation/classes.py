"""Zero-shot classification into exclusive classes, and retrieval by class queries, as the EGMA paper scores them.

    python training/evaluate_classes.py --checkpoint egma --data '{"name": "chexpert_8x200", "root": "data/chexpert"}'

Only images of exactly one class take part (CheXpert 5x200 and 8x200, the phantom's gallery); a data set of one label
(RSNA, SIIM) is that label against No Finding. Classification takes the highest class score; a class's score is the
maximum or the mean over its prompts (EGMA), or that of the prompts' mean (CoGaze). Retrieval ranks queries by an image
and images by a query; relevant = the same class. Chance stands beside every number.
"""

import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import yaml
from sklearn.metrics import accuracy_score, f1_score

from processing.datasets.phantom.loading import GALLERY_CLASSES, load_phantom_gallery
from processing.datasets.records import label_names, label_targets

from ..data.loading import load_data
from ..metrics.alignment import grouped_bootstrap, mean_intervals, retrieval_hits, retrieval_scores
from ..runs.command_line import parse_arguments
from ..runs.files import CONFIGS, write_json
from .scorers import Scorer, load_scorer

PROMPTS = CONFIGS / "evaluation" / "egma_prompts.yaml"


@dataclass
class ClassesArguments:
    checkpoint: str = field(metadata={"help": "folder or Hub id"})
    data: str | None = field(default=None, metadata={"help": "JSON; the phantom's balanced gallery if absent"})
    classes: list[str] | None = field(
        default=None, metadata={"help": "classes told apart; all of the prompts' that the data have, if absent"}
    )
    prompts: str = field(default=str(PROMPTS), metadata={"help": "YAML file of combinations and queries"})
    prompts_per_class: int = field(default=50, metadata={"help": "combinations drawn for each class; 0 = all"})
    ensemble: Literal["max", "mean"] = field(default="max", metadata={"help": "over an EGMA class's prompts"})
    seed: int = field(default=0, metadata={"help": "of the combinations that are drawn"})
    batch_size: int = 32
    bootstrap: int = field(default=200, metadata={"help": "rounds of the bootstrap over patients"})
    device: str = "cpu"
    output: str | None = field(default=None, metadata={"help": "JSON file"})


def main(argv: list[str] | None = None) -> dict:
    (arguments,) = parse_arguments((ClassesArguments,), argv, __doc__)
    scorer = load_scorer(arguments.checkpoint, arguments.batch_size, arguments.device)
    if hasattr(scorer, "ensemble"):
        scorer.ensemble = arguments.ensemble
    if arguments.data:
        dataset, classes = load_data(arguments.data, "data"), arguments.classes
    else:
        dataset, classes = load_phantom_gallery(), arguments.classes or list(GALLERY_CLASSES)
    prompts = yaml.safe_load(Path(arguments.prompts).read_text(encoding="utf-8"))
    combinations = combinatorial_prompts(prompts["combinations"], arguments.prompts_per_class or None, arguments.seed)
    metrics = evaluate_classes(scorer, dataset, combinations, prompts["queries"], classes, arguments.bootstrap)
    if arguments.output:
        write_json(arguments.output, metrics)
    return metrics


def combinatorial_prompts(table: dict, per_class: int | None = None, seed: int = 0) -> dict[str, list[str]]:
    """Every severity with every subtype and every location of a class, and its complete phrases.

    Args:
        table: class -> {"finding", "severities", "subtypes", "locations"} and/or {"phrases"}.
        per_class: so many are drawn without replacement; None: all, in the table's order.
        seed: of what is drawn; a class's draw does not depend on the other classes.
    Raises:
        ValueError: a class that yields no prompt.
    """
    prompts = {}
    for name, parts in table.items():
        lists = [parts.get(key) or [""] for key in ("severities", "subtypes")] + [[parts.get("finding", "")]]
        lists.append(parts.get("locations") or [""])
        combined = [" ".join(filter(None, words)) for words in itertools.product(*lists)] if "finding" in parts else []
        combined += parts.get("phrases", [])
        if not combined:
            raise ValueError(f"combinations: {name!r} has neither a finding nor phrases.")
        if per_class is not None and per_class < len(combined):
            drawn = np.random.default_rng([seed, *name.encode()]).choice(len(combined), per_class, replace=False)
            combined = [combined[index] for index in sorted(drawn)]
        prompts[name] = combined
    return prompts


def exclusive_classes(dataset, known: list[str]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Names of the classes, the rows of the images of exactly one of them, and which it is.

    A data set of one label has the classes label and No Finding. No Finding is dropped where no image is of it alone.

    Raises:
        ValueError: fewer than two of the data set's classes are among `known`.
    """
    targets = label_targets(dataset["labels"]) > 0
    names = {name.lower(): name for name in known}
    own = [names.get(name.lower()) for name in label_names(dataset)]
    if len(own) == 1:
        own, targets = [*own, "No Finding"], np.concatenate([targets, ~targets], axis=1)
    columns = [column for column, name in enumerate(own) if name is not None]
    rows = np.flatnonzero(targets[:, columns].sum(axis=1) == 1)
    columns = [column for column in columns if targets[rows, column].any()]
    if len(columns) < 2:
        raise ValueError(f"data: its images show {len(columns)} of the classes {', '.join(known)}; two are needed.")
    return [own[column] for column in columns], rows, targets[rows][:, columns].argmax(axis=1)


def evaluate_classes(
    scorer: Scorer, dataset, combinations: dict, queries: dict, classes: list[str] | None = None, rounds: int = 200
) -> dict:
    """Accuracy, macro F1 and retrieval, with chance levels.

    Only `classes` are told apart, if given. They have the prompts of `combinations`, or those of `queries` where one of
    them has no combination.
    """
    if classes is not None:
        combinations = {name: prompts for name, prompts in combinations.items() if name in classes}
        queries = {name: prompts for name, prompts in queries.items() if name in classes}
    found, _, _ = exclusive_classes(dataset, sorted({*combinations, *queries}))
    prompts = combinations if set(found) <= set(combinations) else queries
    names, rows, truth = exclusive_classes(dataset, list(prompts))
    chosen = dataset.select(rows)
    scores = scorer.class_scores(chosen, "no_context", scorer.embed_classes([prompts[name] for name in names]))
    predicted = scores.argmax(axis=1)
    share = np.bincount(truth) / len(truth)
    metrics = {
        "images": len(rows),
        "classes": names,
        "prompts_per_class": [len(prompts[name]) for name in names],
        "accuracy": accuracy_score(truth, predicted),
        "accuracy_interval": grouped_bootstrap(
            lambda drawn: accuracy_score(truth[drawn], predicted[drawn]), chosen["patient_id"], rounds
        ),
        "accuracy_chance": float(share.max()),
        "macro_f1": f1_score(truth, predicted, average="macro"),
        "macro_f1_interval": grouped_bootstrap(
            lambda drawn: f1_score(truth[drawn], predicted[drawn], average="macro"), chosen["patient_id"], rounds
        ),
        # Guessing uniformly: precision is the class's share, recall one in so many.
        "macro_f1_chance": float(np.mean(2 * share / (len(names) * share + 1))),
    }
    if hasattr(scorer, "ensemble"):
        metrics["ensemble"] = scorer.ensemble
    return metrics | _query_retrieval(scorer, dataset, queries, rounds)


def _query_retrieval(scorer: Scorer, dataset, queries: dict, rounds: int) -> dict:
    names, rows, truth = exclusive_classes(dataset, list(queries))
    texts = [query for name in names for query in queries[name]]
    of_query = np.repeat(np.arange(len(names)), [len(queries[name]) for name in names])
    chosen = dataset.select(rows)
    similarity = scorer.similarity(chosen, "no_context", scorer.embed_texts(texts))
    relevant = truth[:, None] == of_query
    metrics = {"retrieval_classes": names, "retrieval_intervals": {}}
    for direction, scores, matches, groups in (
        ("image_to_text", similarity, relevant, chosen["patient_id"]),
        ("text_to_image", similarity.T, relevant.T, range(len(texts))),
    ):
        found = retrieval_scores(scores, matches, hit_rate_at=())
        metrics |= {f"{direction}_{name}": value for name, value in found.items()}
        intervals = mean_intervals(retrieval_hits(scores, matches, hit_rate_at=()), groups, rounds)
        metrics["retrieval_intervals"] |= {f"{direction}_{name}": interval for name, interval in intervals.items()}
    return metrics


if __name__ == "__main__":
    main()
