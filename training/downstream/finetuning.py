"""What fine-tuning for classes and for masks share: data, models, seeds, and one test at the end."""

import copy
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from datasets import Dataset
from safetensors.numpy import load_file, save_file
from transformers import (
    AutoConfig,
    AutoProcessor,
    EarlyStoppingCallback,
    PreTrainedModel,
    TrainingArguments,
    set_seed,
)

from processing.datasets.records import facts_of
from processing.tokenization import build_tokenizer

from ..data.augmentation import AlignedAugmentation
from ..data.checking import keep_good_splits
from ..data.collation import Collator
from ..data.loading import stored_columns
from ..metrics.scores import Bootstrap, from_json, to_json
from ..runs.checkpoints import newest_whole
from ..runs.command_line import mapping
from ..runs.families import FAMILIES
from ..runs.files import read_json, write_json
from ..runs.provenance import file_fingerprint, measured_on, training_facts
from ..runs.settings import SETTINGS_FILE, comparable_settings, hold_to_settings, refuse_other_settings
from ..runs.tables import markdown_table, write_results
from ..runs.trainer import PartsTrainer
from .data import Splits, Task, TaskPreparation, labelled_share, load_splits, refuse_emptied

# What may differ between runs whose results stand together.
NO_SETTING = ("seeds", "bootstrap")
PREDICTIONS = "test.safetensors"


@dataclass
class FinetuneArguments:
    """Data, model, and what is trained of it."""

    train_data: str = field(metadata={"help": 'JSON: {"name": ..., "split": ..., "root": ...}'})
    test_data: str = field(metadata={"help": "JSON, as train_data; scored once, at the end"})
    validation_data: str | None = field(
        default=None, metadata={"help": "JSON, as train_data; chooses epoch and thresholds. A part of train if absent"}
    )
    validation_fraction: float = field(default=0.1, metadata={"help": "share of train's patients, without the above"})
    checkpoint: str | None = field(default=None, metadata={"help": "pretraining checkpoint, with its processor"})
    from_scratch: bool = field(
        default=False,
        metadata={"help": "random weights, the image encoder's too, in the checkpoint's shape or that of model_size"},
    )
    model_family: Literal["cogaze", "egma"] = field(default="cogaze", metadata={"help": "without a checkpoint"})
    model_size: Literal["tiny", "base"] = field(default="base", metadata={"help": "without a checkpoint"})
    model_overrides: str | None = field(default=None, metadata={"help": "JSON: any field of the model's config"})
    vocab_size: int = field(default=4096, metadata={"help": "of the tokenizer that is built without a checkpoint"})
    labels: list[str] | None = field(
        default=None, metadata={"help": "classes; all, or for masks all in one, if absent"}
    )
    on_missing_class: Literal["raise", "skip"] = field(
        default="raise",
        metadata={"help": "a class without positives (negatives) in a split: stop, or leave it out and say so"},
    )
    label_fraction: float = field(default=1.0, metadata={"help": "share of the training patients, drawn by class"})
    seeds: int = field(default=1, metadata={"help": "runs: seed, seed + 1, ...; each draws its own label_fraction"})
    linear_probe: bool = field(default=False, metadata={"help": "train the head alone"})
    head_learning_rate_factor: float = field(default=10.0, metadata={"help": "learning rate of the head, times this"})
    no_context: bool = field(default=False, metadata={"help": "neither indication nor history"})
    crop: float | None = field(default=None, metadata={"help": "augment: least share of each side kept; off if absent"})
    exposure: float = field(
        default=0.2, metadata={"help": "augment: share by which contrast and brightness vary; with crop"}
    )
    early_stopping_patience: int | None = None
    on_bad_record: Literal["raise", "skip"] = "raise"
    minimum_positives: int = field(default=1, metadata={"help": "a class with fewer in the test is not scored there"})
    bootstrap: int = field(default=200, metadata={"help": "rounds of the bootstrap over patients"})


class FinetuneTrainer(PartsTrainer):
    """Keeps of each image only what the task's scores need."""

    def __init__(self, *args, task: Task, **kwargs):
        super().__init__(*args, **kwargs)
        self.task = task

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss, outputs = self.compute_loss(model, inputs, return_outputs=True)
        return loss.detach().mean(), *self.task.summarise(outputs.logits.float(), inputs["labels"])


