"""What the configurations of both families share: encoders of any kind, named sizes, remote code."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from transformers import CONFIG_MAPPING, GPT2Config, PreTrainedConfig
from transformers.dynamic_module_utils import get_relative_import_files
from transformers.utils import logging

# Encoders that learn from random weights on two CPU cores: overlapping strided convolutions keep thin lines and edges,
# and batch normalisation lets so small a network learn within a few hundred steps.
TINY_VISION: dict[str, Any] = {
    "model_type": "resnet",
    "image_size": 224,
    "layer_type": "basic",
    "embedding_size": 16,
    "hidden_sizes": [32, 64, 128],
    "depths": [1, 1, 2],
}
TINY_SEGMENTATION_CHANNELS = [64, 32, 16, 16]
TINY_TEXT: dict[str, Any] = {
    "model_type": "bert",
    "vocab_size": 4096,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "initializer_range": 0.05,
    "pad_token_id": None,
}

# Of each field, in a config or in a sub-config of it, the largest value that is still a size and not a slip: what is
# larger would fill the memory before anything could be said about it.
LARGEST = {
    "attention_heads": 4096,
    "classes": 100_000,
    "depth": 1000,
    "factor": 1000,
    "pixels": 16_384,
    "tokens": 1_000_000,
    "vocabulary": 10_000_000,
    "width": 262_144,
}
SIZE_FIELDS = {
    "hidden_size": "width",
    "hidden_sizes": "width",
    "embed_dim": "width",
    "embedding_size": "width",
    "intermediate_size": "width",
    "projection_dim": "width",
    "perceiver_head_dim": "width",
    "segmentation_channels": "width",
    "n_inner": "width",
    "num_hidden_layers": "depth",
    "depths": "depth",
    "perceiver_depth": "depth",
    "pooled_text_layers": "depth",
    "num_stages": "depth",
    "num_attention_heads": "attention_heads",
    "num_heads": "attention_heads",
    "perceiver_heads": "attention_heads",
    "mlp_ratio": "factor",
    "perceiver_ff_mult": "factor",
    "image_size": "pixels",
    "patch_size": "pixels",
    "num_latents": "tokens",
    "max_position_embeddings": "tokens",
    "vocab_size": "vocabulary",
    "num_labels": "classes",
}
# One entry per label of a downstream head.
PER_LABEL = ("examples_per_class", "logit_temperature")

logger = logging.get_logger(__name__)


def check_sizes(config: PreTrainedConfig | dict, where: str = "") -> None:
    """Refuse sizes that no model has.

    Raises:
        ValueError: names the field: not above zero, or larger than `LARGEST` allows.
    """
    for name, kind in SIZE_FIELDS.items():
        value = config.get(name) if isinstance(config, dict) else getattr(config, name, None)
        for size in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(size, (int, float)) and not 0 < size <= LARGEST[kind]:
                raise ValueError(f"{where}{name}: {size} is not within 1 and {LARGEST[kind]:,}.")


def vision_width(vision_config: PreTrainedConfig) -> int:
    """Channels of a vision backbone's last feature map."""
    sizes = getattr(vision_config, "hidden_sizes", None)
    return sizes[-1] if sizes else vision_config.hidden_size


def patch_stride(vision_config: PreTrainedConfig) -> tuple[int, int]:
    """Pixels per patch, down and across, of a vision backbone's last feature map.

    Backbones in stages (Swin, ConvNeXt, ResNet) halve their map from each stage to the next; a stem without a
    `patch_size` divides by four.
    """
    down, across = _pair(getattr(vision_config, "patch_size", 4))
    halvings = max(len(getattr(vision_config, "depths", None) or [0]) - 1, 0)
    return down * 2**halvings, across * 2**halvings


def _pair(value: int | list[int] | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _merged(defaults: dict, overrides: dict) -> dict:
    merged = dict(defaults)
    for name, value in overrides.items():
        both = isinstance(value, dict) and isinstance(merged.get(name), dict)
        # Another kind of encoder shares no fields with the default one.
        same_kind = both and value.get("model_type", merged[name].get("model_type")) == merged[name].get("model_type")
        merged[name] = _merged(merged[name], value) if same_kind else value
    return merged


# What the mixins are mixed into, and call by `super()`.
if TYPE_CHECKING:
    _Config = PreTrainedConfig
else:
    _Config = object


class RemoteCodeMixin(_Config):
    """Saves, beside a config, the code that opens the checkpoint without this package (`trust_remote_code=True`).

    A config class sets `code_module`, the one module that all entries of `auto_map` point to (so that config and models
    come from the same copy of the code), and `auto_classes`, from Auto class to the class's name in that module.
    """

    code_module = ""
    auto_classes: dict[str, str] = {}

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs):
        """As `PreTrainedConfig.save_pretrained`; also writes the whole `auto_map` and the modules it needs."""
        entry = Path(__file__).parent / f"{self.code_module}.py"
        os.makedirs(save_directory, exist_ok=True)
        for source in [entry, *map(Path, get_relative_import_files(entry))]:
            target = Path(save_directory) / source.name
            if source.resolve() != target.resolve():
                shutil.copyfile(source, target)
        self.auto_map = {auto: f"{self.code_module}.{name}" for auto, name in self.auto_classes.items()}
        super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)

    @classmethod
    def register_for_auto_class(cls, auto_class="AutoConfig"):
        """Does nothing: `save_pretrained` writes the whole map, where the inherited method writes one entry."""


