"""A report generator that has learnt four pictures by heart, and the Space on it."""

import os
import sys
from pathlib import Path

import pytest
import torch

from modeling_cogaze import CoGazeConfig, CoGazeForConditionalGeneration, CoGazeForPreTraining
from processing import CoGazeProcessor
from processing.tokenization import build_tokenizer
from tests.spaces.studies import REPORTS, picture

SPACE = Path(__file__).resolve().parents[2] / "spaces" / "report_generation"
sys.path.insert(0, str(SPACE))
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

SIDE = 64


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory) -> dict[str, Path]:
    """`pretraining` with a disease head, and the `report` generator on it."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer(list(REPORTS) * 3, 400)
    config = CoGazeConfig.tiny(
        vocab_size=len(tokenizer),
        vision_config={
            "model_type": "convnext",
            "image_size": SIDE,
            "patch_size": 8,
            "num_stages": 2,
            "hidden_sizes": [16, 32],
            "depths": [1, 1],
        },
        text_config={"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1},
        hidden_size=32,
        intermediate_size=32,
        perceiver_depth=1,
        num_latents=4,
    )
    processor = CoGazeProcessor.for_model(tokenizer, config)
    folder = tmp_path_factory.mktemp("checkpoints")
    paths = {"pretraining": folder / "pretraining", "report": folder / "report"}
    CoGazeForPreTraining(config).save_pretrained(paths["pretraining"])
    no_dropout = dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.0)
    model = CoGazeForConditionalGeneration.from_pretraining(
        paths["pretraining"], tokenizer, n_layer=1, n_head=2, n_embd=32, **no_dropout
    )
    batch = processor(images=[picture(i) for i in range(4)], findings=list(REPORTS), report_labels=True)
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(300):
        loss = model(pixel_values=batch["pixel_values"], labels=batch["labels"]).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        if loss < 0.01:
            break
    model.generation_config.max_new_tokens = 60
    model.save_pretrained(paths["report"])
    for path in paths.values():
        processor.save_pretrained(path)
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
