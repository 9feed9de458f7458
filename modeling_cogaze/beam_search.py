"""Beam search over a decoder that reads encoded images: the tokens of transformers' own search, at less cost.

An image's memory, and cross-attention's keys and values of it, are there once for all its beams; the best tokens are
found beam by beam; the cache is written and reordered in place; an image whose search is over leaves the batch.
"""

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, EncoderDecoderCache
from transformers.generation.logits_process import (
    ForcedBOSTokenLogitsProcessor,
    ForcedEOSTokenLogitsProcessor,
    LogitsProcessor,
    LogitsProcessorList,
    MinLengthLogitsProcessor,
    MinNewTokensLengthLogitsProcessor,
    NoBadWordsLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SuppressTokensLogitsProcessor,
)
from transformers.generation.utils import GenerationMixin
from transformers.models.gpt2.modeling_gpt2 import GPT2Attention

from .dual_encoder import Mixed

# What treats a row by its own tokens alone, wherever in the batch it stands. Others may set `by_row` to True.
BY_ROW = (
    ForcedBOSTokenLogitsProcessor,
    ForcedEOSTokenLogitsProcessor,
    MinLengthLogitsProcessor,
    MinNewTokensLengthLogitsProcessor,
    NoBadWordsLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SuppressTokensLogitsProcessor,
)
# Below any sum of log-probabilities; what transformers' search takes, so that ties fall alike.
OUT = -1.0e9


class TokenProbabilities(LogitsProcessor):
    """Keeps, during a search, the probability that the decoder gives each token, before any processor.

    `values` (R, L) are those of the sequences found, 1 for the first token; None where the search does not tell.
    """

    def __init__(self):
        self.values: torch.Tensor | None = None
        self._before: torch.Tensor | None = None
        self._found: list[torch.Tensor] = []
        self._first = False

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if self._first:
            self._take(input_ids)
            self._before = scores.float().log_softmax(dim=-1)
        return scores

    def _take(self, input_ids: torch.Tensor) -> None:
        if self._before is None:
            self._found = [input_ids.new_ones(input_ids.shape, dtype=torch.float32)]
        else:
            self._found.append(self._before.gather(1, input_ids[:, -1:]).exp())

    def finish(self, sequences: torch.Tensor) -> None:
        """Behind a search that has added a token to all rows at each step."""
        self._take(sequences)
        self.values = torch.cat(self._found, dim=1)

    @classmethod
    def move_first(cls, processors: LogitsProcessorList) -> tuple[LogitsProcessorList, "TokenProbabilities | None"]:
        """The processors with the one of this class, if there is one, before all others."""
        own = next((each for each in processors if isinstance(each, cls)), None)
        if own is None:
            return processors, None
        own._first = True
        return LogitsProcessorList([own, *(each for each in processors if each is not own)]), own


