"""CoGaze's Space: a radiograph becomes a report whose sentences show where they look.

    COGAZE_MODEL=org/name python app.py

COGAZE_MODEL             folder or Hub id of a CoGaze report generator
COGAZE_STRUCTURED_MODEL  one trained on structured reports; else free text is put under the headings by rules
COGAZE_CLASSIFIER        a CoGaze with a disease head for the observations; else they are scored zero-shot
COGAZE_CONCURRENCY       requests to the model at once, 2 by default
COGAZE_ON_OTHER          pictures that the guard takes for no upright chest radiograph: warn (default), refuse or off
"""

import base64
import io
import os
import signal
from collections.abc import Iterator
from pathlib import Path

# On ZeroGPU hardware, before torch: a GPU is there only within functions that are marked.
try:
    from spaces import GPU
except ImportError:

    def GPU(function):
        return function


import gradio as gr
import numpy as np
from PIL import Image
from starlette.middleware import Middleware

from examples import Example, examples
from processing.gaze_pictures import gaze_layer
from report_model import Context, Report, ReportModel, Study
from uploads import (
    MAX_BYTES,
    MAX_CONTEXT,
    MAX_PROMPT,
    MAX_PROMPTS,
    SWEEP,
    Refusal,
    UploadGuard,
    checked_prompts,
    checked_text,
    claim_upload_folder,
    quiet_decoders,
    radiograph_upload,
    read_upload,
    refuse_in_words,
    sweeping,
)

ASSETS = Path(__file__).parent / "assets"
CAUTION = "Research software. Not for clinical use."
STYLES = {"Free text": "free_text", "Structured": "structured"}
PROMPTS = "There is a right pleural effusion.\nThere is a left pleural effusion.\nThere is no pleural effusion."
SESSION_SECONDS = 1800
LAYER_SIDE = 160


class Handlers:
    """What the app does, for the page and for its API alike."""

    def __init__(self, model: ReportModel):
        self.model = model

    # For the page. `session` is (study, example or None).

    def take_upload(self, data: bytes | None, session):
        # The file is deleted by now, read or refused: the page forgets it, too, which it would not do behind an error.
        try:
            study = self._study(data)
        except Refusal as refusal:
            gr.Warning(refusal.message, duration=12, title="Not possible")
            return None, *[gr.skip()] * 8
        # What was filled in by an example says nothing of another picture.
        kept = [gr.skip()] * 3 if session is None or session[1] is None else ["", "", ""]
        return None, (study, None), picture_value(study, rendered=False), None, None, None, *kept

    def take_example(self, event: gr.EventData):
        index = event._data.get("index") if isinstance(event._data, dict) else None
        if not isinstance(index, int) or not 0 <= index < len(examples()):
            raise Refusal("There is no such example.")
        example = examples()[index]
        study = self.model.study(example.picture())
        shown = example.context
        filled = (shown.view_position, shown.indication, shown.history)
        return (study, example), picture_value(study, rendered=True), None, None, None, *filled

    def write(self, session, view: str, indication: str, history: str, style: str) -> Iterator[dict]:
        study, example = self._session(session)
        context = self._context(view, indication, history)
        observations = self.model.observations(study, context)
        for report in self.model.write(study, context, STYLES.get(style, style)):
            yield report_value(report, observations, self._observed_by, self.model.name, example)

    def compare(self, session, prompts: str, view: str, indication: str, history: str) -> list[dict]:
        study, _ = self._session(session)
        return self._compare(study, prompts, self._context(view, indication, history))

    def find(self, session, view: str, indication: str, history: str) -> list[dict]:
        study, _ = self._session(session)
        return self._find(study, self._context(view, indication, history))

    # For the API.

    def api_report(
        self, radiograph: bytes, view_position: str, indication: str, history: str, style: str
    ) -> Iterator[dict]:
        study, context = self._study(radiograph), self._context(view_position, indication, history)
        observations = self.model.observations(study, context)
        for report in self.model.write(study, context, style):
            yield report_record(report, observations, self.model.name)

    def api_gaze(self, radiograph: bytes, sentence: str, view_position: str) -> dict:
        study = self._study(radiograph)
        sentence = checked_text(sentence, "Sentence", MAX_PROMPT)
        if not sentence:
            raise Refusal("Sentence: empty; give one.")
        return {"sentence": sentence, "box": study.box, "map": rounded(self.model.gaze(study, sentence, view_position))}

    def api_zero_shot(
        self, radiograph: bytes, prompts: str, view_position: str, indication: str, history: str
    ) -> list[dict]:
        return self._compare(self._study(radiograph), prompts, self._context(view_position, indication, history))

    def api_similar(self, radiograph: bytes, view_position: str, indication: str, history: str) -> list[dict]:
        return self._find(self._study(radiograph), self._context(view_position, indication, history))

    def api_model(self) -> dict:
        return self.model.details() | {"Caution": CAUTION}

    # What both need.

    @property
    def _observed_by(self) -> str:
        if self.model.classifier is None:
            return "Zero-shot: how much better prompts that affirm fit than prompts that deny. Not calibrated."
        return "The disease head's scores. Not calibrated."

    def _study(self, data: bytes | None) -> Study:
        study = self.model.study(read_upload(data))
        if study.objection and guard_mode() == "refuse":
            raise Refusal(f"{objection_in_words(study)} No report is written of it.")
        return study

    def _session(self, session) -> tuple[Study, Example | None]:
        if session is None:
            raise Refusal("Send a radiograph or pick an example first.")
        return session

    def _context(self, view: str | None, indication: str | None, history: str | None) -> Context:
        if (view or "") not in self.model.view_positions:
            raise Refusal("View position: unknown; choose one of the list.")
        return Context(view or "", checked_text(indication, "Indication"), checked_text(history, "History"))

    def _compare(self, study: Study, prompts: str, context: Context) -> list[dict]:
        rows = self.model.zero_shot(study, context, checked_prompts(prompts))
        return [{"prompt": prompt, "cosine": cosine, "share": share} for prompt, cosine, share in rows]

    def _find(self, study: Study, context: Context) -> list[dict]:
        try:
            rows = self.model.similar(study, context)
        except ValueError as error:
            raise Refusal(str(error)) from None
        return [{"findings": findings, "cosine": score} for findings, score in rows]


