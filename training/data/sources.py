"""The entries of a run's list of data sets: what each is, its share of the draws, its labels and its texts."""

import math
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from datasets import Dataset

from processing.datasets.label_spaces import LabelColumns, join_label_spaces
from processing.datasets.label_texts import LabelTexts, label_set
from processing.datasets.overlaps import overlap, plain_image_id, shared_images
from processing.datasets.records import NOT_ANNOTATED, POSITIVE, UNCERTAIN, facts_of

from ..runs.command_line import mappings
from .loading import load_data, stored_columns
from .streams import TrainingStream

# What stands in for an image's report: its own, one composed of its labels, its own or else a composed one, nothing.
TEXTS = ("report", "labels", "report_or_labels", "none")
# Of an entry beside its loader's options. A weight is a share of the draws, or "size" or "sqrt" of the records' number.
OWN = {"weight": "size", "text": "report_or_labels", "label_names": None, "as": None}


@dataclass
class MixedSource:
    """One entry.

    name: of its own within the run. entry: what messages call it. weight: of the draws, relative to the others'.
    columns: its labels among the run's. text: one of `TEXTS`. pair_equal_labels: texts composed of equal labels are
    positives of each other.
    """

    name: str
    entry: str
    dataset: Dataset | TrainingStream
    weight: float
    text: str
    columns: LabelColumns
    texts: LabelTexts
    pair_equal_labels: bool = True

    def __len__(self) -> int:
        return len(self.dataset)

    def record(self, record: dict, seed: tuple) -> dict:
        """A record as the run reads it: labels joined, its text, and `positives_of`, what it is a positive of.

        seed: what a composed text follows from, together with the image's id.
        """
        if record.get("error"):
            return record
        codes = self.columns.codes(record["labels"] or [])
        found = {"labels": codes.tolist(), "positives_of": f"{self.name}/{record['study_id']}", "source": self.name}
        written = record["findings"] if self.text in ("report", "report_or_labels") else ""
        if not written and self.text in ("labels", "report_or_labels"):
            written = self.texts.compose(self.columns.names, codes, (*seed, record["image_id"]))
            if written and self.pair_equal_labels:
                found["positives_of"] = label_set(self.columns.names, codes)
        return record | found | {"findings": written}

    def facts(self, draws: int) -> dict:
        """What stands in `training.json` of an entry."""
        known = facts_of(self.dataset) if isinstance(self.dataset, Dataset) else self.dataset.facts
        counts: Counter = Counter()
        for row in stored_columns(self.dataset, ["findings", "labels", "indication", "history"]):
            counts["with_report"] += bool(row["findings"])
            counts["with_labels"] += bool(row["labels"])
            counts["with_context"] += bool(row["indication"] or row["history"])
        kept = {"source": known.get("source"), "split": known.get("split"), "records": len(self), "draws": draws}
        return kept | {"text": self.text, **counts, "annotated": self.columns.annotated}


def read_sources(
    specs: str | Mapping | Sequence[Mapping],
    argument: str,
    texts: LabelTexts,
    *,
    label_names: Sequence[str] | None = None,
    pair_equal_labels: bool = True,
    on_shared_images: str = "raise",
) -> tuple[list[MixedSource], dict[str, int]]:
    """The data sets that a list describes, or one mapping as a list of one.

    Args:
        specs: each as for `load_data`, with `OWN`: "weight", "text", "label_names" (its label's name -> the run's) and
            "as" (its name, by default its data set's).
        label_names: the run's, where they are known already; by default the union of all, joined by name.
        on_shared_images: of two entries: "raise", or "exclude" from the later one.
    Returns:
        The sources, and how many records each has lost to an earlier one.
    Raises:
        ValueError: a weight that is no positive number, weights of two kinds, an unknown text, an entry without
            records, two of one name, shared images, and what `join_label_spaces` says. Names the entry.
    """
    specs = mappings(specs, argument)
    entries = [f"{argument}[{place}]" for place in range(len(specs))]
    own = [{name: spec.pop(name, default) for name, default in OWN.items()} for spec in specs]
    for entry, each in zip(entries, own, strict=True):
        if each["text"] not in TEXTS:
            raise ValueError(f"{entry}: text {each['text']!r} is none of {', '.join(TEXTS)}.")
    check_weights([each["weight"] for each in own], entries)
    data = [_opened(spec, argument, entry) for spec, entry in zip(specs, entries, strict=True)]
    names = _names(data, own, entries)
    called = dict(zip(entries, (f"{entry} ({name})" for entry, name in zip(entries, names, strict=True)), strict=True))
    data, lost = _without_shared_images(data, list(called.values()), on_shared_images)
    facts = [facts_of(each) if isinstance(each, Dataset) else each.facts for each in data]
    columns = join_label_spaces(
        {called[entry]: each.get("label_names") or [] for entry, each in zip(entries, facts, strict=True)},
        {called[entry]: each.get("source") for entry, each in zip(entries, facts, strict=True)},
        {called[entry]: each["label_names"] or {} for entry, each in zip(entries, own, strict=True)},
        names=label_names,
    )
    sources = []
    for entry, name, dataset, each in zip(entries, names, data, own, strict=True):
        weight = _weight(each["weight"], len(dataset))
        parts = (called[entry], dataset, weight, each["text"], columns[called[entry]], texts, pair_equal_labels)
        sources.append(MixedSource(name, *parts))
    return sources, dict(zip(names, lost, strict=True))


