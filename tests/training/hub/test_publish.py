"""Publishing to a stand-in for the Hub, and what opens from there in fresh processes with empty caches."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoProcessor

from modeling_cogaze import (
    CoGazeConfig,
    CoGazeForConditionalGeneration,
    CoGazeForPreTraining,
    CoGazeModel,
    CoGazePrefixConfig,
)
from processing import CoGazeProcessor
from processing.datasets.registry import source
from processing.datasets.storage.cards import prepare_folder
from processing.datasets.storage.hub import files_of, write_tree
from processing.tokenization import build_tokenizer
from tests.hub import READER, WRITER, Hub
from training import publish
from training.data.feature_cache import weights_fingerprint
from training.hub.publishing import check_named_parts

ROOT = Path(__file__).resolve().parents[3]
RESULT = {"scores": {"zero_shot_macro_auroc": {"value": 0.7654, "interval": [0.7, 0.8]}}}
PROMPTS = ["Right pleural effusion.", "No acute cardiopulmonary process."]

# Runs commands one after the other, each with its own token, and says how each went and where the repository was then.
WRITER_PROCESS = """
import contextlib, io, json, os, sys
sys.path.insert(0, sys.argv[1])
from huggingface_hub import HfApi
from huggingface_hub.errors import RepositoryNotFoundError
from processing.datasets.__main__ import main as datasets
from training.publish import main as publish

outcomes = []
for step in json.load(sys.stdin):
    os.environ["HF_TOKEN"] = step["token"]
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = {"publish": publish, "datasets": datasets}[step["command"]](step["arguments"])
    try:
        head = HfApi().model_info("org/cogaze", token="hf_writer").sha
    except RepositoryNotFoundError:
        head = None
    outcomes.append({"code": code, "said": said.getvalue(), "head": head})
json.dump(outcomes, open(sys.argv[2], "w"))
"""

# The card's own lines, without the package: only what was downloaded counts.
READER_PROCESS = """
import sys
sys.modules["modeling_cogaze"] = sys.modules["processing"] = None
import torch
from safetensors.torch import save_file

exec(sys.argv[1])
assert type(model).__module__.startswith("transformers_modules."), type(model)
assert type(processor).__module__.startswith("transformers_modules."), type(processor)
with torch.no_grad():
    inputs = processor(images=[sys.argv[2]], view_position=["PA"], indication=["Cough."], text=sys.argv[4:])
    save_file(
        {
            "image": model.get_image_features(
                inputs["pixel_values"],
                inputs["view_position_ids"],
                inputs["context_input_ids"],
                inputs["context_attention_mask"],
            ).pooler_output,
            "texts": model.get_text_features(inputs["input_ids"], inputs["attention_mask"]).pooler_output,
        },
        sys.argv[3],
    )
"""

PACKAGE_PROCESS = """
import sys
sys.path.insert(0, sys.argv[1])
import modeling_cogaze, processing
from datasets import load_dataset
from safetensors.torch import save_file
from transformers import AutoModel, AutoProcessor

