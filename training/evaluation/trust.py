"""The support of generated sentences: signs of it, the truth, the fitted model, and how good it is."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from tqdm import tqdm
from transformers import AutoModelForPreTraining

from modeling_cogaze.support import SIGNS, SupportHead, fingerprint_of
from processing.datasets.phantom.labeler import phantom_labels
from processing.datasets.records import CHEXBERT_OBSERVATIONS, label_names

from ..metrics.scores import Bootstrap, Score
from ..metrics.sentences import sentence_is_right, trust_scores
from ..reports.prompt_hints import encode_images
from ..reports.writing import ReportWriter, one_per_study

LEAST_WRONG = 20  # sentences of each outcome that a model of one kind is fitted on


@dataclass
class JudgedSentences:
    """Generated sentences that the labels can judge.

    Args:
        signs (N, S), affirms (N,), right (N,), patients (N,), texts.
        support (N,): what the model gives, where it has a support model.
    """

    signs: np.ndarray
    affirms: np.ndarray
    right: np.ndarray
    patients: np.ndarray
    texts: list[str]
    support: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.right)


def disease_heads(checkpoint: str) -> dict[str, torch.Tensor]:
    """Weights of the disease heads of a pretraining checkpoint, as `SupportHead` names them.

    Raises:
        ValueError: the checkpoint was pretrained without.
    """
    model = AutoModelForPreTraining.from_pretrained(checkpoint)
    if not getattr(model.config, "use_classification", False):
        raise ValueError(f"disease_heads: {checkpoint} was pretrained without disease heads; leave them out.")
    return {
        f"{side}_{part}": getattr(getattr(model, f"{side}_classifier"), part).detach().clone()
        for side in ("vision", "report")
        for part in ("weight", "bias")
    }


def empty_head(signs: Sequence[str], heads: dict[str, torch.Tensor] | None) -> SupportHead:
    labels, width = heads["vision_weight"].shape if heads else (0, 0)
    head = SupportHead(list(signs), labels, width)
    for name, value in (heads or {}).items():
        getattr(head, name).copy_(value)
    return head


@torch.no_grad()
def judge_sentences(
    writer: ReportWriter,
    dataset,
    signs: Sequence[str],
    head: SupportHead,
    samples: int,
    labels_of: Callable[[list[str]], Sequence[Sequence[int]]] | None = None,
) -> JudgedSentences:
    """Write a report for each study and judge its sentences.

    Args:
        labels_of: texts -> a code for each CheXbert observation; the phantom's labeler by default.
    """
    labels_of = labels_of or (lambda texts: [phantom_labels(text) for text in texts])
    names = label_names(dataset)
    columns = [names.index(name) if name in names else None for name in CHEXBERT_OBSERVATIONS]
    found: dict[str, list] = {name: [] for name in ("signs", "affirms", "right", "patients", "texts", "support")}
    places, model, processor = one_per_study(dataset), writer.model.eval(), writer.processor
    for start in tqdm(range(0, len(places), writer.batch_size), desc="Judging sentences", leave=False, disable=None):
        records = [dataset[place] for place in places[start : start + writer.batch_size]]
        encoded = encode_images(model, writer.inputs(records))
        grounded = model.generate(encoder_outputs=encoded, **writer.options, return_grounding=True, processor=processor)
        if not grounded.sentences:
            continue
        values, affirms = model.support_signs(grounded, encoded, processor, signs, samples, head)
        said = labels_of(grounded.sentences)
        for place, (text, row) in enumerate(
            zip(grounded.sentences, grounded.sentence_report_index.tolist(), strict=True)
        ):
            record = records[row]
            known = [-1 if column is None else record["labels"][column] for column in columns]
            sided = (record["regions"] or [], record["image_width"]) if record["view_position"] != "LATERAL" else ()
            right = sentence_is_right(said[place], known, CHEXBERT_OBSERVATIONS, text, *sided)
            if right is None:
                continue
            found["signs"].append(values[place].float().cpu().numpy())
            found["affirms"].append(bool(affirms[place]))
            found["right"].append(right)
            found["patients"].append(record["patient_id"])
            found["texts"].append(text)
            if grounded.support is not None:
                found["support"].append(float(grounded.support[place]))
    arrays = {name: np.array(values) for name, values in found.items() if name != "texts"}
    arrays["signs"] = arrays["signs"].reshape(-1, len(signs)).astype(np.float32)
    arrays |= {name: arrays[name].astype(bool) for name in ("affirms", "right")}
    arrays["support"] = arrays["support"] if len(arrays["support"]) else None
    return JudgedSentences(**arrays, texts=found["texts"])


def fit_support(head: SupportHead, seen: JudgedSentences) -> SupportHead:
    """Fill the head's logistic models, one for sentences that affirm and one for those that deny.

    Regularised as scikit-learn does by default, on standardised signs. Where one kind has too few wrong or right
    sentences, its probability is their share of right ones (with one of each added) and no sign counts.
    """
    for kind in (0, 1):
        rows = seen.affirms == bool(kind)
        values, right = seen.signs[rows], seen.right[rows]
        means, scales = (values.mean(0), values.std(0)) if len(values) else (0.0, 1.0)
        head.means[kind] = torch.as_tensor(means)
        head.scales[kind] = torch.as_tensor(np.maximum(scales, 1e-3))
        if min(right.sum(), (~right).sum()) < LEAST_WRONG:
            share = (right.sum() + 1) / (len(right) + 2)
            head.coefficients[kind] = 0
            head.intercepts[kind] = float(np.log(share / (1 - share)))
            continue
        model = LogisticRegression(max_iter=1000).fit((values - means) / np.maximum(scales, 1e-3), right)
        head.coefficients[kind] = torch.from_numpy(model.coef_[0]).float()
        head.intercepts[kind] = float(model.intercept_[0])
    return head


@torch.no_grad()
def supported(head: SupportHead, seen: JudgedSentences) -> np.ndarray:
    """(N,) what the head says of judged sentences."""
    return head(torch.from_numpy(seen.signs), torch.from_numpy(seen.affirms)).numpy()


def attach_support(model, head: SupportHead, samples: int) -> None:
    """Make the head the model's own, for its weights as they are."""
    head.fingerprint.copy_(fingerprint_of(model))
    model.config.support = {
        "signs": head.signs,
        "samples": samples,
        "labels": head.vision_weight.shape[0],
        "width": head.vision_weight.shape[1],
    }
    model.support = head.to(model.device)


