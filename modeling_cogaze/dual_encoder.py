"""What the models of both families share: an image encoder, a text encoder, and how they are run and loaded."""

import os
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import PreTrainedModel

from .calls import asked_for
from .encoders import copy_weights, load_encoder


class DualEncoderPreTrainedModel(PreTrainedModel):
    """Base of all models that hold a `vision_model` and a `text_model`."""

    main_input_name = "pixel_values"
    input_modalities = ["image", "text"]
    # The Trainer is not to rescale the loss: it is normalised over the whole batch already.
    accepts_loss_kwargs = False
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True

    @classmethod
    def register_for_auto_class(cls, auto_class="AutoModel"):
        """Does nothing: saving the config writes the map of all Auto classes, not just this one's entry."""

    def resize_token_embeddings(self, *args, **kwargs) -> nn.Embedding:
        """As `PreTrainedModel.resize_token_embeddings`, of the text encoder."""
        base: Any = getattr(self, self.base_model_prefix, self)
        embeddings = base.text_model.resize_token_embeddings(*args, **kwargs)
        self.vocab_size = self.config.text_config.vocab_size = embeddings.num_embeddings
        return embeddings

    @classmethod
    def from_encoders(
        cls,
        vision: str | os.PathLike | None = None,
        text: str | os.PathLike | None = None,
        config: Any = None,
        **overrides,
    ):
        """A model whose encoders carry pretrained weights; all else is new.

        Args:
            vision: folder or Hub id of a vision backbone, such as "microsoft/rad-dino"; None for random weights.
            text: the same of a text encoder, such as "microsoft/BiomedVLP-CXR-BERT-specialized". Its first
                `config.text_config.num_hidden_layers` layers are taken; its word embeddings only if its vocabulary has
                the size of the config's (CoGaze feeds it another tokenizer's tokens).
            config: sizes of all else; by default the paper's. The encoders' own sizes replace those in it.
            overrides: fields for the default config.
        """
        kind: Any = cls.config_class
        config = kind.base(**overrides) if config is None else config
        pretrained = {}
        if vision is not None:
            pretrained["vision_model"] = load_encoder(vision)
            config.vision_config = pretrained["vision_model"].config
            # A mask token would be a parameter that no step trains.
            config.vision_config.use_mask_token = False
        if text is not None:
            pretrained["text_model"] = load_encoder(text)
            wanted, config.text_config = config.text_config, pretrained["text_model"].config
            config.text_config.vocab_size = wanted.vocab_size
            config.text_config.num_hidden_layers = min(wanted.num_hidden_layers, config.text_config.num_hidden_layers)
            config.text_config.pad_token_id = wanted.pad_token_id
        model = cls(config)
        base = getattr(model, cls.base_model_prefix, model)
        for name, encoder in pretrained.items():
            lacking = [key for key in copy_weights(getattr(base, name), encoder) if "word_embeddings" not in key]
            if lacking:
                raise ValueError(f"{name}: the pretrained encoder lacks {lacking[:3]} in the shape of its own config.")
        return model


# What the mixins are mixed into, and call by `super()`.
if TYPE_CHECKING:
    Mixed = DualEncoderPreTrainedModel
else:
    Mixed = object