model = AutoModel.from_pretrained("org/cogaze")
processor = AutoProcessor.from_pretrained("org/cogaze")
assert type(model) is modeling_cogaze.CoGazeModel and type(processor) is processing.CoGazeProcessor
save_file(model.state_dict(), sys.argv[2])
records = load_dataset("org/rendered")
assert {name: len(split) for name, split in records.items()} == {"train": 3, "test": 2}
batch = processor.collate([records["train"][row] for row in range(3)])
assert len(batch["pixel_values"]) == 3 and len(batch["gaze_targets"])
"""


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Two checkpoints with the same processor and other weights; the second has an index of similar cases."""
    folders = [tmp_path_factory.mktemp("checkpoints") / name for name in ("first", "second")]
    tokenizer = build_tokenizer(PROMPTS, 300)
    for seed, folder in enumerate(folders):
        torch.manual_seed(seed)
        config = CoGazeConfig.tiny(
            vision_config={"image_size": 64},
            text_config={"vocab_size": len(tokenizer), "hidden_size": 32, "num_hidden_layers": 1},
            hidden_size=32,
            num_latents=4,
            perceiver_depth=1,
        )
        model = CoGazeForPreTraining(config)
        model.save_pretrained(folder)
        CoGazeProcessor.for_model(tokenizer, config).save_pretrained(folder)
        (folder / "training.json").write_text(json.dumps({"train_data": {"source": "phantom", "split": "train"}}))
        (folder / "training_args.bin").write_bytes(b"the Trainer's own")
        weights = weights_fingerprint(model.cogaze)
        (folder / "metrics.json").write_text(json.dumps(RESULT | {"weights": weights}))
    index = folders[1] / "similar_cases"
    index.mkdir()
    Dataset.from_dict({"findings": ["The lungs are clear."]}).to_parquet(index / "cases.parquet")
    save_file({"latents": torch.zeros(1, 32)}, index / "latents.safetensors", metadata={"encoder": weights})
    return folders


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("picture") / "chest.png"
    Image.effect_noise((80, 70), 60).save(path)
    return path


def flags(checkpoint: Path, *more) -> list[str]:
    return ["--checkpoint", str(checkpoint), "--metrics", str(checkpoint / "metrics.json"), *map(str, more)]


@pytest.fixture(scope="module")
def hub(checkpoints, small_phantom, tmp_path_factory):
    """The Hub after all commands, with their outcomes by name."""
    first, second = checkpoints
    work = tmp_path_factory.mktemp("publishing")
    prepared = prepare_folder(
        source("phantom"),
        {"train": small_phantom.select(range(3)), "test": small_phantom.select([3, 4])},
        work / "data",
    )
    space = work / "space"
    space.mkdir()
    (space / "README.md").write_text("---\nsdk: gradio\n---\n# Reports\n")
    (space / "app.py").write_text("print('hello')\n")
    to_model, to_data = ["--repo", "org/cogaze"], ["--repo", "org/rendered"]
    steps = {
        "dry run": (WRITER, flags(first, *to_model, "--dry_run")),
        "no token": ("", flags(first, *to_model)),
        "reader": (READER, flags(first, *to_model)),
        "other organisation": (WRITER, flags(first, "--repo", "other/cogaze")),
        "first": (WRITER, flags(first, *to_model)),
        "broken off": (WRITER, flags(second, *to_model)),
        "second": (WRITER, flags(second, *to_model)),
        "unchanged": (WRITER, flags(second, *to_model)),
        "not private": (WRITER, flags(second, *to_model, "--private")),
        "data": (WRITER, ["--dataset", str(prepared), *to_data, "--private"]),
        "data unchanged": (WRITER, ["--dataset", str(prepared), *to_data, "--private"]),
        "space": (WRITER, ["--space", str(space), "--repo", "org/reports"]),
    }
    asked = [{"command": "publish", "token": token, "arguments": argv} for token, argv in steps.values()]
    with Hub() as hub:
        # The first publication uploads one large file; of the second's three, the second to arrive is refused.
        hub.refused_uploads = {3}
        subprocess.run(
            [sys.executable, "-c", WRITER_PROCESS, str(ROOT), str(work / "outcomes.json")],
            input=json.dumps(asked),
            text=True,
            check=True,
            env=hub.environment(work / "home"),
        )
        hub.outcomes = dict(zip(steps, json.loads((work / "outcomes.json").read_text()), strict=True))
        yield hub


