"""`transformers.Trainer` with the parts of a loss in its log."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import Trainer


class PartsTrainer(Trainer):
    """Logs the mean of every output named `loss_*`; evaluates by the loss alone.

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
        prefix = next((key[:-4] for key in ("loss", "eval_loss") if key in logs), None)
        if prefix is not None and self._parts:
            logs |= {f"{prefix}{name}": torch.stack(parts).mean().item() for name, parts in self._parts.items()}
            self._parts.clear()
        super().log(logs, start_time)
