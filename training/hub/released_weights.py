"""The papers' released weights in this project's models: every tensor is placed, or named as unused, or an error."""

import re
from collections.abc import Collection, Sequence
from pathlib import Path

import torch
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled
from torch import nn
from transformers import BertConfig, BertModel, GPT2Config, GPT2LMHeadModel, PreTrainedModel, SwinConfig, SwinModel
from transformers.utils import is_peft_available

from modeling_cogaze import (
    CoGazeConfig,
    CoGazeForConditionalGeneration,
    CoGazeForPreTraining,
    EgmaConfig,
    EgmaForPreTraining,
)
from modeling_cogaze.encoders import copy_weights, load_encoder

from ..runs.files import read_json

# No shape says how wide a head is; it is 64 in BERT, GPT-2 and the Perceiver.
HEAD_WIDTH = 64

# Beginnings and parts of released names, and what they are here.
COGAZE_NAMES = {
    r"^image_projector\.add_pos_embed\.pos_embed$": "image_projector.view_position_embedding.weight",
    r"^image_projector\.add_pos_embed\.pos_norm\.": "image_projector.norm.",
    r"^(image_projector\.projector|text_projector\.layers)\.0\.": r"\1.in_proj.",
    r"^(image_projector\.projector|text_projector\.layers)\.2\.": r"\1.out_proj.",
    r"^text_projector\.layers\.": "text_projector.",
    r"^(perceiver\.layers\.\d+)\.0\.": r"\1.cross_attention.",
    r"^(perceiver\.layers\.\d+)\.1\.": r"\1.cross_feed_forward.",
    r"^(perceiver\.layers\.\d+)\.2\.0\.0\.": r"\1.self_attention.",
    r"^(perceiver\.layers\.\d+)\.2\.0\.1\.": r"\1.self_feed_forward.",
    r"\.fn\.to_(q|k|v)\.": r".\1_proj.",
    r"\.fn\.net\.0\.": ".in_proj.",
    r"\.fn\.(net\.2|to_out)\.": ".out_proj.",
    r"^shared_latent$": "shared_latents",
    r"^(vision|report)_classifier\.classifier\.": r"\1_classifier.",
}
EGMA_NAMES = {r"^(vision|text)_model\.projection_head\.": r"\1_projection."}

# Tensors that come along and take part in nothing.
UNUSED = (
    r"^text_encoder\.cls\.",  # the masked-language-model head of CXR-BERT's class
    r"^text_encoder\.cls_projection_head\.",
    r"^(text_encoder\.bert|text_model\.model)\.pooler\.",
    r"^perceiver\.latents$",  # latents are always handed to it
    r"^multi_label_loss\.class_weights$",
    r"^vision_model\.projection_head[12]\.",  # EGMA's, of the finer maps that its code as shipped takes no loss of
    r"^word_local_atten_layer\.",  # EGMA's, which its code makes and never calls
    r"\.embeddings\.position_ids$",  # buffers that older transformers stored
    r"\.(attn|crossattention)\.(masked_)?bias$",
    r"\.relative_position_index$",
)
WEIGHT_FILES = (".pt", ".pth", ".bin", ".ckpt")
# What the released dictionary of view positions may call an unknown one.
UNKNOWN_VIEWS = ("", "UNK", "UNKNOWN", "NONE", "NAN", "NULL")


