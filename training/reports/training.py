"""Training of report generators, from flags to a checkpoint."""

from collections.abc import Callable
from pathlib import Path

import torch
from accelerate.utils import gather_object
from datasets import Dataset
from torch.utils.data import SequentialSampler
from transformers import AutoConfig, EarlyStoppingCallback, TrainingArguments, set_seed

from modeling_cogaze import CoGazePrefixConfig
from processing.datasets.overlaps import warn_of_overlaps
from processing.prompts import REPORT_KINDS

from ..data.augmentation import AlignedAugmentation
from ..data.checking import keep_good_splits
from ..data.collation import Collator
from ..data.length_groups import LengthGroups
from ..data.loading import load_data
from ..data.streams import TrainingStream
from ..metrics.reports import FAMILIES, MetricOptions
from ..runs.command_line import mapping, parse_arguments
from ..runs.files import write_json
from ..runs.provenance import training_facts
from ..runs.settings import EACH_EPOCH, checkpoint_to_resume, comparable_settings
from ..runs.trainer import PartsTrainer
from .building import VARIANTS, ReportArguments, build
from .encoded import EncodedReports, collate_encoded
from .prompt_hints import hints_of_data
from .similar_cases import FOLDER, SimilarCases
from .writing import ReportPreparation, ReportWriter, WritingArguments, image_alone, one_per_study, score_rows


def parse(argv: list[str] | None) -> tuple:
    kinds = (ReportArguments, WritingArguments, MetricOptions, TrainingArguments)
    return parse_arguments(
        kinds, argv, __doc__, EACH_EPOCH | {"metric_for_best_model": "eval_best", "greater_is_better": True}
    )


def settings_of(argv: list[str]) -> dict:
    """What results hang on, of these flags."""
    arguments, writing, _, training = parse(argv)
    return comparable_settings(arguments, training) | writing.options() | {"seed": training.seed}


def train_report_generator(argv: list[str] | None = None) -> dict:
    """Train as the flags say, and write the best model, its processor and `training.json`; returns its metrics."""
    arguments, writing, metric_options, training = parse(argv)
    set_seed(training.seed)
    _check(arguments, metric_options)
    splits = load_splits(arguments)
    processor, model = build(arguments, splits["train"])
    processor.scaled_decoding = arguments.scaled_decoding or processor.scaled_decoding
    model.generation_config.update(**{"num_beams": 1, "max_new_tokens": 100} | writing.options())
    prepare = ReportPreparation(
        not arguments.no_context,
        use_views=not arguments.no_views,
        use_priors=not arguments.no_priors,
        report_kind=arguments.report_kind,
        sections=tuple(arguments.sections),
    )
    check = Collator(processor, prepare, report_labels=True)
    # What is encoded once must be as long as its data.
    how = "full" if arguments.encode_once and arguments.on_bad_record == "skip" else arguments.check
    splits, lost = keep_good_splits(splits, check, arguments.on_bad_record, training, how)
    cases = _add_hints(prepare, arguments, training, model, processor, splits)
    trainer = ReportTrainer(
        model=model,
        args=training,
        score=_scoring(arguments, metric_options, training, ReportWriter(model, processor, prepare), splits),
        lengths=[len(findings) for findings in splits["train"]["findings"]],
        **_batches(arguments, training, model, processor, prepare, splits),
        callbacks=[EarlyStoppingCallback(n) for n in [arguments.early_stopping_patience] if n],
        learning_rate_factors=_learning_rate_factors(arguments, model),
    )
    trained = trainer.train(resume_from_checkpoint=checkpoint_to_resume(training))
    trainer.save_model()
    metrics = trainer.evaluate()
    if trainer.is_world_process_zero():
        processor.save_pretrained(training.output_dir)
        if cases is not None:
            cases.save(Path(training.output_dir) / FOLDER)
        train = splits["train"]
        summary = metrics | {
            "report_kind": arguments.report_kind,
            "skipped_records": lost,
            "train_records": len(train),
            "processes": training.world_size,
        }
        runtime, pretrained = trained.metrics["train_runtime"], [arguments.decoder_weights]
        summary |= training_facts(runtime, train, arguments.checkpoint, pretrained)
        write_json(Path(training.output_dir) / "training.json", summary)
    return metrics


def load_splits(arguments) -> dict[str, Dataset]:
    """The data sets of `arguments.train_data` and `validation_data`.

    Raises:
        ValueError: shards, which report generators are not trained from; and what the loaders say.
    """
    splits = {name: load_data(getattr(arguments, f"{name}_data"), f"{name}_data") for name in ("train", "validation")}
    warn_of_overlaps({f"{name}_data": data for name, data in splits.items()})
    for name, data in splits.items():
        if isinstance(data, TrainingStream):
            raise ValueError(f"{name}_data: report generators are not trained from shards; give the data set itself.")
    return splits


def _add_hints(prepare: ReportPreparation, arguments, training, model, processor, splits) -> SimilarCases | None:
    """What prompts say of each image, into `prepare`; returns the index that it was found with."""
    if not hasattr(processor, "prompt_parts"):
        return None
    prepare.hints, cases = hints_of_data(
        model.to(training.device),
        processor,
        Collator(processor, lambda record: image_alone(prepare(record))),
        splits["train"],
        splits["validation"],
        arguments.similar_cases,
        training.per_device_eval_batch_size,
        training.dataloader_num_workers,
    )
    return cases


