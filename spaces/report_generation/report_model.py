"""What the Space asks of a CoGaze report generator: reports that stream in, gaze maps, scores, similar cases."""

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

import numpy as np
import torch
import yaml
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from PIL import Image
from torch.nn.functional import normalize
from transformers import AutoProcessor, TextIteratorStreamer

import processing  # noqa: F401  (registers the processors)
from modeling_cogaze import CoGazeForConditionalGeneration, CoGazeForImageClassification, CoGazeForPreTraining
from processing.prompts import REPORT_KINDS
from processing.radiographs import read_radiograph
from processing.reports import STRUCTURED_HEADERS, parse_structured, split_sentences, structure_findings

SHOWN_SIDE = 1024
MAX_NEW_TOKENS = {"free_text": 100, "structured": 150}
INDEX = "similar_cases"
# Seconds without a token after which a report is given up.
STALLED = 300


@dataclass(frozen=True)
class Study:
    """A radiograph: what the model is given, (1, 3, H, W), and what people are shown, in mode "L".

    `box` is the part of the picture that the model sees, (x0, y0, x1, y1) in shares of its width and height;
    `objection` what the guard has against it, in words, "" where nothing.
    """

    pixel_values: torch.Tensor
    shown: Image.Image
    box: tuple[float, float, float, float]
    objection: str = ""


@dataclass(frozen=True)
class Context:
    """What is known beside the picture."""

    view_position: str = ""
    indication: str = ""
    history: str = ""


@dataclass(frozen=True)
class Sentence:
    """A report's sentence; `gaze_map` is (rows, columns) of patches and sums to 1.

    `heading` is "" in free text. The confidences are those of `GroundedReports`, as is `support`, None where the
    checkpoint tells none. `boxes` (K, 4) are in shares of the picture's width and height.
    """

    text: str
    heading: str
    gaze_map: np.ndarray
    map_confidence: float
    text_confidence: float
    boxes: list[list[float]] = field(default_factory=list)
    support: float | None = None


@dataclass(frozen=True)
class Report:
    """A report as far as it is written; sentences come with the last one, which is `done`."""

    text: str
    sentences: list[Sentence] = field(default_factory=list)
    done: bool = False
    seconds: float = 0.0


