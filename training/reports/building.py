"""The parts of a report generator: its processor and its model, by kind of decoder."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
)

from modeling_cogaze import CoGazePrefixConfig, CoGazePrefixForConditionalGeneration
from modeling_cogaze.configuration_cogaze_prefix import PREFIX_LATENTS
from processing import CoGazePrefixProcessor, CoGazeProcessor
from processing.prompts import REPORT_KINDS, report_messages
from processing.reports import REPORT_SECTIONS
from processing.tokenization import build_tokenizer

from ..runs.command_line import mapping


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
    sections: list[str] = field(
        default_factory=lambda: ["findings"],
        metadata={"help": "findings, or findings impression: what is written, each scored by itself"},
    )
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
    check: Literal["header", "full"] = field(
        default="header", metadata={"help": "of records before training: full also decodes every picture once more"}
    )
    scaled_decoding: bool = field(
        default=False, metadata={"help": "decode JPEGs at the least scale that the image processor needs: faster"}
    )
    crop: float | None = field(default=None, metadata={"help": "augment: least share of each side kept; off if absent"})
    exposure: float = field(default=0.2, metadata={"help": "augment: share by which contrast and brightness vary"})
    context_dropout: float = field(default=0.0, metadata={"help": "share of records whose context is left out"})
    companion_dropout: float = field(
        default=0.0, metadata={"help": "share of records that lose other views, and of those that lose the prior"}
    )
    no_views: bool = field(default=False, metadata={"help": "ablation: without other views of a study"})
    no_priors: bool = field(default=False, metadata={"help": "ablation: without earlier studies"})
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


def build(arguments: ReportArguments, train) -> tuple:
    """The processor and the model that the arguments ask for, for their kind of reports."""
    processor, model = VARIANTS[arguments.decoder].build(arguments, train)
    for name, value in mapping(arguments.processor_overrides, "processor_overrides").items():
        if not hasattr(processor, name):
            raise ValueError(f"processor_overrides: {name!r} is nothing that a {type(processor).__name__} has.")
        setattr(processor, name, value)
    processor.report_kind = arguments.report_kind
    if arguments.sections != ["findings"]:
        if tuple(arguments.sections) != REPORT_SECTIONS or arguments.report_kind != "free_text":
            raise ValueError(f"sections: {arguments.sections}; give findings, or findings impression of free text.")
        processor.report_sections = list(arguments.sections)
    if arguments.report_kind == "structured":
        processor.structured_constraint()  # raises where the tokenizer cannot write the template
    return processor, model
