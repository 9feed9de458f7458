"""Kill each kind of run at seeded moments, again and again, until it is through; compare with one that was left alone.

    python -m tests.training.kills --kills 50 --folder /tmp/kills

Prints, for each kind, how many kills there were, how many runs went on by themselves, and how many ended otherwise than
the one that was left alone. A child is forked for each attempt, so that kills fall into the work and not into imports.
"""

import argparse
import json
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch

from modeling_cogaze import CoGazeConfig, CoGazeForConditionalGeneration
from processing import CoGazeProcessor
from processing.datasets.phantom.loading import load_phantom
from processing.datasets.storage.shards import write_shards
from processing.datasets.storage.streaming import RecordStream
from processing.tokenization import build_tokenizer
from tests.training.training_runs import flags, weights
from training.data.feature_cache import FeatureCache
from training.data.feature_writing import cache_features
from training.generate_reports import main as generate_reports
from training.pretraining.training import pretrain
from training.runs.checkpoints import checkpoints

SMALL = {
    "vision_config": {"image_size": 64, "hidden_sizes": [16, 32], "depths": [1, 1], "embedding_size": 8},
    "text_config": {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
    **{"hidden_size": 32, "intermediate_size": 32, "perceiver_depth": 1, "num_latents": 4},
}
ATTEMPTS = 6  # kills of one run, before it is left alone


class Runs:
    """The kinds of runs: each takes its folder; `result` says what one left, comparably."""

    def __init__(self, folder: Path):
        self.folder = folder
        data = {"name": "phantom", "size": 12, "image_size": 64, "num_proc": 1, "cache_dir": str(folder / "phantom")}
        self.dataset = load_phantom(**{name: value for name, value in data.items() if name != "name"}, split="train")
        self.data = json.dumps(data | {"split": "train"})
        self.generator = folder / "generator"
        tokenizer = build_tokenizer(self.dataset["findings"], 400)
        config = CoGazeConfig.tiny(vocab_size=len(tokenizer), **SMALL).add_decoder(tokenizer, initializer_range=0.4)
        torch.manual_seed(0)
        model = CoGazeForConditionalGeneration(config)
        model.generation_config.update(max_new_tokens=30)
        model.save_pretrained(self.generator)
        CoGazeProcessor.for_model(tokenizer, config).save_pretrained(self.generator)

    def _pretrain(self, out: Path, **changes) -> None:
        own = {
            "train_data": self.data,
            "validation_data": json.dumps(json.loads(self.data) | {"size": 4}),
            "model_size": "tiny",
            "model_overrides": json.dumps(SMALL | {"freeze_vision_encoder": False}),
            "vocab_size": 400,
            "per_device_train_batch_size": 2,
            "num_train_epochs": 3,
            "crop": 0.8,
            "context_dropout": 0.5,
            "report_to": "none",
            "disable_tqdm": "True",
            "use_cpu": "True",
            "output_dir": out,
        }
        resume = {"resume_from_checkpoint": "True"} if checkpoints(out) else {}
        pretrain(flags(own, **changes, **resume))

    def pretraining(self, out: Path) -> None:
        self._pretrain(out)

    def pretraining_within_epochs(self, out: Path) -> None:
        steps = {"save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2}
        self._pretrain(out, **steps)

    def generation(self, out: Path) -> None:
        own = {"checkpoint": self.generator, "data": self.data, "output_dir": out, "device": "cpu", "batch_size": 1}
        generate_reports(flags(own))

    def conversion(self, out: Path) -> None:
        write_shards(self.dataset, out, max_shard="20KB")

    def cache(self, out: Path) -> None:
        own = {"checkpoint": self.generator, "data": self.data, "output_dir": out, "max_shard": "3KB", "batch_size": 1}
        cache_features(flags(own))

    def result(self, kind: str, out: Path):
        if kind.startswith("pretraining"):
            return {name: tensor.numpy().tobytes() for name, tensor in weights(out).items()}
        if kind == "generation":
            return (out / "reports.jsonl").read_text(), sorted(path.name for path in out.iterdir())
        if kind == "conversion":
            records = [record["findings"] for record in RecordStream(out, "train")]
            return records, sorted(path.name for path in out.iterdir())
        cache = FeatureCache(out)
        found = {name: cache.record({"image_id": name})["vision_features"].tolist() for name in cache.images}
        return dict(sorted(found.items())), any(out.glob(".*"))


def attempt(work: Callable[[Path], None], out: Path, log: Path, seconds: float | None) -> str:
    """ "done", "failed" or, after `seconds`, "killed"."""
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        with open(log, "a") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            try:
                work(out)
            except BaseException:
                traceback.print_exc()
                sys.stderr.flush()
                os._exit(1)
            os._exit(0)
    start = time.monotonic()
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return "done" if status == 0 else "failed"
        if seconds is not None and time.monotonic() - start >= seconds:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return "killed"
        time.sleep(0.002)


def kill_one_kind(runs: Runs, kind: str, kills: int, draw: random.Random) -> dict:
    work, folder = getattr(runs, kind), runs.folder / kind
    folder.mkdir()
    log = folder / "log.txt"
    start = time.monotonic()
    assert attempt(work, folder / "alone", log, None) == "done", log.read_text()[-2000:]
    length = time.monotonic() - start
    expected = runs.result(kind, folder / "alone")
    found = {"kills": 0, "runs": 0, "failed": 0, "different": 0}
    while found["kills"] < kills:
        out = folder / f"run-{found['runs']}"
        found["runs"] += 1
        outcome, killed = "killed", 0
        while outcome == "killed":
            alone = killed == ATTEMPTS or found["kills"] == kills
            outcome = attempt(work, out, log, None if alone else draw.uniform(0, length))
            killed += outcome == "killed"
            found["kills"] += outcome == "killed"
        found["failed"] += outcome == "failed"
        found["different"] += outcome == "done" and runs.result(kind, out) != expected
    return found | {"seconds_alone": round(length, 1)}


KINDS = ("pretraining", "pretraining_within_epochs", "generation", "conversion", "cache")


def kill_all(folder: Path, kills: int, seed: int = 0) -> dict[str, dict]:
    """`kills` of runs of all kinds, in equal parts."""
    torch.set_num_threads(1)  # a fork has none of the threads that PyTorch has started
    runs, draw = Runs(folder), random.Random(seed)
    return {kind: kill_one_kind(runs, kind, -(-kills // len(KINDS)), draw) for kind in KINDS}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, required=True)
    arguments = parser.parse_args()
    print(json.dumps(kill_all(arguments.folder, arguments.kills, arguments.seed), indent=2))
