"""Reinforcing a report generator, from flags to a checkpoint."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from accelerate.utils import gather_object
from transformers import EarlyStoppingCallback, TrainerCallback, set_seed
from trl import GRPOConfig

from processing.datasets.overlaps import warn_of_overlaps

from ..data.loading import load_data
from ..data.streams import TrainingStream
from ..metrics.reports import FAMILIES, MetricOptions
from ..reports.similar_cases import FOLDER
from ..reports.writing import ReportWriter, one_per_study, open_writer, prediction_row, score_rows
from ..runs.command_line import mapping, parse_arguments
from ..runs.files import write_json
from ..runs.provenance import training_facts
from ..runs.settings import checkpoint_to_resume
from .gaze import GazeReward
from .rewards import Reward, checked, repetition, reward_named, weighted
from .trainer import ReportReinforcer

DEFAULTS = {
    "eval_strategy": "steps",
    "save_strategy": "steps",
    "eval_on_start": True,
    "save_total_limit": 2,
    "load_best_model_at_end": True,
    "metric_for_best_model": "eval_best",
    "greater_is_better": True,
    "report_to": "tensorboard",
    "disable_dropout": True,
    "gradient_checkpointing": False,
    "bf16": False,
    "dataloader_pin_memory": False,
    "num_generations": 4,
    "beta": 0.04,
    "learning_rate": 1e-6,
    "max_completion_length": 100,
}


@dataclass
class ReinforceArguments:
    """Data, model, rewards, and when to stop."""

    train_data: str = field(metadata={"help": 'JSON: {"name": ..., "split": ..., "root": ...}'})
    validation_data: str = field(metadata={"help": "JSON, as train_data"})
    checkpoint: str = field(metadata={"help": "a trained report generator of either kind: folder or Hub id"})
    rewards: str = field(
        metadata={
            "help": 'JSON: reward -> weight, such as {"F1-RadGraph partial": 0.3, "gaze": 0.3, "length": 0.1}; a '
            "reward of training/reinforcement/rewards.py, gaze, or any score of `cogaze evaluate_reports`"
        }
    )
    metrics: list[str] = field(
        default_factory=lambda: ["bleu"], metadata={"help": "families of `cogaze evaluate_reports`, each evaluation"}
    )
    best_by: list[str] = field(
        default_factory=lambda: ["BLEU-4"],
        metadata={"help": "scores of held-out studies whose sum says which model is best; better not the reward's own"},
    )
    eval_studies: int | None = field(default=None, metadata={"help": "held-out studies to write for; all if absent"})
    eval_num_beams: int = field(default=1, metadata={"help": "beams of the search for held-out studies"})
    max_kl: float | None = field(
        default=None, metadata={"help": "stop where the mean KL divergence from the start, in nats per token, is more"}
    )
    max_length_drift: float | None = field(
        default=None,
        metadata={"help": "stop where held-out reports are longer or shorter than their references by a larger share"},
    )
    early_stopping_patience: int | None = None


def reinforce_reports(argv: list[str] | None = None) -> dict:
    """Train as the flags say, and write the best model, its processor and `training.json`; returns its scores."""
    kinds = (ReinforceArguments, MetricOptions, GRPOConfig)
    arguments, options, training = parse_arguments(kinds, argv, __doc__, DEFAULTS)
    training.remove_unused_columns = False
    set_seed(training.seed)
    weights = reward_weights(arguments.rewards)
    _check_best(arguments)
    splits = _load(arguments)
    writer = open_writer(arguments.checkpoint, device=str(training.device))
    _freeze_encoder(writer.model)
    writer.model.train()
    rewards = {name: _reward(name, writer, options) for name in weights}
    validation = splits["validation"]
    places = one_per_study(validation)[: arguments.eval_studies]
    stopping = [EarlyStoppingCallback(n) for n in [arguments.early_stopping_patience] if n]
    trainer = ReportReinforcer(
        writer,
        training,
        splits["train"],
        rewards,
        weights,
        validation=places,
        callbacks=[StopOnDrift(arguments.max_kl, arguments.max_length_drift), *stopping],
    )
    trainer.score = _scoring(trainer, arguments, options, validation.select(places), rewards, weights)
    trained = trainer.train(resume_from_checkpoint=checkpoint_to_resume(training))
    trainer.save_model()
    metrics = trainer.evaluate()
    if trainer.is_world_process_zero():
        folder = Path(training.output_dir)
        writer.processor.save_pretrained(folder)
        if getattr(writer, "cases", None) is not None:
            writer.cases.save(folder / FOLDER)
        facts = training_facts(trained.metrics["train_runtime"], splits["train"], arguments.checkpoint)
        rewarded = {"objective": "GRPO", "rewards": weights, "beta": training.beta, "steps": trainer.state.global_step}
        counts = {"train_records": len(splits["train"]), "processes": training.world_size}
        write_json(folder / "training.json", metrics | facts | counts | {"reinforced": rewarded})
    return metrics


def reward_weights(given: str | dict) -> dict[str, float]:
    """
    Raises:
        ValueError: none at all, or a weight that is no number; names the reward.
    """
    weights = mapping(given, "rewards")
    if not weights:
        raise ValueError("rewards: give at least one, with its weight.")
    for name, weight in weights.items():
        if isinstance(weight, bool) or not isinstance(weight, int | float):
            raise ValueError(f"rewards: the weight of {name} is {weight!r}, which is no number.")
    return weights


def _reward(name: str, writer: ReportWriter, options: MetricOptions) -> Reward:
    return GazeReward(writer.model, writer.processor) if name == "gaze" else reward_named(name, options)


def _check_best(arguments: ReinforceArguments) -> None:
    known = [name for family in arguments.metrics if family in FAMILIES for name in FAMILIES[family].names]
    unknown = [name for name in arguments.best_by if name not in known]
    if unknown:
        raise ValueError(f"best_by: {unknown[0]!r} is no score of metrics {arguments.metrics}; they give {known}.")


def _load(arguments: ReinforceArguments) -> dict:
    splits = {name: load_data(getattr(arguments, f"{name}_data"), f"{name}_data") for name in ("train", "validation")}
    warn_of_overlaps({f"{name}_data": data for name, data in splits.items()})
    for name, data in splits.items():
        if isinstance(data, TrainingStream):
            raise ValueError(f"{name}_data: report generators are not trained from shards; give the data set itself.")
    return splits


def _freeze_encoder(model) -> None:
    """A language model's encoder is frozen always; a decoder's where its config says so."""
    if hasattr(model.config, "freeze_encoder"):
        model.config.freeze_encoder = True


def _scoring(
    trainer: ReportReinforcer,
    arguments: ReinforceArguments,
    options: MetricOptions,
    validation,
    rewards: dict[str, Reward],
    weights: dict[str, float],
) -> Callable[[], dict[str, float]]:
    """Scores, rewards, length and repetition of reports that all processes write for held-out studies."""
    asked = {"do_sample": False, "num_beams": arguments.eval_num_beams, "max_new_tokens": trainer.max_completion_length}

    def score() -> dict[str, float]:
        rank, world = trainer.args.process_index, trainer.args.world_size
        mine = range(rank, len(validation), world)
        rows = gather_object([row for start in _starts(mine, trainer) for row in _rows(start)])
        rows.sort(key=lambda row: row["dicom_id"])  # so that sums are those of one process
        scores = score_rows(rows, arguments.metrics, options=options).values
        words = [sum(len(row[name].split()) for row in rows) for name in ("generated_report", "reference_report")]
        repeated = [repetition(row["generated_report"]) for row in rows]
        rewarded = [row["reward"] for row in rows if row["reward"] is not None]
        return scores | {
            "best": sum(scores[name] for name in arguments.best_by),
            "length_ratio": words[0] / max(1, words[1]),
            "repetition": sum(repeated) / len(repeated),
            "held_out_reward": sum(rewarded) / max(1, len(rewarded)),
        }

    def _rows(places: list[int]) -> list[dict]:
        records = [validation[place] for place in places]
        sequences, _, _, prepared = trainer.write(records, range(len(records)), asked)
        texts = trainer.writer.processor.decode_reports(sequences)
        found = {name: checked(name, reward, texts, prepared) for name, reward in rewards.items()}
        return [
            prediction_row(record, ready["findings"], text) | {"reward": value}
            for record, ready, text, value in zip(records, prepared, texts, weighted(found, weights), strict=True)
        ]

    return score


def _starts(places: range, trainer: ReportReinforcer) -> list[list[int]]:
    size = trainer.args.per_device_eval_batch_size
    return [list(places[start : start + size]) for start in range(0, len(places), size)]


class StopOnDrift(TrainerCallback):
    """Stops a run that goes too far from where it began, and says so.

    Args:
        max_kl: of the mean KL divergence between two logs, nats per token.
        max_length_drift: of |length_ratio - 1| of an evaluation.
    """

    def __init__(self, max_kl: float | None, max_length_drift: float | None):
        self.max_kl = max_kl
        self.max_length_drift = max_length_drift

    def on_log(self, args, state, control, logs=None, **kwargs):
        kl, ratio = (logs or {}).get("kl"), (logs or {}).get("eval_length_ratio")
        if self.max_kl is not None and kl is not None and kl > self.max_kl:
            self._stop(control, state, f"KL divergence {kl:.3f} is above max_kl {self.max_kl}")
        if self.max_length_drift is not None and ratio is not None and abs(ratio - 1) > self.max_length_drift:
            self._stop(control, state, f"reports are {ratio:.2f} times as long as their references")

    @staticmethod
    def _stop(control, state, why: str) -> None:
        control.should_training_stop = True
        if state.is_world_process_zero:
            print(f"Stopped at step {state.global_step}: {why}.")