def check_weights(weights: Sequence, entries: Sequence[str]) -> None:
    """
    Raises:
        ValueError: one that is neither "size", "sqrt" nor a number above 0, or numbers beside those; names the entry.
    """
    for weight, entry in zip(weights, entries, strict=True):
        number = isinstance(weight, int | float) and not isinstance(weight, bool) and math.isfinite(weight)
        if weight not in ("size", "sqrt") and not (number and weight > 0):
            raise ValueError(f"{entry}: weight {weight!r}; give a number above 0, 'size' or 'sqrt'.")
        if isinstance(weight, str) != isinstance(weights[0], str) or (isinstance(weight, str) and weight != weights[0]):
            raise ValueError(
                f"{entry}: weight {weight!r} beside {weights[0]!r} of {entries[0]}; give all a number, all 'size', or "
                "all 'sqrt'."
            )


def _weight(weight: str | float, size: int) -> float:
    return float({"size": size, "sqrt": math.sqrt(size)}.get(weight, weight))


def _opened(spec: Mapping, argument: str, entry: str) -> Dataset | TrainingStream:
    try:
        # One process reads a stream whole and takes its own part of the mixture.
        dataset = load_data(spec, argument, alone=True)
    except ValueError as error:
        raise ValueError(str(error) if str(error).startswith(argument) else f"{entry}: {error}") from error
    if len(dataset) == 0:
        raise ValueError(f"{entry}: {spec.get('name')} has no record left; look at its split and its options.")
    return dataset


def _names(data: Sequence, own: Sequence[Mapping], entries: Sequence[str]) -> list[str]:
    names: list[str] = []
    for dataset, each, entry in zip(data, own, entries, strict=True):
        facts = facts_of(dataset) if isinstance(dataset, Dataset) else dataset.facts
        name = each["as"] or facts.get("name") or facts.get("source") or f"source{len(names)}"
        if name in names:
            if each["as"]:
                raise ValueError(f"{entry}: {entries[names.index(name)]} is called {name!r}, too; give another `as`.")
            name = f"{name}{sum(other.startswith(name) for other in names) + 1}"
        names.append(name)
    return names


def _without_shared_images(data: Sequence, names: Sequence[str], on_shared_images: str) -> tuple[list, list[int]]:
    if on_shared_images not in ("raise", "exclude"):
        raise ValueError(f"on_shared_images: {on_shared_images!r} is neither 'raise' nor 'exclude'.")
    data, lost = list(data), [0] * len(data)
    for first, second in combinations(range(len(data)), 2):
        both = shared_images(data[first], data[second])
        if not both:
            found = overlap(data[first], data[second], (names[first], names[second]))
            if found and found.images is None:
                warnings.warn(f"{found}; some may be drawn twice as often.", stacklevel=4)
            continue
        told = f"{names[second]}: {len(both)} of its images, such as {min(both)}, are in {names[first]} as well"
        if on_shared_images == "raise" or not isinstance(data[second], Dataset):
            raise ValueError(f"{told}; leave one of the two out, or give --on_shared_images exclude (tables alone).")
        kept = [row for row, image in enumerate(data[second]["image_id"]) if plain_image_id(image) not in both]
        lost[second] += len(data[second]) - len(kept)
        data[second] = data[second].select(kept)
        print(f"{told}: left out here.")
        if not kept:
            raise ValueError(f"{names[second]}: all its images are in {names[first]}; leave it out.")
    return data, lost


def positives_of_each(sources: Sequence[MixedSource]) -> list[int]:
    """How often each of the run's labels is positive, uncertain included, among the records that are annotated."""
    total = np.zeros(len(sources[0].columns.names), np.int64)
    for source in sources:
        for row in stored_columns(source.dataset, ["labels"]):
            total += np.isin(source.columns.codes(row["labels"] or []), (POSITIVE, UNCERTAIN))
    return total.tolist()


def annotated_of_each(sources: Sequence[MixedSource]) -> list[int]:
    """How many records each of the run's labels is annotated for."""
    total = np.zeros(len(sources[0].columns.names), np.int64)
    for source in sources:
        for row in stored_columns(source.dataset, ["labels"]):
            total += source.columns.codes(row["labels"] or []) != NOT_ANNOTATED
    return total.tolist()


def with_data(source: MixedSource, dataset: Dataset | TrainingStream) -> MixedSource:
    """The same entry with other records."""
    if len(dataset) == 0:
        raise ValueError(f"{source.entry}: no record is left.")
    return replace(source, dataset=dataset)
