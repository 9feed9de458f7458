"""The card of a checkpoint: what it is, was made from and reaches, from its config, `training.json` and measurements.

No number is written by hand: results come from the JSON files of `training.demo`, `training/evaluate_*.py` and the
like, times and machines from `training.json`. The words are in `model_cards/`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers import PreTrainedConfig

from processing.datasets import registry

from ..runs.files import read_json
from ..runs.tables import with_interval

CARDS = Path(__file__).resolve().parents[2] / "model_cards"
TEXTS = yaml.safe_load((CARDS / "texts.yaml").read_text(encoding="utf-8"))

WEAK = 0.6  # findings with a lower AUROC are named among the limitations


@dataclass
class Measurement:
    """One number with its 95 % interval, and the numbers beside it by their titles."""

    name: str
    value: float
    interval: tuple[float, float]
    beside: dict[str, float]

    @property
    def known(self) -> dict:
        own = {"title": self.name.replace("_", " "), "task": "image-text-to-text", "metric": self.name}
        return own | TEXTS["measurements"].get(self.name, {})


def measurements(metrics: dict) -> list[Measurement]:
    """The results in an evaluation's JSON: every number that has an interval, but none of a single class.

    `X` and `X_interval`, with `X_chance` and other baselines beside it; `scores: {X: {value, low, high}}` of
    `evaluate_reports.py`; `metrics: {X: {mean, interval}}` of `finetune_*.py`.
    """
    if "scores" in metrics:
        rows = ((name, row) for name, row in metrics["scores"].items() if "low" in row)
        return [Measurement(name, row["value"], (row["low"], row["high"]), {}) for name, row in rows]
    if "metrics" in metrics:
        rows = ((name, row) for name, row in metrics["metrics"].items() if row["interval"] and "/" not in name)
        return [Measurement(name, row["mean"], tuple(row["interval"]), {}) for name, row in rows]
    names = [name for name in metrics if f"{name}_interval" in metrics]
    baselines = {name + ending for name in names for ending in TEXTS["beside"]}
    found = []
    for name in names:
        if name in baselines:
            continue
        beside = {title: metrics.get(name + ending) for ending, title in TEXTS["beside"].items()}
        if beside["chance"] is None:
            beside["chance"] = metrics.get(name.removesuffix("_context") + "_chance")
        beside = {title: value for title, value in beside.items() if value is not None}
        found.append(Measurement(name, metrics[name], tuple(metrics[f"{name}_interval"]), beside))
    return found


def read_metrics(paths: Iterable[str | Path], weights: str) -> list[dict]:
    """The evaluations in JSON files.

    Args:
        weights: the fingerprint of the weights that the card is for.

    Raises:
        ValueError: none is given, a file is missing, holds no result, or says that it was measured on other weights.
    """
    found = []
    for path in map(Path, paths):
        if not path.is_file():
            raise ValueError(f"metrics: no file {path}; write it with `cogaze evaluate`.")
        metrics = read_json(path)
        if not measurements(metrics):
            raise ValueError(f"metrics: {path} holds no result with an interval; evaluate with --bootstrap above 0.")
        if metrics.get("weights", weights) != weights:
            raise ValueError(f"metrics: {path} was measured on other weights than the checkpoint's; evaluate it again.")
        found.append(metrics)
    if not found:
        raise ValueError(
            "metrics: none given, and a card without measured results is not published; run "
            "`cogaze evaluate` and name its evaluation.json."
        )
    return found


def model_card(
    repo: str,
    config: PreTrainedConfig,
    parameter_count: int,
    evaluations: Sequence[dict],
    training: dict | None = None,
    similar_cases: bool = False,
    watts: float | None = None,
    grams_per_kwh: float | None = None,
) -> ModelCard:
    """The card of a checkpoint.

    Args:
        repo: "org/name", or the folder that it will lie in.
        evaluations: what `read_metrics` gave.
        training: what `training.json` holds.
        similar_cases: the checkpoint comes with an index of training reports.
        watts, grams_per_kwh: the power that the training machine drew and the carbon intensity of its electricity, for
            the estimate of Lacoste et al. (arXiv 1910.09700): energy x intensity.
    """
    runs = _runs(training or {})
    data = _training_data(runs)
    pretrained = list(dict.fromkeys(name for run in runs for name in run.get("pretrained", [])))
    rendered_only = [each["source"] for each in data] == ["phantom"] and not pretrained
    auto_class = _auto_class(config)
    grams = _grams(runs, watts, grams_per_kwh)
    findings = _findings(evaluations)
    card_data = ModelCardData(
        language="en",
        license="apache-2.0" if rendered_only else "other",
        library_name="transformers",
        pipeline_tag="image-text-to-text" if "Text" in auto_class else "zero-shot-image-classification",
        tags=["chest-x-ray", "radiology", "eye-gaze", "custom_code", config.model_type],
        base_model=[name for name in pretrained if "/" in name] or None,
        model_name=repo.rpartition("/")[2],
        eval_results=[result for metrics in evaluations for result in _eval_results(metrics)],
        co2_eq_emissions=None if grams is None else _emissions(grams, runs),
    )
    others = [name for name in config.auto_classes if name not in ("AutoConfig", auto_class)]
    return ModelCard.from_template(
        card_data,
        template_path=str(CARDS / "model.md"),
        repo=repo,
        family=TEXTS["families"][config.model_type],
        architecture=config.architectures[0],
        parameter_count=parameter_count,
        auto_class=auto_class,
        other_auto_classes=[f"`{name}`" for name in others],
        similar_cases=similar_cases,
        rendered_only=rendered_only,
        training_data=data,
        pretrained=[f"`{name}`" for name in pretrained],
        runs=[_described(run) for run in runs if "train_runtime" in run],
        grams=grams,
        watts=watts,
        grams_per_kwh=grams_per_kwh,
        results=[
            {"measured_on": _measured_on(m), "rows": [_row(each) for each in measurements(m)]} for m in evaluations
        ],
        findings=findings,
        limitations=_limitations(config, findings, rendered_only),
        groups=_groups(evaluations),
        citations=[TEXTS["papers"], *(each["citation"] for each in data)],
    )


def _runs(training: dict) -> list[dict]:
    """A checkpoint's training, and before it that of the checkpoints that it began with."""
    return [training, *_runs(training.get("started_from") or {})] if training else []