def save_model(model, folder: Path) -> None:
    """The model in place of the one in `folder`; each file changes as a whole, the config last."""
    with TemporaryDirectory(dir=folder, prefix=".support-") as written:
        model.save_pretrained(written)
        for path in sorted(Path(written).iterdir(), key=lambda path: path.name == "config.json"):
            os.replace(path, folder / path.name)


def trust(seen: JudgedSentences, support: np.ndarray, rounds: int = 200) -> dict[str, Score]:
    """`trust_scores` with intervals over patients; AUROC also among the sentences of each kind."""
    on = f"{len(seen)} sentences, {int((~seen.right).sum())} of them wrong"
    draws = Bootstrap(seen.patients, rounds)
    scores = draws.scores(lambda rows: trust_scores(support[rows], seen.right[rows]), on=on)
    if "support_auroc" in scores:
        scores["support_auroc"].chance = 0.5
    for name, rows in (("affirming", seen.affirms), ("denying", ~seen.affirms)):
        value = trust_scores(support[rows], seen.right[rows])["support_auroc"] if rows.any() else float("nan")
        if np.isfinite(value):
            title = f"support_auroc/{name}"
            scores[title] = Score(title, value, chance=0.5, on=f"{int(rows.sum())} sentences")
    return scores


__all__ = [
    "SIGNS",
    "JudgedSentences",
    "attach_support",
    "disease_heads",
    "empty_head",
    "fit_support",
    "judge_sentences",
    "save_model",
    "supported",
    "trust",
]