class ReleasedWeights:
    """The tensors of a checkpoint that have no place yet, by their released names.

    Raises:
        ValueError: there is none.
    """

    def __init__(self, tensors: dict[str, torch.Tensor]):
        if not tensors:
            raise ValueError("checkpoint: its state_dict is empty.")
        # What DistributedDataParallel and torch.compile put before all names.
        self.left = {re.sub(r"^((module|_orig_mod)\.)+", "", name): tensor for name, tensor in tensors.items()}

    def has(self, prefix: str) -> bool:
        return any(name.startswith(prefix) for name in self.left)

    def shape(self, name: str) -> torch.Size:
        """
        Raises:
            ValueError: there is no such tensor.
        """
        if name not in self.left:
            raise ValueError(f"checkpoint: it lacks {name}.")
        return self.left[name].shape

    def count(self, pattern: str) -> int:
        """How many numbers stand where the pattern has its group."""
        return len({match[1] for name in self.left if (match := re.match(pattern, name))})

    def take(self, prefix: str) -> dict[str, torch.Tensor]:
        """All tensors with this prefix, without it; those known to be unused stay."""
        names = [name for name in self.left if name.startswith(prefix) and not _is_unused(name)]
        return {name.removeprefix(prefix): self.left.pop(name) for name in names}

    def place(self, model: nn.Module, names: dict[str, str], done: str = "$", optional: Collection[str] = ()) -> None:
        """Copy what is left into a model's parameters of the same name, after the replacements in `names`.

        Args:
            done: pattern of parameters that have their values already.
            optional: parameters that may be missing.

        Raises:
            ValueError: a parameter's tensor is missing, or of another shape (dimensions of one apart).
        """
        wanted = {name: value for name, value in model.named_parameters() if not re.match(done, name)}
        found = {}
        for released in self.left:
            name = released
            for pattern, replacement in names.items():
                name = re.sub(pattern, replacement, name)
            found[name] = released
        lacking = sorted(wanted.keys() - found.keys() - set(optional))
        if lacking:
            raise ValueError(f"checkpoint: it lacks what would be {', '.join(lacking[:5])}.")
        with torch.no_grad():
            for name in wanted.keys() & found.keys():
                tensor, parameter = self.left.pop(found[name]), wanted[name]
                if _sides(tensor) != _sides(parameter):
                    raise ValueError(
                        f"checkpoint: {found[name]} has shape {tuple(tensor.shape)}; {tuple(parameter.shape)} was "
                        "expected."
                    )
                parameter.copy_(tensor.reshape(parameter.shape))

    def finish(self, ignore: Sequence[str] = ()) -> list[str]:
        """The names of the tensors that nothing uses.

        Raises:
            ValueError: some of them are unknown, and none of `ignore` is the beginning of their names.
        """
        unused = sorted(self.left)
        unknown = [name for name in unused if not _is_unused(name) and not name.startswith(tuple(ignore))]
        if unknown:
            raise ValueError(
                f"checkpoint: {len(unknown)} tensors are unknown, the first {', '.join(unknown[:5])}; if nothing needs "
                "them, pass the beginning of their names as --ignore."
            )
        return unused


def _is_unused(name: str) -> bool:
    return any(re.search(pattern, name) for pattern in UNUSED)


def _sides(tensor: torch.Tensor) -> list[int]:
    return [side for side in tensor.shape if side != 1]


def checkpoint_file(name: str | Path) -> Path:
    """A file, or one of the Hub: `owner/repository`, or `owner/repository:file` where it holds several.

    Without a connection, what has been downloaded before is taken.

    Raises:
        ValueError: no such file or repository, no connection, or several weight files and none named.
    """
    if Path(name).exists() or not re.fullmatch(r"[\w.-]+/[\w.-]+(:.+)?", str(name)):
        return Path(name)
    repository, _, file = str(name).partition(":")
    try:
        if file:
            return Path(hf_hub_download(repository, file))
        try:
            files = [each for each in HfApi().list_repo_files(repository) if each.endswith(WEIGHT_FILES)]
            if len(files) == 1:
                return Path(hf_hub_download(repository, files[0]))
        except (OfflineModeIsEnabled, OSError):
            folder = Path(snapshot_download(repository, local_files_only=True))
            files = [str(each.relative_to(folder)) for each in folder.rglob("*") if each.name.endswith(WEIGHT_FILES)]
            if len(files) == 1:
                return folder / files[0]
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        raise ValueError(
            f"checkpoint: {name} is no file here, and the Hub gives none of that name ({type(error).__name__}: it is "
            "not there, not open to you, or there is no connection); download it elsewhere and give its path."
        ) from error
    raise ValueError(
        f"checkpoint: {repository} holds {len(files)} weight files ({', '.join(sorted(files)[:5])}); name one as "
        f"{repository}:FILE."
    )


