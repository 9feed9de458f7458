"""`transformers.Trainer` with the parts of a loss in its log, whose checkpoints are whole or not there."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import Trainer
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints

from .checkpoints import ASIDE, put_in_place, said_where_full, sweep
from .randomness import OwnRandomness


class WholeCheckpoints(Trainer):
    """Checkpoints that are whole or not there: written aside and renamed.

    Before that, a callback's `on_checkpoint(folder, args, state)` adds its own files.
    """

    _saving = False

    def train(self, *args, **kwargs):
        if self.is_world_process_zero():
            sweep(self.args.output_dir)
        return super().train(*args, **kwargs)

    def _get_output_dir(self, trial) -> str:
        folder = super()._get_output_dir(trial)
        return os.path.join(folder, ASIDE) if self._saving else folder

    def _save_checkpoint(self, model, trial) -> None:
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        folder = Path(self._get_output_dir(trial))
        checkpoint, written = folder / name, folder / ASIDE / name
        self._saving = True
        try:
            with said_where_full(folder, name):
                super()._save_checkpoint(model, trial)
                if self.args.should_save:
                    if self.state.best_model_checkpoint == str(written):
                        self.state.best_model_checkpoint = str(checkpoint)
                        self.state.save_to_json(str(written / TRAINER_STATE_NAME))
                    for callback in self.callback_handler.callbacks:
                        if hasattr(callback, "on_checkpoint"):
                            callback.on_checkpoint(written, self.args, self.state)
        finally:
            self._saving = False
        self.accelerator.wait_for_everyone()  # each process writes its random state
        if self.args.should_save:
            put_in_place(written, checkpoint)
            rotate_checkpoints(
                str(folder), self.args.save_total_limit, self.state.best_model_checkpoint, use_mtime=True
            )
        self.accelerator.wait_for_everyone()

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        if _internal_call:
            super().save_model(output_dir, _internal_call)
            return
        with said_where_full(self.args.output_dir, "the model"):
            super().save_model(output_dir)


class PartsTrainer(WholeCheckpoints):
    """Logs the mean of every output named `loss_*`; evaluates by the loss alone.

    With checkpoints between epochs (`--save_strategy steps`), what collating draws follows from seed, epoch and
    record, so that a run resumed there is bit for bit the one that was not cut off.

    learning_rate_factors: beginning of a parameter's name -> what its learning rate is multiplied by.
    eval_collator: what collates in evaluation and prediction, where training augments; by default the same.
    """

    def __init__(self, *args, learning_rate_factors: dict[str, float] | None = None, eval_collator=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.eval_collator = eval_collator or self.data_collator
        self.learning_rate_factors = learning_rate_factors or {}
        names = [name for name, _ in self.model.named_parameters()]
        for prefix in self.learning_rate_factors:
            if not any(name.startswith(prefix) for name in names):
                raise ValueError(f"learning_rate_factors: no parameter's name begins with {prefix!r}.")
        self._parts: dict[str, list[torch.Tensor]] = {}
        if self.args.save_strategy == "steps":
            own = OwnRandomness(self.data_collator, self.args.seed)
            self.data_collator = own
            self.add_callback(own)

    def create_optimizer(self, *args, **kwargs):
        created = self.optimizer is None
        optimizer = super().create_optimizer(*args, **kwargs)
        if created and self.learning_rate_factors:
            factor_of = {
                id(parameter): factor
                for name, parameter in self.model.named_parameters()
                for prefix, factor in self.learning_rate_factors.items()
                if name.startswith(prefix)
            }
            for group in list(optimizer.param_groups):
                for factor in sorted({factor_of[id(p)] for p in group["params"] if id(p) in factor_of}):
                    chosen = [p for p in group["params"] if factor_of.get(id(p)) == factor]
                    group["params"] = [p for p in group["params"] if factor_of.get(id(p)) != factor]
                    others = {name: value for name, value in group.items() if name != "params"}
                    optimizer.add_param_group(others | {"params": chosen, "lr": group["lr"] * factor})
        return optimizer

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        collator, self.data_collator = self.data_collator, self.eval_collator
        try:
            yield
        finally:
            self.data_collator = collator

    def get_eval_dataloader(self, eval_dataset=None):
        with self._evaluating():
            return super().get_eval_dataloader(eval_dataset)

    def get_test_dataloader(self, test_dataset):
        with self._evaluating():
            return super().get_test_dataloader(test_dataset)

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **kwargs)
        for name, value in outputs.items():
            if name.startswith("loss_") and value is not None:
                self._parts.setdefault(name, []).append(value.detach())
        return (loss, outputs) if return_outputs else loss

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        with torch.no_grad(), self.compute_loss_context_manager():
            loss = self.compute_loss(model, self._prepare_inputs(inputs))
        return loss.detach().mean(), None, None

    def evaluate(self, *args, **kwargs):
        self._parts.clear()
        return super().evaluate(*args, **kwargs)

    def log(self, logs: dict, start_time: float | None = None) -> None:
        # Of each set that is evaluated by itself, too: "eval_<its name>_loss".
        losses = (key for key in logs if key == "loss" or (key.startswith("eval_") and key.endswith("_loss")))
        prefix = next((key[:-4] for key in losses), None)
        if prefix is not None and self._parts:
            logs |= {f"{prefix}{name}": torch.stack(parts).mean().item() for name, parts in self._parts.items()}
            self._parts.clear()
        super().log(logs, start_time)
