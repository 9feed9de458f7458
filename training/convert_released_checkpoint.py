"""The papers' released weights to a checkpoint of this project.

    cogaze convert_released_checkpoint --checkpoint best_model.pt \\
        --view_positions view-positions-dict.json --output_dir cogaze
    cogaze convert_released_checkpoint --checkpoint llm_best_model.pt \\
        --view_positions view-positions-dict.json --language_model Llama-3.2-3B-Instruct --output_dir cogaze-llm
    cogaze convert_released_checkpoint --checkpoint pytorch_model.bin --output_dir egma
    cogaze convert_released_checkpoint --checkpoint owner/repository:best_model.pt ...    # from the Hub

CoGaze's files hold the trained tensors alone: the frozen Rad-DINO, DistilGPT2's tokenizer and the language model come
from folders or the Hub, the order of view positions from the JSON file beside the released data. A pretraining becomes
`CoGazeForPreTraining`, a report model `CoGazeForConditionalGeneration`, one with an adapter for a language model
`CoGazePrefixForConditionalGeneration` (that model's own weights stay where they are).

EGMA's and MedCLIP's files are told by `vision_model.model.*` (Swin) and `vision_model.projection_head.weight`,
`text_model.model.*` (BERT) and `text_model.projection_head.weight`, `logit_scale`. Their weights are used as EGMA does:
the mean of the text encoder's last four layers, where MedCLIP takes the first two and the last.

The config names the losses of the released code, and the processor its texts and gaze maps, as plain fields;
`--variant paper` writes the papers' in their place. Outputs are the same.

Assumed, since no shape says it: attention heads are 64 wide; BERT's and GPT-2's activations and norms are transformers'
defaults; a key and value projection has the keys first. Here padding takes part in nothing, so that outputs for a batch
differ from the released code's, which lets it; for a single study they agree.
"""

import sys
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer

from modeling_cogaze import CoGazePrefixConfig, CoGazePrefixForConditionalGeneration
from processing import CoGazePrefixProcessor, CoGazeProcessor, EgmaProcessor
from processing.prompts import RELEASED_PROMPTS, REPORT_KINDS
from processing.tokenization import cogaze_tokenizer
from training.hub.released_weights import (
    ReleasedWeights,
    checkpoint_file,
    convert_cogaze,
    convert_egma,
    place_lora,
    read_checkpoint,
    read_view_positions,
)
from training.runs.command_line import CommandParser
from training.runs.files import write_json

DISTILGPT2, BIO_CLINICAL_BERT = "distilbert/distilgpt2", "emilyalsentzer/Bio_ClinicalBERT"
RAD_DINO, LLAMA = "microsoft/rad-dino", "meta-llama/Llama-3.2-3B-Instruct"
LORA_SETTINGS = {"rank": "r", "alpha": "lora_alpha", "dropout": "lora_dropout"}
# What the papers trained on, by its name in `processing.datasets`.
SOURCES = {"cogaze": "cogaze_release", "egma": "mimic_eye"}


