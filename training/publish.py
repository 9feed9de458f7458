"""Put a checkpoint, a Space or a data set on the Hub, each in one commit; a repetition sends only what has changed.

    cogaze publish --checkpoint outputs/demo/cogaze-tiny --metrics outputs/demo/metrics.json --repo org/name
    cogaze publish --checkpoint ... --metrics ... --repo org/name --output_dir folder     # nothing is uploaded
    cogaze publish --space --repo org/name
    cogaze publish --dataset folder --repo org/name     # what `processing.datasets push_to_hub --output_dir` wrote

A checkpoint goes with its processor, the code that opens it, its index of similar cases and a card made of measured
results. Weights are safetensors, or are refused. Exit codes: 0 done, 1 refused or failed (the reason on stderr).
"""

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
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
from training.data.feature_cache import weights_fingerprint
from training.hub.model_card import model_card, read_metrics
from training.runs.command_line import CommandParser
from training.runs.files import read_json, write_text

ROOT = Path(__file__).resolve().parents[1]
SPACE = ROOT / "spaces" / "report_generation"
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


def main(argv: list[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    try:
        done = _publish(arguments)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    outcome = "nothing was changed (--dry_run)" if arguments.dry_run else done.commit or "no commit"
    print(f"{done}\n{done.url}: {'written' if arguments.output_dir and not arguments.dry_run else outcome}")
    return 0


def _publish(arguments) -> Upload:
    if not arguments.repo and not arguments.output_dir:
        raise ValueError("repo: give --repo org/name, or --output_dir folder.")
    target = {"repo": arguments.repo, "private": arguments.private, "dry_run": arguments.dry_run}
    if arguments.dataset:
        _check_sources(arguments)
        if arguments.output_dir:
            return write_tree(arguments.dataset, arguments.output_dir, dry_run=arguments.dry_run)
        return push_folder(arguments.dataset, **target)
    if arguments.space:
        if arguments.output_dir:
            return write_tree(arguments.space, arguments.output_dir, CODE, arguments.dry_run)
        options = {"repo_type": "space", "message": "Update the Space", "replaces": CODE, "space_sdk": _sdk(arguments)}
        return upload(arguments.space, **target, **options)
    with tempfile.TemporaryDirectory() as stage:
        stage_checkpoint(
            arguments.checkpoint,
            stage,
            arguments.metrics,
            name=arguments.repo or str(arguments.output_dir),
            watts=arguments.watts,
            grams_per_kwh=arguments.grams_per_kwh,
            private=arguments.private,
            i_have_permission=arguments.i_have_permission,
        )
        if arguments.output_dir:
            return write_tree(stage, arguments.output_dir, REPLACED, arguments.dry_run)
        return upload(stage, **target, repo_type="model", message="Publish the model", replaces=REPLACED)


def stage_checkpoint(
    checkpoint: str | Path,
    stage: str | Path,
    metrics: Sequence[str | Path],
    name: str,
    watts: float | None = None,
    grams_per_kwh: float | None = None,
    private: bool = False,
    i_have_permission: bool = False,
) -> None:
    """Write into the folder `stage` what is published of a checkpoint.

    Weights and the index of similar cases are taken as they are. Config and processor are opened and saved again, so
    that the code which goes along is this package's, with all its Auto classes; the model is opened with that code.

    Args:
        metrics: JSON files of evaluations, for the card.
        name: "org/name", for the card.
        watts, grams_per_kwh: see `model_card`.
        private, i_have_permission: both are needed to pass on reports of a source that is under an agreement.

    Raises:
        ValueError: weights that are no safetensors or not the model's own; no measured results; an index of similar
            cases that another encoder made, or whose reports may not be passed on; parts that lie on this disk alone.
    """
    checkpoint, stage = Path(checkpoint), Path(stage)
    if not (checkpoint / "config.json").is_file():
        raise ValueError(f"checkpoint: {checkpoint} holds no config.json; give the folder that the training wrote.")
    _check_formats(checkpoint)
    training_file = checkpoint / "training.json"
    training = read_json(training_file) if training_file.is_file() else {}
    for path in checkpoint.iterdir():
        if any(fnmatch(path.name, pattern) for pattern in KEPT):
            _link(path, stage / path.name)
    config = AutoConfig.from_pretrained(checkpoint)
    _check_named_parts(config)
    config.save_pretrained(stage)
    AutoProcessor.from_pretrained(checkpoint).save_pretrained(stage)
    _forget_paths(stage)

    model = _open(stage, config)
    weights = weights_fingerprint(_encoder(model))
    index = checkpoint / INDEX
    if index.is_dir():
        _check_index(index, weights, training, private, i_have_permission)
        for path, file in files_of(index).items():
            _link(file, stage / INDEX / path)
    count = sum(parameter.numel() for parameter in model.parameters())
    card = model_card(
        name,
        config,
        count,
        read_metrics(metrics, weights),
        training,
        similar_cases=index.is_dir(),
        watts=watts,
        grams_per_kwh=grams_per_kwh,
    )
    write_text(stage / "README.md", str(card))
    for file in ("LICENSE", "NOTICE"):
        if (ROOT / file).is_file():
            _link(ROOT / file, stage / file)


def _check_sources(arguments) -> None:
    """Data under an agreement go where their preparation was allowed to bring them, and nowhere else."""
    path = arguments.dataset / "data" / MANIFEST
    if not path.is_file():
        raise ValueError(f"dataset: no file {path}; write the folder with push_to_hub --prepare_only --output_dir.")
    for facts in yaml.safe_load(path.read_text(encoding="utf-8"))["facts"].values():
        refuse_to_share(registry.source(facts["source"]), arguments.private, arguments.i_have_permission)


def _sdk(arguments) -> str:
    card = arguments.space / "README.md"
    sdk = (metadata_load(card) or {}).get("sdk") if card.is_file() else None
    if sdk is None:
        raise ValueError(f"space: {card} says no sdk; a Space's README begins with its metadata.")
    return sdk


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


def _check_named_parts(config) -> None:
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
    for path in stage.glob("*config.json"):
        fields = _without(read_json(path), LOCAL)
        write_text(path, json.dumps(fields, indent=2, ensure_ascii=False) + "\n")


def _without(value, names: Sequence[str]):
    if isinstance(value, dict):
        return {name: _without(child, names) for name, child in value.items() if name not in names}
    return [_without(child, names) for child in value] if isinstance(value, list) else value


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


def _check_index(index: Path, weights: str, training: dict, private: bool, i_have_permission: bool) -> None:
    for path in index.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            made_by = (file.metadata() or {}).get("encoder")
        if made_by and made_by != weights:
            raise ValueError(f"{INDEX}: {path} was made by another encoder; run `cogaze index_similar_cases` again.")
    name = (training.get("train_data") or {}).get("source")
    if name not in registry.names():
        raise ValueError(f"{INDEX}: training.json does not say whose reports these are; leave the index out.")
    refuse_to_share(registry.source(name), private, i_have_permission)


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _parser() -> CommandParser:
    parser = CommandParser(description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--checkpoint", type=Path, help="folder with a model and its processor")
    what.add_argument("--space", type=Path, nargs="?", const=SPACE, help="folder of a Space; the report one by default")
    what.add_argument("--dataset", type=Path, help="folder that `processing.datasets push_to_hub --output_dir` wrote")
    parser.add_argument("--repo", metavar="ORG/NAME")
    parser.add_argument("--output_dir", type=Path, help="write into this folder, upload nothing")
    parser.add_argument("--metrics", type=Path, nargs="+", default=[], help="JSON files of evaluations, for the card")
    parser.add_argument("--watts", type=float, help="power that training drew; with --grams_per_kwh the card says CO2")
    parser.add_argument("--grams_per_kwh", type=float, help="carbon intensity of the electricity")
    parser.add_argument("--private", action="store_true")
    parser.add_argument("--i_have_permission", action="store_true", help="for data that are under an agreement")
    parser.add_argument("--dry_run", action="store_true", help="say what would change")
    return parser


if __name__ == "__main__":
    sys.exit(main())