@dataclass(repr=False, eq=False)
class DualEncoderConfigMixin(RemoteCodeMixin):
    """Named sizes and variants, what follows from the encoders' configs, and the fields of the downstream heads.

    A config class sets `sizes` and `variants`, from a size's or a variant's name to the fields that differ from the
    defaults. The variant "paper" has none; "released" follows the authors' code where it differs from their paper. A
    `variant` in a config's dictionary or JSON file is taken for its fields, and these are what is saved.

    Args:
        classifier_pooling: "mean" classifies the global feature, "attention" each label's own mean of the tokens,
            "token" what a learned token reads from them (an option of CoGaze's released code, over its latents).
        classifier_loss: "focal" (paper) is class-balanced, "cross_entropy" neither focal nor balanced; per label or,
            for exclusive classes, over the softmax, as `problem_type` says. "sigmoid_focal" is "focal" with a sigmoid
            for each exclusive class too (CoGaze's released code).
        examples_per_class: training examples per label of the classifier, for the class-balanced weights, which weigh
            labels against each other (one alone is left as it is); None weighs all alike.
        class_balance_beta, focal_gamma: beta and gamma of the class-balanced focal loss.
        logit_temperature: one per label, by which the classifier divides its logits after the loss, so that its
            probabilities are calibrated (Guo et al., ICML 2017); None leaves them as they are.
        segmentation_dice: the soft Dice of the "batch" as a whole (paper), or the mean of each "image"'s own (CoGaze's
            released code, for SIIM).
        segmentation_channels: widths of the mask decoder's blocks, each of which doubles the map's size.
        box_settings: how gaze maps become boxes, fields of the processor's `BoxSettings`; None: its defaults.
        support: of a report generator, what its `SupportHead` reads: "signs", "samples", "labels" and "width"; None:
            it has none.
    """

    sizes: ClassVar[dict[str, dict[str, Any]]] = {}
    variants: ClassVar[dict[str, dict[str, Any]]] = {"paper": {}}

    classifier_pooling: Literal["mean", "attention", "token"] = "mean"
    classifier_loss: Literal["focal", "sigmoid_focal", "cross_entropy"] = "focal"
    examples_per_class: list[int] | None = None
    class_balance_beta: float | int = 0.9999
    focal_gamma: float | int = 0.2
    logit_temperature: list[float] | None = None
    segmentation_dice: Literal["batch", "image"] = "batch"
    segmentation_channels: list[int] | tuple[int, ...] = (512, 256, 128, 64)
    box_settings: dict[str, float | int] | None = None
    support: dict[str, Any] | None = None

    def __post_init__(self, **kwargs):
        if "variant" in kwargs:
            raise ValueError("variant: a config is made of fields; give it to `named` or `from_dict`, which have them.")
        # Before the base class makes a name for each label, and the caller a model.
        check_sizes(kwargs)
        check_sizes(self)
        for name in self.sub_configs:
            config = getattr(self, name)
            check_sizes({} if config is None else config, f"{name}.")
        self.segmentation_channels = list(self.segmentation_channels)
        super().__post_init__(**kwargs)

    @classmethod
    def variant_fields(cls, variant: str) -> dict[str, Any]:
        """The fields of a variant ("paper" or "released") that differ from the defaults.

        Raises:
            ValueError: unknown variant.
        """
        if variant not in cls.variants:
            raise ValueError(f"variant: {variant!r} is none of {sorted(cls.variants)}.")
        return dict(cls.variants[variant])

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs):
        """As `PreTrainedConfig.from_dict`; what was kept per label goes where the labels become others in number.

        A `variant` gives its fields where the dictionary has none of its own.
        """
        if "variant" in config_dict:
            rest = {name: value for name, value in config_dict.items() if name != "variant"}
            config_dict = cls.variant_fields(config_dict["variant"]) | rest
        labels = kwargs.get("num_labels", len(kwargs["id2label"]) if kwargs.get("id2label") else None)
        gone = [name for name in PER_LABEL if name not in kwargs and config_dict.get(name) is not None]
        gone = [name for name in gone if labels is not None and len(config_dict[name]) != labels]
        if gone:
            logger.warning(f"{', '.join(gone)}: left out, being of another number of labels than the {labels} wanted.")
            config_dict = {name: value for name, value in config_dict.items() if name not in gone}
        return super().from_dict(config_dict, **kwargs)

    @classmethod
    def named(cls, size: str, vocab_size: int | None = None, variant: str = "paper", **overrides) -> Self:
        """The config of a named size ("tiny" or "base") and variant ("paper" or "released").

        `overrides` are any fields; dicts are merged into the size's, so `text_config={"num_hidden_layers": 3}` changes
        that alone. `vocab_size` is the text encoder's.

        Raises:
            ValueError: unknown size or variant.
        """
        if size not in cls.sizes:
            raise ValueError(f"size: {size!r} is none of {sorted(cls.sizes)}.")
        defaults = cls.sizes[size] | cls.variant_fields(variant)
        if vocab_size is not None:
            defaults = _merged(defaults, {"text_config": {"vocab_size": vocab_size}})
        return cls(**_merged(defaults, overrides))

    @classmethod
    def tiny(cls, **overrides) -> Self:
        """For tests and the demo: learns from random weights on two CPU cores, at 224 pixels."""
        return cls.named("tiny", **overrides)

    @classmethod
    def base(cls, **overrides) -> Self:
        """The paper's size."""
        return cls.named("base", **overrides)

    @property
    def image_size(self) -> tuple[int, int]:
        """Rows and columns of pixels that the vision encoder is made for."""
        size = getattr(self.vision_config, "image_size", None)
        if size is None:
            raise ValueError("vision_config: this backbone's config has no image_size; set one on it.")
        return _pair(size)

    @property
    def patch_stride(self) -> tuple[int, int]:
        """Pixels per patch, down and across."""
        return patch_stride(self.vision_config)

    @property
    def grid_size(self) -> tuple[int, int]:
        """Rows and columns of patches at `image_size`."""
        (height, width), (down, across) = self.image_size, self.patch_stride
        return height // down, width // across

    def add_decoder(self, tokenizer, **fields) -> Self:
        """Ask for a report decoder that writes `tokenizer`'s tokens; returns the config.

        By default a GPT-2 as wide and as deep as the text encoder: for the paper's size, DistilGPT2's shape.

        Args:
            tokenizer: its beginning, end and padding tokens are the decoder's; BERT's [CLS] begins and [SEP] ends.
            fields: of the decoder's config, `model_type` among them; others keep their defaults.

        Raises:
            ValueError: the tokenizer cannot begin or end a report; an unknown model_type.
        """
        begin = tokenizer.cls_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        end = tokenizer.sep_token_id if tokenizer.eos_token_id is None else tokenizer.eos_token_id
        if begin is None or end is None:
            raise ValueError("tokenizer: it has no token to begin or to end a report; set bos_token and eos_token.")
        text = self.text_config
        size = {
            "n_embd": text.hidden_size,
            "n_layer": text.num_hidden_layers,
            "n_head": text.num_attention_heads,
            "initializer_range": self.initializer_range,
        }
        defaults = {
            "model_type": "gpt2",
            "vocab_size": len(tokenizer),
            "bos_token_id": begin,
            "eos_token_id": end,
            "pad_token_id": end if tokenizer.pad_token_id is None else tokenizer.pad_token_id,
            "add_cross_attention": True,
            "is_decoder": True,
        }
        if fields.get("model_type", "gpt2") == "gpt2":
            defaults |= size
            fields = {GPT2Config.attribute_map.get(name, name): value for name, value in fields.items()}
        self.decoder_config = sub_config(defaults | fields, "decoder_config")
        return self

    def get_text_config(self, decoder=None, encoder=None) -> PreTrainedConfig:
        """The decoder's config where there is one, unless the encoder's is asked for.

        Caches are built from it, and its vocabulary is the one that is generated.
        """
        written = self.decoder_config is not None and (decoder or not encoder)
        return self.decoder_config if written else self.text_config


def sub_config(value: Any, argument: str) -> PreTrainedConfig:
    """A config as it is, or made from its fields, `model_type` among them.

    Raises:
        ValueError: neither, an absurd size, or a model_type that transformers does not know; names the argument.
    """
    if isinstance(value, PreTrainedConfig):
        return value
    if not isinstance(value, dict):
        raise ValueError(f"{argument}: {value!r} is neither a config nor a dictionary of its fields.")
    fields = dict(value)
    # Before the config is made: some kinds keep a name for each layer, which takes minutes and the memory.
    check_sizes(fields, f"{argument}.")
    model_type = fields.pop("model_type", None)
    if model_type not in CONFIG_MAPPING:
        raise ValueError(f"{argument}: model_type {model_type!r} is none that transformers knows.")
    return CONFIG_MAPPING[model_type](**fields)


__all__ = [
    "DualEncoderConfigMixin",
    "RemoteCodeMixin",
    "TINY_SEGMENTATION_CHANNELS",
    "TINY_TEXT",
    "TINY_VISION",
    "patch_stride",
    "sub_config",
    "vision_width",
]
