"""Reinforcing a report generator, from flags to a checkpoint."""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import yaml
from accelerate.utils import gather_object
from transformers import EarlyStoppingCallback, TrainerCallback, set_seed
from trl import DPOConfig, GRPOConfig

from ..metrics.reports import MetricOptions
from ..reports.similar_cases import FOLDER
from ..reports.training import check_best_by, load_splits
from ..reports.writing import one_per_study, open_writer, prediction_row, score_rows
from ..runs.command_line import mapping, parse_arguments
from ..runs.files import write_json, write_text
from ..runs.provenance import training_facts
from ..runs.settings import checkpoint_to_resume
from .gaze import GazeReward
from .preferences import PreferenceTrainer
from .rewards import Reward, checked, repetition, reward_named, weighted
from .sampling import preference_pairs, write_reports
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
    "learning_rate": 1e-6,
}
GRPO_DEFAULTS = {"num_generations": 4, "beta": 0.04}
DPO_DEFAULTS = {"beta": 0.1}
PAIRS = "preferences.jsonl"  # in the output folder: the pairs that DPO learns from


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
    objective: Literal["grpo", "dpo"] = field(
        default="grpo",
        metadata={"help": "dpo: pairs of the best and the worst of drawn reports, for language models behind CoGaze"},
    )
    max_new_tokens: int = field(default=100, metadata={"help": "of a drawn or evaluated report"})
    pair_samples: int = field(default=4, metadata={"help": "dpo: reports drawn of each image"})
    pair_temperature: float = field(default=1.0, metadata={"help": "dpo: of the drawing"})
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
    arguments, options, training = parse(argv)
    training.remove_unused_columns = False
    if arguments.objective == "grpo":
        training.max_completion_length = arguments.max_new_tokens
    set_seed(training.seed)
    weights = reward_weights(arguments.rewards)
    check_best_by(arguments, options)
    rewards = {name: reward_named(name, options) for name in weights if name != "gaze"}
    splits = load_splits(arguments)
    writer = open_writer(arguments.checkpoint, device=str(training.device), batch_size=training.train_batch_size)
    _freeze_encoder(writer.model)
    if "gaze" in weights:
        rewards["gaze"] = GazeReward(writer.model, writer.processor)
    validation = splits["validation"]
    validation = validation.select(one_per_study(validation)[: arguments.eval_studies])
    stopping = [EarlyStoppingCallback(n) for n in [arguments.early_stopping_patience] if n]
    callbacks = [StopOnDrift(arguments.max_kl, arguments.max_length_drift), *stopping]
    build = _preferring if arguments.objective == "dpo" else _reinforcing
    trainer = build(arguments, training, writer, splits["train"], validation, rewards, weights, callbacks)
    trainer.score = _scoring(trainer, arguments, options, validation, rewards, weights)
    trained = trainer.train(resume_from_checkpoint=checkpoint_to_resume(training))
    trainer.save_model()
    metrics = trainer.evaluate()
    if trainer.is_world_process_zero():
        folder = Path(training.output_dir)
        writer.processor.save_pretrained(folder)
        if getattr(writer, "cases", None) is not None:
            writer.cases.save(folder / FOLDER)
        facts = training_facts(trained.metrics["train_runtime"], splits["train"], arguments.checkpoint)
        rewarded = {"objective": arguments.objective, "rewards": weights, "beta": training.beta}
        rewarded["steps"] = trainer.state.global_step
        counts = {"train_records": len(splits["train"]), "processes": training.world_size}
        write_json(folder / "training.json", metrics | facts | counts | {"reinforced": rewarded})
    return metrics


def parse(argv: list[str] | None = None) -> tuple:
    """The arguments, the metrics' options, and trl's configuration of the objective that is asked for."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--config")
    first.add_argument("--objective")
    known, _ = first.parse_known_args(argv)
    asked = known.objective
    if asked is None and known.config and Path(known.config).is_file():
        asked = (yaml.safe_load(Path(known.config).read_text(encoding="utf-8")) or {}).get("objective")
    config, own = (DPOConfig, DPO_DEFAULTS) if asked == "dpo" else (GRPOConfig, GRPO_DEFAULTS)
    return parse_arguments((ReinforceArguments, MetricOptions, config), argv, __doc__, DEFAULTS | own)


def _reinforcing(arguments, training, writer, train, validation, rewards, weights, callbacks) -> ReportReinforcer:
    writer.model.train()
    return ReportReinforcer(writer, training, train, rewards, weights, validation, callbacks=callbacks)


def _preferring(arguments, training, writer, train, validation, rewards, weights, callbacks) -> PreferenceTrainer:
    """Pairs are drawn once, or read from the output folder, where a run that was cut off has left them."""
    path = Path(training.output_dir) / PAIRS
    if path.is_file():
        pairs = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    else:
        options = {"max_new_tokens": arguments.max_new_tokens, "temperature": arguments.pair_temperature}
        pairs = preference_pairs(writer, train, rewards, weights, arguments.pair_samples, options)
        write_text(path, "".join(json.dumps(pair) + "\n" for pair in pairs))
    writer.model.train()
    return PreferenceTrainer(writer, training, train, pairs, validation, callbacks=callbacks)


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


def _freeze_encoder(model) -> None:
    """A language model's encoder is frozen always; a decoder's where its config says so."""
    if hasattr(model.config, "freeze_encoder"):
        model.config.freeze_encoder = True


def _scoring(
    trainer: ReportReinforcer | PreferenceTrainer,
    arguments: ReinforceArguments,
    options: MetricOptions,
    validation,
    rewards: dict[str, Reward],
    weights: dict[str, float],
) -> Callable[[], dict[str, float]]:
    """Scores, rewards, length and repetition of reports that all processes write for held-out studies."""
    asked = {"do_sample": False, "num_beams": arguments.eval_num_beams, "max_new_tokens": arguments.max_new_tokens}

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
        sequences, _, _, prepared = write_reports(trainer.writer, records, range(len(records)), asked)
        texts = trainer.writer.processor.decode_reports(sequences)
        found = {name: checked(name, reward, texts, prepared) for name, reward in rewards.items()}
        return [
            prediction_row(record, ready["findings"], text) | {"reward": value}
            for record, ready, text, value in zip(records, prepared, texts, weighted(found, weights), strict=True)
        ]

    return score


def _starts(places: range, trainer) -> list[list[int]]:
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