class ReportModel:
    """A report generator with its processor, and what else goes with it.

    Args:
        model, processor: the report generator, free text.
        structured: (model, processor) of a generator that was trained on structured reports. Without one, the
            sentences of free text are put under the headings by rules.
        classifier: (model, processor) with a disease head. Without one, observations are scored zero-shot.
        cases: an index of similar cases.
        name: what to call the model.
    """

    def __init__(self, model, processor, structured=None, classifier=None, cases=None, name: str = "CoGaze"):
        self.model, self.processor = model.eval(), processor
        self.structured, self.classifier, self.cases, self.name = structured, classifier, cases, name
        self._prototypes = None
        for extra in (structured, classifier):
            if extra is not None:
                extra[0].eval()
                if tuple(extra[0].config.image_size) != tuple(model.config.image_size):
                    raise ValueError("structured and classifier: they must read pictures of the report model's size.")

    @classmethod
    def open(
        cls, model: str, structured: str | None = None, classifier: str | None = None, device: str | None = None
    ) -> "ReportModel":
        """
        Args:
            model, structured: folders or Hub ids of CoGaze report generators.
            classifier: folder or Hub id of a CoGaze with a disease head: pretraining or image classification.
            device: by default the GPU where there is one.

        Raises:
            ValueError: a checkpoint that cannot be had, or is of another kind.
        """
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        folder = _folder(model, "COGAZE_MODEL")
        generator = _load(CoGazeForConditionalGeneration, folder, "COGAZE_MODEL", device)
        extra = {}
        if structured:
            path = _folder(structured, "COGAZE_STRUCTURED_MODEL")
            extra["structured"] = _load(CoGazeForConditionalGeneration, path, "COGAZE_STRUCTURED_MODEL", device)
        if classifier:
            extra["classifier"] = _classifier(_folder(classifier, "COGAZE_CLASSIFIER"), device)
        if (folder / INDEX).is_dir():
            # Needs the `retrieval` extra, which a Space without an index can do without.
            from training.reports.similar_cases import SimilarCases

            extra["cases"] = SimilarCases.load(folder / INDEX)
            extra["cases"].check(generator[0].cogaze)
        return cls(*generator, **extra, name=Path(model).name)

    def study(self, picture) -> Study:
        """A radiograph, in whatever form `read_radiograph` takes it.

        Raises:
            ValueError: no radiograph, with the reason.
        """
        picture = read_radiograph(picture, "radiograph")
        x0, y0, x1, y1 = self.processor.crop_box(picture.size, picture.size)
        width, height = picture.size
        shown = picture.copy()
        shown.thumbnail((SHOWN_SIDE, SHOWN_SIDE), Image.Resampling.LANCZOS)
        pixels = self.processor(images=picture)["pixel_values"]
        objection = self.processor.check_radiograph(picture).reason
        return Study(pixels, shown, (x0 / width, y0 / height, x1 / width, y1 / height), objection)

    def write(self, study: Study, context: Context, kind: str = "free_text") -> Iterator[Report]:
        """The report while it is written, token by token, by greedy search.

        Raises:
            ValueError: an unknown kind or view position.
        """
        if kind not in REPORT_KINDS:
            raise ValueError(f"style: {kind!r} is none of {', '.join(REPORT_KINDS)}.")
        start = time.monotonic()
        trained = kind == "structured" and self.structured is not None
        model, processor = self.structured if trained else (self.model, self.processor)
        with torch.no_grad():
            encoded = model.encode(**self._inputs(study, context, processor))
        streamer = TextIteratorStreamer(
            processor.tokenizer, skip_prompt=True, timeout=STALLED, skip_special_tokens=True
        )
        length = model.generation_config.max_new_tokens or MAX_NEW_TOKENS[kind]
        options = {"logits_processor": processor.structured_constraint(length)} if trained else {}
        abandoned = threading.Event()
        outcome = {}

        def stop(sequences: torch.Tensor, scores, **_) -> torch.Tensor:
            return torch.full((len(sequences),), abandoned.is_set(), device=sequences.device)

        def generate() -> None:
            try:
                outcome["sequences"] = model.generate(
                    encoder_outputs=encoded,
                    streamer=streamer,
                    stopping_criteria=[stop],
                    num_beams=1,
                    do_sample=False,
                    max_new_tokens=length,
                    **options,
                )
            except Exception as error:
                outcome["error"] = error
                streamer.end()

        writer = threading.Thread(target=generate, daemon=True)
        writer.start()
        text = ""
        try:
            for piece in streamer:
                if piece:
                    text += piece
                    yield Report(text.lstrip())
        finally:
            abandoned.set()
            writer.join()
        if "error" in outcome:
            raise outcome["error"]
        text = processor.decode_reports(outcome["sequences"])[0]
        if kind == "structured" and not trained:
            text = structure_findings(text)
        sentences = self._grounded(model, processor, outcome["sequences"], encoded, text, study.shown.size)
        yield Report(text, sentences, True, time.monotonic() - start)

    def gaze(self, study: Study, sentence: str, view_position: str = "") -> np.ndarray:
        """(rows, columns): where a radiologist who says the sentence is predicted to look."""
        tokens = self.processor.tokenize_sentences([sentence]).to(self.device)
        view = self._inputs(study, Context(view_position), self.processor)["view_position_ids"]
        with torch.no_grad():
            maps = self.encoder.get_gaze_maps(study.pixel_values.to(self.device), **tokens, view_position_ids=view)
        return self._on_grid(self.processor, maps[0])

    def observations(self, study: Study, context: Context) -> dict[str, float | None]:
        """The observations, 0 to 1: the classifier's, None where its training knew no positive; or zero-shot, a softmax
        over the prototypes of the prompts that affirm and of those that deny."""
        with torch.no_grad():
            if self.classifier is not None:
                return self._classified(study, context)
            names, prototypes = self._observation_prototypes()
            cosines = prototypes @ self._image_embedding(study, context)
            shares = (cosines * self.encoder.logit_scale.exp()).softmax(dim=-1)[:, 0]
        return dict(zip(names, shares.tolist(), strict=True))

    def zero_shot(self, study: Study, context: Context, prompts: Sequence[str]) -> list[tuple[str, float, float]]:
        """(prompt, cosine with the image, softmax share over the prompts), as given."""
        with torch.no_grad():
            cosines = self._embed(prompts) @ self._image_embedding(study, context)
            shares = (cosines * self.encoder.logit_scale.exp()).softmax(dim=-1)
        return list(zip(prompts, cosines.tolist(), shares.tolist(), strict=True))

    def similar(self, study: Study, context: Context, count: int = 5) -> list[tuple[str, float]]:
        """(findings, cosine) of the training cases that look most like the radiograph, one per study; best first.

        Raises:
            ValueError: there is no index of cases.
        """
        if self.cases is None:
            raise ValueError("similar reports: this checkpoint comes without an index of similar cases.")
        with torch.no_grad():
            latents = self._image_embedding(study, context)[None]
        return [(case.findings, case.score) for case in self.cases.search(latents, count)[0]]

    @property
    def encoder(self):
        return self.model.cogaze

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def view_positions(self) -> list[str]:
        return list(self.processor.view_positions)

    def details(self) -> dict[str, str]:
        """What to say of the model."""
        config = self.model.config
        count = sum(parameter.numel() for parameter in self.model.parameters())
        rows, columns = config.grid_size
        if self.structured is not None:
            structured = "written by a decoder of their own that can write nothing but the eight headings"
        else:
            structured = "sentences of the free text, put under the eight headings by rules"
        return {
            "Model": self.name,
            "Parameters": f"{count / 1e6:.1f} million",
            "Reads": f"{config.image_size[1]} × {config.image_size[0]} pixels as {columns} × {rows} patches",
            "Image encoder": config.vision_config.model_type,
            "Decoder": config.decoder_config.model_type,
            "Search": "greedy, one token at a time, so that the report can stream",
            "Structured reports": structured,
            "Observations": (
                "zero-shot: prompts that affirm a finding against prompts that deny it"
                if self.classifier is None
                else "a disease head on the image's latents"
            ),
            "Similar reports": "none" if self.cases is None else f"{len(self.cases)} radiographs",
            "Runs on": str(self.device),
        }

    def _inputs(self, study: Study, context: Context, processor) -> dict[str, torch.Tensor]:
        batch = processor(
            view_position=[context.view_position], indication=[context.indication], history=[context.history]
        )
        return {name: tensor.to(self.device) for name, tensor in batch.items()} | {
            "pixel_values": study.pixel_values.to(self.device)
        }

    def _classified(self, study: Study, context: Context) -> dict[str, float | None]:
        model, processor = self.classifier
        outputs = model(**self._inputs(study, context, processor))
        if not isinstance(model, CoGazeForPreTraining):
            shares = outputs.logits[0].float().sigmoid().tolist()
            return {model.config.id2label[index]: share for index, share in enumerate(shares)}
        names, positives = model.config.label_names, model.config.positives_per_class
        shares = outputs.vision_logits[0].float().sigmoid().tolist()
        seen = [True] * len(names) if positives is None else positives
        return {name: share if known else None for name, share, known in zip(names, shares, seen, strict=True)}

    def _image_embedding(self, study: Study, context: Context) -> torch.Tensor:
        features = self.encoder.get_image_features(**self._inputs(study, context, self.processor)).pooler_output
        return normalize(features.float(), dim=-1)[0]

    def _embed(self, texts: Sequence[str]) -> torch.Tensor:
        tokens = self.processor(text=list(texts)).to(self.device)
        features = self.encoder.get_text_features(**tokens).pooler_output
        return normalize(features.float(), dim=-1)

    def _observation_prototypes(self) -> tuple[list[str], torch.Tensor]:
        """Names, and (C, 2, D) prototypes of presence and absence; made once."""
        if self._prototypes is None:
            text = (resources.files("training") / "configs" / "evaluation" / "prompts.yaml").read_text(encoding="utf-8")
            findings = yaml.safe_load(text)["findings"]
            pairs = [[prompts[side] for side in ("positive", "negative")] for prompts in findings.values()]
            means = [torch.stack([self._embed(prompts).mean(dim=0) for prompts in pair]) for pair in pairs]
            self._prototypes = list(findings), normalize(torch.stack(means), dim=-1)
        return self._prototypes

    def _grounded(self, model, processor, sequences, encoded, text: str, size: tuple[int, int]) -> list[Sentence]:
        heading_of = {
            sentence: heading
            for heading, findings in parse_structured(text).items()
            for finding in findings
            for sentence in split_sentences(finding)
        }
        grounded = model.with_support(model.ground(sequences, encoded, processor), encoded, processor)
        (found,) = processor.post_process_grounding(grounded, [size])
        sentences = [
            Sentence(
                own["text"],
                heading_of.get(own["text"], ""),
                self._on_grid(processor, gaze),
                own["map_confidence"],
                own["text_confidence"],
                [[x0 / size[0], y0 / size[1], x1 / size[0], y1 / size[1]] for x0, y0, x1, y1 in own["boxes"]],
                own.get("support"),
            )
            for own, gaze in zip(found, grounded.gaze_maps, strict=True)
        ]
        order = {heading: rank for rank, heading in enumerate(("", *STRUCTURED_HEADERS))}
        return sorted(sentences, key=lambda sentence: order[sentence.heading])

    @staticmethod
    def _on_grid(processor, gaze: torch.Tensor) -> np.ndarray:
        return gaze.float().cpu().numpy().reshape(tuple(processor.grid_size))


