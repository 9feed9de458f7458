"""One label space out of those of several sources, joined by name through `label_spaces.yaml`.

What a source does not know is not annotated there (`NOT_ANNOTATED`), and no training target.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import yaml

from .records import NEGATIVE, NOT_ANNOTATED, POSITIVE, UNCERTAIN

TABLE = Path(__file__).with_name("label_spaces.yaml")
NO_FINDING = "No Finding"


@dataclass(frozen=True)
class LabelTable:
    """joined: a source's name, folded -> the joined name. complete: sources whose No Finding follows from the rest."""

    joined: Mapping[str, str]
    complete: frozenset[str]

    def name(self, own: str) -> str:
        """The joined name of what a source calls `own`."""
        return self.joined.get(folded(own), own)


@dataclass(frozen=True)
class LabelColumns:
    """Where the joined labels stand among a source's own.

    names: the joined ones. places: (C,) index among the source's labels, -1 where it has no such label. derived: the
    column of No Finding where it follows from the others; else None.
    """

    names: tuple[str, ...]
    places: np.ndarray
    derived: int | None = None

    @property
    def annotated(self) -> list[str]:
        """Joined names that the source knows."""
        return [name for c, name in enumerate(self.names) if self.places[c] >= 0 or c == self.derived]

    def codes(self, own: Sequence[int]) -> np.ndarray:
        """(C,) int64 codes of the joined labels for a record's own; without any, nothing is annotated."""
        if not len(own):
            return np.full(len(self.names), NOT_ANNOTATED)
        codes = np.where(self.places >= 0, np.asarray(own, np.int64)[self.places], NOT_ANNOTATED)
        if self.derived is not None:
            codes[self.derived] = NEGATIVE if np.isin(own, (POSITIVE, UNCERTAIN)).any() else POSITIVE
        return codes


def folded(name: str) -> str:
    """A label's name without what spellings differ in."""
    return " ".join(name.replace("_", " ").replace("-", " ").casefold().split())


@cache
def read_label_table(path: str | Path = TABLE) -> LabelTable:
    """
    Raises:
        ValueError: no such table, or a name that stands for two joined names.
    """
    values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    if not isinstance(values, dict) or not isinstance(values.get("names"), dict):
        raise ValueError(f"label table: {path} has no `names`, joined name -> list of names.")
    joined: dict[str, str] = {}
    for name, own in values["names"].items():
        for each in {folded(other) for other in (name, *(own or []))}:
            if each in joined:
                raise ValueError(f"label table: {path} has {each!r} under {joined[each]!r} and under {name!r}.")
            joined[each] = name
    return LabelTable(joined, frozenset(values.get("complete") or ()))


def join_label_spaces(
    spaces: Mapping[str, Sequence[str]],
    sources: Mapping[str, str] | None = None,
    renamed: Mapping[str, Mapping[str, str]] | None = None,
    table: LabelTable | None = None,
    names: Sequence[str] | None = None,
) -> dict[str, LabelColumns]:
    """The joined space and each entry's place in it.

    Args:
        spaces: entry -> names of its labels, none where it has no labels.
        sources: entry -> its data set's name, for `LabelTable.complete`.
        renamed: entry -> its label's name -> joined name, before the table.
        names: the joined names, in their order; by default all that the entries have, as they come.
    Raises:
        ValueError: one entry has two labels of one joined name; two entries call different labels by one name; an entry
            renames a label that it does not have. Names the entries.
    """
    table = table or read_label_table()
    renamed = {entry: {folded(k): v for k, v in own.items()} for entry, own in (renamed or {}).items()}
    said: dict[str, tuple[str, str]] = {}
    joined: dict[str, dict[str, int]] = {}
    spelled: dict[str, str] = {folded(name): name for name in names or ()}
    for entry, space in spaces.items():
        own = renamed.get(entry, {})
        unknown = sorted(own.keys() - {folded(name) for name in space})
        if unknown:
            raise ValueError(f"{entry}: label_names renames {unknown[0]!r}, which is none of its labels {list(space)}.")
        places: dict[str, int] = {}
        for place, label in enumerate(space):
            name = own.get(folded(label)) or table.name(label)
            name = spelled.setdefault(folded(name), name)
            if name in places:
                raise ValueError(f"{entry}: its labels {space[places[name]]!r} and {label!r} both become {name!r}.")
            before, meant = said.setdefault(folded(label), (entry, name))
            if meant != name:
                raise ValueError(f"{before} and {entry}: {label!r} is {meant!r} in one and {name!r} in the other.")
            places[name] = place
        joined[entry] = places
    complete = {entry for entry in spaces if (sources or {}).get(entry) in table.complete and spaces[entry]}
    if names is None:
        names = list(dict.fromkeys(name for places in joined.values() for name in places))
        if complete and NO_FINDING not in names:
            names.append(NO_FINDING)
    return {entry: _columns(tuple(names), places, entry in complete) for entry, places in joined.items()}


def _columns(names: tuple[str, ...], places: Mapping[str, int], complete: bool) -> LabelColumns:
    derived = names.index(NO_FINDING) if complete and NO_FINDING in names and NO_FINDING not in places else None
    return LabelColumns(names, np.array([places.get(name, -1) for name in names]), derived)
