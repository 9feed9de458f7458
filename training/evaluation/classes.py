"""Zero-shot classification into exclusive classes, and retrieval by class queries, as the EGMA paper scores them.

Only images of exactly one class take part (CheXpert 5x200 and 8x200, the phantom's gallery); a data set of one label
(RSNA, SIIM) is that label against No Finding. Classification takes the highest class score; a class's score is the
maximum or the mean over its prompts (EGMA), or that of the prompts' mean (CoGaze). Retrieval ranks queries by an image
and images by a query; relevant = the same class.
"""

import numpy as np
from sklearn.metrics import accuracy_score, f1_score

from processing.datasets.records import label_names, label_targets

from ..metrics.scores import Bootstrap, Score
from .alignment import ranked
from .scorers import Scorer


class TooFewClasses(ValueError):
    """Of the classes that there are prompts for, the data show fewer than two."""


def exclusive_classes(dataset, known: list[str]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Names of the classes, the rows of the images of exactly one of them, and which it is.

    A data set of one label has the classes label and No Finding. No Finding is dropped where no image is of it alone.

    Raises:
        TooFewClasses: fewer than two of the data set's classes are among `known`.
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
        raise TooFewClasses(f"data: its images show {len(columns)} of the classes {', '.join(known)}; two are needed.")
    return [own[column] for column in columns], rows, targets[rows][:, columns].argmax(axis=1)


def evaluate_classes(
    scorer: Scorer, dataset, combinations: dict, queries: dict, classes: list[str] | None = None, rounds: int = 200
) -> dict[str, Score]:
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

    def statistics(drawn):
        return {
            "class_accuracy": float(accuracy_score(truth[drawn], predicted[drawn])),
            "class_f1": float(f1_score(truth[drawn], predicted[drawn], average="macro")),
        }

    scored = Bootstrap(chosen["patient_id"], rounds).scores(statistics, on=_on(len(rows), names))
    share = np.bincount(truth) / len(truth)
    scored["class_accuracy"].chance = float(share.max())
    # Guessing uniformly: precision is the class's share, recall one in so many.
    scored["class_f1"].chance = float(np.mean(2 * share / (len(names) * share + 1)))
    return scored | _query_retrieval(scorer, dataset, queries, rounds)


def _on(images: int, names: list[str]) -> str:
    return f"{images} images of one class each: {', '.join(names)}"


def _query_retrieval(scorer: Scorer, dataset, queries: dict, rounds: int) -> dict[str, Score]:
    names, rows, truth = exclusive_classes(dataset, list(queries))
    texts = [query for name in names for query in queries[name]]
    of_query = np.repeat(np.arange(len(names)), [len(queries[name]) for name in names])
    chosen = dataset.select(rows)
    similarity = scorer.similarity(chosen, "no_context", scorer.embed_texts(texts))
    relevant = truth[:, None] == of_query
    by_image, by_query = Bootstrap(chosen["patient_id"], rounds), Bootstrap(range(len(texts)), rounds)
    on, each = _on(len(rows), names), f"{len(texts)} queries, its interval too"
    return ranked(by_image, similarity, relevant, "image_to_text_", "", on, hit_rate_at=()) | ranked(
        by_query, similarity.T, relevant.T, "text_to_image_", "", each, hit_rate_at=()
    )
