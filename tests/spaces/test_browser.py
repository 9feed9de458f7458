"""The Space in a headless Chromium; screenshots go to outputs/space."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.spaces.studies import REPORTS, png

pytestmark = pytest.mark.slow

OUTPUTS = Path(__file__).resolve().parents[2] / "outputs" / "space"
WIDE, PHONE = {"width": 1440, "height": 900}, {"width": 390, "height": 844}
HOSTILE = "<img src=x onerror=\"document.title='taken'\"> opacity"


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no Chromium: install it (apt-get install chromium), or name it in CHROMIUM")
    OUTPUTS.mkdir(parents=True, exist_ok=True)
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser, server):
    """Opens the Space; at the end, nothing was asked of another host, and no script had failed."""
    contexts, requests, failures = [], [], []

    def opened(viewport=WIDE, scheme="light"):
        context = browser.new_context(viewport=viewport, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("request", lambda request: requests.append(request.url))
        page.on("pageerror", lambda error: failures.append(str(error)))
        page.goto(server[0])
        page.locator(".cg-example").first.wait_for()
        return page

    yield opened
    for context in contexts:
        context.close()
    elsewhere = [url for url in requests if not url.startswith((server[0], "data:", "blob:"))]
    assert elsewhere == [] and failures == []


def send(page, name: str, data: bytes) -> None:
    page.locator("#upload input[type=file]").set_input_files({"name": name, "mimeType": "image/png", "buffer": data})


def shown_pixels(page) -> np.ndarray:
    """The radiograph's grey levels as they are displayed."""
    script = (
        "c => Array.from(c.getContext('2d').getImageData(0, 0, c.width, c.height).data.filter((_, i) => i % 4 == 0))"
    )
    canvas = page.locator("#viewer canvas")
    size = canvas.evaluate("c => [c.height, c.width]")
    return np.array(canvas.evaluate(script)).reshape(size)


def test_an_upload_becomes_a_report_whose_sentences_show_where_they_look(open_page, tmp_path):
    page = open_page()
    send(page, "radiograph", png(3))
    page.locator("#viewer canvas").wait_for()
    assert page.locator(".cg-badge").is_hidden()
    # What is on the screen while it is written: never more than the report, and its beginning.
    page.evaluate(
        """() => {
            window.seen = [];
            const look = () => {
                const text = document.querySelector(".cg-stream")?.textContent;
                if (text !== undefined && text !== window.seen.at(-1)) window.seen.push(text);
            };
            new MutationObserver(look).observe(document.querySelector("#report"),
                { subtree: true, childList: true, characterData: true });
        }"""
    )
    page.click("#write")
    sentences = page.locator(".cg-sentence")
    sentences.first.wait_for()
    seen = page.evaluate("window.seen")
    assert len(seen) >= 2 and all(REPORTS[3].startswith(text) for text in seen)
    assert " ".join(sentences.all_inner_texts()) == REPORTS[3]

    layer = page.locator(".cg-layer")
    assert layer.is_hidden()
    sentences.nth(0).hover()
    layer.wait_for()
    first = layer.get_attribute("src")
    sentences.nth(1).click()
    assert layer.get_attribute("src") != first and sentences.nth(1).get_attribute("aria-pressed") == "true"
    assert "A pacemaker is in place." in page.locator(".cg-caption").inner_text()
    # By keyboard alone: the next sentence, chosen and let go.
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert sentences.nth(2).get_attribute("aria-pressed") == "true"
    assert "The heart is normal." in page.locator(".cg-caption").inner_text()
    page.screenshot(path=OUTPUTS / "upload.png", full_page=True)

    with page.expect_download() as download:
        page.get_by_role("button", name="Report (JSON)").click()
    saved = json.loads(Path(download.value.path()).read_text(encoding="utf-8"))
    assert saved["report"] == REPORTS[3] and "Not for clinical use" in saved["caution"]
    with page.expect_download() as download:
        page.get_by_role("button", name="Picture (PNG)").click()
    picture = np.asarray(Image.open(download.value.path()).convert("RGB")).astype(int)
    assert picture.shape[1] >= 640 and np.ptp(picture, axis=2).max() > 60, "the map's colours are in the picture"