def read_checkpoint(path: str | Path) -> tuple[dict[str, torch.Tensor], dict | None, dict | None]:
    """State dict, LoRA's state dict and LoRA's settings of a released file; None where it has none.

    The file holds the tensors themselves, as MedCLIP's, or a dictionary that has them under `state_dict` or `model`.

    Raises:
        ValueError: there is no such file, it holds other objects than tensors and plain values, or no state dict.
    """
    if not Path(path).is_file():
        raise ValueError(f"checkpoint: no file {path}.")
    try:
        with torch.serialization.safe_globals(_names_in_lora_settings()):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a pickle may break in any way
        raise ValueError(f"checkpoint: {path} holds more than tensors and plain values, and is not opened.") from error
    lora = settings = None
    if isinstance(content, dict):
        lora, settings = content.get("lora_state_dict"), content.get("lora_config")
        content = content.get("state_dict", content.get("model", content))
    if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise ValueError(f"checkpoint: {path} holds no state_dict of tensors.")
    return content, lora, settings


def _names_in_lora_settings() -> list[type]:
    """peft's two enumerations."""
    if not is_peft_available():
        return []
    from peft import PeftType, TaskType

    return [PeftType, TaskType]


def read_view_positions(path: str | Path) -> dict[str, int]:
    """Name -> row of the view position embedding.

    Raises:
        ValueError: no file, or its values are not the numbers from 0 on.
    """
    if not Path(path).is_file():
        raise ValueError(f"view_positions: no file {path}; view-positions-dict.json lies beside the released data.")
    rows = read_json(path)
    if not isinstance(rows, dict) or sorted(rows.values()) != list(range(len(rows))):
        raise ValueError(f"view_positions: {path} does not map names to the numbers from 0 on.")
    return rows


def convert_cogaze(
    weights: ReleasedWeights, views: dict[str, int], vision_encoder: str, tokenizer, variant: str = "released"
) -> PreTrainedModel:
    """CoGaze from its released tensors: a report model where there is a decoder among them, else that of pretraining.

    An adapter for a language model stays among the weights.

    Args:
        views: what `read_view_positions` gave. An unknown view's row becomes row 0; if none is called so, row 0 is the
            mean of all.
        vision_encoder: folder or Hub id of the frozen encoder, which is not among the tensors.
        tokenizer: what the decoder writes in.
        variant: whose losses the config names, the "released" code's or the "paper"'s.

    Raises:
        ValueError: a tensor is missing, or of another shape than the others ask for.
    """
    vision = load_encoder(vision_encoder)
    vision.config.use_mask_token = False
    text_config = _bert_config(weights, "text_encoder.bert.")
    num_latents, hidden_size = weights.shape("shared_latent")
    views = {name.strip().upper(): row for name, row in views.items()}
    known = sorted((name for name in views if name not in UNKNOWN_VIEWS), key=views.get)
    config = CoGazeConfig(
        vision_config=vision.config,
        text_config=text_config,
        hidden_size=hidden_size,
        intermediate_size=weights.shape("image_projector.projector.0.weight")[0],
        view_positions=["", *known],
        perceiver_depth=weights.count(r"perceiver\.layers\.(\d+)\."),
        num_latents=num_latents,
        perceiver_heads=_heads(weights.shape("perceiver.layers.0.0.fn.to_q.weight")[0], "the Perceiver"),
        perceiver_head_dim=HEAD_WIDTH,
        perceiver_ff_mult=weights.shape("perceiver.layers.0.1.fn.net.2.weight")[1] // hidden_size,
        use_classification=weights.has("vision_classifier."),
        **CoGazeConfig.variant_fields(variant),
    )
    reports = weights.has("language_model.")
    if reports:
        model = CoGazeForConditionalGeneration(_add_gpt2(config, weights, tokenizer))
        tensors = weights.take("language_model.encoder_decoder.decoder.")
        copy_weights(model.decoder, _loaded(GPT2LMHeadModel, config.decoder_config, tensors))
        model.generation_config.update(num_beams=10, max_length=100)  # the paper's
    else:
        model = CoGazeForPreTraining(config)
    base = model.cogaze
    copy_weights(base.vision_model, vision)
    copy_weights(base.text_model, _loaded(BertModel, text_config, weights.take("text_encoder.bert.")))
    _to_own_layout(weights, views, known)
    scales = ("logit_scale", "logit_scale_gaze") if reports or weights.has("adapter.") else ()
    weights.place(base, COGAZE_NAMES, done=r"(vision|text)_model\.", optional=scales)
    weights.place(model, COGAZE_NAMES, done=r"(cogaze|decoder)\.")
    return model.eval()