def run(task: Task, arguments: FinetuneArguments, training: TrainingArguments) -> dict:
    """Fine-tune `arguments.seeds` times, test each once, write and return `metrics.json`.

    Every run's folder, `seed-<n>`, holds the model that was best on the validation images, with its processor; with
    `--resume_from_checkpoint True`, finished runs are kept and an unfinished one goes on from its last epoch.

    Raises:
        ValueError: unusable arguments or records; patients in two splits; a class that a split lacks; results of other
            settings in `output_dir`.
    """
    _check(arguments)
    splits = load_splits(
        task,
        {split: getattr(arguments, f"{split}_data") for split in ("train", "validation", "test")},
        arguments.labels,
        arguments.validation_fraction,
        arguments.on_missing_class,
        arguments.minimum_positives,
    )
    processor = build_processor(arguments, splits.data["train"])
    prepare = TaskPreparation(not arguments.no_context, task=task)
    kept, lost = keep_good_splits(splits.data, Collator(processor, prepare), arguments.on_bad_record, training)
    for split in [split for split, count in lost.items() if count]:
        rows = np.flatnonzero(np.isin(splits.data[split]["image_id"], kept[split]["image_id"]))
        splits.data[split], splits.positives[split] = kept[split], splits.positives[split][rows]
        refuse_emptied(task, splits, split, arguments.minimum_positives)

    resume = str(training.resume_from_checkpoint).lower() not in ("none", "false")
    weights = None if arguments.checkpoint is None else file_fingerprint(arguments.checkpoint)
    results = []
    for seed in range(training.seed, training.seed + arguments.seeds):
        own = copy.copy(training)
        own.output_dir, own.seed = str(Path(training.output_dir) / f"seed-{seed}"), seed
        settings = comparable_settings(arguments, own, NO_SETTING) | {"checkpoint_weights": weights}
        result = _begin(Path(own.output_dir), settings, resume, training.process_index == 0)
        if result is None:
            result = _run_once(task, arguments, own, splits, processor, prepare, settings, resume)
        results.append(result)
    return _summarise(task, arguments, training, splits, results)


def _check(arguments: FinetuneArguments) -> None:
    if not 0 < arguments.label_fraction <= 1:
        raise ValueError(f"label_fraction: {arguments.label_fraction:g} is not above 0 and at most 1.")
    if arguments.validation_data is None and not 0 < arguments.validation_fraction < 1:
        raise ValueError(f"validation_fraction: {arguments.validation_fraction:g} is not between 0 and 1.")
    if arguments.seeds < 1:
        raise ValueError(f"seeds: {arguments.seeds}; give 1 or more.")
    if arguments.checkpoint is None and not arguments.from_scratch:
        raise ValueError("checkpoint: give a pretraining checkpoint, or --from_scratch.")


def build_processor(arguments: FinetuneArguments, train: Dataset):
    """The checkpoint's processor, or a new one for the size that is asked for, with a tokenizer of train's texts."""
    if arguments.checkpoint:
        return AutoProcessor.from_pretrained(arguments.checkpoint)
    config_class, processor_class, _ = FAMILIES[arguments.model_family]
    texts = (text for record in stored_columns(train, ["indication", "history"]) for text in record.values() if text)
    tokenizer = build_tokenizer(texts, arguments.vocab_size)
    return processor_class.for_model(tokenizer, config_class.named(arguments.model_size, **_overrides(arguments)))


def build_model(task: Task, arguments: FinetuneArguments, processor, fields: dict) -> PreTrainedModel:
    """A model of the arguments' kind for the task's classes; `fields` are the task's own for the config.

    Raises:
        ValueError: the checkpoint lacks more than the head.
    """
    own = {"freeze_encoder": arguments.linear_probe, "logit_temperature": None}
    overrides = _overrides(arguments)
    fields = label_fields(task.names) | fields | own | overrides
    if arguments.checkpoint is None:
        config_class, *_ = FAMILIES[arguments.model_family]
        config = config_class.named(arguments.model_size, vocab_size=len(processor.tokenizer), **fields)
    else:
        config = AutoConfig.from_pretrained(arguments.checkpoint, **fields)
    model_class = task.models[config.model_type]
    if arguments.from_scratch:
        if hasattr(config, "freeze_vision_encoder") and "freeze_vision_encoder" not in overrides:
            # Random features of a frozen image encoder would be nothing to compare with.
            config.freeze_vision_encoder = arguments.linear_probe
        return model_class(config)
    model, report = model_class.from_pretrained(
        arguments.checkpoint, config=config, ignore_mismatched_sizes=True, output_loading_info=True
    )
    new = {*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])}
    lacking = sorted(name for name in new if not name.startswith(f"{task.head}."))
    if lacking:
        raise ValueError(f"checkpoint: {arguments.checkpoint} lacks {lacking[:3]} in the shape of its own config.")
    return model


