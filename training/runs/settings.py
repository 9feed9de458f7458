"""What a run hangs on: kept beside it, held to, and gone on from."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from transformers import TrainingArguments

from .checkpoints import checkpoints, newest_whole
from .files import read_json, write_json
from .renamed import FLAGS

# Beside what was trained: what it hangs on.
SETTINGS_FILE = "settings.json"
# Evaluate and save each epoch; keep the best and the last checkpoint.
EACH_EPOCH = {
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "save_total_limit": 2,
    "load_best_model_at_end": True,
    "metric_for_best_model": "eval_loss",
    "greater_is_better": False,
    "logging_strategy": "epoch",
    "remove_unused_columns": False,
    "dataloader_pin_memory": False,
    "report_to": "tensorboard",
    "disable_tqdm": not sys.stderr.isatty(),  # a log file takes one line an epoch, not a bar
}

# Of `TrainingArguments`: what results hang on, whatever the machine.
SETTINGS = ("learning_rate", "num_train_epochs", "per_device_train_batch_size", "gradient_accumulation_steps")
SETTINGS += ("weight_decay", "lr_scheduler_type", "warmup_steps", "max_grad_norm", "optim", "max_steps")
SETTINGS += ("metric_for_best_model", "lr_scheduler_kwargs", "bf16", "fp16")
# Of our own arguments: what no result hangs on, and what runs of before knew nothing of and went without.
NO_SETTING = ("check",)
OFF_BEFORE = ("scaled_decoding",)


def comparable_settings(arguments, training: TrainingArguments, left_out: Sequence[str] = ()) -> dict:
    """What makes results comparable: a dataclass of arguments but for `left_out`, and `SETTINGS`, as JSON has them."""
    own = {name: value for name, value in asdict(arguments).items() if name not in (*left_out, *NO_SETTING)}
    own = {name: value for name, value in own.items() if value or name not in OFF_BEFORE}
    return json.loads(json.dumps(own | {name: getattr(training, name) for name in SETTINGS}))


def refuse_other_settings(folder: Path, earlier: dict, settings: dict, advice: str = "") -> None:
    """
    Raises:
        ValueError: `folder` was made with `earlier` settings that differ from `settings`; names the first.
    """
    earlier = {FLAGS.get(name, name): value for name, value in earlier.items()}
    for name, value in settings.items():
        if earlier.get(name) != value:
            raise ValueError(
                f"output_dir: {folder} was made with {name} = {earlier.get(name)!r}, now it is {value!r}; "
                f"give another folder{advice}."
            )


def hold_to_settings(path: Path, settings: dict) -> None:
    """Write `settings` to `path`, unless an earlier run in that folder has.

    Raises:
        ValueError: it has written others; names the first.
    """
    if path.is_file():
        refuse_other_settings(path.parent, read_json(path), settings, ", or delete that one")
    else:
        write_json(path, settings)


def checkpoint_to_resume(training: TrainingArguments) -> str | None:
    """The checkpoint to go on from; "True" is the newest whole one, None where none of them is whole.

    Raises:
        ValueError: "True", and there is none at all.
    """
    asked = training.resume_from_checkpoint
    if asked is None or str(asked).lower() in ("false", "none"):
        return None
    if str(asked).lower() != "true":
        return str(asked)
    if not checkpoints(training.output_dir):
        raise ValueError(f"resume_from_checkpoint: there is no checkpoint in {training.output_dir}.")
    newest = newest_whole(training.output_dir)
    return None if newest is None else str(newest)