def main(argv: list[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    try:
        model, unused = convert(arguments)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for name in unused:
        print(f"unused: {name}")
    count = sum(parameter.numel() for parameter in model.parameters())
    print(f"{type(model).__name__}, {count:,} parameters: {arguments.output_dir}")
    return 0


def convert(arguments):
    """Write the checkpoint; returns the model and the names of tensors that nothing uses.

    Raises:
        ValueError: the file, its tensors, the view positions or the tokenizer do not fit; says which.
    """
    file = checkpoint_file(arguments.checkpoint)
    tensors, lora, settings = read_checkpoint(file)
    weights = ReleasedWeights(tensors)
    if weights.has("vision_model."):
        family, pretrained = "egma", []
        model = convert_egma(weights, arguments.image_size, arguments.variant)
        tokenizer = AutoTokenizer.from_pretrained(arguments.tokenizer or BIO_CLINICAL_BERT)
        _check_vocabulary(tokenizer, model.config.text_config.vocab_size)
        processor = EgmaProcessor.for_model(tokenizer, model.config, **EgmaProcessor.variants[arguments.variant])
    else:
        family, pretrained = "cogaze", [arguments.vision_encoder]
        if arguments.view_positions is None:
            raise ValueError("view_positions: CoGaze's files need the view-positions-dict.json of the released data.")
        views = read_view_positions(arguments.view_positions)
        tokenizer = cogaze_tokenizer(AutoTokenizer.from_pretrained(arguments.tokenizer or DISTILGPT2))
        model = convert_cogaze(weights, views, arguments.vision_encoder, tokenizer, arguments.variant)
        _check_vocabulary(tokenizer, model.config.text_config.vocab_size)
        processor = CoGazeProcessor.for_model(tokenizer, model.config, **_options(arguments, model, weights))
        if weights.has("adapter."):
            pretrained.append(arguments.language_model)
            model, processor = _before_language_model(model, processor, weights, lora, settings, arguments)
    unused = weights.finish(arguments.ignore)
    model.save_pretrained(arguments.output_dir)
    processor.save_pretrained(arguments.output_dir)
    facts = {
        "converted_from": file.name,
        "train_data": {"source": arguments.source or SOURCES[family]},
        "pretrained": [Path(name).name if Path(name).is_dir() else name for name in pretrained],
    }
    write_json(arguments.output_dir / "training.json", facts)
    return model, unused


def _check_vocabulary(tokenizer, vocab_size: int) -> None:
    if len(tokenizer) != vocab_size:
        raise ValueError(f"tokenizer: it has {len(tokenizer)} entries, the text encoder {vocab_size}; give its own.")


def _options(arguments, model, weights: ReleasedWeights) -> dict:
    """CoGaze's processor: the variant's, for what the checkpoint writes."""
    options = {"report_kind": arguments.report_kind} | CoGazeProcessor.variants[arguments.variant]
    if arguments.report_kind == "structured":
        options["context_format"] = "plain"
    if model.config.decoder_config is not None or weights.has("adapter."):
        options["max_report_length"] = 200  # reports are then what is written, not what is read
    return options


def _before_language_model(encoder, processor, weights, lora, settings, arguments):
    """The model that hands the encoder's latents to a language model, and its processor."""
    name, released = arguments.language_model, arguments.variant == "released"
    language_model = AutoModelForCausalLM.from_pretrained(name, dtype="auto")
    tokenizer = AutoTokenizer.from_pretrained(name)
    options = {"num_image_tokens": 2 * encoder.config.num_latents, "report_kind": arguments.report_kind}
    if released and "<|eot_id|>" in tokenizer.get_vocab():  # Llama 3's
        options["prompt_template"] = RELEASED_PROMPTS[arguments.report_kind]
    processor = CoGazePrefixProcessor.for_language_model(tokenizer, processor, **options)
    lora_fields = {"lora_rank": 0}
    if lora is not None:
        lora_fields = {f"lora_{own}": settings[theirs] for own, theirs in LORA_SETTINGS.items()}
        lora_fields["lora_target_modules"] = sorted(settings["target_modules"])
    config = CoGazePrefixConfig(
        encoder_config=encoder.config.to_dict(),
        text_config=language_model.config.to_dict(),
        base_model_name_or_path=str(name),
        image_token_id=processor.image_token_id,
        **lora_fields,
    )
    model = CoGazePrefixForConditionalGeneration(config, encoder, language_model)
    weights.place(model.adapter, {r"^adapter\.": ""})
    if lora is not None:
        place_lora(model.language_model, lora)
    lengths = {"min_new_tokens": 80, "max_new_tokens": 120} if released else {"max_new_tokens": 100}
    model.generation_config.update(num_beams=3, **lengths)
    return model.eval(), processor


def _parser() -> CommandParser:
    parser = CommandParser(description=__doc__)
    parser.add_argument("--checkpoint", required=True, help="the released file, or owner/repository[:file] on the Hub")
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--view_positions", type=Path, help="JSON: name of a view position -> row of its embedding")
    parser.add_argument("--vision_encoder", default=RAD_DINO, help="folder or Hub id of CoGaze's frozen encoder")
    parser.add_argument(
        "--tokenizer", help=f"folder or Hub id; {DISTILGPT2} for CoGaze, {BIO_CLINICAL_BERT} for EGMA by default"
    )
    parser.add_argument("--language_model", default=LLAMA, help="folder or Hub id, for a checkpoint with an adapter")
    parser.add_argument(
        "--variant", choices=["released", "paper"], default="released", help="whose losses and texts it goes on with"
    )
    parser.add_argument(
        "--report_kind", choices=REPORT_KINDS, default="free_text", help="what a report model writes; no tensor says"
    )
    parser.add_argument("--image_size", type=int, default=224, help="pixels, of EGMA's encoder")
    parser.add_argument("--source", help="what it was trained on, for the card: a name in processing.datasets")
    parser.add_argument("--ignore", nargs="*", default=[], help="beginnings of names of tensors to leave out")
    return parser


if __name__ == "__main__":
    sys.exit(main())