def test_a_publication_is_one_commit_with_everything(hub, checkpoints):
    initial, first, second = hub.repository("org/cogaze").commits
    assert [first["oid"], second["oid"]] == [hub.outcomes["first"]["head"], hub.outcomes["second"]["head"]]
    assert hub.outcomes["first"]["code"] == 0
    files = hub.files("org/cogaze")
    weights = (checkpoints[1] / "model.safetensors").read_bytes()
    assert files["model.safetensors"] == weights
    assert {"config.json", "processor_config.json", "tokenizer.json", "auto_cogaze.py", "processing_cogaze.py"} <= set(
        files
    )
    assert {"similar_cases/cases.parquet", "similar_cases/latents.safetensors", "LICENSE", "NOTICE"} <= set(files)
    assert not {name for name in files if name.endswith((".bin", ".pt"))} and "training.json" not in files
    assert "0.765 [0.700, 0.800]" in files["README.md"].decode()


def test_a_dry_run_changes_nothing_and_says_what_would(hub):
    outcome = hub.outcomes["dry run"]
    assert outcome["code"] == 0 and outcome["head"] is None
    assert "added model.safetensors" in outcome["said"] and "nothing was changed" in outcome["said"]


def test_a_failure_half_way_leaves_the_old_commit_and_a_repetition_finishes(hub):
    broken, done = hub.outcomes["broken off"], hub.outcomes["second"]
    assert broken["code"] == 1 and broken["head"] == hub.outcomes["first"]["head"]
    assert "the storage went away" in broken["said"] and "Run the same again" in broken["said"]
    assert done["code"] == 0 and done["head"] != broken["head"]
    # Each large file arrived once: the first publication's, the second's three and two of the data; one was refused.
    assert hub.uploads == 1 + 3 + 2 + 1


def test_an_unchanged_repetition_makes_no_commit(hub):
    for name in ("unchanged", "data unchanged"):
        assert hub.outcomes[name]["code"] == 0 and "no commit" in hub.outcomes[name]["said"]
    assert hub.outcomes["unchanged"]["head"] == hub.outcomes["second"]["head"]
    assert len(hub.repository("org/rendered", "dataset").commits) == 2
    assert "changed model.safetensors" in hub.outcomes["second"]["said"]
    assert "tokenizer.json" not in hub.outcomes["second"]["said"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("no token", "token: there is none; run `hf auth login`"),
        ("reader", "repo: org/cogaze: the Hub refuses it (403: you may not create a repository of org"),
        ("other organisation", "repo: other/cogaze: the Hub refuses it"),
        ("not private", "private: org/cogaze exists and is public"),
    ],
)
def test_refusals_are_explained(hub, name, reason):
    assert hub.outcomes[name]["code"] == 1 and reason in hub.outcomes[name]["said"]


def test_private_data_and_a_space(hub):
    assert hub.repository("org/rendered", "dataset").private and not hub.repository("org/cogaze").private
    assert hub.repository("org/reports", "space").sdk == "gradio"
    assert set(hub.files("org/reports", "space")) == {".gitattributes", "README.md", "app.py"}


@pytest.fixture(scope="module")
def opened(hub, picture, tmp_path_factory):
    """What two fresh processes with empty caches got, without the package and with it."""
    work = tmp_path_factory.mktemp("opening")
    (lines,) = re.findall(r"```python\n(.*?)```", hub.files("org/cogaze")["README.md"].decode(), re.DOTALL)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", READER_PROCESS, lines, picture, work / "features", *PROMPTS],
            env=hub.environment(work / "reader", token=None, PYTHONPATH=""),
            cwd=work,
            stderr=subprocess.PIPE,
            text=True,
        ),
        subprocess.Popen(
            [sys.executable, "-c", PACKAGE_PROCESS, ROOT, work / "weights"],
            env=hub.environment(work / "package", token=READER),
            cwd=work,
            stderr=subprocess.PIPE,
            text=True,
        ),
    ]
    for process in processes:
        _, errors = process.communicate()
        assert process.returncode == 0, errors[-3000:]
    return load_file(work / "features"), load_file(work / "weights")


