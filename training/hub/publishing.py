"""What is published of a checkpoint, a Space or a data set, and where it goes."""

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import yaml
from huggingface_hub import metadata_load
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoProcessor

import modeling_cogaze
import processing  # noqa: F401  (registers the processors)
from processing.datasets import registry
from processing.datasets.storage.cards import push_folder, refuse_to_share
from processing.datasets.storage.hub import Upload, files_of, upload, write_tree
from processing.datasets.storage.shards import MANIFEST

from ..data.feature_cache import weights_fingerprint
from ..runs.files import read_json, write_text
from .beside import license_files
from .model_card import model_card, read_metrics

INDEX = "similar_cases"

# What is taken from a checkpoint as it is; config, code and processor are written anew.
KEPT = ("*.safetensors", "*.safetensors.index.json", "generation_config.json", "adapter_config.json")
# Formats that may run code when they are opened, or that nobody can check.
REFUSED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy", ".npz", ".h5", ".msgpack")
# What the Trainer leaves beside a checkpoint for its own use; it stays behind.
TRAINERS = ("training_args.bin", "optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state*.pth")
# What transformers writes of the process that saved.
LOCAL = ("_name_or_path", "name_or_path", "is_local", "local_files_only")
# Files of an earlier publication that go where the new one lacks them.
CODE = ("*.py",)
REPLACED = (*CODE, "*.safetensors", "*.safetensors.index.json", f"{INDEX}/*")


@dataclass
class Target:
    """Where something is published.

    Args:
        repo: "org/name" on the Hub. output_dir: a folder that gets the same tree; nothing is uploaded then.
        private: a repository that is created.
        i_have_permission: with `private`, passes on data of a source that is under an agreement.
        dry_run: only say what would change.
    """

    repo: str | None = None
    output_dir: Path | None = None
    private: bool = False
    i_have_permission: bool = False
    dry_run: bool = False

    def __post_init__(self):
        if not self.repo and not self.output_dir:
            raise ValueError("repo: give --repo org/name, or --output_dir folder.")

    def take(self, folder: str | Path, repo_type: str, message: str, replaces: Sequence[str], **options) -> Upload:
        """Bring the target to what `folder` holds; see `upload`."""
        if self.output_dir:
            return write_tree(folder, self.output_dir, replaces, self.dry_run)
        return upload(folder, self.repo, repo_type, message, self.private, replaces, self.dry_run, **options)

    def may_hold(self, source: str) -> None:
        """Raises ValueError: data of this source may not be passed on to it."""
        refuse_to_share(registry.source(source), self.private, self.i_have_permission)


def publish_dataset(folder: Path, target: Target) -> Upload:
    """A folder that `processing.datasets push_to_hub --output_dir` wrote.

    Raises:
        ValueError: another folder; data under an agreement, without permission; what `upload` refuses.
    """
    path = folder / "data" / MANIFEST
    if not path.is_file():
        raise ValueError(f"dataset: no file {path}; write the folder with push_to_hub --prepare_only --output_dir.")
    for facts in yaml.safe_load(path.read_text(encoding="utf-8"))["facts"].values():
        target.may_hold(facts["source"])
    if target.output_dir:
        return target.take(folder, "dataset", "", ())
    return push_folder(folder, target.repo, target.private, target.dry_run)


def publish_space(folder: Path, target: Target) -> Upload:
    """The folder of a Space.

    Raises:
        ValueError: its README names no sdk; what `upload` refuses.
    """
    card = folder / "README.md"
    sdk = (metadata_load(card) or {}).get("sdk") if card.is_file() else None
    if sdk is None:
        raise ValueError(f"space: {card} says no sdk; a Space's README begins with its metadata.")
    return target.take(folder, "space", "Update the Space", CODE, space_sdk=sdk)


def publish_checkpoint(checkpoint: str | Path, target: Target, metrics: Sequence[str | Path], **emissions) -> Upload:
    """See `stage_checkpoint`."""
    with tempfile.TemporaryDirectory() as stage:
        stage_checkpoint(Path(checkpoint), Path(stage), target, metrics, **emissions)
        return target.take(stage, "model", "Publish the model", REPLACED)


