"""The papers' released weights to a checkpoint of this project.

    cogaze convert_released_checkpoint --checkpoint best_model.pt \\
        --view_positions view-positions-dict.json --output_dir cogaze
    cogaze convert_released_checkpoint --checkpoint llm_best_model.pt \\
        --view_positions view-positions-dict.json --language_model Llama-3.2-3B-Instruct --output_dir cogaze-llm
    cogaze convert_released_checkpoint --checkpoint pytorch_model.bin --output_dir egma

CoGaze's files hold the trained tensors alone: the frozen Rad-DINO, DistilGPT2's tokenizer and the language model come
from folders or the Hub, the order of view positions from the JSON file beside the released data. A pretraining becomes
`CoGazeForPreTraining`, a report model `CoGazeForConditionalGeneration`, one with an adapter for a language model
`CoGazePrefixForConditionalGeneration` (that model's own weights stay where they are).

EGMA's and MedCLIP's files are told by `vision_model.model.*` (Swin) and `vision_model.projection_head.weight`,
`text_model.model.*` (BERT) and `text_model.projection_head.weight`, `logit_scale`. Their weights are used as EGMA does:
the mean of the text encoder's last four layers, where MedCLIP takes the first two and the last.

Assumed, since no shape says it: attention heads are 64 wide; BERT's and GPT-2's activations and norms are transformers'
defaults; a key and value projection has the keys first. Here padding takes part in nothing, so that outputs for a batch
differ from the released code's, which lets it; for a single study they agree.
"""

import sys
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer

from modeling_cogaze import CoGazePrefixConfig, CoGazePrefixForConditionalGeneration
from processing import CoGazePrefixProcessor, CoGazeProcessor, EgmaProcessor
from processing.tokenization import cogaze_tokenizer
from training.hub.released_weights import (
    ReleasedWeights,
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
    tensors, lora, settings = read_checkpoint(arguments.checkpoint)
    weights = ReleasedWeights(tensors)
    if weights.has("vision_model."):
        family, pretrained = "egma", []
        model = convert_egma(weights, arguments.image_size)
        tokenizer = AutoTokenizer.from_pretrained(arguments.tokenizer or BIO_CLINICAL_BERT)
        _check_vocabulary(tokenizer, model.config.text_config.vocab_size)
        processor = EgmaProcessor.for_model(tokenizer, model.config)
    else:
        family, pretrained = "cogaze", [arguments.vision_encoder]
        if arguments.view_positions is None:
            raise ValueError("view_positions: CoGaze's files need the view-positions-dict.json of the released data.")
        views = read_view_positions(arguments.view_positions)
        tokenizer = cogaze_tokenizer(AutoTokenizer.from_pretrained(arguments.tokenizer or DISTILGPT2))
        model = convert_cogaze(weights, views, arguments.vision_encoder, tokenizer)
        _check_vocabulary(tokenizer, model.config.text_config.vocab_size)
        processor = CoGazeProcessor.for_model(tokenizer, model.config)
        if weights.has("adapter."):
            pretrained.append(arguments.language_model)
            model, processor = _before_language_model(
                model, processor, weights, lora, settings, arguments.language_model
            )
    unused = weights.finish(arguments.ignore)
    model.save_pretrained(arguments.output_dir)
    processor.save_pretrained(arguments.output_dir)
    facts = {
        "converted_from": arguments.checkpoint.name,
        "train_data": {"source": arguments.source or SOURCES[family]},
        "pretrained": [Path(name).name if Path(name).is_dir() else name for name in pretrained],
    }
    write_json(arguments.output_dir / "training.json", facts)
    return model, unused


def _check_vocabulary(tokenizer, vocab_size: int) -> None:
    if len(tokenizer) != vocab_size:
        raise ValueError(f"tokenizer: it has {len(tokenizer)} entries, the text encoder {vocab_size}; give its own.")


def _before_language_model(encoder, processor, weights, lora, settings, name):
    """The model that hands the encoder's latents to a language model, and its processor."""
    language_model = AutoModelForCausalLM.from_pretrained(name, dtype="auto")
    processor = CoGazePrefixProcessor.for_language_model(
        AutoTokenizer.from_pretrained(name), processor, num_image_tokens=2 * encoder.config.num_latents
    )
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
    model.generation_config.update(num_beams=3, max_new_tokens=100)  # the paper's
    return model.eval(), processor


def _parser() -> CommandParser:
    parser = CommandParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, help="the released file")
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--view_positions", type=Path, help="JSON: name of a view position -> row of its embedding")
    parser.add_argument("--vision_encoder", default=RAD_DINO, help="folder or Hub id of CoGaze's frozen encoder")
    parser.add_argument(
        "--tokenizer", help=f"folder or Hub id; {DISTILGPT2} for CoGaze, {BIO_CLINICAL_BERT} for EGMA by default"
    )
    parser.add_argument("--language_model", default=LLAMA, help="folder or Hub id, for a checkpoint with an adapter")
    parser.add_argument("--image_size", type=int, default=224, help="pixels, of EGMA's encoder")
    parser.add_argument("--source", help="what it was trained on, for the card: a name in processing.datasets")
    parser.add_argument("--ignore", nargs="*", default=[], help="beginnings of names of tensors to leave out")
    return parser


if __name__ == "__main__":
    sys.exit(main())
