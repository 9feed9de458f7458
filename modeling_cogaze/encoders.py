"""Vision and text encoders of any kind, brought to one form."""

import os
from collections.abc import Callable

import torch
from torch import nn
from transformers import CONFIG_MAPPING, AutoModel, BertConfig, BertModel, PreTrainedConfig, PreTrainedModel

from .distributed import share_batch_statistics


def vision_tokens(outputs, num_patches: int) -> tuple[torch.Tensor | None, torch.Tensor]:
    """The global token (B, 1, D), None where there is none, and the patch tokens (B, P, D) of any vision backbone.

    ViTs put a class token (and registers, which are dropped) before their patches; convolutional networks give a map
    (B, D, h, w). Their pooled output is the global token: for a DINOv2, the class token after the final LayerNorm.
    """
    patches, pooled = outputs.last_hidden_state, outputs.get("pooler_output")
    if patches.ndim == 4:
        patches = patches.flatten(2).transpose(1, 2)
    others = patches.shape[1] - num_patches
    if others < 0:
        raise ValueError(
            f"pixel_values: the vision encoder gave {patches.shape[1]} tokens where its config promises {num_patches} "
            "patches; give images of the size that the image processor makes."
        )
    if pooled is not None:
        pooled = pooled.flatten(1)[:, None]
    elif others > 0:
        pooled = patches[:, :1]
    return pooled, patches[:, others:]


def build_part(auto_class: type, config: PreTrainedConfig) -> PreTrainedModel:
    """A randomly initialised part of a model, in the dtype of the whole.

    The part's config may name another one, of the checkpoint that it came from; `from_pretrained` corrects it no deeper
    than one level.
    """
    if config.dtype is not None:
        config.dtype = torch.get_default_dtype()
    return auto_class.from_config(config)


def build_vision_encoder(vision_config: PreTrainedConfig) -> PreTrainedModel:
    """A randomly initialised vision encoder, whose batch normalisation is over the joined batch of all processes.

    One without attention to choose, such as a convolutional network, goes along with any attention implementation.
    """
    if getattr(AutoModel._model_mapping[type(vision_config)], "_supports_sdpa", False):
        encoder = build_part(AutoModel, vision_config)
    else:
        vision_config._attn_implementation = None
        encoder = build_part(AutoModel, vision_config)
        encoder._supports_sdpa = encoder._supports_flash_attn = True
    share_batch_statistics(encoder)
    return encoder


def build_text_encoder(text_config: PreTrainedConfig) -> PreTrainedModel:
    """A randomly initialised text encoder, without the pooler, which nothing would train."""
    encoder = build_part(AutoModel, text_config)
    if getattr(encoder, "pooler", None) is not None:
        encoder.register_module("pooler", None)
    return encoder


def first_tokens(
    encode: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    group: int = 32,
) -> torch.Tensor:
    """What `encode` gives for the first token that is not padding, (N, D), computed in groups of like length.

    A transcript's sentences are short and its full text long: encoded together, most of the work would be padding.
    `encode` takes ids and mask (n, l) and gives (n, l, D). Compiled, one group of fixed shape is faster.
    """

    def first(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        start = mask.int().argmax(dim=1)
        return encode(ids, mask)[torch.arange(ids.shape[0], device=ids.device), start]

    if torch.compiler.is_compiling() or len(input_ids) <= group:
        return first(input_ids, attention_mask)
    # One past the last real token, wherever the padding is.
    places = torch.arange(1, input_ids.shape[1] + 1, device=input_ids.device)
    lengths, order = (attention_mask * places).amax(dim=1).sort(stable=True)
    longest = lengths[group - 1 :: group].tolist()
    longest += [] if len(order) % group == 0 else [int(lengths[-1])]
    parts = [
        first(input_ids[rows, :length], attention_mask[rows, :length])
        for rows, length in zip(order.split(group), longest, strict=True)
    ]
    return torch.cat(parts)[order.argsort()]


def load_encoder(name_or_path: str | os.PathLike, **kwargs) -> PreTrainedModel:
    """A pretrained encoder from the Hub or a folder.

    CXR-BERT's checkpoint names a class of its own that only remote code knows, but its encoder is a plain BERT.
    """
    fields, _ = PreTrainedConfig.get_config_dict(name_or_path)
    if fields.get("model_type") in CONFIG_MAPPING:
        return AutoModel.from_pretrained(name_or_path, **kwargs)
    if "bert" not in fields.get("model_type", ""):
        raise ValueError(f"{name_or_path}: transformers knows no encoder of model_type {fields.get('model_type')!r}.")
    fields = {name: value for name, value in fields.items() if name not in ("model_type", "auto_map", "architectures")}
    return BertModel.from_pretrained(name_or_path, config=BertConfig.from_dict(fields), **kwargs)


def copy_weights(target: nn.Module, source: nn.Module) -> list[str]:
    """Copy all of `source`'s weights that `target` has in the same shape; returns the names of those it lacks."""
    found = source.state_dict()
    wanted = target.state_dict()
    same = {name: found[name] for name in wanted if name in found and found[name].shape == wanted[name].shape}
    target.load_state_dict(same, strict=False)
    return [name for name in wanted if name not in same]


__all__ = [
    "build_part",
    "build_text_encoder",
    "build_vision_encoder",
    "copy_weights",
    "first_tokens",
    "load_encoder",
    "vision_tokens",
]
