"""Pictures of what a checkpoint has learnt, one command each.

    cogaze draw saliency --checkpoint outputs/finetune/seed-0 --label "Pleural Effusion" --output_dir pictures
    cogaze draw features --checkpoint outputs/demo/cogaze-tiny --output_dir pictures
    cogaze draw gaze --checkpoint outputs/demo/cogaze-tiny --output_dir pictures
    cogaze draw calibration --checkpoint outputs/finetune/seed-0 --output_dir pictures

saliency: what speaks for a label, by Grad-CAM and HiResCAM, by the classifier's own attention where it pools by
attention, and where CoGaze's latents look. features: t-SNE of the images' global features, coloured by finding. gaze:
the recorded gaze and the map predicted from the sentence, or with --sentences, on images without gaze, the maps that
are predicted from those. calibration: reliability before and after the temperatures of
`training.calibrate`.
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path

from datasets import Dataset

from training.data.loading import load_data
from training.downstream.classifiers import Classifier, as_in_finetuning, open_classifier
from training.evaluation.calibration import Calibration
from training.evaluation.scorers import load_scorer
from training.figures.features import NEIGHBOURS, draw_features
from training.figures.maps import draw_gaze, draw_predicted_gaze, draw_saliency
from training.figures.reliability import draw_calibration
from training.runs.command_line import parse_arguments


@dataclass
class DrawArguments:
    checkpoint: str = field(metadata={"help": "folder or Hub id"})
    output_dir: str = field(metadata={"help": "folder of the picture, which is called as it is asked for"})
    data: str = field(default='{"name": "phantom", "split": "test"}', metadata={"help": "JSON"})
    batch_size: int = 32
    device: str = "cpu"


@dataclass
class ClassifierArguments(DrawArguments):
    data: str | None = field(default=None, metadata={"help": "JSON; fine-tuning's test_data if absent"})
    no_context: bool | None = field(default=None, metadata={"help": "True or False; as in fine-tuning if absent"})


@dataclass
class SaliencyArguments(ClassifierArguments):
    label: str = field(default="Pleural Effusion", metadata={"help": "one of the classifier's"})
    image_ids: list[str] | None = field(
        default=None, metadata={"help": "images to draw; the first ones that have the label, if absent"}
    )
    rows: int = field(default=4, metadata={"help": "images, where none are named"})


@dataclass
class FeaturesArguments(DrawArguments):
    labels: list[str] | None = field(
        default=None, metadata={"help": "findings told apart, of which an image has one; the ten commonest, if absent"}
    )


@dataclass
class GazeArguments(DrawArguments):
    rows: int = field(default=4, metadata={"help": "sentences, each of another radiograph"})
    sentences: list[str] | None = field(
        default=None, metadata={"help": "predict from these, whatever was said; on the first images that have --label"}
    )
    label: str | None = field(default=None, metadata={"help": "with sentences: the images' label; all if absent"})


def main(argv: list[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] not in COMMANDS:
        print(f"{__doc__}\n{' | '.join(COMMANDS)}: each has its own --help.")
        sys.exit(0 if argv[:1] in (["-h"], ["--help"]) else 2)
    kind, draw = COMMANDS[argv[0]]
    (arguments,) = parse_arguments((kind,), argv[1:], __doc__)
    path = Path(arguments.output_dir) / f"{argv[0]}.png"
    draw(arguments, path)
    print(path)


def _saliency(arguments: SaliencyArguments, path: Path) -> None:
    classifier, dataset = _classifier_and_data(arguments)
    draw_saliency(classifier, dataset, arguments.label, path, arguments.rows, arguments.image_ids)


def _features(arguments: FeaturesArguments, path: Path) -> None:
    scorer = load_scorer(arguments.checkpoint, arguments.batch_size, arguments.device)
    purity = draw_features(scorer, load_data(arguments.data, "data"), path, arguments.labels)
    for name, scores in purity.items():
        print(
            f"{name}: {scores['p@10']:.3f} of an image's {NEIGHBOURS} nearest of other patients have its finding; "
            f"chance {scores['p@10_chance']:.3f}"
        )


def _gaze(arguments: GazeArguments, path: Path) -> None:
    scorer = load_scorer(arguments.checkpoint, arguments.batch_size, arguments.device)
    data = load_data(arguments.data, "data")
    if arguments.sentences:
        draw_predicted_gaze(scorer, data, arguments.sentences, path, arguments.rows, arguments.label)
    else:
        draw_gaze(scorer, data, path, arguments.rows)


def _calibration(arguments: ClassifierArguments, path: Path) -> None:
    classifier, dataset = _classifier_and_data(arguments)
    logits, targets = classifier.logits(dataset), classifier.targets(dataset)
    draw_calibration(Calibration(classifier.names, classifier.temperatures, logits, targets), dataset, path)


COMMANDS = {
    "saliency": (SaliencyArguments, _saliency),
    "features": (FeaturesArguments, _features),
    "gaze": (GazeArguments, _gaze),
    "calibration": (ClassifierArguments, _calibration),
}


def _classifier_and_data(arguments: ClassifierArguments) -> tuple[Classifier, Dataset]:
    no_context = as_in_finetuning(arguments.checkpoint, "no_context", arguments.no_context)
    data = arguments.data or as_in_finetuning(arguments.checkpoint, "test_data", flag="data")
    options = {"use_context": not no_context, "batch_size": arguments.batch_size}
    return open_classifier(arguments.checkpoint, arguments.device, **options), load_data(data, "data")


if __name__ == "__main__":
    main()