class DualEncoderMixin(Mixed):
    """How a base model runs its two encoders."""

    vision_model: PreTrainedModel
    text_model: PreTrainedModel

    def train(self, mode: bool = True):
        super().train(mode)
        if self.config.freeze_vision_encoder:
            # Here, since loading makes new parameters, and ends with a call of this method.
            freeze(self.vision_model)
        return self

    def get_input_embeddings(self) -> nn.Module:
        return self.text_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module):
        self.text_model.set_input_embeddings(value)

    def run_vision_encoder(self, pixel_values: torch.Tensor, **kwargs):
        """The vision encoder's outputs for (B, 3, H, W), no graph where it is frozen; rows and columns of patches."""
        if pixel_values.ndim != 4:
            raise ValueError(f"pixel_values: shape {tuple(pixel_values.shape)}; it must be (B, 3, H, W).")
        down, across = self.config.patch_stride
        grid_size = pixel_values.shape[2] // down, pixel_values.shape[3] // across
        # A convolution takes its input's layout; with the channels last it is the faster one, on CPU and GPU.
        pixel_values = pixel_values.to(self.vision_model.dtype, memory_format=torch.channels_last)
        with grad_unless_frozen(self.vision_model, self.config.freeze_vision_encoder):
            return self.vision_model(pixel_values, return_dict=True, **asked_for(kwargs)), grid_size

    def run_text_encoder(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **kwargs):
        """The text encoder's outputs for (N, L) tokens; hidden states are of no use where the mask is 0."""
        # Positions count the tokens present, so that padding on either side changes nothing. A row without any token
        # attends to its first one, which keeps the arithmetic finite.
        position_ids = (attention_mask.cumsum(dim=1) - 1).clamp(min=0)
        return self.text_model(
            input_ids=input_ids,
            attention_mask=never_empty(attention_mask),
            position_ids=position_ids,
            return_dict=True,
            **asked_for(kwargs),
        )

    def images_of_sentences(
        self, image_index: torch.Tensor | None, sentences: torch.Tensor, patches: torch.Tensor
    ) -> torch.Tensor:
        """(N,) each sentence's image; where not given, the only one, or one image per sentence."""
        if image_index is not None:
            return image_index
        images, count = patches.shape[0], sentences.shape[0]
        if images not in (1, count):
            raise ValueError(f"image_index: {count} sentences for {images} images; say which belongs to which.")
        return torch.arange(count, device=patches.device) % images


def freeze(module: nn.Module) -> None:
    """Take a module's weights out of training, and the module to eval mode.

    Where peft has put adapters into it, peft has frozen the rest and says itself what is trained: that stays.
    """
    kept = [(part, part.training) for part in adapters(module)]
    module.eval()
    for part, training in kept:
        part.train(training)
    if not kept:
        module.requires_grad_(False)


def spare_idle_parameters(base_model: Any) -> None:
    """What no loss of images reaches asks for no gradient: DDP would wait for it."""
    for parameter in base_model.idle_parameters():
        parameter.requires_grad_(False)


def adapters(module: nn.Module) -> list[nn.Module]:
    """What peft has put into a module, beside the layers that were there."""
    return [
        part
        for layer in module.modules()
        if hasattr(layer, "adapter_layer_names")
        for name, part in layer.named_children()
        if name not in ("base_layer", "original_module")
    ]


def is_trained(module: nn.Module) -> bool:
    """Whether any parameter is: of a frozen module, those of peft's adapters."""
    return any(parameter.requires_grad for parameter in module.parameters())


def grad_unless_frozen(module: nn.Module, frozen: bool) -> AbstractContextManager:
    """In which a module is run: without a graph where it is frozen and no adapter in it is trained."""
    return torch.set_grad_enabled(torch.is_grad_enabled() and (not frozen or is_trained(module)))


def mask_of(input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
    return torch.ones_like(input_ids) if attention_mask is None else attention_mask


def never_empty(mask: torch.Tensor) -> torch.Tensor:
    """`mask` (B, L) with the first token of all-zero rows let in."""
    first = torch.arange(mask.shape[1], device=mask.device) == 0
    return torch.where(mask.any(dim=1, keepdim=True), mask, first.to(mask.dtype))


def masked_token_mean(hidden_states: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """(N, D) mean over the tokens present of (N, L, D)."""
    weights = attention_mask[..., None].to(hidden_states.dtype)
    return (hidden_states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)


def zero_through(parameters: Iterable[nn.Parameter]) -> torch.Tensor | int:
    """Zero, with a graph to parameters that a batch leaves out: DDP waits for each one's gradient."""
    return sum(0 * parameter.flatten()[0] for parameter in parameters if parameter.requires_grad)


__all__ = [
    "DualEncoderMixin",
    "DualEncoderPreTrainedModel",
    "adapters",
    "freeze",
    "grad_unless_frozen",
    "is_trained",
    "mask_of",
    "masked_token_mean",
    "never_empty",
    "spare_idle_parameters",
    "zero_through",
]
