"""GRPO of any report generator through trl's own trainer (trl 1.16).

trl knows causal language models; a decoder that reads an image by cross-attention is none, and an image that is encoded
once for all its samples is nothing that trl's vision branch has. Both are brought in here by the three things that trl
leaves to a subclass: how completions are sampled (`rollout_func`), what goes along with a sample
(`_generate_and_score_completions`), and the log-probability of its tokens (`_get_per_token_logps_and_entropies`).
Advantages, the clipped loss, the KL term, groups, accumulation, processes and logging are trl's.
"""

import copy
import warnings
from collections.abc import Callable, Sequence

import torch
from datasets import Dataset
from transformers import PreTrainedModel
from trl import GRPOConfig, GRPOTrainer

from modeling_cogaze.report_generation import EncodedImages

from ..reports.writing import ReportWriter
from ..runs.trainer import WholeCheckpoints
from .rewards import Reward, checked
from .sampling import write_reports


def frozen_copy(model: PreTrainedModel) -> PreTrainedModel:
    """What KL is measured to: a copy of the weights that will be trained, beside the same frozen ones."""
    shared = {id(parameter): parameter for parameter in model.parameters() if not parameter.requires_grad}
    return copy.deepcopy(model, shared).eval().requires_grad_(False)


class ScoredReports(WholeCheckpoints):
    """Evaluates by `score`: what reports say that are written for held-out studies."""

    score: Callable[[], dict[str, float]]

    def create_model_card(self, *args, **kwargs) -> None:
        """Nothing: a checkpoint's card is written where it is published, from what was measured."""

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval") -> dict[str, float]:
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in self.score().items()}
        was_training = self.model.training
        self.model.eval()  # by which trl tells what it logs
        self.log(metrics)
        self.model.train(was_training)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