def stage_checkpoint(
    checkpoint: Path, stage: Path, target: Target, metrics: Sequence[str | Path], **emissions: float | None
) -> None:
    """Write into the folder `stage` what is published of a checkpoint.

    Weights and the index of similar cases are taken as they are. Config and processor are opened and saved again, so
    that the code which goes along is this package's, with all its Auto classes; the model is opened with that code.

    Args:
        metrics: JSON files of evaluations, for the card.
        emissions: "watts", "grams_per_kwh": see `model_card`.

    Raises:
        ValueError: weights that are no safetensors or not the model's own; no measured results; an index of similar
            cases that another encoder made, or whose reports may not be passed on; parts that lie on this disk alone.
    """
    if not (checkpoint / "config.json").is_file():
        raise ValueError(f"checkpoint: {checkpoint} holds no config.json; give the folder that the training wrote.")
    _check_formats(checkpoint)
    training_file, index = checkpoint / "training.json", checkpoint / INDEX
    training = read_json(training_file) if training_file.is_file() else {}
    config = AutoConfig.from_pretrained(checkpoint)
    check_named_parts(config)
    for path in checkpoint.iterdir():
        if any(fnmatch(path.name, pattern) for pattern in KEPT):
            _link(path, stage / path.name)
    config.save_pretrained(stage)
    AutoProcessor.from_pretrained(checkpoint).save_pretrained(stage)
    _forget_paths(stage)

    model = _open(stage, config)
    weights = weights_fingerprint(_encoder(model))
    if index.is_dir():
        _check_index(index, weights, training, target)
        for path, file in files_of(index).items():
            _link(file, stage / INDEX / path)
    count = sum(parameter.numel() for parameter in model.parameters())
    evaluations = read_metrics(metrics, weights)
    name = target.repo or str(target.output_dir)
    card = model_card(name, config, count, evaluations, training, similar_cases=index.is_dir(), **emissions)
    write_text(stage / "README.md", str(card))
    for path in license_files():
        _link(path, stage / path.name)


def _check_formats(checkpoint: Path) -> None:
    """Only safetensors, and such that open."""
    files = [*checkpoint.iterdir(), *(checkpoint / INDEX).rglob("*")]
    for path in files:
        if path.suffix in REFUSED and not any(fnmatch(path.name, pattern) for pattern in TRAINERS):
            raise ValueError(f"checkpoint: {path} is not safetensors; save the model with save_pretrained.")
    weights = [path for path in files if path.suffix == ".safetensors"]
    if not any(path.parent == checkpoint for path in weights):
        raise ValueError(f"checkpoint: {checkpoint} holds no *.safetensors; save the model with save_pretrained.")
    for path in weights:
        try:
            with safe_open(path, "pt"):
                pass
        except SafetensorError as error:
            raise ValueError(f"checkpoint: {path} is not safetensors, whatever its name says ({error}).") from error


def check_named_parts(config) -> None:
    """Parts that a model takes from elsewhere must be found there by everyone."""
    for argument in ("encoder_name_or_path", "base_model_name_or_path"):
        name = getattr(config, argument, None)
        if name and Path(name).exists():
            raise ValueError(
                f"{argument}: {name} is a folder on this disk; publish it first and save the checkpoint with its "
                "name on the Hub, or merge it in with merge_and_unload()."
            )


def _forget_paths(stage: Path) -> None:
    """Leave out where and how this process read a config or tokenizer."""

    def public(fields: dict) -> dict:
        return {name: value for name, value in fields.items() if name not in LOCAL}

    for path in stage.glob("*config.json"):
        fields = json.loads(path.read_text(encoding="utf-8"), object_hook=public)
        write_text(path, json.dumps(fields, indent=2, ensure_ascii=False) + "\n")


def _open(stage: Path, config):
    """The model, if the stage holds exactly its weights."""
    model_class = getattr(modeling_cogaze, config.architectures[0])
    loaded = model_class.from_pretrained(stage, output_loading_info=True)
    # One that takes parts from other checkpoints compares the names by itself.
    model, info = loaded if isinstance(loaded, tuple) else (loaded, {})
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info.get(kind):
            keys = ", ".join(sorted(map(str, info[kind]))[:3])
            raise ValueError(f"checkpoint: {kind.replace('_', ' ')} for {model_class.__name__}: {keys}.")
    return model


def _encoder(model):
    """The dual encoder in a model."""
    model = getattr(model, "encoder", model)
    return getattr(model, model.base_model_prefix, model)


def _check_index(index: Path, weights: str, training: dict, target: Target) -> None:
    for path in index.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            made_by = (file.metadata() or {}).get("encoder")
        if made_by and made_by != weights:
            raise ValueError(f"{INDEX}: {path} was made by another encoder; run `cogaze index_similar_cases` again.")
    name = (training.get("train_data") or {}).get("source")
    if name not in registry.names():
        raise ValueError(f"{INDEX}: training.json does not say whose reports these are; leave the index out.")
    target.may_hold(name)


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