def _training_data(runs: Sequence[dict]) -> list[dict]:
    found = {}
    for data in (run.get("train_data") or {} for run in runs):
        name = data.get("source")
        if name in registry.names() and name not in found:
            source = registry.source(name)
            facts = ("title", "homepage", "licence", "credentialed", "citation")
            found[name] = data | {fact: getattr(source, fact) for fact in facts}
    return list(found.values())


def _auto_class(config: PreTrainedConfig) -> str:
    """What a user opens the checkpoint with: the class it was saved as; of a pretraining, the dual encoder."""
    saved_as = {architecture: auto for auto, architecture in config.auto_classes.items()}[config.architectures[0]]
    return (
        "AutoModel" if saved_as in ("AutoModelForPreTraining", "AutoModelForZeroShotImageClassification") else saved_as
    )


def _described(run: dict) -> dict:
    machine = run.get("machine", {})
    cores = f"{machine.get('cores', '?')} cores, {machine.get('processor', 'of an unknown processor')}"
    return {"name": run.get("name"), "minutes": run["train_runtime"] / 60, "machine": _gpus(machine) or cores}


def _gpus(machine: dict) -> str:
    return ", ".join(machine.get("gpus", []))


def _grams(runs: Sequence[dict], watts: float | None, grams_per_kwh: float | None) -> float | None:
    seconds = sum(run.get("train_runtime", 0) for run in runs)
    if not seconds or watts is None or grams_per_kwh is None:
        return None
    return seconds / 3600 * watts / 1000 * grams_per_kwh


def _emissions(grams: float, runs: Sequence[dict]) -> dict:
    machine = runs[0].get("machine", {})
    return {
        "emissions": round(grams, 1),
        "source": "training time x power x carbon intensity (arXiv 1910.09700)",
        "training_type": "pre-training" if len(runs) == 1 else "fine-tuning",
        "hardware_used": _gpus(machine) or machine.get("processor"),
    }


def _eval_results(metrics: dict) -> list[EvalResult]:
    tested = metrics.get("test_data") or {}
    results = []
    for each in measurements(metrics):
        name = each.known.get("source", tested.get("source"))
        results.append(
            EvalResult(
                task_type=each.known["task"],
                dataset_type=name or "other",
                dataset_name=registry.source(name).title if name in registry.names() else "not recorded",
                dataset_split=None if "source" in each.known else tested.get("split"),
                metric_type=each.known["metric"],
                metric_value=round(each.value, 4),
                metric_name=each.known["title"].replace("*", ""),
            )
        )
    return results


def _measured_on(metrics: dict) -> str:
    count = metrics.get("reports") or metrics.get("images")
    return metrics.get("measured_on") or (f"{count:,} studies." if count else "The test data were not recorded.")


def _row(each: Measurement) -> dict:
    beside = ", ".join(f"{title} {value:.3f}" for title, value in each.beside.items())
    return {"title": each.known["title"], "shown": with_interval(each.value, each.interval), "beside": beside}


def _findings(evaluations: Sequence[dict]) -> list[tuple[str, float]]:
    """Zero-shot AUROC of each finding, the best first."""
    found = next((metrics["zero_shot_auroc"] for metrics in evaluations if "zero_shot_auroc" in metrics), {})
    return sorted(found.items(), key=lambda row: -row[1])


def _groups(evaluations: Sequence[dict]) -> list[dict]:
    return [
        values
        | {
            "attribute": attribute,
            "group": group,
            "shown": with_interval(values["macro_auroc"], values["macro_auroc_interval"]),
        }
        for metrics in evaluations
        for attribute, groups in metrics.get("zero_shot_groups", {}).items()
        for group, values in groups.items()
    ]


def _limitations(config: PreTrainedConfig, findings: Sequence[tuple[str, float]], rendered_only: bool) -> list[str]:
    texts = TEXTS["limitations"]
    weak = [name for name, auroc in findings if auroc < WEAK]
    return [
        *(texts["rendered_only"] if rendered_only else []),
        *([f"It hardly tells these findings from others (AUROC below {WEAK}): {', '.join(weak)}."] if weak else []),
        *(texts["reports"] if config.architectures[0].endswith("ForConditionalGeneration") else []),
        *texts["always"],
    ]