def _batches(arguments: ReportArguments, training, model, processor, prepare, splits: dict[str, Dataset]) -> dict:
    """The Trainer's data sets and collators: of records, or of what the frozen encoder made of them."""
    options = {"on_bad_record": arguments.on_bad_record, "report_labels": True}
    augmentation = AlignedAugmentation(arguments.crop, arguments.exposure) if arguments.crop else None
    plain = Collator(processor, prepare, **options)
    varied = Collator(
        processor,
        prepare,
        **options,
        augmentation=augmentation,
        context_dropout=arguments.context_dropout,
        companion_dropout=arguments.companion_dropout,
    )
    data, collators = (splits["train"], splits["validation"]), (varied, plain)
    if arguments.encode_once:
        model.to(training.device)
        size = training.per_device_eval_batch_size
        views = [plain] + [varied] * (arguments.encode_once - 1)
        data = [
            EncodedReports.encode(model, each, seen, size) for each, seen in zip(data, (views, [plain]), strict=True)
        ]
        collators = (collate_encoded, collate_encoded)
    return dict(
        zip(("train_dataset", "eval_dataset", "data_collator", "eval_collator"), (*data, *collators), strict=True)
    )


def _scoring(
    arguments, options: MetricOptions, training, writer: ReportWriter, splits
) -> Callable[[], dict[str, float]]:
    """Scores of reports that are written for the validation studies."""
    writer.options, writer.batch_size = {"num_beams": arguments.epoch_num_beams}, training.eval_batch_size
    validation = splits["validation"]
    places = one_per_study(validation)[: arguments.epoch_studies]
    return lambda: score_written(writer, validation, places, arguments, options)


def _learning_rate_factors(arguments: ReportArguments, model) -> dict[str, float]:
    factors = mapping(arguments.learning_rate_factors, "learning_rate_factors")
    if factors:
        return factors
    names = [name for name, _ in model.named_parameters()]
    known = VARIANTS[arguments.decoder].learning_rate_factors
    return {part: known[part] for part in known if any(name.startswith(part) for name in names)}


def _check(arguments: ReportArguments, options: MetricOptions) -> None:
    """Raise before the first epoch what its scores would raise after it."""
    if arguments.report_kind not in REPORT_KINDS:
        raise ValueError(f"report_kind: {arguments.report_kind!r} is none of {REPORT_KINDS}.")
    prefix = AutoConfig.from_pretrained(arguments.checkpoint).model_type == CoGazePrefixConfig.model_type
    if prefix and arguments.decoder != "prefix":
        raise ValueError("decoder: checkpoint is a language model with the image in its prompt; give --decoder prefix.")
    check_best_by(arguments, options)


def check_best_by(arguments, options: MetricOptions) -> None:
    """
    Raises:
        ValueError: one of `arguments.best_by` is no score of `arguments.metrics`, or cannot be computed here.
    """
    known = [name for family in arguments.metrics if family in FAMILIES for name in FAMILIES[family].names]
    unknown = [name for name in arguments.best_by if name not in known]
    if unknown:
        raise ValueError(f"best_by: {unknown[0]!r} is no score of metrics {arguments.metrics}; they give {known}.")
    text = "No pleural effusion or pneumothorax."
    row = {"dicom_id": "a", "patient_id": "a", "reference_report": text, "generated_report": text, "labels": []}
    for name, score in score_rows([row], arguments.metrics, options=options).scores.items():
        if name in arguments.best_by and score.not_computed:
            raise ValueError(f"best_by: {name} cannot be computed: {score.not_computed}")


def score_written(writer: ReportWriter, dataset, places: list[int], arguments, options) -> dict[str, float]:
    """Scores of reports that all processes write for the images at `places`; `best` is what `best_by` asks for."""
    rank, world = 0, 1
    if torch.distributed.is_initialized():
        rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    rows = gather_object(list(writer.rows(dataset, places[rank::world])))
    # The order in which scores are summed is that of one process.
    rows.sort(key=lambda row: row["dicom_id"])
    values = score_rows(rows, arguments.metrics, options=options).values
    return values | {"best": sum(values[name] for name in arguments.best_by)}


class ReportTrainer(PartsTrainer):
    """Evaluates by the loss and by `score`, the scores of written reports.

    lengths: of the training reports, which `--train_sampling_strategy group_by_length` puts together by them.
    """

    def __init__(self, *args, score: Callable[[], dict[str, float]], lengths: list[int], **kwargs):
        super().__init__(*args, **kwargs)
        self.score = score
        self.lengths = lengths

    def _get_train_sampler(self, train_dataset=None):
        if self.args.train_sampling_strategy == "group_by_length":
            size = self.args.train_batch_size * self.args.gradient_accumulation_steps
            seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
            return LengthGroups(size, self.lengths, seed, lambda: int(self.state.epoch or 0))
        return super()._get_train_sampler(train_dataset)

    def _get_eval_sampler(self, eval_dataset):
        return SequentialSampler(eval_dataset)

    def evaluation_loop(self, *args, metric_key_prefix: str = "eval", **kwargs):
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        with self.compute_loss_context_manager():  # in the precision of the run
            scores = self.score()
        output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in scores.items()})
        return output