def test_window_level_and_inversion(open_page):
    page = open_page()
    send(page, "radiograph", png(0))
    page.locator("#viewer canvas").wait_for()
    plain = shown_pixels(page)
    assert np.ptp(plain) > 200
    page.get_by_role("button", name="Invert").click()
    page.wait_for_timeout(200)
    np.testing.assert_allclose(shown_pixels(page), 255 - plain, atol=1)
    page.get_by_role("button", name="Reset").click()
    narrow = page.get_by_label("Window")
    narrow.focus()
    narrow.press("Home")
    page.wait_for_timeout(200)
    grey = shown_pixels(page)
    assert ((grey == 0) | (grey == 255)).mean() > 0.9
    np.testing.assert_array_equal(grey > 200, plain > 131)


def test_what_is_no_radiograph_is_refused_with_a_message(open_page):
    page = open_page()
    send(page, "chest.png", b"no picture but text")
    toast = page.locator(".toast-body")
    toast.wait_for()
    assert "not a PNG, JPEG or DICOM" in toast.inner_text()
    assert page.locator("#viewer canvas").is_hidden()
    page.get_by_text("Click to Upload").wait_for()
    assert page.get_by_text("chest.png").count() == 0
    page.wait_for_timeout(500)
    page.screenshot(path=OUTPUTS / "refused.png")
    page.click("#write")
    page.get_by_text("Send a radiograph or pick an example first.").wait_for()


def test_texts_are_shown_as_text(open_page):
    page = open_page()
    send(page, "radiograph", png(0))
    page.locator("#viewer canvas").wait_for()
    page.get_by_label("Indication").fill(HOSTILE)
    page.get_by_role("tab", name="Zero-shot").click()
    page.locator("#prompts textarea").fill(f"{HOSTILE}\nNo opacity.")
    page.get_by_role("button", name="Compare").click()
    rows = page.locator("#scores .cg-name")
    rows.first.wait_for()
    assert rows.all_inner_texts() == [HOSTILE, "No opacity."]
    page.screenshot(path=OUTPUTS / "zero-shot.png")
    page.locator("#prompts textarea").fill("x" * 201 + "\ny")
    page.get_by_role("button", name="Compare").click()
    page.get_by_text("201 characters; at most 200").wait_for()
    assert page.locator(".gradio-container img[src=x]").count() == 0 and page.title() == "CoGaze"


@pytest.mark.parametrize(
    "name, viewport, scheme", [("light", WIDE, "light"), ("dark", WIDE, "dark"), ("phone", PHONE, "light")]
)
def test_examples_on_any_screen(open_page, name, viewport, scheme):
    page = open_page(viewport, scheme)
    page.get_by_text("Not for clinical use").first.wait_for()
    page.screenshot(path=OUTPUTS / f"{name}-start.png", full_page=True)
    page.locator(".cg-example").nth(3).click()
    page.locator(".cg-badge").wait_for()
    assert page.get_by_label("Indication").input_value() != ""
    page.get_by_label("Report", exact=True).first.click()
    page.get_by_role("option", name="Structured").click()
    page.click("#write")
    page.locator(".cg-sentence").first.wait_for()
    assert page.locator(".cg-sentences h4").count() >= 1
    page.locator(".cg-sentence").first.click()
    page.locator(".cg-layer").wait_for()
    if viewport is PHONE:
        page.locator(".cg-inline canvas").wait_for()
    page.locator(".cg-reference summary").click()
    page.wait_for_timeout(300)
    page.screenshot(path=OUTPUTS / f"{name}-report.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
    # Another picture takes the example's context and report with it.
    send(page, "radiograph", png(1))
    page.locator(".cg-badge").wait_for(state="hidden")
    assert page.get_by_label("Indication").input_value() == ""
    assert page.locator(".cg-sentence").count() == 0
