"""Pretraining of both families, from flags to a checkpoint."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from transformers import AutoTokenizer, EarlyStoppingCallback, TrainingArguments, set_seed

from processing.datasets.overlaps import warn_of_overlaps
from processing.datasets.records import label_names
from processing.tokenization import build_tokenizer, cogaze_tokenizer

from ..data.augmentation import AlignedAugmentation
from ..data.changes import CHANGE_LABELS, change_codes
from ..data.checking import keep_good_splits
from ..data.collation import Collator, Preparation
from ..data.feature_cache import FeatureCache
from ..data.loading import load_data, positives_per_class, stored_columns
from ..data.mixture import Mixture, MixtureLoader
from ..data.streams import StreamLoader, StreamState, TrainingStream
from ..runs.command_line import is_list, mapping, parse_arguments
from ..runs.families import FAMILIES
from ..runs.files import write_json
from ..runs.provenance import training_facts
from ..runs.settings import EACH_EPOCH, checkpoint_to_resume, comparable_settings
from ..runs.trainer import PartsTrainer
from .mixed import Evaluated, cached, is_mixed, keep_good_sources, load_mixed


@dataclass
class PretrainArguments:
    """Data, model, and what an ablation changes."""

    train_data: str = field(
        metadata={
            "help": 'JSON: {"name": ..., "split": ..., "root": ...}, or a list of such, each with "weight" (a share '
            'of the draws, "size" or "sqrt") and "text" (report, labels, report_or_labels, none)'
        }
    )
    validation_data: str = field(metadata={"help": "JSON, as train_data; of a list, losses are averaged by weight"})
    records_per_epoch: int | None = field(
        default=None, metadata={"help": "of a list of train_data: draws of an epoch; by default all records' number"}
    )
    label_texts: str | None = field(
        default=None,
        metadata={"help": "YAML of the sentences that are composed of labels; processing/datasets/label_texts.yaml"},
    )
    label_texts_apart: bool = field(
        default=False, metadata={"help": "ablation: texts composed of equal labels are no positives of each other"}
    )
    on_shared_images: Literal["raise", "exclude"] = field(
        default="raise", metadata={"help": "of two entries of a list; exclude: from the later one, and count them"}
    )
    model_family: Literal["cogaze", "egma"] = "cogaze"
    model_size: Literal["tiny", "base"] = "base"
    variant: Literal["paper", "released"] = field(
        default="paper",
        metadata={"help": "released: losses and texts as in the authors' code where it differs from the paper"},
    )
    model_overrides: str | None = field(default=None, metadata={"help": "JSON: any field of the model's config"})
    checkpoint: str | None = field(default=None, metadata={"help": "a checkpoint to start from, with its processor"})
    vision_encoder: str | None = field(default=None, metadata={"help": "pretrained image encoder: folder or Hub id"})
    text_encoder: str | None = field(default=None, metadata={"help": "pretrained text encoder: folder or Hub id"})
    tokenizer: str | None = field(
        default=None,
        metadata={
            "help": "folder or Hub id; built from the reports if absent. CoGaze extends a GPT-2 tokenizer, EGMA takes "
            "its text encoder's as it is"
        },
    )
    feature_cache: str | None = field(
        default=None, metadata={"help": "folder of `cogaze cache_features`, read in place of the pictures"}
    )
    vocab_size: int = field(default=4096, metadata={"help": "size of a tokenizer that is built"})
    on_bad_record: Literal["raise", "skip"] = "raise"
    check: Literal["header", "full"] = field(
        default="header", metadata={"help": "of records before training: full also decodes every picture once more"}
    )
    scaled_decoding: bool = field(
        default=False, metadata={"help": "decode JPEGs at the least scale that the image processor needs: faster"}
    )
    crop: float | None = field(default=None, metadata={"help": "augment: least share of each side kept; off if absent"})
    exposure: float = field(default=0.2, metadata={"help": "augment: share by which contrast and brightness vary"})
    autocontrast: float = field(default=0.0, metadata={"help": "augment: share of pictures stretched to full contrast"})
    rotation: float = field(default=0.0, metadata={"help": "augment: most degrees by which pictures are turned"})
    widen: float = field(default=0.0, metadata={"help": "augment: greatest share by which pictures shrink in a frame"})
    films: float = field(default=0.0, metadata={"help": "augment: share of pictures shown as another film would"})
    context_dropout: float = field(default=0.0, metadata={"help": "share of records whose context is left out"})
    companion_dropout: float = field(
        default=0.0, metadata={"help": "share of records that lose other views, and of those that lose the prior"}
    )
    change_labels: bool = field(
        default=False, metadata={"help": "L_cls also learns how findings have changed, where records tell"}
    )
    no_views: bool = field(default=False, metadata={"help": "ablation: without other views of a study"})
    no_priors: bool = field(default=False, metadata={"help": "ablation: without earlier studies"})
    learning_rate_factors: str | None = field(
        default=None, metadata={"help": "JSON: beginning of parameters' names -> factor of their learning rate"}
    )
    early_stopping_patience: int | None = None
    gaze_fraction: float = field(default=1.0, metadata={"help": "share of studies whose gaze is used"})
    gaze_loss: Literal["js", "mse", "iou", "mask", "none"] = field(default="js", metadata={"help": "CoGaze's L_G"})
    no_context: bool = field(default=False, metadata={"help": "ablation: neither indication nor history"})
    single_positive: bool = field(default=False, metadata={"help": "CoGaze ablation: only the own report is positive"})
    no_classification: bool = field(default=False, metadata={"help": "CoGaze ablation: without L_cls"})
    egma_losses: list[str] | None = field(
        default=None, metadata={"help": "EGMA ablation: any of clip, mlce, egf, egm; egf and egm if absent"}
    )


def parse(argv: list[str] | None) -> tuple:
    return parse_arguments((PretrainArguments, TrainingArguments), argv, __doc__, EACH_EPOCH)


def settings_of(argv: list[str]) -> dict:
    """What results hang on, of these flags."""
    arguments, training = parse(argv)
    return comparable_settings(arguments, training) | {"seed": training.seed}


def pretrain(argv: list[str] | None = None) -> dict:
    """Pretrain as the flags say, and write the best model, its processor and `training.json`; returns its metrics."""
    arguments, training = parse(argv)
    set_seed(training.seed)
    splits = _load_splits(arguments, training)
    mixed = is_mixed(splits["train"])
    processor, model = build(arguments, splits["train"])
    cache = _feature_cache(arguments, model, processor)
    if cache and mixed:
        splits = cached(splits, cache)
    elif cache:
        splits = {name: cache.attach(data, f"{name}_data") for name, data in splits.items()}
    processor.scaled_decoding = arguments.scaled_decoding or processor.scaled_decoding
    collators = _collators(arguments, processor, cache, mixed)
    keep_good = keep_good_sources if mixed else keep_good_splits
    splits, lost = keep_good(splits, Collator(processor), arguments.on_bad_record, training, arguments.check)
    checkpoint = checkpoint_to_resume(training)
    trainer = _Trainer(
        model=model,
        args=training,
        train_dataset=splits["train"],
        eval_dataset=splits["validation"],
        **collators,
        callbacks=_callbacks(arguments, training, splits["train"], checkpoint),
        learning_rate_factors=mapping(arguments.learning_rate_factors, "learning_rate_factors"),
    )
    trained = trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model()
    metrics = trainer.evaluate()
    if trainer.is_world_process_zero():
        processor.save_pretrained(training.output_dir)
        train = splits["train"]
        summary = metrics | {
            "skipped_records": lost,
            "skipped_while_streaming": processor.bad_records,
            "train_records": train.total if isinstance(train, TrainingStream | Mixture) else len(train),
            "processes": training.world_size,
        }
        encoders = (arguments.vision_encoder, arguments.text_encoder)
        summary |= training_facts(trained.metrics["train_runtime"], train, arguments.checkpoint, encoders)
        write_json(Path(training.output_dir) / "training.json", summary)
    return metrics


def _load_splits(arguments: PretrainArguments, training: TrainingArguments) -> dict:
    if is_list(arguments.train_data) or is_list(arguments.validation_data):
        return load_mixed(arguments, training)
    if arguments.records_per_epoch:
        raise ValueError("records_per_epoch: it is of a list of train_data; give one, if only of one entry.")
    splits = {name: load_data(getattr(arguments, f"{name}_data"), f"{name}_data") for name in ("train", "validation")}
    warn_of_overlaps({f"{name}_data": data for name, data in splits.items()})
    return splits


def _collators(arguments: PretrainArguments, processor, cache: FeatureCache | None, mixed: bool) -> dict[str, Collator]:
    prepare = Preparation(
        not arguments.no_context, arguments.gaze_fraction, not arguments.no_views, not arguments.no_priors
    )
    augmentation = None
    asked = [getattr(arguments, name) for name in ("autocontrast", "rotation", "widen", "films")]
    if arguments.crop or any(asked):
        augmentation = AlignedAugmentation(arguments.crop or 1.0, arguments.exposure, *asked)
    options = {
        "on_bad_record": arguments.on_bad_record,
        "feature_cache": cache,
        "reports_optional": mixed,
        "change_labels": arguments.change_labels,
    }
    dropout = 0.0 if arguments.no_context else arguments.context_dropout  # nothing is left to be dropped
    return {
        "data_collator": Collator(
            processor,
            prepare,
            **options,
            augmentation=augmentation,
            context_dropout=dropout,
            companion_dropout=arguments.companion_dropout,
        ),
        "eval_collator": Collator(processor, prepare, **options),
    }


def _callbacks(arguments: PretrainArguments, training: TrainingArguments, train, checkpoint: str | None) -> list:
    callbacks = []
    if arguments.early_stopping_patience:
        callbacks.append(EarlyStoppingCallback(arguments.early_stopping_patience))
    if isinstance(train, TrainingStream | Mixture):
        train.seed = training.seed
        callbacks.append(StreamState(train, checkpoint))
    return callbacks


def build(arguments: PretrainArguments, train):
    """The processor and the model that the arguments ask for."""
    config_class, processor_class, model_class = FAMILIES[arguments.model_family]
    settings = _settings(arguments, train)
    if arguments.checkpoint:
        processor = processor_class.from_pretrained(arguments.checkpoint, **processor_class.variants[arguments.variant])
        config = config_class.from_pretrained(arguments.checkpoint, **settings)
        return processor, model_class.from_pretrained(arguments.checkpoint, config=config)
    prior = bool(settings.get("use_priors"))
    if arguments.tokenizer:
        tokenizer = AutoTokenizer.from_pretrained(arguments.tokenizer)
        tokenizer = cogaze_tokenizer(tokenizer, prior) if arguments.model_family == "cogaze" else tokenizer
    else:
        if isinstance(train, Mixture):
            texts = train.texts()
        else:
            records = stored_columns(train, ["findings", "indication", "history"])
            texts = (text for record in records for text in record.values() if text)
        tokenizer = build_tokenizer(texts, arguments.vocab_size, prior)
    config = config_class.named(arguments.model_size, vocab_size=len(tokenizer), **settings)
    processor = processor_class.for_model(tokenizer, config, **processor_class.variants[arguments.variant])
    if arguments.vision_encoder or arguments.text_encoder:
        encoders = {"vision": arguments.vision_encoder, "text": arguments.text_encoder}
        return processor, model_class.from_encoders(**encoders, config=config)
    return processor, model_class(config)


def _settings(arguments: PretrainArguments, train) -> dict:
    """Config fields that follow from the variant, the data and the ablation, then those given by hand."""
    by_hand = mapping(arguments.model_overrides, "model_overrides")
    variant = FAMILIES[arguments.model_family][0].variant_fields(arguments.variant)
    if arguments.model_family == "egma":
        return variant | ({"losses": arguments.egma_losses} if arguments.egma_losses else {}) | by_hand
    fields = variant | {
        "label_names": label_names(train) + (CHANGE_LABELS if arguments.change_labels else []),
        "gaze_loss": None if arguments.gaze_loss == "none" else arguments.gaze_loss,
        "contrastive_targets": "single" if arguments.single_positive else "hybrid",
        "use_classification": not arguments.no_classification,
    }
    if "positives_per_class" not in by_hand:
        names = ["labels", "changes"] if arguments.change_labels else ["labels"]
        more = change_codes if arguments.change_labels else lambda record: []
        codes = [[*record["labels"], *more(record)] for record in stored_columns(train, names)]
        fields["positives_per_class"] = positives_per_class(codes)
    return fields | by_hand


def _feature_cache(arguments: PretrainArguments, model, processor) -> FeatureCache | None:
    if arguments.feature_cache is None:
        return None
    if arguments.model_family != "cogaze" or not model.config.freeze_vision_encoder:
        raise ValueError("feature_cache: the vision encoder is trained; only a frozen one (CoGaze's) can be cached.")
    cache = FeatureCache(arguments.feature_cache)
    cache.check(model.cogaze.vision_model, processor.image_processor)
    return cache


class _Trainer(PartsTrainer):
    """Reads streams and mixtures without accelerate, and evaluates each source of a list by itself."""

    def get_train_dataloader(self):
        if not isinstance(self.train_dataset, TrainingStream | Mixture):
            return super().get_train_dataloader()
        args = self.args
        return _loader_of(self.train_dataset)(
            self.train_dataset,
            args.train_batch_size,
            self.data_collator,
            num_workers=args.dataloader_num_workers,
            drop_last=args.dataloader_drop_last,
        )

    def get_eval_dataloader(self, eval_dataset=None):
        data = self.eval_dataset[eval_dataset] if isinstance(eval_dataset, str) else eval_dataset or self.eval_dataset
        if not isinstance(data, TrainingStream | Mixture):
            return super().get_eval_dataloader(eval_dataset)
        args = self.args
        return _loader_of(data)(data, args.eval_batch_size, self.eval_collator, args.dataloader_num_workers)

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval"):
        metrics = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        sources = self.eval_dataset if eval_dataset is None else eval_dataset
        if isinstance(sources, Evaluated):
            joined = sum(
                weight * metrics[f"{metric_key_prefix}_{name}_loss"] for name, weight in sources.weights.items()
            )
            found = {f"{metric_key_prefix}_loss": joined}
            self.log(found)
            metrics |= found
            self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


def _loader_of(data: TrainingStream | Mixture) -> type[StreamLoader]:
    return MixtureLoader if isinstance(data, Mixture) else StreamLoader
