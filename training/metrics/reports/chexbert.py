"""CheXbert (Smit et al., EMNLP 2020): labels of report text, and their precision, recall and F1.

`f1chexbert` 0.0.2 calls tokenizer methods that transformers 5 has dropped, and `radeval` takes its weights from the Hub
alone; so the published checkpoint is loaded here, into transformers' own BERT.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import BertConfig, BertModel

from processing.datasets.records import (
    CHEXBERT_OBSERVATIONS,
    NEGATIVE,
    NOT_MENTIONED,
    POSITIVE,
    UNCERTAIN,
    label_targets,
)

from ..scores import CorpusStatistic, MetricUnavailable
from .labels import label_scores
from .predictions import ReportPairs
from .text import load_tokenizer

FIVE_OBSERVATIONS = ("Cardiomegaly", "Edema", "Consolidation", "Atelectasis", "Pleural Effusion")
CHECKPOINT_FILE = "chexbert.pth"
# Of a head's four classes; No Finding's head has the first two.
_CODES = torch.tensor([NOT_MENTIONED, POSITIVE, NEGATIVE, UNCERTAIN])
_MAX_TOKENS = 512


class CheXbert(nn.Module):
    """BERT with a linear head on [CLS] for each observation: four classes, two for No Finding."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.bert = BertModel(config)
        heads = len(CHEXBERT_OBSERVATIONS)
        self.linear_heads = nn.ModuleList(
            nn.Linear(config.hidden_size, 4 if i < heads - 1 else 2) for i in range(heads)
        )

    def embed(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """(B, L) and (B, L) -> (B, W), the hidden state of [CLS]."""
        return self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state[:, 0]

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """(B, L) and (B, L) -> (B, 14) label codes."""
        cls = self.embed(input_ids, attention_mask)
        classes = torch.stack([head(cls).argmax(dim=-1) for head in self.linear_heads], dim=1)
        return _CODES.to(classes.device)[classes]


def load_chexbert(checkpoint: str) -> CheXbert:
    """The model from a `chexbert.pth`: the file, a folder that holds it, or a Hub id.

    Raises:
        MetricUnavailable: the file is missing, cannot be read, or has another layout; names it.
    """
    path = checkpoint_path(checkpoint)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        state = {name.removeprefix("module."): tensor for name, tensor in content["model_state_dict"].items()}
        state.pop("bert.embeddings.position_ids", None)
        model = CheXbert(_config_of(state))
        model.load_state_dict(state)
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise MetricUnavailable(f"{path} is no CheXbert checkpoint as published ({reason}).") from error
    return model.eval()


def checkpoint_path(checkpoint: str) -> Path:
    path = Path(checkpoint)
    if path.is_dir():
        path = path / CHECKPOINT_FILE
    if path.is_file():
        return path
    if path.suffix == ".pth" or checkpoint.count("/") != 1:
        raise MetricUnavailable(f"there is no file {path}; give {CHECKPOINT_FILE} with --chexbert_checkpoint.")
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(checkpoint, CHECKPOINT_FILE))
    except (OSError, ValueError) as error:
        raise MetricUnavailable(
            f"the file {CHECKPOINT_FILE} of {checkpoint} is neither in the cache nor to be had from the Hub "
            f"({type(error).__name__}); give a copy with --chexbert_checkpoint."
        ) from error


def _config_of(state: dict[str, torch.Tensor]) -> BertConfig:
    vocabulary, hidden = state["bert.embeddings.word_embeddings.weight"].shape
    layers = {match[1] for name in state if (match := re.match(r"bert\.encoder\.layer\.(\d+)\.", name))}
    return BertConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        num_hidden_layers=len(layers),
        num_attention_heads=max(1, hidden // 64),
        intermediate_size=state["bert.encoder.layer.0.intermediate.dense.weight"].shape[0],
        max_position_embeddings=state["bert.embeddings.position_embeddings.weight"].shape[0],
    )


def chexbert_labels(
    texts: Sequence[str], model: CheXbert, tokenizer, device: str = "cpu", batch_size: int = 32
) -> np.ndarray:
    """(N, 14) label codes of `texts`, in the order of `CHEXBERT_OBSERVATIONS`. Equal texts are labelled once."""
    return _read(texts, model, tokenizer, device, batch_size, model)


def chexbert_embeddings(
    texts: Sequence[str], model: CheXbert, tokenizer, device: str = "cpu", batch_size: int = 32
) -> np.ndarray:
    """(N, W) embeddings of `texts`, which SembScore compares."""
    return _read(texts, model, tokenizer, device, batch_size, model.embed)


@torch.no_grad()
def _read(texts: Sequence[str], model: CheXbert, tokenizer, device: str, batch_size: int, ask) -> np.ndarray:
    """What `ask` says of each text's tokens; equal texts are read once."""
    texts = [" ".join(text.split()) for text in texts]
    distinct = sorted(set(texts), key=len)
    model = model.to(device)
    limit = min(_MAX_TOKENS, model.bert.config.max_position_embeddings)
    found: dict[str, np.ndarray] = {}
    for start in range(0, len(distinct), batch_size):
        batch = distinct[start : start + batch_size]
        tokens = tokenizer(batch, padding=True, truncation=True, max_length=limit, return_tensors="pt")
        rows = ask(tokens["input_ids"].to(device), tokens["attention_mask"].to(device))
        found.update(zip(batch, rows.cpu().numpy(), strict=True))
    return np.stack([found[text] for text in texts])


def open_chexbert(options) -> tuple[CheXbert, object]:
    """The model and the tokenizer that the options name.

    Raises:
        MetricUnavailable: one of them is missing, or they do not fit.
    """
    model = load_chexbert(options.chexbert_checkpoint)
    tokenizer = load_tokenizer(options.chexbert_tokenizer, "chexbert_tokenizer")
    if len(tokenizer) > model.bert.config.vocab_size:
        raise MetricUnavailable(
            f"the tokenizer {options.chexbert_tokenizer!r} has {len(tokenizer)} entries and CheXbert's checkpoint "
            f"{model.bert.config.vocab_size}; give the one of bert-base-uncased with --chexbert_tokenizer."
        )
    return model, tokenizer


def chexbert(pairs: ReportPairs, options) -> list[CorpusStatistic]:
    """Precision, recall and F1 over the 14 and the 5 observations; uncertain is positive, not mentioned negative."""
    model, tokenizer = open_chexbert(options)
    codes = chexbert_labels(pairs.references + pairs.predictions, model, tokenizer, options.device, options.batch_size)
    reference, predicted = np.split(label_targets(codes), 2)
    five = [CHEXBERT_OBSERVATIONS.index(name) for name in FIVE_OBSERVATIONS]
    return label_scores("CheXbert-14", reference, predicted) + label_scores(
        "CheXbert-5", reference[:, five], predicted[:, five]
    )
