"""What a trained dual encoder says about images and texts, for evaluation."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch.nn.functional import adaptive_avg_pool2d, normalize
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm
from transformers import AutoModel, AutoProcessor

import modeling_cogaze  # noqa: F401  (registers the Auto classes)
from processing.reports import split_sentences

CONDITIONS = ("no_context", "context", "context_blank_image")


class Scorer:
    """Embeddings and maps of a CoGaze, batch by batch, without gradients. Other families: `load_scorer`."""

    conditions = CONDITIONS

    def __init__(self, model, processor, batch_size: int = 32):
        self.model = model.eval()
        self.processor = processor
        self.batch_size = batch_size
        self._embedded: dict[tuple, np.ndarray] = {}

    def batches(self, dataset, prepare: Callable[[dict], dict] = dict) -> Iterator[dict[str, torch.Tensor]]:
        for start in tqdm(range(0, len(dataset), self.batch_size), desc="Scoring", leave=False, disable=None):
            rows = range(start, min(start + self.batch_size, len(dataset)))
            batch = self.processor.collate([prepare(dataset[row]) for row in rows])
            yield {name: tensor.to(self.model.device) for name, tensor in batch.items()}

    def embed_images(self, dataset, condition: str) -> np.ndarray:
        """(N, D) unit vectors under one of `conditions`; a data set is encoded once, however many scores read it."""
        fingerprint = getattr(dataset, "_fingerprint", None)
        if fingerprint is None:
            return self._embed_images(dataset, condition)
        if (fingerprint, condition) not in self._embedded:
            self._embedded[fingerprint, condition] = self._embed_images(dataset, condition)
        return self._embedded[fingerprint, condition]

    @torch.no_grad()
    def _embed_images(self, dataset, condition: str) -> np.ndarray:
        embeds = []
        for batch in self.batches(dataset, partial(_image_alone, context=condition != "no_context")):
            pixels = batch["pixel_values"]
            batch["pixel_values"] = torch.zeros_like(pixels) if condition == "context_blank_image" else pixels
            names = ("pixel_values", "view_position_ids", "context_input_ids", "context_attention_mask")
            inputs = {name: batch[name] for name in names if name in batch}
            embeds.append(self.model.get_image_features(**inputs).pooler_output)
        return _unit(torch.cat(embeds))

    @torch.no_grad()
    def embed_texts(self, texts: list[str]) -> np.ndarray:
        """(N, D) unit vectors of report texts."""
        embeds = []
        for start in range(0, len(texts), self.batch_size):
            tokens = self.processor(text=texts[start : start + self.batch_size], return_tensors="pt")
            tokens = tokens.to(self.model.device)
            embeds.append(self.model.get_text_features(**tokens).pooler_output)
        return _unit(torch.cat(embeds))

    def embed_classes(self, prompts: list[list[str]]) -> np.ndarray:
        """(C, D) unit prototypes of C classes: the mean of a class's prompts."""
        means = np.stack([self.embed_texts(texts).mean(axis=0) for texts in prompts])
        return means / np.linalg.norm(means, axis=1, keepdims=True)

    def similarity(self, dataset, condition: str, texts: np.ndarray) -> np.ndarray:
        """(N, T) similarities of images and of what `embed_texts` gave."""
        return self.embed_images(dataset, condition) @ texts.T

    def class_scores(self, dataset, condition: str, classes: np.ndarray) -> np.ndarray:
        """(N, C) scores of images for what `embed_classes` gave."""
        return self.similarity(dataset, condition, classes)

    def mask_coverage(self, record: dict, mask) -> np.ndarray:
        """(P,) share of each patch that a mask of the whole radiograph covers."""
        size = (record["image_width"], record["image_height"])
        labels = self.processor(images=[record["image"]], masks=[mask], image_size=[size])["labels"]
        return adaptive_avg_pool2d(labels.float(), tuple(self.processor.grid_size)).numpy().reshape(-1)

    @torch.no_grad()
    def gaze_maps(self, dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Predicted and recorded maps (N, P) of all transcript rows, the image's row in `dataset`, and whether full."""
        predicted, recorded, image, full = [], [], [], []
        offset = 0
        for batch in self.batches(dataset):
            size = len(batch["pixel_values"])
            if "transcript_input_ids" in batch and len(batch["transcript_input_ids"]):
                views = {name: batch[name] for name in ("view_position_ids",) if name in batch}
                maps = self.model.get_gaze_maps(
                    batch["pixel_values"],
                    batch["transcript_input_ids"],
                    batch["transcript_attention_mask"],
                    image_index=batch["transcript_image_index"],
                    **views,
                )
                predicted.append(maps.float().cpu().numpy())
                recorded.append(batch["gaze_targets"].cpu().numpy())
                image.append(batch["transcript_image_index"].cpu().numpy() + offset)
                full.append(batch["transcript_is_full"].cpu().numpy())
            offset += size
        return tuple(np.concatenate(parts) for parts in (predicted, recorded, image, full))


class EgmaScorer(Scorer):
    """The same of an EGMA, which knows no context.

    A text is its sentences, and a class's score the mean or the maximum over its prompts (the paper reports both).
    """

    conditions = ("no_context",)

    def __init__(self, model, processor, batch_size: int = 32, ensemble: Literal["mean", "max"] = "mean"):
        super().__init__(model, processor, batch_size)
        if ensemble not in ("mean", "max"):
            raise ValueError(f"ensemble: {ensemble!r} is neither 'mean' nor 'max'.")
        self.ensemble = ensemble

    def embed_texts(self, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Sentence features (T, S, D) of texts, and which of them there are (T, S)."""
        sentences = [split_sentences(text) or [text] for text in texts]
        flat = torch.from_numpy(super().embed_texts([sentence for own in sentences for sentence in own]))
        sizes = [len(own) for own in sentences]
        padded = pad_sequence(flat.split(sizes), batch_first=True)
        return padded, torch.arange(padded.shape[1]) < torch.tensor(sizes)[:, None]

    def embed_classes(self, prompts: list[list[str]]):
        """Every prompt by itself, and how many each class has."""
        return self.embed_texts([prompt for texts in prompts for prompt in texts]), [len(texts) for texts in prompts]

    @torch.no_grad()
    def similarity(self, dataset, condition: str, texts) -> np.ndarray:
        """(N, T) similarities of images and of what `embed_texts` gave."""
        sentences, mask = (x.to(self.model.device) for x in texts)
        rows = []
        for batch in self.batches(dataset, partial(_image_alone, context=False)):
            image, patches = self.model.encode_image(batch["pixel_values"])
            # The fine-grained scores of all texts at once would not fit.
            chunks = zip(sentences.split(64), mask.split(64), strict=True)
            rows.append(torch.cat([self.model.similarity(image, patches, *chunk) for chunk in chunks], dim=1))
        return torch.cat(rows).float().cpu().numpy()

    def class_scores(self, dataset, condition: str, classes) -> np.ndarray:
        """(N, C) scores of images for what `embed_classes` gave."""
        texts, sizes = classes
        over_prompts = np.mean if self.ensemble == "mean" else np.max
        by_class = np.split(self.similarity(dataset, condition, texts), np.cumsum(sizes)[:-1], axis=1)
        return np.stack([over_prompts(scores, axis=1) for scores in by_class], axis=1)


def load_scorer(checkpoint: str, batch_size: int = 32, device: str = "cpu", **options) -> Scorer:
    """The scorer of a checkpoint's family, with its model and processor. `options` are the scorer's own."""
    model = AutoModel.from_pretrained(checkpoint).to(device)
    scorer = {"cogaze": Scorer, "egma": EgmaScorer}[model.config.model_type]
    return scorer(model, AutoProcessor.from_pretrained(checkpoint), batch_size, **options)


def _image_alone(record: dict, context: bool) -> dict:
    return record | {"gaze": [], "findings": ""} | ({} if context else {"indication": "", "history": ""})


def _unit(embeds: torch.Tensor) -> np.ndarray:
    return normalize(embeds.float(), dim=-1).cpu().numpy()