class BufferedLayer(DynamicLayer):
    """Keys and values (R, heads, L, width) of self-attention, in buffers with room behind them.

    spare: a buffer that the layers share: the one that the next reordering writes to.
    """

    def __init__(self, spare: list[torch.Tensor]):
        super().__init__()
        self.spare = spare
        self.buffers: dict[str, torch.Tensor] = {}

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs):
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        begin = self.get_seq_length()
        end = begin + key_states.shape[-2]
        for name, new in (("keys", key_states), ("values", value_states)):
            buffer = self.buffers.get(name)
            if buffer is None or buffer.shape[2] < end:
                grown = new.new_empty(*new.shape[:2], 32 * (end // 32 + 2), new.shape[3])
                if buffer is not None:
                    grown[:, :, :begin] = buffer[:, :, :begin]
                self.buffers[name] = buffer = grown
            buffer[:, :, begin:end] = new
            setattr(self, name, buffer[:, :, :end])
        return self.keys, self.values

    def reorder_cache(self, rows: Any) -> None:
        """Row i becomes what row `rows[i]` was; there may be fewer of them than before."""
        length = self.get_seq_length()
        for name, buffer in self.buffers.items():
            target = self.spare.pop() if self.spare else None
            if target is None or len(target) < len(rows) or target.shape[2] != buffer.shape[2]:
                target = buffer.new_empty(len(rows), *buffer.shape[1:])
            target = target[: len(rows)]
            torch.index_select(buffer[:, :, :length], 0, rows, out=target[:, :, :length])
            self.spare[:] = [buffer]
            self.buffers[name] = target
            setattr(self, name, target[:, :, :length])


class SharedCrossAttention(GPT2Attention):
    """Cross-attention in which the k beams of an image read one memory: they are k queries of it, not k images."""

    def forward(self, hidden_states: Any, *args, encoder_hidden_states: torch.Tensor, **kwargs):
        stock: Any = super()
        rows, images = len(hidden_states), len(encoder_hidden_states)
        if rows == images:
            return stock.forward(hidden_states, *args, encoder_hidden_states=encoder_hidden_states, **kwargs)
        together = hidden_states.reshape(images, -1, hidden_states.shape[-1])
        attended, weights = stock.forward(together, *args, encoder_hidden_states=encoder_hidden_states, **kwargs)
        if weights is not None:  # (B, heads, k L, M)
            weights = weights.unflatten(2, (rows // images, -1)).transpose(1, 2).flatten(0, 1)
        return attended.reshape(hidden_states.shape), weights


def share_images(decoder: nn.Module) -> bool:
    """Let the beams of an image share its memory, where the decoder is of a kind that can; says whether it is."""
    cross = [each for each in decoder.modules() if type(each) is GPT2Attention and each.is_cross_attention]
    for module in cross:
        module.__class__ = SharedCrossAttention  # as it is built, its weights and their names stay
    return bool(cross)


@dataclass
class _Found:
    """k sequences of each of B images, by falling score: tokens and their log-probabilities (B, k, L)."""

    tokens: torch.Tensor
    log_probs: torch.Tensor
    scores: torch.Tensor
    lengths: torch.Tensor
    whole: torch.Tensor

    def at(self, places: torch.Tensor) -> "_Found":
        """Those at `places` (B, k') of each image."""
        taken = {
            name: value.take_along_dim(places if value.ndim == 2 else places[..., None], dim=1)
            for name, value in vars(self).items()
        }
        return _Found(**taken)

    def of(self, images: torch.Tensor) -> "_Found":
        return _Found(**{name: value[images] for name, value in vars(self).items()})

    def beside(self, other: "_Found") -> "_Found":
        return _Found(**{name: torch.cat([value, getattr(other, name)], dim=1) for name, value in vars(self).items()})


class _BeamSearch:
    """The search of one batch, step by step.

    Args:
        input_ids: (B k, P) what all reports begin with.
        config: the generation config.
        processors, stopping: as transformers' search has them.
    """

    def __init__(self, input_ids: torch.Tensor, config, processors: LogitsProcessorList, stopping):
        self.beams, self.config, self.stopping = config.num_beams, config, stopping
        self.processors: Any = processors
        self.prompt = self.length = input_ids.shape[1]
        self.may_leave = all(isinstance(each, BY_ROW) or getattr(each, "by_row", False) for each in processors)
        ends, pad = config._eos_token_tensor, config._pad_token_tensor
        self.keep = max(2, 1 + (0 if ends is None else len(ends))) * self.beams
        # As transformers' search has it: a padding token 0 gives way to the first one that ends a report.
        fill = -1 if ends is None else int(pad or ends[0])
        self.images = torch.arange(len(input_ids) // self.beams, device=input_ids.device)
        shape = (len(self.images), self.beams)
        tokens = input_ids.new_full((*shape, config.max_length), fill)
        tokens[..., : self.prompt] = input_ids.view(*shape, -1)
        scores = torch.full(shape, OUT, device=tokens.device)
        nothing = torch.zeros(shape, dtype=torch.long, device=tokens.device)
        log_probs = torch.zeros(tokens.shape, device=tokens.device)
        self.done = _Found(tokens.clone(), log_probs.clone(), scores.clone(), nothing + self.prompt, nothing.bool())
        scores[:, 0] = 0  # else all beams would go on alike
        self.running = _Found(tokens, log_probs, scores, nothing + self.prompt, nothing.bool())
        self.improvable = torch.ones(len(self.images), dtype=torch.bool, device=tokens.device)
        self.left: list[tuple[torch.Tensor, _Found]] = []

    @property
    def sequences(self) -> torch.Tensor:
        """(B k, L) the beams as they are."""
        return self.running.tokens[..., : self.length].flatten(0, 1)

    def advance(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Take a step by the logits (B k, V) behind the sequences.

        Returns:
            The rows that the beams of the next step come from, (B' k,), and the images left, (B',), both as places in
            this step's batch; None at the end.
        """
        candidates, parents = self._candidates(logits.float())
        self.length += 1
        sequences = candidates.tokens[..., : self.length].flatten(0, 1)
        stopped = self.stopping(sequences, None).view(-1, self.keep)
        self._update_done(candidates, stopped)
        scores = candidates.scores + stopped.float() * OUT
        best = scores.topk(self.beams, dim=1).indices
        self.running = candidates.at(best)
        self.running.scores = scores.gather(1, best)
        self._update_improvable()
        is_open = self.improvable & ~stopped.all(dim=1)
        if self.config.early_stopping is True:
            is_open &= ~self.done.whole.all(dim=1)
        parents = parents.gather(1, best) + self.beams * torch.arange(len(parents), device=parents.device)[:, None]
        states = is_open.tolist()
        if not any(states):
            self.left.append((self.images, self.done))
            return None
        places = torch.arange(len(states), device=parents.device)
        if self.may_leave and not all(states):
            self.left.append((self.images[~is_open], self.done.of(~is_open)))
            self.images, self.done, self.running = self.images[is_open], self.done.of(is_open), self.running.of(is_open)
            self.improvable, places = self.improvable[is_open], places[is_open]
        elif self.config.early_stopping is True:
            self.improvable = is_open
        return parents[places].flatten(), places

    def _candidates(self, logits: torch.Tensor) -> tuple[_Found, torch.Tensor]:
        """The best continuations (B, keep) and the beams that they continue."""
        images, vocabulary = len(self.images), logits.shape[1]
        log_probs = logits.log_softmax(dim=-1)
        allowed = self.processors(self.sequences, log_probs) if self.processors else log_probs
        # Of a beam, no more than are kept of all.
        best, tokens = allowed.topk(min(self.keep, vocabulary), dim=1)
        scores, places = (best.view(images, self.beams, -1) + self.running.scores[..., None]).flatten(1).topk(self.keep)
        parents = places // best.shape[1]
        chosen = tokens.view(images, -1).gather(1, places)
        found = self.running.at(parents)
        found.tokens[..., self.length] = chosen
        found.log_probs[..., self.length] = log_probs.view(images, -1).gather(1, chosen + parents * vocabulary)
        found.scores = scores
        found.lengths = torch.full_like(found.lengths, self.length + 1)
        return found, parents

    def _update_done(self, candidates: _Found, stopped: torch.Tensor) -> None:
        """The best k of the sequences that are whole, those of this step among them."""
        new = stopped.clone()
        new[:, self.beams :] = False  # the others only stand in where the best ones end
        scores = candidates.scores / (self.length - self.prompt) ** self.config.length_penalty
        scores = scores + (~self.improvable)[:, None].float() * OUT + (~new).float() * OUT
        ended = _Found(candidates.tokens, candidates.log_probs, scores, candidates.lengths, new)
        both = self.done.beside(ended)
        self.done = both.at(both.scores.topk(self.beams, dim=1).indices)

    def _update_improvable(self) -> None:
        """Whether a beam that goes on may still pass the worst whole sequence, by transformers' heuristic."""
        penalty, length = self.config.length_penalty, self.length - self.prompt
        if self.config.early_stopping == "never" and penalty > 0:
            length = self.config.max_length - self.prompt
        best = self.running.scores[:, 0] / length**penalty
        worst = torch.where(self.done.whole.all(dim=1), self.done.scores.amin(dim=1), OUT)
        self.improvable = self.improvable & (best > worst)

    def result(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The best `count` sequences of each image, (B count, L), and the probabilities of their tokens."""
        order = torch.cat([images for images, _ in self.left]).argsort()
        rows = [
            torch.cat([getattr(found, name)[:, :count] for _, found in self.left])[order].flatten(0, 1)
            for name in ("tokens", "log_probs", "lengths")
        ]
        longest = rows[2].max()
        return rows[0][:, :longest], rows[1][:, :longest].exp()


class BeamSearchMixin(GenerationMixin, Mixed):
    """A report generator's search. A class has `shares_images`: what `share_images` said of its decoder."""

    shares_images: bool

    def _expand_inputs_for_generation(self, expand_size: int = 1, input_ids=None, **kwargs):
        """Part of `generate`: rows for all beams, of everything but what they share."""
        shared = kwargs.pop("encoder_outputs", None) if self.shares_images else None
        if shared is not None:
            kwargs["is_encoder_decoder"] = False
        own: Any = super()  # transformers declares their `self` to be a class of its own
        input_ids, kwargs = own._expand_inputs_for_generation(expand_size, input_ids=input_ids, **kwargs)
        return input_ids, kwargs if shared is None else kwargs | {"encoder_outputs": shared}

    def _reorder_cache(self, past_key_values, beam_idx: torch.Tensor):
        """Part of beam search. All beams of an image read the same, so cross-attention's keys stay where they are."""
        past_key_values.self_attention_cache.reorder_cache(beam_idx)
        return past_key_values

    def _sample(self, input_ids: torch.Tensor, logits_processor: LogitsProcessorList, *args, **kwargs):
        processors, told = TokenProbabilities.move_first(logits_processor)
        own: Any = super()
        found = own._sample(input_ids, processors, *args, **kwargs)
        if told is not None:
            told.finish(found if isinstance(found, torch.Tensor) else found.sequences)
        return found

    def _beam_search(
        self,
        input_ids: torch.Tensor,
        logits_processor: LogitsProcessorList,
        stopping_criteria,
        generation_config,
        synced_gpus: bool = False,
        **kwargs,
    ):
        """Transformers' beam search; where no more than the sequences is asked for, the one of this file."""
        known = {"encoder_outputs", "past_key_values", "use_cache", "logits_to_keep"}
        cache = kwargs.get("past_key_values")
        if (
            generation_config.do_sample
            or generation_config.return_dict_in_generate
            or synced_gpus
            or not isinstance(cache, EncoderDecoderCache)
            or type(cache.self_attention_cache) is not DynamicCache
            or cache.get_seq_length() > 0
            or any(value is not None for name, value in kwargs.items() if name not in known)
        ):
            stock: Any = super()
            return stock._beam_search(
                input_ids, logits_processor, stopping_criteria, generation_config, synced_gpus, **kwargs
            )
        told = next((each for each in logits_processor if isinstance(each, TokenProbabilities)), None)
        processors = LogitsProcessorList(each for each in logits_processor if each is not told)
        search = _BeamSearch(input_ids, generation_config, processors, stopping_criteria)
        spare: list[torch.Tensor] = []
        own = Cache(layers=[BufferedLayer(spare) for _ in range(self.config.decoder_config.num_hidden_layers)])
        cache = EncoderDecoderCache(own, cache.cross_attention_cache)
        memory, tokens = kwargs["encoder_outputs"][0], input_ids
        while True:
            outputs = self(
                decoder_input_ids=tokens,
                encoder_outputs=(memory,),
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
                return_dict=True,
            )
            step = search.advance(outputs.logits[:, -1])
            if step is None:
                break
            rows, images = step
            own.reorder_cache(cast(torch.LongTensor, rows))
            if len(rows) < len(tokens):
                # Without shared images, a row of memory is a beam's.
                stay = images if self.shares_images else rows
                memory = memory[stay]
                cache.cross_attention_cache.batch_select_indices(stay)
            tokens = search.sequences[:, -1:]
        sequences, probabilities = search.result(generation_config.num_return_sequences)
        if told is not None:
            told.values = probabilities
        return sequences


__all__ = ["BeamSearchMixin", "TokenProbabilities", "share_images"]
