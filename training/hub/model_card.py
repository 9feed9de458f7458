"""The card of a checkpoint: what it is, was made from and reaches, from its config, `training.json` and measurements.

No number is written by hand: results come from the JSON files of `training.demo`, `training/evaluate_*.py` and the
like, times and machines from `training.json`. The words are in `model_cards/`.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers import PreTrainedConfig

from processing.datasets import registry

from ..evaluation.titles import described
from ..metrics.scores import Score, from_json
from ..runs.files import read_json

CARDS = Path(__file__).resolve().parents[2] / "model_cards"
TEXTS = yaml.safe_load((CARDS / "texts.yaml").read_text(encoding="utf-8"))

WEAK = 0.6  # findings with a lower AUROC are named among the limitations


def measurements(metrics: dict) -> list[Score]:
    """The results in a file of scores: those with an interval, but none of a single class or group.

    Raises:
        ValueError: the file is of an earlier version, or of something else.
    """
    if "scores" not in metrics:
        raise ValueError("it has no scores; measure them again with `cogaze evaluate`.")
    return [score for name, score in from_json(metrics["scores"]).items() if score.interval and "/" not in name]


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
        try:
            measured = measurements(metrics)
        except ValueError as error:
            raise ValueError(f"metrics: {path}: {error}") from error
        if not measured:
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
    trained_on = [run.get("train_data") or {} for run in runs]
    # Of several sources, each one.
    for data in [each for own in trained_on for each in (own.get("sources") or {"": own}).values()]:
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
    return {
        "name": run.get("name"),
        "minutes": run["train_runtime"] / 60,
        "machine": _gpus(machine) or cores,
        "reinforced": _rewarded(run.get("reinforced")),
    }


def _rewarded(reinforced: dict | None) -> str:
    if not reinforced:
        return ""
    named = ", ".join(f"{name} ({weight:g})" for name, weight in reinforced["rewards"].items())
    by = {"grpo": "GRPO", "dpo": "DPO on pairs that differ"}[reinforced["objective"]]
    return f"{by} in {named}, KL weight {reinforced['beta']:g}, {reinforced['steps']:,} steps"


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
        known = described(each.name)
        name = known.get("source", tested.get("source"))
        results.append(
            EvalResult(
                task_type=known["task"],
                dataset_type=name or "other",
                dataset_name=registry.source(name).title if name in registry.names() else "not recorded",
                dataset_split=None if "source" in known else tested.get("split"),
                metric_type=known["metric"],
                metric_value=round(each.value, 4),
                metric_name=known["title"].replace("*", ""),
            )
        )
    return results


def _measured_on(metrics: dict) -> str:
    count = metrics.get("reports") or metrics.get("images")
    return metrics.get("measured_on") or (f"{count:,} studies." if count else "The test data were not recorded.")


def _row(each: Score) -> dict:
    beside = ", ".join(f"{title} {value:.3f}" for title, value in each.beside.items())
    return {"title": described(each.name)["title"], "shown": each.shown(), "beside": beside}


def _within(evaluations: Sequence[dict], name: str) -> dict[str, Score]:
    """What stands behind "<name>/" in the first evaluation that has it."""
    for metrics in evaluations:
        scores = from_json(metrics["scores"])
        found = {own.removeprefix(f"{name}/"): each for own, each in scores.items() if own.startswith(f"{name}/")}
        if found:
            return found
    return {}


def _findings(evaluations: Sequence[dict]) -> list[tuple[str, float]]:
    """Zero-shot AUROC of each finding, the best first."""
    found = _within(evaluations, "zero_shot_auroc")
    return sorted(((name, score.value) for name, score in found.items()), key=lambda row: -row[1])


def _groups(evaluations: Sequence[dict]) -> list[dict]:
    found = _within(evaluations, "zero_shot_macro_auroc")
    return [{"group": name.replace("/", " "), "on": score.on, "shown": score.shown()} for name, score in found.items()]


def _limitations(config: PreTrainedConfig, findings: Sequence[tuple[str, float]], rendered_only: bool) -> list[str]:
    texts = TEXTS["limitations"]
    weak = [name for name, auroc in findings if auroc < WEAK]
    return [
        *(texts["rendered_only"] if rendered_only else []),
        *([f"It hardly tells these findings from others (AUROC below {WEAK}): {', '.join(weak)}."] if weak else []),
        *(texts["reports"] if config.architectures[0].endswith("ForConditionalGeneration") else []),
        *texts["always"],
    ]
