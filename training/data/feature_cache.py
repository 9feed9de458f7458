"""What a frozen vision encoder made of every image, on disk, to pretrain without running it again.

    features-*.safetensors   `tokens` (n, T, W) in bfloat16, or in int8 with `scale` (n, T); ids and sizes in the header
    index.json               encoder's fingerprint, image processor, shape, and each image's shard, row and picture size

At Rad-DINO's 1370 x 768 tokens an image takes 2.10 MB in bfloat16 and 1.06 MB in int8; the 240,422 images of CoGaze's
pretraining 506 GB and 254 GB. It pays where the encoder would run more often than once (several epochs or ablations
with the same encoder and without augmentation of the pictures) and the disk delivers batch x 2.1 MB per step. On random
weights the loss moves by less than 2e-5 in bfloat16 and 1e-4 in int8 (tokens off by 0.2 % and 0.7 % of their norm).
"""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

import torch
from datasets import Dataset, Image, List
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from ..runs.files import read_json, write_json
from .streams import TrainingStream

INDEX = "index.json"
DTYPES = ("bf16", "int8")
# What a config says about how it was made, not about what the encoder computes.
_VOLATILE = ("transformers_version", "dtype", "torch_dtype", "architectures", "auto_map", "output_attentions")


def encoder_fingerprint(encoder: nn.Module) -> str:
    """A hash of an encoder's config and weights, the same on every machine and device."""
    fields = encoder.config.to_dict().items()
    fields = {name: value for name, value in fields if not name.startswith("_") and name not in _VOLATILE}
    return weights_fingerprint(encoder, json.dumps(fields, sort_keys=True, default=str))


def weights_fingerprint(module: nn.Module, prefix: str = "") -> str:
    """A hash of a module's weights, and of `prefix`, the same on every machine and device."""
    digest = hashlib.sha256(prefix.encode())
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]


def picture_settings(image_processor) -> dict:
    """What an image processor does to a picture, as plain JSON."""
    fields = json.loads(image_processor.to_json_string())
    return {
        name: value for name, value in fields.items() if name.startswith(("do_", "image_", "rescale", "resample"))
    } | {name: fields[name] for name in ("size", "crop_size") if name in fields}