def label_fields(names: list[str]) -> dict:
    """A config's fields for independent labels."""
    return {
        "id2label": dict(enumerate(names)),
        "label2id": {name: column for column, name in enumerate(names)},
        "problem_type": "multi_label_classification",
    }


def _overrides(arguments: FinetuneArguments) -> dict:
    return mapping(arguments.model_overrides, "model_overrides")


def _begin(folder: Path, settings: dict, resume: bool, main_process: bool) -> dict | None:
    """The result of a finished run, else None with its settings written down.

    Raises:
        ValueError: the folder holds a run of other settings, or one that is not to be gone on with.
    """
    if not resume and any(folder.glob("checkpoint-*")):
        raise ValueError(
            f"output_dir: {folder} holds checkpoints of an earlier run; go on with --resume_from_checkpoint True, give "
            "another folder, or delete that one."
        )
    file = folder / SETTINGS_FILE
    if resume and file.is_file():
        hold_to_settings(file, settings)
    elif main_process:
        write_json(file, settings)
    if not resume or not (folder / "metrics.json").is_file():
        return None
    result = read_json(folder / "metrics.json")
    refuse_other_settings(folder, result["settings"], settings, ", or delete that one")
    return result


def _run_once(
    task: Task,
    arguments: FinetuneArguments,
    training: TrainingArguments,
    splits: Splits,
    processor,
    prepare: TaskPreparation,
    settings: dict,
    resume: bool,
) -> dict:
    """Train, choose by the validation images, test; writes the model and its scores."""
    start = time.monotonic()
    folder = Path(training.output_dir)
    train, positives = splits.data["train"], splits.positives["train"]
    names = splits.names
    if arguments.label_fraction != 1:
        train, positives = labelled_share(task, arguments.label_fraction, train, positives, training.seed)

    set_seed(training.seed)
    model = task.build(arguments, processor, positives)
    trainer = _trainer(task, arguments, training, model, processor, prepare, train, splits.data["validation"])
    last = newest_whole(folder) if resume else None
    trained = trainer.train(resume_from_checkpoint=last and str(last))
    trainer.save_model()

    trainer.compute_metrics = None  # from here on with the thresholds of the validation images
    validation, test = (trainer.predict(splits.data[split]) for split in ("validation", "test"))
    thresholds = task.thresholds(validation.predictions, validation.label_ids)
    result = {
        "seed": training.seed,
        **task.scores(test.predictions, test.label_ids, thresholds, splits.scored),
        "validation": task.scores(validation.predictions, validation.label_ids, thresholds),
        "thresholds": thresholds,
        "best_epoch": _best_epoch(trainer),
        "train_images": len(train),
        "train_patients": len(set(train["patient_id"])),
        "train_positives": _counted(names, positives),
        "parameters": model.num_parameters(),
        "trained_parameters": model.num_parameters(only_trainable=True),
        "minutes": (time.monotonic() - start) / 60,
        "settings": settings,
    }
    if trainer.is_world_process_zero():
        processor.save_pretrained(folder)
        _save_predictions(folder, test.predictions, test.label_ids, splits.data["test"]["patient_id"])
        started_from = None if arguments.from_scratch else arguments.checkpoint
        facts = training_facts(trained.metrics["train_runtime"], train, started_from)
        write_json(folder / "training.json", facts | {"train_records": len(train), "processes": training.world_size})
        write_json(folder / "metrics.json", result)
    trainer.accelerator.wait_for_everyone()
    return result