def _to_own_layout(weights: ReleasedWeights, views: dict[str, int], known: Sequence[str]) -> None:
    """Keys and values apart, view positions in the config's order, both kinds of latents in one tensor."""
    left = weights.left
    for name in [name for name in left if name.endswith(".fn.to_kv.weight")]:
        keys, values = left.pop(name).chunk(2)
        left |= {name.replace("to_kv", "to_k"): keys, name.replace("to_kv", "to_v"): values}
    embedding = "image_projector.add_pos_embed.pos_embed"
    if weights.shape(embedding)[0] != len(views):
        raise ValueError(f"view_positions: {len(views)} names for {weights.shape(embedding)[0]} rows of {embedding}.")
    rows = left[embedding].flatten(1)
    unknown = [rows[row] for name, row in views.items() if name in UNKNOWN_VIEWS] or [rows.mean(dim=0)]
    left[embedding] = torch.stack([unknown[0], *(rows[views[name]] for name in known)])
    kinds = [f"latent_type_embed.{kind}" for kind in ("context", "image")]
    for kind in kinds:
        weights.shape(kind)
    left["latent_types"] = torch.stack([left.pop(kind).flatten() for kind in kinds])


def _heads(width: int, what: str) -> int:
    if width % HEAD_WIDTH:
        raise ValueError(f"checkpoint: {what} is {width} wide, not a multiple of {HEAD_WIDTH}.")
    return width // HEAD_WIDTH


def _bert_config(weights: ReleasedWeights, prefix: str) -> BertConfig:
    vocab_size, hidden_size = weights.shape(f"{prefix}embeddings.word_embeddings.weight")
    return BertConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        num_hidden_layers=weights.count(rf"{re.escape(prefix)}encoder\.layer\.(\d+)\."),
        num_attention_heads=_heads(hidden_size, "the text encoder"),
        intermediate_size=weights.shape(f"{prefix}encoder.layer.0.intermediate.dense.weight")[0],
        max_position_embeddings=weights.shape(f"{prefix}embeddings.position_embeddings.weight")[0],
        type_vocab_size=weights.shape(f"{prefix}embeddings.token_type_embeddings.weight")[0],
        pad_token_id=None,
    )


def _add_gpt2(config: CoGazeConfig, weights: ReleasedWeights, tokenizer) -> CoGazeConfig:
    prefix = "language_model.encoder_decoder.decoder.transformer."
    vocab_size, hidden_size = weights.shape(f"{prefix}wte.weight")
    if vocab_size != len(tokenizer):
        raise ValueError(f"tokenizer: it has {len(tokenizer)} entries, the decoder {vocab_size}; give DistilGPT2's.")
    return config.add_decoder(
        tokenizer,
        hidden_size=hidden_size,
        num_hidden_layers=weights.count(rf"{re.escape(prefix)}h\.(\d+)\."),
        num_attention_heads=_heads(hidden_size, "the decoder"),
        n_positions=weights.shape(f"{prefix}wpe.weight")[0],
        n_inner=weights.shape(f"{prefix}h.0.mlp.c_fc.weight")[1],
        initializer_range=GPT2Config().initializer_range,
    )