def guard_mode() -> str:
    mode = os.environ.get("COGAZE_ON_OTHER", "warn")
    if mode not in ("warn", "refuse", "off"):
        raise ValueError(f"COGAZE_ON_OTHER: {mode!r} is none of warn, refuse and off.")
    return mode


def objection_in_words(study: Study) -> str:
    """What the guard says of a picture, "" where it is as it should be."""
    return f"This may be no upright chest radiograph: {study.objection}." if study.objection else ""


def picture_value(study: Study, rendered: bool) -> dict:
    warning = "" if rendered or guard_mode() == "off" else objection_in_words(study)
    return {"picture": data_uri(study.shown), "box": list(study.box), "rendered": rendered, "warning": warning}


def report_value(
    report: Report, observations: dict[str, float | None], observed_by: str, model: str, example: Example | None
) -> dict:
    """What the page shows of a report; the maps as pictures."""
    return {
        "state": "done" if report.done else "writing",
        "text": report.text,
        "sentences": [
            {
                "text": sentence.text,
                "heading": sentence.heading,
                "layer": data_uri(gaze_layer(sentence.gaze_map, layer_size(sentence.gaze_map))),
                "map_confidence": sentence.map_confidence,
                "text_confidence": sentence.text_confidence,
                "boxes": sentence.boxes,
                "support": sentence.support,
            }
            for sentence in report.sentences
        ],
        "seconds": report.seconds,
        "observations": list(observations.items()),
        "observed_by": observed_by,
        "model": model,
        "reference": example.findings if example else None,
        "record": report_record(report, observations, model) if report.done else None,
    }


def report_record(report: Report, observations: dict[str, float | None], model: str) -> dict:
    """A report as the API gives it, and as it is downloaded."""
    return {
        "done": report.done,
        "report": report.text,
        "sentences": [
            {
                "text": sentence.text,
                "heading": sentence.heading,
                "text_confidence": round(sentence.text_confidence, 4),
                "map_confidence": round(sentence.map_confidence, 4),
                "map": rounded(sentence.gaze_map),
                "boxes": rounded(np.array(sentence.boxes).reshape(-1, 4)),
                "support": None if sentence.support is None else round(sentence.support, 4),
            }
            for sentence in report.sentences
        ],
        "observations": {name: None if share is None else round(share, 4) for name, share in observations.items()},
        "seconds": round(report.seconds, 3),
        "model": model,
        "caution": CAUTION,
    }


def layer_size(gaze_map: np.ndarray) -> tuple[int, int]:
    rows, columns = gaze_map.shape
    return LAYER_SIDE, round(LAYER_SIDE * rows / columns)


