"""Fit how far a picture supports each sentence of a generated report, and save it with the checkpoint.

    cogaze calibrate_support --checkpoint outputs/demo/cogaze-tiny-report --disease_heads outputs/demo/cogaze-tiny

Reports are written of validation patients; labels say which of their sentences are right (on the phantom its lesions,
on real data CheXbert's labels of the sentences, with --labeler chexbert); a logistic model learns to tell from the
decoder's probability, the gaze map's confidence, the fit of image and sentence, the disease heads of the pretraining
and the agreement of sampled reports. It is judged on test patients and saved in the model; `generate(...,
return_grounding=True)` then gives `support`. `support.json` and `support.png` lie beside it.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from training.data.loading import load_data
from training.downstream.subsets import check_patients_apart
from training.evaluation.trust import (
    SIGNS,
    attach_support,
    disease_heads,
    empty_head,
    fit_support,
    judge_sentences,
    save_model,
    supported,
    trust,
)
from training.figures.trust import draw_trust
from training.metrics.reports import MetricOptions
from training.metrics.reports.chexbert import chexbert_labels, open_chexbert
from training.metrics.scores import to_json
from training.reports.writing import open_writer
from training.runs.command_line import parse_arguments
from training.runs.files import write_json
from training.runs.provenance import measured_on


@dataclass
class CalibrateSupportArguments:
    checkpoint: str = field(metadata={"help": "folder of a report generator"})
    disease_heads: str | None = field(
        default=None, metadata={"help": "the pretraining checkpoint whose disease heads are asked; none if absent"}
    )
    validation_data: str = field(
        default='{"name": "phantom", "split": "validation"}', metadata={"help": "JSON: the model is fitted on it"}
    )
    test_data: str = field(
        default='{"name": "phantom", "split": "test"}', metadata={"help": "JSON: it is judged on it"}
    )
    samples: int = field(default=5, metadata={"help": "reports drawn for each image; 0 leaves their agreement out"})
    labeler: Literal["phantom", "chexbert"] = "phantom"


def main(argv: list[str] | None = None) -> dict:
    """
    Raises:
        ValueError: a checkpoint that is no folder; a patient in both data; heads of a checkpoint that has none.
        MetricUnavailable: CheXbert's weights are missing; names them.
    """
    arguments, options = parse_arguments((CalibrateSupportArguments, MetricOptions), argv, __doc__)
    folder = Path(arguments.checkpoint)
    if not folder.is_dir():
        raise ValueError(f"checkpoint: no folder {folder}; the support model is saved where the generator lies.")
    data = {split: load_data(getattr(arguments, f"{split}_data"), f"{split}_data") for split in ("validation", "test")}
    check_patients_apart({split: dataset["patient_id"] for split, dataset in data.items()})
    writer = open_writer(str(folder), options.device, batch_size=options.batch_size)
    if not hasattr(writer.model, "support_signs"):
        raise ValueError(
            f"checkpoint: {folder} is no generator with a cross-attention decoder; others have no support."
        )
    heads = disease_heads(arguments.disease_heads) if arguments.disease_heads else None
    signs = [name for name in SIGNS if known(name, writer.model, heads, arguments.samples)]
    head = empty_head(signs, heads).to(writer.model.device)
    labels_of = None
    if arguments.labeler == "chexbert":
        model, tokenizer = open_chexbert(options)
        labels_of = lambda texts: chexbert_labels(texts, model, tokenizer, options.device)  # noqa: E731
    judged = {
        split: judge_sentences(writer, dataset, signs, head, arguments.samples, labels_of)
        for split, dataset in data.items()
    }
    fit_support(head, judged["validation"])
    support = supported(head, judged["test"])
    scores = trust(judged["test"], support)
    attach_support(writer.model, head, arguments.samples)
    save_model(writer.model, folder)
    result = {
        "signs": signs,
        "samples": arguments.samples,
        "fitted_on": {"data": measured_on(data["validation"]), "sentences": len(judged["validation"])},
        "measured_on": measured_on(data["test"]),
        "coefficients": dict(zip(("denying", "affirming"), head.coefficients.tolist(), strict=True)),
        "scores": to_json(scores.values()),
    }
    draw_trust(support, judged["test"].right, folder / "support.png", data["test"])
    write_json(folder / "support.json", result)
    print("\n".join(f"{score.name:<28}{score.shown()}" for score in scores.values()))
    return result


def known(sign: str, model, heads, samples: int) -> bool:
    """Whether a sign can be had of this generator."""
    if sign == "samples":
        return samples > 0
    if sign in ("image_text", "disease"):
        return hasattr(model, "image_and_text") and (sign == "image_text" or heads is not None)
    return True


if __name__ == "__main__":
    main()
