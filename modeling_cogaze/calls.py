"""How models are called: what transformers' own understand, whatever a collator's batch holds beside."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

from torch import nn
from transformers.utils import ModelOutput

from .companions import CompanionInputs

COMPANION_INPUTS = frozenset(CompanionInputs.__annotations__)
# What the collators put into a batch. A model leaves aside what it has no use for, so that `model(**batch)` works.
BATCH_INPUTS = frozenset(
    {
        "view_position_ids",
        "context_input_ids",
        "context_attention_mask",
        "report_input_ids",
        "report_attention_mask",
        "transcript_input_ids",
        "transcript_attention_mask",
        "transcript_image_index",
        "transcript_is_full",
        "gaze_targets",
        "labels",
        "study_ids",
        *COMPANION_INPUTS,
    }
)

# Arguments and config fields that ask for what each layer gives.
LAYER_FLAGS = ("output_hidden_states", "output_attentions")


def inputs_of(function: Callable) -> frozenset[str]:
    """The names of the keywords that a call takes, `**companions` among them."""
    parameters = inspect.signature(function).parameters.values()
    named = {each.name for each in parameters if each.kind is not each.VAR_KEYWORD}
    companions = any(each.kind is each.VAR_KEYWORD and each.name == "companions" for each in parameters)
    return frozenset(named | (COMPANION_INPUTS if companions else set()))


def standard_call(function: Callable) -> Callable:
    """Decorator of `forward` and of feature calls: what transformers' own models understand.

    `return_dict`, `output_hidden_states` and `output_attentions` are by default what the config says. `forward` leaves
    aside what else a collator's batch holds (`BATCH_INPUTS`); any other unknown keyword is refused. A feature call on a
    model whose weights are offloaded brings the model's own parameters in, as its `forward` does.

    Raises:
        TypeError: an unknown keyword.
    """
    parameters = inputs_of(function)
    optional = BATCH_INPUTS if function.__name__ == "forward" else frozenset()
    wanted = [name for name in LAYER_FLAGS if name in parameters]

    @functools.wraps(function)
    def call(self, *args, return_dict: bool | None = None, **kwargs):
        for name in [name for name in kwargs if name not in parameters]:
            if name not in optional:
                known = ", ".join(sorted(parameters - {"self"}))
                raise TypeError(
                    f"{type(self).__name__}.{function.__name__}: unexpected keyword {name!r}; it takes {known}."
                )
            del kwargs[name]
        for name in wanted:
            if kwargs.get(name) is None:
                kwargs[name] = getattr(self.config, name)
        outputs = with_own_parameters(function, self, *args, **kwargs)
        if return_dict is None:
            return_dict = self.config.return_dict
        return outputs if return_dict or not isinstance(outputs, ModelOutput) else outputs.to_tuple()

    return call


def with_own_parameters(function: Callable, model: nn.Module, *args, **kwargs):
    """`function(model, ...)`, with accelerate's hook around it where the model's own parameters are offloaded."""
    hook = getattr(model, "_hf_hook", None)
    if hook is None or not any(each.is_meta for each in model._parameters.values() if each is not None):
        return function(model, *args, **kwargs)
    args, kwargs = hook.pre_forward(model, *args, **kwargs)
    return hook.post_forward(model, function(model, *args, **kwargs))


def layers_of(outputs) -> dict[str, Any]:
    """`hidden_states` and `attentions` of an encoder's outputs; an encoder or kernel without weights has none."""
    found = {name: outputs.get(name) for name in ("hidden_states", "attentions")}
    return {name: value for name, value in found.items() if value}


def asked_for(flags: dict) -> dict:
    # An encoder is not told what it is not asked for: not all know every flag.
    return {name: value for name, value in flags.items() if value}


__all__ = [
    "BATCH_INPUTS",
    "COMPANION_INPUTS",
    "LAYER_FLAGS",
    "asked_for",
    "inputs_of",
    "layers_of",
    "standard_call",
    "with_own_parameters",
]