def test_the_cards_three_lines_open_it_without_the_package(opened, checkpoints, picture):
    features, _ = opened
    model = AutoModel.from_pretrained(checkpoints[1])
    inputs = AutoProcessor.from_pretrained(checkpoints[1])(
        images=[str(picture)], view_position=["PA"], indication=["Cough."], text=PROMPTS
    )
    names = ("pixel_values", "view_position_ids", "context_input_ids", "context_attention_mask")
    with torch.no_grad():
        image = model.get_image_features(**{name: inputs[name] for name in names}).pooler_output
        texts = model.get_text_features(inputs["input_ids"], inputs["attention_mask"]).pooler_output
    torch.testing.assert_close(features["image"], image, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(features["texts"], texts, rtol=1e-4, atol=1e-5)


def test_it_opens_with_the_package_and_so_does_the_data_set(opened, checkpoints):
    _, weights = opened
    expected = CoGazeModel.from_pretrained(checkpoints[1]).state_dict()
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def published(capsys, *argv) -> tuple[int, str]:
    code = publish.main([str(part) for part in argv])
    captured = capsys.readouterr()
    return code, captured.out + captured.err


@pytest.fixture
def copy(checkpoints, tmp_path):
    """The second checkpoint, to be spoilt."""
    return Path(shutil.copytree(checkpoints[1], tmp_path / "copy"))


def test_a_folder_gets_the_same_tree(hub, checkpoints, tmp_path, capsys):
    to = ("--repo", "org/cogaze", "--output_dir", tmp_path / "tree")
    assert published(capsys, *flags(checkpoints[0], *to))[0] == 0
    (tmp_path / "tree" / "old.py").write_text("")
    (tmp_path / "tree" / "notes.md").write_text("mine")
    code, said = published(capsys, *flags(checkpoints[1], *to))
    assert code == 0 and "changed model.safetensors" in said and "deleted old.py" in said
    found = files_of(tmp_path / "tree")
    assert found.pop("notes.md").read_text() == "mine"
    expected = hub.files("org/cogaze")
    del expected[".gitattributes"]
    assert {path: file.read_bytes() for path, file in found.items()} == expected
    assert "no commit" not in published(capsys, *flags(checkpoints[1], *to))[1]


def test_nothing_is_uploaded_offline(checkpoints, capsys):
    code, said = published(capsys, *flags(checkpoints[0], "--repo", "org/cogaze"))
    assert code == 1 and "HF_HUB_OFFLINE" in said


def test_a_card_without_measured_results_is_refused(copy, tmp_path, capsys):
    to = ("--output_dir", tmp_path / "tree")
    for metrics, reason in (
        ({"scores": {"zero_shot_macro_auroc": {"value": 0.7}}}, "holds no result with an interval"),
        ({"zero_shot_macro_auroc": 0.7}, "it has no scores; measure them again"),
        (RESULT | {"weights": "0" * 32}, "was measured on other weights"),
    ):
        (copy / "metrics.json").write_text(json.dumps(metrics))
        code, said = published(capsys, *flags(copy, *to))
        assert code == 1 and reason in said
    assert "metrics: none given" in published(capsys, "--checkpoint", copy, *to)[1]
    assert not (tmp_path / "tree").exists()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "similar_cases/index.pkl", "model.pt", "similar_cases/a.npy"])
def test_other_formats_are_refused(copy, tmp_path, capsys, name):
    (copy / name).write_bytes(b"\x80\x04")
    code, said = published(capsys, *flags(copy, "--output_dir", tmp_path / "tree"))
    assert code == 1 and f"{name} is not safetensors" in said


def test_weights_must_be_the_models_own(copy, tmp_path, capsys):
    weights = load_file(copy / "model.safetensors")
    del weights["cogaze.latent_types"]
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    code, said = published(capsys, *flags(copy, "--output_dir", tmp_path / "tree"))
    assert code == 1 and "missing keys for CoGazeForPreTraining: cogaze.latent_types" in said
    np.save(tmp_path / "array.npy", np.zeros(3))
    shutil.copy(tmp_path / "array.npy", copy / "model.safetensors")
    code, said = published(capsys, *flags(copy, "--output_dir", tmp_path / "tree"))
    assert code == 1 and "model.safetensors is not safetensors, whatever its name says" in said