class ReportReinforcer(ScoredReports, GRPOTrainer):
    """`trl.GRPOTrainer` for a report generator of either kind; the encoder is frozen and sees an image once a group.

    Args:
        writer: of the model that learns; its processor and its preparation of records are used.
        records: to train on; a row of trl's data set is a number in it.
        rewards: name -> function, and `weights` name -> weight.
        validation: the held-out records, whose number trl wants to know; set `score` to what evaluation gives.

    Raises:
        ValueError: from `checked`; or no reward applies to a record, which is named.
    """

    def __init__(
        self,
        writer: ReportWriter,
        args: GRPOConfig,
        records,
        rewards: dict[str, Reward],
        weights: dict[str, float],
        validation: Sequence = (),
        **options,
    ):
        self.writer = writer
        self.records = records
        self._sampled: tuple[list[str], list[dict]] = ([], [])
        self._memory: torch.Tensor | None = None
        args.reward_weights = [weights[name] for name in rewards]
        start = frozen_copy(writer.model) if args.beta else None
        beta, args.beta = args.beta, 0.0  # trl would load the reference from the Hub, as a model that it knows
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="You are using 'rollout_func'")
            super().__init__(
                writer.model,
                [self._rewarding(name, reward) for name, reward in rewards.items()],
                args,
                _numbers(records),
                _numbers(validation) if len(validation) else None,
                writer.processor.tokenizer,
                rollout_func=lambda prompts, trainer: trainer.sample(prompts),
                **options,
            )
        args.beta = self.beta = beta
        if start is not None:
            self.ref_model = start

    def _rewarding(self, name: str, reward: Reward) -> Callable:
        """A reward as trl calls it, on the texts and records of the last samples."""

        def function(prompts, completions, completion_ids, log_metric, **_) -> list[float | None]:
            values = checked(name, reward, *self._sampled)
            log_metric(f"rewards/{name}/left_out", sum(value is None for value in values) / len(values))
            return values

        function.__name__ = name
        return function

    def _calculate_rewards(self, *args, **kwargs) -> torch.Tensor:
        rewards = super()._calculate_rewards(*args, **kwargs)
        share = rewards[self.accelerator.process_index * len(self._sampled[0]) :][: len(self._sampled[0])]
        for place in share.isnan().all(dim=1).nonzero()[:1, 0].tolist():
            image = self._sampled[1][place]["image_id"]
            raise ValueError(
                f"rewards: none of {self.reward_func_names} applies to image {image!r}, which lacks what each needs; "
                "leave the image out, or add a reward that needs nothing, such as repetition."
            )
        return rewards

    def sample(self, prompts: list[str]) -> dict:
        """A report for each entry of `prompts`, which are numbers of records: trl's `rollout_func`."""
        distinct = list(dict.fromkeys(map(int, prompts)))
        place_of = {number: place for place, number in enumerate(distinct)}
        places = [place_of[int(number)] for number in prompts]
        sequences, asked, self._memory, prepared = write_reports(
            self.writer, [self.records[number] for number in distinct], places, self._sampling()
        )
        processor, ends = self.writer.processor, set(self.eos_token_ids)
        self._sampled = (processor.decode_reports(sequences), [prepared[place] for place in places])
        prompt_ids = [[processor.report_tokens[0]]] * len(prompts)
        if asked:
            masks = asked["attention_mask"].bool()
            prompt_ids = [row[mask].tolist() for row, mask in zip(asked["input_ids"], masks, strict=True)]
        completions = [_until(row, ends) for row in sequences[:, 1:].tolist()]
        return {"prompt_ids": prompt_ids, "completion_ids": completions, "logprobs": None}

    def _sampling(self) -> dict:
        names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return {"do_sample": True, "num_beams": 1, "max_new_tokens": self.max_completion_length} | given

    def _generate_and_score_completions(self, inputs: list) -> dict:
        # What trl carries as pixels, shuffles and splits with the samples, is here the image as the decoder reads it.
        return super()._generate_and_score_completions(inputs) | {"pixel_values": self._memory}

    def _get_per_token_logps_and_entropies(
        self,
        model,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        compute_aux_loss: bool = False,
        pixel_values: torch.Tensor | None = None,
        **_,
    ) -> tuple[torch.Tensor, torch.Tensor | None, None]:
        """(B, K) log-probabilities of the last K tokens, and their distributions' entropies.

        Args:
            input_ids, attention_mask: (B, T + K) prompts, padded on the left, and reports, padded on the right.
            pixel_values: (B, M, W) the images as the decoder reads them; by default those of the last samples.
        """
        memory = self._memory if pixel_values is None else pixel_values
        rows = []
        for start in range(0, len(input_ids), batch_size or len(input_ids)):
            part = slice(start, start + (batch_size or len(input_ids)))
            prompts, reports = input_ids[part, :-logits_to_keep], input_ids[part, -logits_to_keep:]
            labels = reports.masked_fill(attention_mask[part, -logits_to_keep:] == 0, -100)
            begin = labels.new_full((len(labels), 1), self.writer.processor.report_tokens[0])
            asked = {}
            if hasattr(self.writer.processor, "prompts"):
                asked = {"input_ids": prompts, "attention_mask": attention_mask[part, :-logits_to_keep]}
            with self.accelerator.autocast():
                logits = model(
                    labels=torch.cat([begin, labels], dim=1),
                    encoder_outputs=EncodedImages(last_hidden_state=memory[part]),
                    **asked,
                ).logits
            rows.append(_log_probabilities(logits.float() / self.temperature, reports, compute_entropy))
        chosen, entropies = zip(*rows, strict=True)
        return torch.cat(chosen), torch.cat(entropies) if compute_entropy else None, None


def _log_probabilities(
    logits: torch.Tensor, tokens: torch.Tensor, entropy: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(B, K) of tokens (B, K) by logits (B, K, V), and the entropy of each distribution."""
    logs = logits.log_softmax(dim=-1)
    chosen = logs.gather(-1, tokens[..., None])[..., 0]
    return chosen, -(logs.exp() * logs).sum(dim=-1) if entropy else None


def _until(tokens: list[int], ends: set[int]) -> list[int]:
    """Up to and with the first token that ends a report."""
    last = next((place for place, token in enumerate(tokens) if token in ends), len(tokens) - 1)
    return tokens[: last + 1]


def _numbers(records: Sequence) -> Dataset:
    """The data set that trl sees: the number of each record, as its prompt."""
    return Dataset.from_dict({"prompt": [str(number) for number in range(len(records))]})