def _folder(checkpoint: str, variable: str) -> Path:
    """Where a checkpoint lies, fetched from the Hub if need be. Its own code is not: this package opens it."""
    if Path(checkpoint).is_dir():
        return Path(checkpoint)
    try:
        return Path(snapshot_download(checkpoint, ignore_patterns=["*.py", "*.bin", "*.pt", "*.pkl"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ValueError(f"{variable}: {checkpoint} is no folder, and not to be had from the Hub.") from error


def _load(model_class, folder: Path, variable: str, device: str):
    config = model_class.config_class.from_pretrained(folder)
    if model_class.__name__ not in (config.architectures or ()):
        raise ValueError(f"{variable}: {folder.name} is a {config.architectures}; give a {model_class.__name__}.")
    return model_class.from_pretrained(folder).to(device), AutoProcessor.from_pretrained(folder)


def _classifier(folder: Path, device: str):
    config = CoGazeForPreTraining.config_class.from_pretrained(folder)
    known = {each.__name__: each for each in (CoGazeForPreTraining, CoGazeForImageClassification)}
    model_class = known.get((config.architectures or [""])[0])
    if model_class is None or (model_class is CoGazeForPreTraining and not config.use_classification):
        raise ValueError(f"COGAZE_CLASSIFIER: {folder.name} has no disease head; give a pretraining with L_cls.")
    return _load(model_class, folder, "COGAZE_CLASSIFIER", device)
