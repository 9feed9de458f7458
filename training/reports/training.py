"""Training of report generators, from flags to a checkpoint."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from accelerate.utils import gather_object
from torch.utils.data import SequentialSampler
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    EarlyStoppingCallback,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_pt_utils import LengthGroupedSampler

from modeling_cogaze import CoGazePrefixConfig, CoGazePrefixForConditionalGeneration
from modeling_cogaze.configuration_cogaze_prefix import PREFIX_LATENTS
from processing import CoGazePrefixProcessor, CoGazeProcessor
from processing.datasets.overlaps import warn_of_overlaps
from processing.prompts import REPORT_KINDS, report_messages
from processing.tokenization import build_tokenizer

from ..data.augmentation import AlignedAugmentation
from ..data.checking import keep_good_records
from ..data.loading import load_data
from ..data.streams import TrainingStream
from ..metrics.reports import FAMILIES, MetricOptions
from ..runs.command_line import mapping, parse_arguments
from ..runs.files import write_json
from ..runs.provenance import training_facts
from ..runs.settings import EACH_EPOCH, checkpoint_to_resume, comparable_settings
from ..runs.trainer import PartsTrainer
from .encoded import EncodedReports, collate_encoded
from .prompt_hints import hints_of_data
from .similar_cases import FOLDER
from .writing import Preparation, ReportWriter, WritingArguments, image_alone, one_per_study, score_rows


@dataclass
class ReportArguments:
    """Data, model, and what counts as best."""

    train_data: str = field(metadata={"help": 'JSON: {"name": ..., "split": ..., "root": ...}'})
    validation_data: str = field(metadata={"help": "JSON, as train_data"})
    checkpoint: str = field(metadata={"help": "a checkpoint of the pretraining or of a report generator"})
    decoder: Literal["cross_attention", "prefix"] = field(
        default="cross_attention",
        metadata={"help": "reads the image by cross-attention, or is any causal language model with it in its prompt"},
    )
    report_kind: Literal["free_text", "structured"] = "free_text"
    decoder_weights: str | None = field(
        default=None, metadata={"help": "pretrained language model: folder or Hub id; random weights if absent"}
    )
    decoder_overrides: str | None = field(
        default=None, metadata={"help": "JSON: fields of the decoder's config, where it has random weights"}
    )
    model_overrides: str | None = field(default=None, metadata={"help": "JSON: any field of the model's config"})
    processor_overrides: str | None = field(
        default=None, metadata={"help": "JSON: lengths and formats of the processor, such as max_report_length"}
    )
    prompt_parts: list[str] | None = field(
        default=None,
        metadata={"help": "prefix: what the prompt says beside the image, similar_report and diseases if absent"},
    )
    similar_cases: str | None = field(
        default=None,
        metadata={"help": "prefix: folder of `cogaze index_similar_cases`; made of the training data if absent"},
    )
    encode_once: int = field(
        default=0,
        metadata={
            "help": "run the encoder before training only, so many times per image (the first without augmentation), "
            "and keep it as it is; what it made of the images lies in memory"
        },
    )
    on_bad_record: Literal["raise", "skip"] = "raise"
    crop: float | None = field(default=None, metadata={"help": "augment: least share of each side kept; off if absent"})
    exposure: float = field(default=0.2, metadata={"help": "augment: share by which contrast and brightness vary"})
    context_dropout: float = field(default=0.0, metadata={"help": "share of records whose context is left out"})
    no_context: bool = field(default=False, metadata={"help": "ablation: neither indication nor history"})
    learning_rate_factors: str | None = field(
        default=None, metadata={"help": "JSON: beginning of parameters' names -> factor of their learning rate"}
    )
    epoch_studies: int | None = field(
        default=None, metadata={"help": "validation studies to write reports for after each epoch; all if absent"}
    )
    epoch_num_beams: int = field(default=1, metadata={"help": "beams of the search after each epoch"})
    metrics: list[str] = field(
        default_factory=lambda: ["bleu"], metadata={"help": "families of `cogaze evaluate_reports`, each epoch"}
    )
    best_by: list[str] = field(
        default_factory=lambda: ["BLEU-4"], metadata={"help": "scores whose sum says which epoch is best"}
    )
    early_stopping_patience: int | None = None


@dataclass
class Variant:
    """A kind of decoder.

    build: arguments, training data -> processor and model. learning_rate_factors: where none are given.
    """

    build: Callable[..., tuple]
    learning_rate_factors: dict[str, float]


def build_cross_attention(arguments: ReportArguments, train) -> tuple:
    """The processor and the model of a decoder with cross-attention, on a pretrained encoder of either family."""
    processor = AutoProcessor.from_pretrained(arguments.checkpoint)
    config = AutoConfig.from_pretrained(arguments.checkpoint)
    for name, value in model_overrides(arguments, type(config)).items():
        setattr(config, name, value)
    if arguments.encode_once:
        config.freeze_encoder = True
    if config.decoder_config is not None:
        if arguments.decoder_weights or arguments.decoder_overrides:
            raise ValueError("decoder_weights and decoder_overrides: checkpoint has a decoder already.")
        return processor, AutoModelForImageTextToText.from_pretrained(arguments.checkpoint, config=config)
    model_class = AutoModelForImageTextToText._model_mapping[type(config)]
    fields = mapping(arguments.decoder_overrides, "decoder_overrides")
    return processor, model_class.from_pretraining(
        arguments.checkpoint, processor.tokenizer, arguments.decoder_weights, config, **fields
    )


def build_prefix(arguments: ReportArguments, train) -> tuple:
    """The processor and the model of a language model behind a pretrained CoGaze, or of a generator of that kind."""
    overrides = model_overrides(arguments, CoGazePrefixConfig)
    options = {} if arguments.prompt_parts is None else {"prompt_parts": arguments.prompt_parts}
    if AutoConfig.from_pretrained(arguments.checkpoint).model_type == CoGazePrefixConfig.model_type:
        if arguments.decoder_weights or arguments.decoder_overrides:
            raise ValueError("decoder_weights and decoder_overrides: checkpoint has a language model already.")
        processor = AutoProcessor.from_pretrained(arguments.checkpoint, **options)
        return processor, AutoModelForImageTextToText.from_pretrained(arguments.checkpoint, **overrides)
    encoder_processor = CoGazeProcessor.from_pretrained(arguments.checkpoint)
    if arguments.decoder_weights:
        if arguments.decoder_overrides:
            raise ValueError("decoder_overrides: the language model's config comes with decoder_weights.")
        tokenizer = AutoTokenizer.from_pretrained(arguments.decoder_weights)
        base = arguments.decoder_weights
    else:
        prompts = [message["content"] for kind in REPORT_KINDS for message in report_messages(kind, "", "-", "-")]
        tokenizer = build_tokenizer([*train["findings"], *prompts * 20], len(encoder_processor.tokenizer))
        base = random_language_model(tokenizer, mapping(arguments.decoder_overrides, "decoder_overrides"))
    names = overrides.get("prefix_latents", PREFIX_LATENTS)
    options["num_image_tokens"] = len(names) * AutoConfig.from_pretrained(arguments.checkpoint).num_latents
    processor = CoGazePrefixProcessor.for_language_model(tokenizer, encoder_processor, **options)
    model = CoGazePrefixForConditionalGeneration.from_base_models(
        arguments.checkpoint, base, image_token_id=processor.image_token_id, **overrides
    )
    return processor, model


def random_language_model(tokenizer, fields: dict):
    """A causal language model of random weights, a Llama unless `fields` of its config say otherwise."""
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    config = {"model_type": "llama", "vocab_size": len(tokenizer)} | special | fields
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))


def model_overrides(arguments: ReportArguments, config_class: type) -> dict:
    overrides = mapping(arguments.model_overrides, "model_overrides")
    for name in overrides:
        if name not in config_class.__dataclass_fields__:
            raise ValueError(f"model_overrides: {name!r} is no field of a {config_class.__name__}.")
    return overrides


VARIANTS = {
    "cross_attention": Variant(build_cross_attention, {"decoder": 10.0, "memory_projection": 10.0}),
    "prefix": Variant(build_prefix, {"adapter": 0.2}),
}


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
    arguments, writing, metric_options, training = parse(argv)
    set_seed(training.seed)
    _check(arguments, metric_options)
    train, validation = (load_data(getattr(arguments, f"{s}_data"), f"{s}_data") for s in ("train", "validation"))
    warn_of_overlaps({"train_data": train, "validation_data": validation})
    if isinstance(train, TrainingStream) or isinstance(validation, TrainingStream):
        raise ValueError("train_data: report generators are not trained from shards; give the data set itself.")

    variant = VARIANTS[arguments.decoder]
    processor, model = variant.build(arguments, train)
    for name, value in mapping(arguments.processor_overrides, "processor_overrides").items():
        if not hasattr(processor, name):
            raise ValueError(f"processor_overrides: {name!r} is nothing that a {type(processor).__name__} has.")
        setattr(processor, name, value)
    processor.report_kind = arguments.report_kind
    if arguments.report_kind == "structured":
        processor.structured_constraint()  # raises where the tokenizer cannot write the template
    model.generation_config.update(**{"num_beams": 1, "max_new_tokens": 100} | writing.options())
    prepare = Preparation(arguments.report_kind, use_context=not arguments.no_context)

    skipped = {}
    with training.main_process_first(desc="checking records"):
        check = ReportCheck(processor)
        workers = max(1, training.dataloader_num_workers)
        train, skipped["train"] = keep_good_records(train, check, arguments.on_bad_record, workers, prepare)
        validation, skipped["validation"] = keep_good_records(
            validation, check, arguments.on_bad_record, workers, prepare
        )
    for split, reasons in skipped.items():
        if reasons:
            print(f"Skipped {sum(reasons.values())} unusable {split} records: {dict(reasons)}")

    cases = None
    if hasattr(processor, "prompt_parts"):
        prepare.hints, cases = hints_of_data(
            model.to(training.device),
            processor,
            ReportCollator(processor, lambda record: image_alone(prepare(record)), report_labels=False),
            train,
            validation,
            arguments.similar_cases,
            training.per_device_eval_batch_size,
            training.dataloader_num_workers,
        )
    augmentation = AlignedAugmentation(arguments.crop, arguments.exposure) if arguments.crop else None
    plain = ReportCollator(processor, prepare, arguments.on_bad_record)
    collators = {
        "data_collator": ReportCollator(
            processor, prepare, arguments.on_bad_record, augmentation, arguments.context_dropout
        ),
        "eval_collator": plain,
    }
    data = {"train_dataset": train, "eval_dataset": validation}
    if arguments.encode_once:
        model.to(training.device)
        views = [plain] + [collators["data_collator"]] * (arguments.encode_once - 1)
        data = {
            "train_dataset": EncodedReports.encode(model, train, views, training.per_device_eval_batch_size),
            "eval_dataset": EncodedReports.encode(model, validation, [plain], training.per_device_eval_batch_size),
        }
        collators = dict.fromkeys(collators, collate_encoded)

    writer = ReportWriter(
        model, processor, prepare, {"num_beams": arguments.epoch_num_beams}, batch_size=training.eval_batch_size
    )
    places = one_per_study(validation)[: arguments.epoch_studies]
    callbacks = []
    if arguments.early_stopping_patience:
        callbacks.append(EarlyStoppingCallback(arguments.early_stopping_patience))
    factors = mapping(arguments.learning_rate_factors, "learning_rate_factors")
    if not factors:
        names = [name for name, _ in model.named_parameters()]
        known = variant.learning_rate_factors
        factors = {part: known[part] for part in known if any(name.startswith(part) for name in names)}
    trainer = ReportTrainer(
        model=model,
        args=training,
        score=lambda: score_written(writer, validation, places, arguments, metric_options),
        lengths=[len(findings) for findings in train["findings"]],
        **data,
        **collators,
        callbacks=callbacks,
        learning_rate_factors=factors,
    )
    trained = trainer.train(resume_from_checkpoint=checkpoint_to_resume(training))
    trainer.save_model()
    metrics = trainer.evaluate()
    if trainer.is_world_process_zero():
        processor.save_pretrained(training.output_dir)
        if cases is not None:
            cases.save(Path(training.output_dir) / FOLDER)
        summary = metrics | {
            "report_kind": arguments.report_kind,
            "skipped_records": {split: sum(reasons.values()) for split, reasons in skipped.items()},
            "train_records": len(train),
            "processes": training.world_size,
        }
        summary |= training_facts(
            trained.metrics["train_runtime"], train, arguments.checkpoint, [arguments.decoder_weights]
        )
        write_json(Path(training.output_dir) / "training.json", summary)
    return metrics


def _check(arguments: ReportArguments, options: MetricOptions) -> None:
    """Raise before the first epoch what its scores would raise after it."""
    if arguments.report_kind not in REPORT_KINDS:
        raise ValueError(f"report_kind: {arguments.report_kind!r} is none of {REPORT_KINDS}.")
    known = [name for family in arguments.metrics if family in FAMILIES for name in FAMILIES[family].names]
    prefix = AutoConfig.from_pretrained(arguments.checkpoint).model_type == CoGazePrefixConfig.model_type
    if prefix and arguments.decoder != "prefix":
        raise ValueError("decoder: checkpoint is a language model with the image in its prompt; give --decoder prefix.")
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


class ReportCheck:
    """What `keep_good_records` tries each record with."""

    def __init__(self, processor):
        self.processor = processor

    def collate(self, records: list[dict]):
        return self.processor.collate(records, report_labels=True)

    def to_json_string(self) -> str:
        return self.processor.to_json_string() + "reports"


class ReportCollator:
    """Records -> inputs of a report generator, with the reports as labels.

    augmentation: None in evaluation. report_labels: False leaves the reports out.
    """

    def __init__(
        self, processor, prepare, on_bad_record="raise", augmentation=None, context_dropout=0.0, report_labels=True
    ):
        self.processor = processor
        self.prepare = prepare
        self.on_bad_record = on_bad_record
        self.augmentation = augmentation
        self.context_dropout = context_dropout
        self.report_labels = report_labels

    def __call__(self, records: list[dict]) -> dict[str, torch.Tensor]:
        prepared = [self._augmented(self.prepare(record)) for record in records]
        batch = self.processor.collate(prepared, self.on_bad_record, self.report_labels)
        if self.augmentation:
            batch["pixel_values"] = self.augmentation.pixels(batch["pixel_values"])
        return dict(batch)

    def _augmented(self, record: dict) -> dict:
        if self.context_dropout and torch.rand(1).item() < self.context_dropout:
            record = record | {"indication": "", "history": ""}
        return self.augmentation.record(record) if self.augmentation else record


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
            return LengthGroupedSampler(
                self.args.train_batch_size * self.args.gradient_accumulation_steps, lengths=self.lengths
            )
        return super()._get_train_sampler(train_dataset)

    def _get_eval_sampler(self, eval_dataset):
        return SequentialSampler(eval_dataset)

    def evaluation_loop(self, *args, metric_key_prefix: str = "eval", **kwargs):
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        with self.compute_loss_context_manager():  # in the precision of the run
            scores = self.score()
        output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in scores.items()})
        return output