def test_reports_of_similar_cases_follow_their_agreement(copy, tmp_path, capsys):
    to = ("--output_dir", tmp_path / "tree")
    (copy / "training.json").write_text(json.dumps({"train_data": {"source": "mimic_cxr"}}))
    code, said = published(capsys, *flags(copy, *to))
    assert code == 1 and "mimic_cxr may not be passed on" in said
    code, said = published(capsys, *flags(copy, *to, "--private", "--i_have_permission"))
    assert code == 0 and "added similar_cases/cases.parquet" in said
    (copy / "training.json").unlink()
    assert "does not say whose reports" in published(capsys, *flags(copy, *to))[1]


def test_data_under_an_agreement_stay_private(tmp_path, capsys):
    (tmp_path / "set" / "data").mkdir(parents=True)
    (tmp_path / "set" / "data" / "train-00000.parquet").write_bytes(b"records")
    command = ("--dataset", tmp_path / "set", "--repo", "org/set", "--output_dir", tmp_path / "tree")
    assert "write the folder with push_to_hub" in published(capsys, *command)[1]
    (tmp_path / "set" / "data" / "manifest.yaml").write_text("facts: {train: {source: mimic_cxr}}")
    code, said = published(capsys, *command, "--private")
    assert code == 1 and "mimic_cxr may not be passed on" in said
    assert published(capsys, *command, "--private", "--i_have_permission")[0] == 0


def test_an_index_of_another_encoder_is_refused(copy, tmp_path, capsys):
    save_file(
        {"latents": torch.zeros(1, 32)}, copy / "similar_cases/latents.safetensors", metadata={"encoder": "other"}
    )
    code, said = published(capsys, *flags(copy, "--output_dir", tmp_path / "tree"))
    assert code == 1 and "was made by another encoder" in said


def test_where_files_lay_is_not_published(copy, tmp_path, capsys):
    config = json.loads((copy / "config.json").read_text())
    config["text_config"]["_name_or_path"] = "/home/someone/bert"
    (copy / "config.json").write_text(json.dumps(config))
    assert published(capsys, *flags(copy, "--output_dir", tmp_path / "tree"))[0] == 0
    assert not [path for path in (tmp_path / "tree").glob("*.json") if "someone" in path.read_text()]


def test_a_report_model_is_published_as_what_it_is(checkpoints, tmp_path, capsys):
    tokenizer = AutoProcessor.from_pretrained(checkpoints[0]).tokenizer
    model = CoGazeForConditionalGeneration.from_pretraining(checkpoints[0], tokenizer, num_attention_heads=2)
    folder = Path(shutil.copytree(checkpoints[0], tmp_path / "reports"))
    model.save_pretrained(folder)
    scores = {"scores": {"BLEU-4": {"value": 0.123, "interval": [0.1, 0.15]}}, "reports": 40}
    (folder / "metrics.json").write_text(json.dumps(scores))
    code, said = published(capsys, *flags(folder, "--repo", "org/reports", "--output_dir", tmp_path / "tree"))
    assert code == 0 and "added generation_config.json" in said
    card = (tmp_path / "tree" / "README.md").read_text()
    assert 'AutoModelForImageTextToText.from_pretrained("org/reports"' in card
    assert "| BLEU-4 | 0.123 [0.100, 0.150] |" in card
    assert "may state what the image does not show" in card


def test_parts_that_lie_on_this_disk_alone_are_refused(tmp_path):
    config = CoGazePrefixConfig(base_model_name_or_path=str(tmp_path), encoder_config=CoGazeConfig.tiny())
    with pytest.raises(ValueError, match="base_model_name_or_path: .* is a folder on this disk"):
        check_named_parts(config)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no files"):
        write_tree(tmp_path, tmp_path / "to")
