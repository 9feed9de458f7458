"""Opens the parts of CoGaze before a language model: saved weights, and the checkpoints that the frozen ones are in."""

import os
from collections.abc import Iterable
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file
from transformers.utils.hub import get_checkpoint_shard_files

from .configuration_cogaze_prefix import CoGazePrefixConfig
from .modeling_cogaze import CoGazeForPreTraining

HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "proxies", "token", "revision", "subfolder")
# What `from_pretrained` hands on to the language model.
LOADING_ARGUMENTS = (
    "dtype",
    "device_map",
    "max_memory",
    "offload_folder",
    "offload_buffers",
    "quantization_config",
    "attn_implementation",
    "trust_remote_code",
)
# What the Auto classes add, and what `PreTrainedModel.from_pretrained` takes and does not need.
LEFT_ASIDE = ("_from_auto", "_from_pipeline", "_commit_hash", "adapter_kwargs", "low_cpu_mem_usage", "weights_only")


def take(names: Iterable[str], arguments: dict) -> dict:
    """Those of `names` that are among the arguments and not None; they are removed there."""
    found = {name: arguments.pop(name, None) for name in names}
    return {name: value for name, value in found.items() if value is not None}


def saved_weights(name_or_path: str | os.PathLike, variant: str | None, hub: dict) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint's safetensors, in one file or in shards; `variant` stands in the files' names."""

    def named(file_name: str) -> str:
        start, ending = file_name.rsplit(".", 1)
        return file_name if variant is None else f"{start}.{variant}.{ending}"

    index = cached_file(
        name_or_path, named(SAFE_WEIGHTS_INDEX_NAME), _raise_exceptions_for_missing_entries=False, **hub
    )
    if index is None:
        files = [str(cached_file(name_or_path, named(SAFE_WEIGHTS_NAME), **hub))]
    else:
        files = get_checkpoint_shard_files(str(name_or_path), index, **hub)[0] or []
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def load_encoder(name_or_path: str | os.PathLike, **arguments) -> CoGazeForPreTraining:
    """A CoGaze checkpoint of any kind; its disease heads are left out where it has none."""
    access = {name: value for name, value in arguments.items() if name in HUB_ARGUMENTS}
    fields, _ = PreTrainedConfig.get_config_dict(name_or_path, **access)
    if fields.get("model_type") != "cogaze":
        raise ValueError(f"encoder_name_or_path: {name_or_path} is no CoGaze, but {fields.get('model_type')!r}.")
    kind: Any = CoGazeForPreTraining
    encoder, info = kind.from_pretrained(name_or_path, output_loading_info=True, **arguments)
    if any("_classifier." in name for name in info["missing_keys"]):
        del encoder.vision_classifier, encoder.report_classifier
        encoder.config.use_classification = False
    return encoder


def load_parts(
    config: CoGazePrefixConfig, weights: dict[str, torch.Tensor], hub: dict, loading: dict
) -> tuple[CoGazeForPreTraining, PreTrainedModel]:
    """Encoder and language model, each from the checkpoint that the config names, or out of `weights`.

    Args:
        weights: a checkpoint's; what encoder and language model take from them is removed there.
        hub, loading: `HUB_ARGUMENTS` of the checkpoint, and `LOADING_ARGUMENTS` of the language model.

    Raises:
        ValueError: a named checkpoint has another width than the config; the weights lack something.
    """
    access = {name: hub[name] for name in ("cache_dir", "local_files_only", "proxies", "token") if name in hub}
    if config.encoder_name_or_path is not None:
        encoder = load_encoder(config.encoder_name_or_path, **access, **_attention(config.encoder_config, loading))
    else:
        attention = _attention(config.encoder_config, loading)
        encoder = _from_weights(CoGazeForPreTraining, config.encoder_config, "encoder", weights, attention)
    loading = {"dtype": "auto"} | loading | _attention(config.text_config, loading)
    if config.base_model_name_or_path is not None:
        base = config.base_model_name_or_path
        language_model: Any = AutoModelForCausalLM.from_pretrained(base, **access, **loading)
    else:
        kind = AutoModelForCausalLM._model_mapping[type(config.text_config)]
        language_model = _from_weights(kind, config.text_config, "language_model", weights, loading)
    for argument, found, saved in (
        ("encoder_name_or_path", encoder.config.hidden_size, config.encoder_config.hidden_size),
        ("base_model_name_or_path", language_model.config.hidden_size, config.text_config.hidden_size),
    ):
        if found != saved:
            raise ValueError(
                f"{argument}: {getattr(config, argument)} has hidden size {found}, the saved adapter is for "
                f"{saved}; give the checkpoint that it was trained on."
            )
    return encoder, language_model


def _attention(config: PreTrainedConfig, loading: dict) -> dict[str, str]:
    """The attention that is asked for, as an argument or, by the Auto classes, in the config."""
    asked = loading.get("attn_implementation") or config._attn_implementation_internal
    return {} if asked is None else {"attn_implementation": asked}


def _from_weights(
    kind: Any, config: PreTrainedConfig, part: str, weights: dict[str, torch.Tensor], loading: dict
) -> Any:
    """By `from_pretrained`, which knows the names that tensors have in files, and how to quantise and to offload."""
    names = [name for name in weights if name.startswith(f"{part}.") and not is_lora(name)]
    # Within LoRA, a layer's own weights have another name.
    own = {name.removeprefix(f"{part}.").replace(".base_layer.", "."): weights.pop(name) for name in names}
    model, info = kind.from_pretrained(None, config=config, state_dict=own, output_loading_info=True, **loading)
    if info["missing_keys"]:
        raise ValueError(f"pretrained_model_name_or_path: the checkpoint lacks {part}.{min(info['missing_keys'])}.")
    return model


def model_fields(config: PreTrainedConfig) -> dict:
    """A copy, since a config takes hold of its sub-configs, of what says how a model is built."""
    left_out = ("architectures", "auto_map", "transformers_version")
    fields = config.to_dict().items()
    return {name: value for name, value in fields if name not in left_out and not name.startswith("_")}


def is_lora(name: str) -> bool:
    """Whether a parameter of that name is LoRA's."""
    return ".lora_" in name


__all__ = [
    "HUB_ARGUMENTS",
    "LEFT_ASIDE",
    "LOADING_ARGUMENTS",
    "is_lora",
    "load_encoder",
    "load_parts",
    "model_fields",
    "saved_weights",
    "take",
]
