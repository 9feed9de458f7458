"""What evaluations of a checkpoint read, and what they found."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from datasets import Dataset

from processing.datasets.phantom.loading import GALLERY_CLASSES
from processing.datasets.records import facts_of

from ..metrics.scores import Score
from .prompts import CLASS_PROMPTS, PROMPTS
from .published import published
from .scorers import Scorer, load_scorer


@dataclass
class Evaluation:
    """What evaluations read, and what they found.

    Args:
        checkpoint: folder or Hub id.
        data: the images to score.
        validation: of the same label names; thresholds of F1 are chosen on it, if given.
        train: the baselines of gaze agreement are averaged over it, and shortcuts are fitted on it, if given.
        gallery: single findings in equal numbers, if the data set is such a sample or has such a companion.
        classes: those findings.
        prompts, class_prompts: YAML files. prompts_per_class: of the combinations, drawn by `seed`; None: all.
        ensembles: over the prompts of an EGMA's class, "max" and "mean".
        use_context: False leaves indication and history out of what heads and report generators read.
        metrics: families of report metrics; None: those of the kind of reports.

    `scores` have, by name, also what was not measured, with the reason. `notes` say what must be known of them.
    """

    checkpoint: str
    data: Dataset
    validation: Dataset | None = None
    train: Dataset | None = None
    gallery: Dataset | None = None
    classes: Sequence[str] = GALLERY_CLASSES
    prompts: str | Path = PROMPTS
    class_prompts: str | Path = CLASS_PROMPTS
    prompts_per_class: int | None = 50
    ensembles: Sequence[str] = ("max", "mean")
    seed: int = 0
    use_context: bool = True
    metrics: Sequence[str] | None = None
    rounds: int = 200
    batch_size: int = 32
    device: str = "cpu"
    scores: dict[str, Score] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @cached_property
    def scorer(self) -> Scorer:
        """Of a dual encoder."""
        return load_scorer(self.checkpoint, self.batch_size, self.device)

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

    def add(self, scores: Iterable[Score], cite: bool = True) -> None:
        """Take scores, with what is published of their like. cite: False where papers average over other classes."""
        for score in scores:
            score.published = published(score.name, self.name) if cite and score.value is not None else []
            self.scores[score.name] = score

    def leave_out(self, reason: str, *names: str) -> None:
        self.scores |= {name: Score(name, not_computed=reason) for name in names}

    def lacks_labels(self, known: str) -> str:
        """Why nothing can be said of labels that are `known`."""
        if not self.label_names:
            return "the data have no labels"
        return f"{known} none of the data's labels: {', '.join(self.label_names)}"
