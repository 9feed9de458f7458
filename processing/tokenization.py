"""Tokenizers with CoGaze's special tokens."""

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"

# In the order in which the released CoGaze adds them to GPT-2's vocabulary: ids 50257 to 50264.
SPECIAL_TOKENS = (
    "[PAD]",
    "[SEP]",
    "[CLS]",
    "[INDICATION]",
    "[HISTORY]",
    "[Similar Cases]",
    "[FINDINGS]",
    "[TRANSCRIPT]",
)

# What a prior report stands behind, in the context of models that read earlier studies.
PRIOR_TOKEN = "[PRIOR]"

# A text that is tokenized on its own, as the zero-shot pipeline does with its prompts, is read as a report.
REPORT_PREFIX = "[CLS] [FINDINGS]"


def cogaze_tokenizer(gpt2_tokenizer, prior: bool = False) -> PreTrainedTokenizerFast:
    """CoGaze's tokenizer: GPT-2's or DistilGPT2's with the special tokens of the release.

    The tokens get the next free ids in the order of `SPECIAL_TOKENS` (50257 to 50264 after GPT-2's 50257 entries), and
    bos = eos = `<|endoftext|>`. With `add_special_tokens=True`, the default, a plain text is tokenized as
    `[CLS] [FINDINGS] {text}`; the first word is always one that follows a space, as in the release's templates.

    Args:
        gpt2_tokenizer: a fast byte-level BPE tokenizer that knows `<|endoftext|>`; it stays as it is.
        prior: also add `PRIOR_TOKEN`, after them.

    Raises:
        ValueError: the tokenizer has no fast backend, or does not know `<|endoftext|>`.
    """
    backend = getattr(gpt2_tokenizer, "backend_tokenizer", None)
    if backend is None or backend.token_to_id(END_OF_TEXT) is None:
        raise ValueError(f"gpt2_tokenizer: give a fast GPT-2 tokenizer whose vocabulary has {END_OF_TEXT}.")
    return _add_special_tokens(Tokenizer.from_str(backend.to_str()), prior)


def build_tokenizer(texts: Iterable[str], vocab_size: int = 2048, prior: bool = False) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer in GPT-2's manner, trained on `texts`, with CoGaze's special tokens.

    It has `vocab_size` entries at most, the last nine `<|endoftext|>` and `SPECIAL_TOKENS` (with `prior`, `PRIOR_TOKEN`
    after them); every string can be tokenized and comes back the same, but for one leading space.

    Raises:
        ValueError: vocab_size leaves no room for the 256 bytes and the special tokens.
    """
    specials = 1 + len(SPECIAL_TOKENS) + prior
    if vocab_size < 256 + specials:
        raise ValueError(f"vocab_size: {vocab_size} is too small; give at least {256 + specials}.")
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - specials,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return _add_special_tokens(backend, prior)


def _add_special_tokens(backend: Tokenizer, prior: bool) -> PreTrainedTokenizerFast:
    special = SPECIAL_TOKENS + (PRIOR_TOKEN,) * prior
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    backend.no_truncation()
    backend.no_padding()
    backend.add_special_tokens([END_OF_TEXT, *special])
    prefix = backend.encode(REPORT_PREFIX, add_special_tokens=False)
    backend.post_processor = processors.TemplateProcessing(
        single="prefix $A",
        pair="prefix $A [SEP] $B",
        special_tokens=[
            {"id": "prefix", "ids": prefix.ids, "tokens": prefix.tokens},
            ("[SEP]", backend.token_to_id("[SEP]")),
        ],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        unk_token=END_OF_TEXT,
        pad_token="[PAD]",
        sep_token="[SEP]",
        cls_token="[CLS]",
        additional_special_tokens=[t for t in special if t not in ("[PAD]", "[SEP]", "[CLS]")],
        clean_up_tokenization_spaces=False,
        model_max_length=1024,
    )
