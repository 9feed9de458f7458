"""How far a picture supports each sentence of a generated report: a small calibrated model on signs of it.

The signs: how probable the decoder finds the sentence, how sure its gaze map is, how well image and sentence fit, what
the pretraining's disease heads say of both, and how many sampled reports say the same. `cogaze calibrate_support` fits
one logistic model for sentences that affirm and one for those that deny, on patients that nothing was trained on.
"""

from collections.abc import Callable

import torch
from torch import nn

from .dual_encoder import Mixed

SIGNS = ("token_mean", "token_least", "map", "image_text", "disease", "samples")
# Of a sentence's disease logits: the weight of the observation that it is about above the others.
TOPIC_SHARPNESS = 2.0
FINGERPRINTED = 16


class SupportHead(nn.Module):
    """Logistic models over standardised signs; nothing in it is trained further.

    Args:
        signs: names out of `SIGNS`, the columns of what is given.
        labels, width: of the disease heads (labels, width) that "disease" reads; 0 labels: none.
    """

    coefficients: torch.Tensor
    intercepts: torch.Tensor
    means: torch.Tensor
    scales: torch.Tensor
    fingerprint: torch.Tensor
    vision_weight: torch.Tensor
    vision_bias: torch.Tensor
    report_weight: torch.Tensor
    report_bias: torch.Tensor

    def __init__(self, signs: list[str], labels: int = 0, width: int = 0):
        super().__init__()
        self.signs = list(signs)
        count = len(self.signs)
        for name, shape in {
            "coefficients": (2, count),
            "intercepts": (2,),
            "means": (2, count),
            "scales": (2, count),
            "fingerprint": (FINGERPRINTED,),
            "vision_weight": (labels, width),
            "vision_bias": (labels,),
            "report_weight": (labels, width),
            "report_bias": (labels,),
        }.items():
            self.register_buffer(name, torch.zeros(shape))

    def forward(self, signs: torch.Tensor, affirms: torch.Tensor) -> torch.Tensor:
        """(N,) probabilities from signs (N, S) and which sentences affirm something, (N,) bool."""
        own = affirms.long()
        standard = (signs.float() - self.means[own].float()) / self.scales[own].float().clamp(min=1e-6)
        return ((standard * self.coefficients[own].float()).sum(dim=1) + self.intercepts[own].float()).sigmoid()

    def disease_signs(self, images: torch.Tensor, topics: torch.Tensor, image_index: torch.Tensor) -> torch.Tensor:
        """(N,) logit of the disease that each sentence is about, in its image.

        Args:
            images (B, D), topics (N, D): features of images and of what the sentences are about.
        """
        seen = nn.functional.linear(images.float(), self.vision_weight.float(), self.vision_bias.float())
        said = nn.functional.linear(topics.float(), self.report_weight.float(), self.report_bias.float())
        return ((TOPIC_SHARPNESS * said).softmax(dim=-1) * seen[image_index]).sum(dim=-1)


