"""A report generator that has learnt four pictures by heart, and the Space on it."""

import os
import sys
from pathlib import Path

import pytest
import torch

from tests.spaces.studies import REPORTS, picture, save_untrained

SPACE = Path(__file__).resolve().parents[2] / "spaces" / "report_generation"
sys.path.insert(0, str(SPACE))
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory) -> dict[str, Path]:
    """`pretraining` with a disease head, and the `report` generator on it."""
    paths, model, processor = save_untrained(tmp_path_factory.mktemp("checkpoints"))
    batch = processor(images=[picture(i) for i in range(4)], findings=list(REPORTS), report_labels=True)
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(300):
        loss = model(pixel_values=batch["pixel_values"], labels=batch["labels"]).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        if loss < 0.01:
            break
    model.save_pretrained(paths["report"])
    return paths


@pytest.fixture(scope="session")
def report_model(checkpoints):
    from report_model import ReportModel

    return ReportModel.open(str(checkpoints["report"]), device="cpu")


@pytest.fixture(scope="session")
def server(report_model, tmp_path_factory):
    """(address, folder of uploads) of a Space that runs in this process."""
    kept = os.environ.get("GRADIO_TEMP_DIR")
    folder = tmp_path_factory.mktemp("uploads")
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    from app import create_app, launch_options

    app = create_app(report_model)
    _, address, _ = app.launch(**launch_options(), prevent_thread_lock=True, quiet=True)
    yield address, folder
    app.close()
    if kept is None:
        del os.environ["GRADIO_TEMP_DIR"]
    else:
        os.environ["GRADIO_TEMP_DIR"] = kept
