"""Running a frozen vision encoder over a data set once, into a feature cache."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from accelerate import PartialState
from datasets import Dataset
from tqdm import tqdm

from modeling_cogaze import CoGazeConfig, CoGazeForPreTraining, CoGazeModel
from processing import CoGazeProcessor
from processing.datasets.storage.shards import size_in_bytes
from processing.radiographs import read_radiograph

from ..runs.command_line import mapping, parse_arguments
from .feature_cache import encoder_fingerprint, finished, picture_settings, write_index, write_shard
from .loading import load_data


@dataclass
class CacheArguments:
    """The encoder, the images, and how they are stored."""

    data: str = field(metadata={"help": 'JSON: {"name": ..., "split": ..., "root": ...}'})
    output_dir: str = field(metadata={"help": "folder of the cache"})
    checkpoint: str | None = field(default=None, metadata={"help": "a CoGaze checkpoint, with its processor"})
    vision_encoder: str | None = field(default=None, metadata={"help": "pretrained image encoder: folder or Hub id"})
    model_size: Literal["tiny", "base"] = field(default="base", metadata={"help": "with vision_encoder"})
    model_overrides: str | None = field(default=None, metadata={"help": "JSON: any field of the model's config"})
    dtype: Literal["bf16", "int8"] = "bf16"
    max_shard: str = "500MB"
    batch_size: int = 16
    num_workers: int = field(default=0, metadata={"help": "processes that read pictures, for each encoding one"})
    bf16: bool = field(default=False, metadata={"help": "run the encoder in bfloat16, as pretraining with --bf16 does"})


def cache_features(argv: list[str] | None = None) -> dict:
    """Store the images' features that are not stored yet; returns how many there are, and how many are new."""
    (arguments,) = parse_arguments((CacheArguments,), argv, cache_features.__doc__)
    # Without `cpu`, processes that have no GPU would each take themselves for the only one.
    processes = PartialState(cpu=not torch.accelerator.is_available())
    model, image_processor = encoder_of(arguments)
    out = Path(arguments.output_dir)
    out.mkdir(parents=True, exist_ok=True)
    if processes.is_main_process:
        for partial in out.glob(".features-*.part"):  # of a run that was killed
            partial.unlink()
    processes.wait_for_everyone()
    facts = {
        "encoder": encoder_fingerprint(model.vision_model),
        "image_processor": picture_settings(image_processor),
        "dtype": arguments.dtype,
        "bf16": arguments.bf16,
    }
    dataset = load_data(arguments.data, "data")
    if not isinstance(dataset, Dataset):
        raise ValueError("data: give the data set that the shards were made from; its image ids are the same.")
    done = finished(out, facts)
    first_rows = {image_id: row for row, image_id in reversed(list(enumerate(dataset["image_id"])))}
    rows = sorted(row for image_id, row in first_rows.items() if image_id not in done)
    processes.wait_for_everyone()  # nobody writes before all have looked
    share = rows[processes.process_index :: processes.num_processes]
    _encode(model.to(processes.device), image_processor, dataset.select(share), out, arguments, facts, processes)
    processes.wait_for_everyone()
    images = finished(out, facts)
    if processes.is_main_process:
        write_index(out, facts, images)
    processes.wait_for_everyone()
    return {"images": len(images), "new": len(rows)}


def encoder_of(arguments: CacheArguments) -> tuple[CoGazeModel, object]:
    """The model whose encoder is to run, and the image processor that goes with it.

    Raises:
        ValueError: both or neither of `checkpoint` and `vision_encoder`.
    """
    if (arguments.checkpoint is None) == (arguments.vision_encoder is None):
        raise ValueError("checkpoint and vision_encoder: give one of them.")
    overrides = mapping(arguments.model_overrides, "model_overrides")
    if arguments.checkpoint:
        model = CoGazeForPreTraining.from_pretrained(arguments.checkpoint, **overrides)
        image_processor = CoGazeProcessor.from_pretrained(arguments.checkpoint).image_processor
    else:
        config = CoGazeConfig.named(arguments.model_size, **overrides)
        model = CoGazeForPreTraining.from_encoders(vision=arguments.vision_encoder, config=config)
        image_processor = CoGazeProcessor.image_processor_for(model.config)
    return model.cogaze.eval(), image_processor


@torch.no_grad()
def _encode(model, image_processor, dataset: Dataset, out: Path, arguments: CacheArguments, facts: dict, processes):
    if len(dataset) == 0:
        return
    loader = torch.utils.data.DataLoader(
        _Pictures(dataset, image_processor),
        batch_size=arguments.batch_size,
        num_workers=arguments.num_workers,
        collate_fn=_together,
    )
    limit, names = size_in_bytes(arguments.max_shard), _free_names(out, processes.process_index)
    tokens, images = [], []
    for pixel_values, found in tqdm(loader, unit="batch", disable=not processes.is_main_process):
        with torch.autocast(processes.device.type, torch.bfloat16, enabled=arguments.bf16):
            encoded, _ = model.get_vision_features(pixel_values.to(processes.device))
        encoded = encoded.cpu()
        per_image = encoded[0].numel() * (1 if arguments.dtype == "int8" else 2)
        if tokens and (len(images) + len(found)) * per_image > limit:
            write_shard(next(names), torch.cat(tokens), images, arguments.dtype, facts)
            tokens, images = [], []
        tokens.append(encoded if arguments.dtype == "int8" else encoded.to(torch.bfloat16))
        images += found
    write_shard(next(names), torch.cat(tokens), images, arguments.dtype, facts)


def _free_names(out: Path, process: int):
    number = 0
    while True:
        path = out / f"features-{process:03d}-{number:05d}.safetensors"
        if not path.exists():
            yield path
        number += 1


class _Pictures(torch.utils.data.Dataset):
    """(pixel values, (image_id, (width, height) of the stored picture)) of each record."""

    def __init__(self, dataset: Dataset, image_processor):
        self.dataset, self.image_processor = dataset.select_columns(["image_id", "image"]), image_processor

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, row: int):
        record = self.dataset[row]
        picture = read_radiograph(record["image"], f"image {record['image_id']}")
        pixel_values = self.image_processor([picture], return_tensors="pt")["pixel_values"][0]
        return pixel_values, (record["image_id"], picture.size)


def _together(items):
    return torch.stack([pixels for pixels, _ in items]), [image for _, image in items]