def _loaded(model_class: type[PreTrainedModel], config, tensors: dict[str, torch.Tensor]) -> PreTrainedModel:
    """A transformers model with these tensors, in the names of any of its versions.

    Raises:
        ValueError: a tensor is missing, unknown or of another shape.
    """
    without_pooler = {} if model_class is GPT2LMHeadModel else {"add_pooling_layer": False}
    model, info = model_class.from_pretrained(
        None,
        config=config,
        state_dict={name: tensor.float() for name, tensor in tensors.items()},
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # they are named below
        **without_pooler,
    )
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info[kind]:
            names = ", ".join(sorted(map(str, info[kind]))[:5])
            raise ValueError(f"checkpoint: {kind.replace('_', ' ')} of {model_class.__name__}: {names}.")
    return model


def place_lora(language_model: PreTrainedModel, tensors: dict[str, torch.Tensor]) -> None:
    """Copy LoRA's released tensors, in peft's names, into a language model with LoRA of the same settings.

    Raises:
        ValueError: a tensor is missing, unknown or of another shape.
    """
    weights = ReleasedWeights(tensors)
    names = {r"^base_model\.model\.": "", r"\.(lora_[AB])\.weight$": r".\1.default.weight"}
    weights.place(language_model, names, done=r"(?!.*\.lora_)")
    weights.finish()


def convert_egma(weights: ReleasedWeights, image_size: int = 224, variant: str = "released") -> EgmaForPreTraining:
    """EGMA from MedCLIP's or EGMA's tensors; images are `image_size` pixels wide, which no shape says.

    variant: as in `convert_cogaze`.

    Raises:
        ValueError: a tensor is missing, or of another shape than the others ask for.
    """
    vision_config, text_config = _swin_config(weights, image_size), _bert_config(weights, "text_model.model.")
    config = EgmaConfig(
        vision_config=vision_config,
        text_config=text_config,
        projection_dim=weights.shape("vision_model.projection_head.weight")[0],
        pooled_text_layers=min(4, text_config.num_hidden_layers),
        **EgmaConfig.variant_fields(variant),
    )
    model = EgmaForPreTraining(config)
    copy_weights(model.egma.vision_model, _loaded(SwinModel, vision_config, weights.take("vision_model.model.")))
    copy_weights(model.egma.text_model, _loaded(BertModel, text_config, weights.take("text_model.model.")))
    weights.place(model.egma, EGMA_NAMES, done=r"(vision|text)_model\.")
    return model.eval()


def _swin_config(weights: ReleasedWeights, image_size: int) -> SwinConfig:
    prefix = "vision_model.model."
    embed_dim, channels, patch_size, _ = weights.shape(f"{prefix}embeddings.patch_embeddings.projection.weight")
    layers = rf"{re.escape(prefix)}encoder\.layers\."
    stages = range(weights.count(rf"{layers}(\d+)\."))
    first = [f"{prefix}encoder.layers.{stage}.blocks.0." for stage in stages]
    tables = [weights.shape(f"{block}attention.self.relative_position_bias_table") for block in first]
    return SwinConfig(
        image_size=image_size,
        patch_size=patch_size,
        num_channels=channels,
        embed_dim=embed_dim,
        depths=[weights.count(rf"{layers}{stage}\.blocks\.(\d+)\.") for stage in stages],
        num_heads=[heads for _, heads in tables],
        # A table has a row for each offset, (2 w - 1) x (2 w - 1) of them.
        window_size=(round(tables[0][0] ** 0.5) + 1) // 2,
        mlp_ratio=weights.shape(f"{first[0]}intermediate.dense.weight")[0] / embed_dim,
    )