def _trainer(
    task: Task,
    arguments: FinetuneArguments,
    training: TrainingArguments,
    model: PreTrainedModel,
    processor,
    prepare: TaskPreparation,
    train: Dataset,
    validation: Dataset,
) -> FinetuneTrainer:
    augmentation = AlignedAugmentation(arguments.crop, arguments.exposure) if arguments.crop else None
    options = {"model": model, "on_bad_record": arguments.on_bad_record}
    callbacks = []
    if arguments.early_stopping_patience:
        callbacks.append(EarlyStoppingCallback(arguments.early_stopping_patience))
    factors = {f"{task.head}.": arguments.head_learning_rate_factor} if hasattr(model, task.head) else {}
    return FinetuneTrainer(
        model=model,
        args=training,
        task=task,
        train_dataset=train,
        eval_dataset=validation,
        data_collator=Collator(processor, prepare, **options, augmentation=augmentation),
        eval_collator=Collator(processor, prepare, **options),
        compute_metrics=lambda found: task.scores(found.predictions, found.label_ids),
        callbacks=callbacks,
        learning_rate_factors=factors,
    )


def _best_epoch(trainer) -> float | None:
    best = trainer.state.best_global_step
    return next((entry["epoch"] for entry in trainer.state.log_history if entry["step"] == best), None)


def _save_predictions(folder: Path, predictions: np.ndarray, references: np.ndarray, patients: list[str]) -> None:
    """What the test's scores were computed from, in the order of the test images; patients as numbers."""
    partial = folder / f"{PREDICTIONS}.part"
    _, numbers = np.unique(patients, return_inverse=True)
    tensors = {"predictions": predictions, "references": references, "patients": numbers.astype(np.int64)}
    save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()}, partial)
    os.replace(partial, folder / PREDICTIONS)


def kept_predictions(folder: Path, results: list[dict]) -> list[dict[str, np.ndarray]]:
    """Of each run in `folder`: predictions, references and patients of the test images, in their order.

    Args:
        results: of the runs, as `metrics.json` has them under "seeds".
    """
    return [load_file(Path(folder) / f"seed-{result['seed']}" / PREDICTIONS) for result in results]


def _summarise(task: Task, arguments, training: TrainingArguments, splits: Splits, results: list[dict]) -> dict:
    """Mean and standard deviation over the runs, and intervals of the mean over patients."""
    found = kept_predictions(training.output_dir, results)

    def mean_scores(rows: np.ndarray) -> dict[str, float]:
        runs = [
            task.scores(arrays["predictions"][rows], arrays["references"][rows], result["thresholds"], splits.scored)
            for arrays, result in zip(found, results, strict=True)
        ]
        return {name: float(np.mean([run[name] for run in runs])) for name in runs[0]}

    test = splits.data["test"]
    scores = Bootstrap(test["patient_id"], arguments.bootstrap).scores(mean_scores)
    for name, score in scores.items():
        if len(results) > 1 and score.value is not None:
            score.std = float(np.std([result[name] for result in results], ddof=1))
    facts = facts_of(test)
    summary = {
        "task": task.name,
        "labels": splits.names,
        "scores": to_json(scores.values()),
        "left_out": splits.left_out,
        "test_positives": _counted(splits.names, splits.positives["test"]),
        "images": {split: len(dataset) for split, dataset in splits.data.items()},
        "patients": {split: len(set(dataset["patient_id"])) for split, dataset in splits.data.items()},
        "test_data": {name: facts.get(name) for name in ("source", "split")},
        "measured_on": measured_on(test),
        "seeds": results,
    }
    if training.process_index == 0:
        write_results(Path(training.output_dir), summary, markdown(summary))
    return summary


def _counted(names: list[str], positives: np.ndarray) -> dict[str, int]:
    return dict(zip(names, positives.sum(axis=0).tolist(), strict=True))


def markdown(summary: Mapping) -> str:
    """The scores as a table."""
    runs = len(summary["seeds"])
    header = [f"{summary['task']}, {runs} run{'s' * (runs > 1)}", "test"]
    rows = [[name, score.shown()] for name, score in from_json(summary["scores"]).items()]
    said = "95 % intervals over patients" + ", ± the standard deviation over runs" * (runs > 1)
    lines = [markdown_table(header, rows), "", f"{said}. Measured on {summary['measured_on']}"]
    for split, found in summary["left_out"].items():
        lines += [f"Left out of {split}: {name}, {count}." for name, count in found.items()]
    return "\n".join(lines) + "\n"