def fingerprint(model: nn.Module) -> torch.Tensor:
    """(FINGERPRINTED,) mean sizes of some of a model's smaller parameters: another training has others."""
    named = [(name, p) for name, p in model.named_parameters() if p.numel() <= 1_000_000]
    step = max(1, len(named) // FINGERPRINTED)
    chosen = [p for _, p in sorted(named, key=lambda each: each[0])[::step][:FINGERPRINTED]]
    means = torch.stack([p.detach().float().abs().mean() for p in chosen])
    return nn.functional.pad(means, (0, FINGERPRINTED - len(means)))


class SupportMixin(Mixed):
    """For a report generator with `ground` and `sample_reports(encoded, count)` -> (B * count, L).

    `image_and_text(encoded, input_ids, attention_mask)` gives features of images (B, D) and texts (N, D) where the
    family has those that "image_text" and "disease" read.
    """

    support: SupportHead
    image_and_text: Callable[..., tuple[torch.Tensor, torch.Tensor]]
    sample_reports: Callable[..., torch.Tensor]

    def build_support(self) -> None:
        """Make `support` where the config asks for it; part of a constructor."""
        asked = self.config.support
        if asked is not None:
            self.support = SupportHead(asked["signs"], asked.get("labels", 0), asked.get("width", 0))

    def check_support(self) -> None:
        """
        Raises:
            ValueError: no support model, or one that was fitted for other weights.
        """
        if self.config.support is None:
            raise ValueError("min_support: this checkpoint has no support model; fit one by cogaze calibrate_support.")
        known, own = self.support.fingerprint.float(), fingerprint_of(self).to(self.support.fingerprint.device)
        if not torch.allclose(known, own, rtol=5e-3, atol=1e-5):
            raise ValueError(
                "support: it was fitted for another checkpoint's weights; fit it for these by cogaze calibrate_support."
            )

    @torch.no_grad()
    def support_signs(self, grounded, encoded, processor, names, samples: int = 0, head=None):
        """(N, S) the named signs of each sentence, and which sentences affirm something, (N,) bool.

        Args:
            grounded: what `ground` gave. samples: reports drawn for each image, for "samples".
            head: a `SupportHead` with disease heads; the model's own by default.
        """
        head = self.support if head is None else head
        device = grounded.gaze_maps.device
        image_index = grounded.sentence_report_index // (len(grounded.sequences) // len(encoded[0]))
        found = {
            "token_mean": torch.logit(grounded.text_confidence.float(), eps=1e-4),
            "token_least": grounded.text_least.float().clamp(min=1e-6).log(),
            "map": grounded.map_confidence.float(),
        }
        if "image_text" in names:
            images, texts = self.image_and_text(encoded, **processor.tokenize_reports(grounded.sentences).to(device))
            found["image_text"] = torch.cosine_similarity(images[image_index].float(), texts.float(), dim=-1)
        if "disease" in names:
            topics = processor.tokenize_reports(processor.topics(grounded.sentences)).to(device)
            images, texts = self.image_and_text(encoded, **topics)
            found["disease"] = head.disease_signs(images, texts, image_index)
        if "samples" in names:
            drawn = self._drawn(encoded, samples)
            agreed = processor.sample_agreement(grounded.sentences, image_index.tolist(), drawn, samples)
            found["samples"] = torch.tensor(agreed, device=device)
        affirms = torch.tensor(processor.affirms(grounded.sentences), device=device)
        return torch.stack([found[name] for name in names], dim=1), affirms

    def _drawn(self, encoded, count: int) -> torch.Tensor:
        """Sampled reports; the same ones for the same batch, and no draw is taken from anyone's generator."""
        devices = [encoded[0].device] if encoded[0].is_cuda else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(0)
            return self.sample_reports(encoded, count)

    def with_support(self, grounded, encoded, processor, min_support: float | None = None):
        """What `ground` gave with `support` of each sentence, where there is a support model, and with `min_support`
        also `left_out` and the `reports` without those sentences.

        Raises:
            ValueError: as `check_support`.
        """
        if self.config.support is None and min_support is None:
            return grounded
        self.check_support()
        asked = self.config.support or {}
        if len(grounded.sentences):
            signs, affirms = self.support_signs(grounded, encoded, processor, asked["signs"], asked.get("samples", 0))
            grounded.support = self.support(signs, affirms)
        else:
            grounded.support = grounded.map_confidence.new_zeros(0)
        if min_support is not None:
            grounded.left_out = grounded.support < min_support
            grounded.reports = processor.reports_without(
                grounded.sequences, grounded.sentence_report_index.tolist(), grounded.left_out.tolist()
            )
        return grounded


def check_min_support(min_support: float | None, return_grounding: bool) -> None:
    """
    Raises:
        ValueError: it is asked for where sentences are not looked at, or is no probability.
    """
    if min_support is None:
        return
    if not return_grounding:
        raise ValueError("min_support: it is told sentence by sentence; give return_grounding=True too.")
    if not 0 <= min_support <= 1:
        raise ValueError(f"min_support: {min_support} is no probability.")


def fingerprint_of(model: nn.Module) -> torch.Tensor:
    """`fingerprint` of all but the support model."""
    return fingerprint(nn.ModuleList(child for name, child in model.named_children() if name != "support"))


__all__ = ["SIGNS", "SupportHead", "SupportMixin", "check_min_support", "fingerprint_of"]