def rounded(gaze_map: np.ndarray) -> list[list[float]]:
    return [[round(value, 6) for value in row] for row in gaze_map.tolist()]


def data_uri(picture: Image.Image) -> str:
    """Pictures travel in the answer: none is written to the disk."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=4)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def element(kind: str, value=None, css_class: str | None = None, **options) -> gr.HTML:
    """One of the elements in assets/space.js. Its template holds no values: they are set as text by the script."""
    return gr.HTML(
        value,
        html_template=f'<div class="cg-{css_class or kind}"></div>',
        js_on_load=f"CoGaze.{kind}(element, props, watch, trigger); // 'click'",
        head=f"<script>{(ASSETS / 'space.js').read_text(encoding='utf-8')}</script>",
        apply_default_css=False,
        **options,
    )


def create_app(model: ReportModel, concurrency: int = 2) -> gr.Blocks:
    """The page and its API on a model; `launch_options` says how to launch it."""
    quiet_decoders()
    claim_upload_folder()
    handlers = Handlers(model)
    views = [("Not given", ""), *((view, view) for view in model.view_positions[1:])]
    on_model = {"concurrency_id": "model", "concurrency_limit": concurrency}
    on_page = {"api_visibility": "private", "show_progress": "hidden"}
    with gr.Blocks(title="CoGaze", analytics_enabled=False, delete_cache=SWEEP, fill_width=True) as app:
        gr.HTML(
            f'<header class="cg-header"><h1>CoGaze</h1><p>Chest X-ray reports that show where each sentence looks.</p>'
            f'<span class="cg-caution" role="note">{CAUTION}</span></header>',
            apply_default_css=False,
        )
        session = gr.State(None, time_to_live=SESSION_SECONDS)
        with gr.Row(equal_height=False):
            with gr.Column(scale=4, min_width=300, elem_classes="cg-column"):
                upload = radiograph_upload(label="PNG, JPEG or DICOM", height=110, elem_id="upload")
                items = [{"title": each.title, "picture": data_uri(thumbnail(each.picture()))} for each in examples()]
                sample = element("examples", items, elem_id="examples")
                gr.HTML(
                    '<p class="cg-fine">The examples are rendered from a CT and show nobody.</p>',
                    apply_default_css=False,
                )
                with gr.Row(elem_classes="cg-tight"):
                    view = gr.Dropdown(
                        views, value="", label="View position", filterable=False, min_width=120, elem_id="view"
                    )
                    style = gr.Dropdown(list(STYLES), label="Report", filterable=False, min_width=120, elem_id="style")
                indication = gr.Textbox(
                    label="Indication", lines=2, max_length=MAX_CONTEXT, placeholder="Why was the picture taken?"
                )
                history = gr.Textbox(label="History", lines=1, max_length=MAX_CONTEXT, placeholder="What is known?")
                write = gr.Button("Write report", variant="primary", size="lg", elem_id="write")
            with gr.Column(scale=6, min_width=320, elem_classes="cg-column"):
                viewer = element("viewer", elem_id="viewer")
            with gr.Column(scale=6, min_width=320), gr.Tabs():
                with gr.Tab("Report"):
                    report = element("report", elem_id="report")
                with gr.Tab("Zero-shot"):
                    prompts = gr.Textbox(
                        PROMPTS, label=f"Prompts, one a line, 2 to {MAX_PROMPTS}", lines=4, elem_id="prompts"
                    )
                    compare = gr.Button("Compare with the picture")
                    scores = element("scores", elem_id="scores")
                with gr.Tab("Similar reports"):
                    gr.HTML(f'<p class="cg-fine">{similar_note(model)}</p>', apply_default_css=False)
                    find = gr.Button("Find similar reports", interactive=model.cases is not None)
                    cases = element("cases", elem_id="cases")
                with gr.Tab("Model"):
                    element("facts", model.details())
                    gr.HTML((ASSETS / "about.html").read_text(encoding="utf-8"), apply_default_css=False)

        context = [view, indication, history]
        results = [report, scores, cases]
        upload.upload(
            handlers.take_upload,
            [upload, session],
            [upload, session, viewer, *results, *context],
            concurrency_id="pictures",
            concurrency_limit=2,
            **on_page,
        )
        sample.click(handlers.take_example, None, [session, viewer, *results, *context], **on_page)
        write.click(GPU(handlers.write), [session, *context, style], report, **on_model, **on_page)
        compare.click(GPU(handlers.compare), [session, prompts, *context], scores, **on_model, **on_page)
        find.click(GPU(handlers.find), [session, *context], cases, **on_model, **on_page)
        add_api(handlers, views, on_model)
    refuse_in_words(app)
    return app.queue(max_size=100, default_concurrency_limit=concurrency)


def add_api(handlers: Handlers, views: list[tuple[str, str]], on_model: dict) -> None:
    """Endpoints for `gradio_client`; README.md describes them."""
    radiograph = radiograph_upload(label="radiograph", visible=False)
    view = gr.Dropdown(views, value="", label="view_position", visible=False)
    indication, history = (gr.Textbox("", label=name, visible=False) for name in ("indication", "history"))
    style = gr.Radio(list(STYLES.values()), value="free_text", label="style", visible=False)
    sentence, prompts = (gr.Textbox(label=name, visible=False) for name in ("sentence", "prompts"))
    answer = gr.JSON(visible=False)
    endpoints = {
        "report": (handlers.api_report, [radiograph, view, indication, history, style]),
        "gaze": (handlers.api_gaze, [radiograph, sentence, view]),
        "zero_shot": (handlers.api_zero_shot, [radiograph, prompts, view, indication, history]),
        "similar": (handlers.api_similar, [radiograph, view, indication, history]),
    }
    for name, (function, inputs) in endpoints.items():
        gr.Button(visible=False).click(GPU(function), inputs, answer, api_name=name, **on_model)
    gr.Button(visible=False).click(handlers.api_model, None, answer, api_name="model")


def similar_note(model: ReportModel) -> str:
    if model.cases is None:
        return "This checkpoint comes without an index of training cases."
    return (
        f"The nearest of {len(model.cases)} training radiographs by what the model makes of them, and their findings."
    )


def thumbnail(picture: Image.Image) -> Image.Image:
    picture.thumbnail((192, 192), Image.Resampling.LANCZOS)
    return picture


def launch_options() -> dict:
    """For `launch`: how the page looks, and nothing that keeps, counts or fetches anything."""
    theme = gr.themes.Base(
        primary_hue="orange",
        neutral_hue="slate",
        font=gr.themes.Font("sans-serif"),
        font_mono=gr.themes.Font("monospace"),
    ).set(
        body_background_fill="#f6f7f9",
        body_background_fill_dark="#0c0f14",
        block_background_fill_dark="#14181f",
        block_border_color_dark="#2b323d",
        input_background_fill="#f3f5f8",
        input_background_fill_dark="#0c0f14",
        input_border_color="#e2e6ec",
        input_border_color_dark="#2b323d",
        input_border_width="1px",
        block_label_background_fill_dark="#14181f",
        button_secondary_background_fill="#ffffff",
        button_secondary_background_fill_dark="#1b212a",
        button_secondary_background_fill_hover="#f1f3f6",
        button_secondary_background_fill_hover_dark="#232b36",
        button_secondary_border_color="#dbe0e8",
        button_secondary_border_color_dark="#2b323d",
        button_border_width="1px",
        button_primary_background_fill="#b45309",
        button_primary_background_fill_hover="#92400e",
        button_primary_background_fill_dark="#b45309",
        button_primary_background_fill_hover_dark="#c2640f",
        button_primary_text_color="#ffffff",
        block_radius="12px",
    )
    return {
        "theme": theme,
        "css_paths": ASSETS / "space.css",
        "footer_links": ["api"],
        "run_history": False,
        "enable_monitoring": False,
        "max_file_size": MAX_BYTES,
        "ssr_mode": False,
        "share": False,
        "mcp_server": False,
        "pwa": False,
        "state_session_capacity": 500,
        "app_kwargs": {
            "middleware": [Middleware(UploadGuard)],
            "lifespan": sweeping,
            "docs_url": None,
            "redoc_url": None,
        },
    }


def main() -> None:
    name = os.environ.get("COGAZE_MODEL")
    if not name:
        raise SystemExit("COGAZE_MODEL: missing; name a report generator, a folder or a Hub id.")
    try:
        model = ReportModel.open(name, os.environ.get("COGAZE_STRUCTURED_MODEL"), os.environ.get("COGAZE_CLASSIFIER"))
    except ValueError as error:
        raise SystemExit(str(error)) from error
    # What stops a Space ends it as Ctrl-C does, so that its uploads go with it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    create_app(model, int(os.environ.get("COGAZE_CONCURRENCY", "2"))).launch(**launch_options())


if __name__ == "__main__":
    main()