def quantise(tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """int8 tokens (..., W) and their scale (...), float32: int8 x scale is off by half a scale at most."""
    scale = tokens.float().abs().amax(dim=-1).clamp(min=1e-12) / 127
    return (tokens.float() / scale[..., None]).round().to(torch.int8), scale


def write_shard(
    path: Path, tokens: torch.Tensor, images: Sequence[tuple[str, tuple[int, int]]], dtype: str, facts: dict
):
    """One finished shard: tokens (n, T, W) of n images, given as (image_id, picture's (width, height))."""
    if dtype == "int8":
        tokens, scale = quantise(tokens)
        tensors = {"tokens": tokens.contiguous(), "scale": scale.contiguous()}
    else:
        tensors = {"tokens": tokens.to(torch.bfloat16).contiguous()}
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    save_file(tensors, temporary, metadata={"facts": json.dumps(facts), "images": json.dumps(images)})
    os.replace(temporary, path)


def finished(folder: Path, facts: dict) -> dict[str, list]:
    """image_id -> [shard, row, [width, height]] of all finished shards.

    Raises:
        ValueError: a shard that another encoder, image processor or dtype made.
    """
    images: dict[str, list] = {}
    for path in sorted(folder.glob("features-*.safetensors")):
        with safe_open(path, "pt") as file:
            header = file.metadata()
        if json.loads(header["facts"]) != facts:
            raise ValueError(
                f"output_dir: {path} was made with another encoder, image processor or dtype; give an empty folder."
            )
        for row, (image_id, size) in enumerate(json.loads(header["images"])):
            images.setdefault(image_id, [path.name, row, size])
    return images


def write_index(folder: Path, facts: dict, images: dict[str, list]) -> None:
    shape = None
    if images:
        shard, _, _ = next(iter(images.values()))
        with safe_open(folder / shard, "pt") as file:
            shape = file.get_slice("tokens").get_shape()[1:]
    write_json(folder / INDEX, facts | {"shape": shape, "images": images})


class FeatureCache:
    """Reads a folder that `training/cache_features.py` wrote; `facts` says how, `images` where each one is.

    Raises:
        ValueError: there is no index in `folder`.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        if not (self.folder / INDEX).is_file():
            raise ValueError(f"feature_cache: {self.folder} holds no {INDEX}; let training/cache_features.py finish.")
        self.facts = read_json(self.folder / INDEX)
        self.images: dict[str, list] = self.facts.pop("images")

    def __len__(self) -> int:
        return len(self.images)

    def check(self, encoder: nn.Module, image_processor) -> None:
        """
        Raises:
            ValueError: the encoder's weights or config, or the image processor, are not those of the cache.
        """
        found = encoder_fingerprint(encoder)
        if found != self.facts["encoder"]:
            raise ValueError(
                f"feature_cache: {self.folder} was made by the vision encoder {self.facts['encoder']}, the model's is "
                f"{found}; start from the same weights, or make the cache again."
            )
        if picture_settings(image_processor) != self.facts["image_processor"]:
            raise ValueError(f"feature_cache: {self.folder} was made with another image processor's settings.")

    def require(self, image_ids: Iterable[str], argument: str) -> None:
        """
        Raises:
            ValueError: an image is not in the cache; names the first and says how many.
        """
        missing = [image_id for image_id in image_ids if image_id not in self.images]
        if missing:
            raise ValueError(
                f"{argument}: image {missing[0]} and {len(missing) - 1} more are not in the feature cache "
                f"{self.folder}; run training/cache_features.py on these data, too."
            )

    def attach(self, dataset: Dataset | TrainingStream, argument: str) -> Dataset | TrainingStream:
        """The records without their pictures, which are not decoded again; a data set's with `picture_size`."""
        if isinstance(dataset, TrainingStream):
            self.require((record["image_id"] for record in dataset.columns(["image_id"])), argument)
            dataset.leave_pictures()
            return dataset
        self.require(dataset["image_id"], argument)
        sizes = [self.images[image_id][2] for image_id in dataset["image_id"]]
        # Masks of regions are pictures, too, and pretraining has no use for them.
        pictures = [name for name in ("image", "regions") if name in dataset.column_names]
        dataset = dataset.remove_columns(pictures).add_column("picture_size", sizes)
        return undecoded_companions(dataset)

    def record(self, record: dict) -> dict:
        """The record with `picture_size` and `vision_features` (T, W) in place of its picture, companions' too."""
        features, size = self._stored(record["image_id"])
        record = {name: value for name, value in record.items() if name != "image"}
        if record.get("companions"):
            companions = record["companions"]
            stored = [{"vision_features": self._stored(each["image_id"])[0]} for each in companions]
            record["companions"] = [each | {"image": own} for each, own in zip(companions, stored, strict=True)]
        return record | {"picture_size": size, "vision_features": features}

    def _stored(self, image_id: str) -> tuple[torch.Tensor, list[int]]:
        self.require([image_id], "feature_cache")
        shard, row, size = self.images[image_id]
        return _read(str(self.folder / shard), row), size


def undecoded_companions(dataset: Dataset) -> Dataset:
    """The data set with its companions' pictures left as they are stored."""
    companion = getattr(dataset.features.get("companions"), "feature", None)
    if not isinstance(companion, dict):  # of data without any
        return dataset
    return dataset.cast_column("companions", List(companion | {"image": Image(decode=False)}))


@lru_cache(maxsize=256)
def _opened(path: str, process: int):
    return safe_open(path, "pt")


def _read(path: str, row: int) -> torch.Tensor:
    file = _opened(path, os.getpid())
    tokens = file.get_slice("tokens")[row]
    if tokens.dtype == torch.int8:
        return tokens.float() * file.get_slice("scale")[row][:, None]
    return tokens
