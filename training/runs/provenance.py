"""What a checkpoint was made from and on, for its card."""

import hashlib
import os
import platform
from collections.abc import Sequence
from pathlib import Path

import torch
from datasets import Dataset
from transformers.utils import SAFE_WEIGHTS_NAME, cached_file

from processing.datasets.records import facts_of

from .files import read_json

FACTS = ("train_runtime", "machine", "train_data", "pretrained", "reinforced", "started_from")

ON_PHANTOM = "Measured on rendered radiographs: it shows that the software works, not that it is clinically useful."


def measured_on(dataset) -> str:
    """How many images of how many patients, and of rendered ones what they are worth."""
    counts = f"{len(dataset)} images of {len(set(dataset['patient_id']))} patients."
    return f"{counts} {ON_PHANTOM}" if facts_of(dataset).get("source") == "phantom" else counts


def training_facts(runtime: float, train, checkpoint: str | None = None, encoders: Sequence[str | None] = ()) -> dict:
    """What `training.json` says of a run beside its losses, without a path.

    Args:
        runtime: seconds.
        train: the data set or stream that was trained on.
        checkpoint: the checkpoint that training began with; what its own training.json says is kept.
        encoders: names of pretrained parts; of a folder only its name is kept.
    """
    facts = {
        "train_runtime": runtime,
        "machine": machine_facts(),
        "train_data": data_facts(train),
        "pretrained": [_public_name(name) for name in encoders if name],
    }
    if checkpoint:
        facts["started_from"] = {"name": _public_name(checkpoint)} | _earlier_facts(checkpoint)
    return facts


def data_facts(dataset) -> dict:
    """Source (its name in `processing.datasets`), split and number of records of a `Dataset` or a stream."""
    facts = facts_of(dataset) if isinstance(dataset, Dataset) else dataset.facts
    records = len(dataset) if isinstance(dataset, Dataset) else dataset.total
    several = dataset.summary() if hasattr(dataset, "summary") else {}  # of several sources, what each brings
    return {name: facts.get(name) for name in ("source", "split")} | {"records": records} | several


def machine_facts() -> dict:
    """Processor, cores that this process may use, and GPUs."""
    facts = {"processor": _processor(), "cores": len(os.sched_getaffinity(0))}
    if torch.cuda.is_available():
        facts["gpus"] = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return facts


def _public_name(name: str) -> str:
    return Path(name).name if Path(name).is_dir() else name


def file_fingerprint(checkpoint: str) -> str | None:
    """SHA-256 of a checkpoint's weights, in a folder or on the Hub; None where they are not one safetensors file."""
    path = cached_file(checkpoint, SAFE_WEIGHTS_NAME, _raise_exceptions_for_missing_entries=False)
    if path is None:
        return None
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _earlier_facts(checkpoint: str) -> dict:
    path = Path(checkpoint) / "training.json"
    facts = read_json(path) if path.is_file() else {}
    return {name: facts[name] for name in FACTS if name in facts}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
