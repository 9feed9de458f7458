"""Reports for files and data sets: formats, contexts, pictures, restarts."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from modeling_cogaze import CoGazeConfig, CoGazeForConditionalGeneration
from processing import CoGazeProcessor
from processing.reports import structured_validity
from processing.tokenization import build_tokenizer
from tests.training.training_runs import in_two_processes
from training import generate_reports
from training.metrics.reports import read_predictions
from training.reports import generation
from training.reports.files import read_contexts
from training.runs.command_line import parse_arguments


@pytest.fixture(scope="module")
def checkpoint(small_phantom, tmp_path_factory):
    folder = tmp_path_factory.mktemp("generator")
    tokenizer = build_tokenizer(small_phantom["findings"], 400)
    torch.manual_seed(0)
    config = CoGazeConfig.tiny(
        vocab_size=len(tokenizer),
        vision_config={"image_size": 64, "hidden_sizes": [16, 32], "depths": [1, 1], "embedding_size": 8},
        text_config={"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
        **{"hidden_size": 32, "intermediate_size": 32, "perceiver_depth": 1, "num_latents": 4},
    ).add_decoder(tokenizer, initializer_range=0.4)
    model = CoGazeForConditionalGeneration(config)
    model.generation_config.update(max_new_tokens=10)
    model.save_pretrained(folder)
    CoGazeProcessor.for_model(tokenizer, config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    (folder / "more").mkdir()
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.jpg", "more/c.png"):
        Image.fromarray(rng.integers(0, 255, (70, 60), dtype=np.uint8)).save(folder / name)
    (folder / "notes.txt").write_text("no image")
    return folder


@pytest.fixture
def data(phantom_cache):
    return json.dumps(
        {
            "name": "phantom",
            "split": "train",
            "size": 12,
            "image_size": 64,
            "num_proc": 1,
            "cache_dir": str(phantom_cache),
        }
    )


def write(checkpoint, *options) -> list[dict]:
    return generate_reports.main(["--checkpoint", str(checkpoint), "--device", "cpu", *map(str, options)])


def test_a_split_as_jsonl_and_csv(checkpoint, data, small_phantom, tmp_path):
    rows = write(checkpoint, "--data", data, "--output_dir", tmp_path, "--batch_size", 5)
    assert [row["dicom_id"] for row in rows] == list(small_phantom["image_id"])
    write(checkpoint, "--data", data, "--output_dir", tmp_path, "--file_type", "csv")
    pairs = [read_predictions(tmp_path / name, allow_empty=True) for name in ("reports.jsonl", "reports.csv")]
    assert pairs[0].ids == pairs[1].ids and pairs[0].references == pairs[1].references
    assert pairs[0].predictions == pairs[1].predictions
    assert pairs[0].labels.tolist() == pairs[1].labels.tolist() == [record["labels"] for record in small_phantom]
    assert len({row["generated_report"] for row in rows}) > 3
    assert not list(tmp_path.glob("*.parts"))
    one = write(checkpoint, "--data", data, "--output_dir", tmp_path / "one", "--one_per_study", True)
    assert len(one) == 12


def test_a_run_that_was_cut_off_goes_on(checkpoint, data, tmp_path):
    options = ("--data", data, "--batch_size", 3, "--num_beams", 2, "--output_dir")
    expected = write(checkpoint, *options, tmp_path / "whole")
    output = tmp_path / "cut"
    parts = output / generation.PARTS
    parts.mkdir(parents=True)
    settings = {"checkpoint": str(checkpoint)}
    (parts / "settings.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match="holds a run that had"):
        write(checkpoint, *options, output)
    (parts / "settings.json").unlink()

    # What a process leaves that is killed within a line: marked, so that it is seen to be kept.
    lines = [json.dumps(row | {"generated_report": "kept"}) for row in expected[:4]]
    (parts / "3.jsonl").write_text("\n".join(lines) + '\n{"dicom_id": "p')
    arguments, writing = parse_arguments(
        (generation.OutputArguments, generation.WritingArguments),
        ["--checkpoint", str(checkpoint), *map(str, options), str(output)],
    )
    settings = {name: value for name, value in vars(arguments).items() if name != "device"} | writing.options()
    (parts / "settings.json").write_text(json.dumps(settings))
    found = write(checkpoint, *options, output)
    assert [row["generated_report"] for row in found[:4]] == ["kept"] * 4
    assert found[4:] == expected[4:]
    assert [json.loads(line) for line in (output / "reports.jsonl").read_text().splitlines()] == found


def test_a_folder_with_context(checkpoint, images, tmp_path):
    pd.DataFrame(
        {"image": ["b.jpg", "more/c.png"], "view_position": ["PA", "LATERAL"], "indication": ["Cough.", ""]}
    ).to_csv(tmp_path / "context.csv", index=False)
    options = ("--folder", images, "--output_dir")
    plain = write(checkpoint, *options, tmp_path / "plain")
    assert [row["dicom_id"] for row in plain] == ["a.png", "b.jpg", "more/c.png"]
    told = write(checkpoint, *options, tmp_path / "told", "--context", tmp_path / "context.csv")
    assert told[0]["generated_report"] == plain[0]["generated_report"]
    again = write(checkpoint, *options, tmp_path / "n", "--context", tmp_path / "context.csv", "--no_context", True)
    assert again[1]["generated_report"] != "" and again[0] == plain[0]


def test_one_image_is_printed(checkpoint, images, capsys):
    rows = write(checkpoint, "--image", images / "a.png", "--indication", "Fever.", "--view_position", "PA")
    assert capsys.readouterr().out.strip().endswith(rows[0]["generated_report"])


def test_pictures_show_where_sentences_look(checkpoint, images, tmp_path):
    options = ("--folder", images, "--output_dir", tmp_path, "--max_new_tokens", 30)
    rows = write(checkpoint, *options, "--grounding", True)
    plain = write(checkpoint, *options[:3], tmp_path / "plain", "--max_new_tokens", 30)
    assert [row["generated_report"] for row in rows] == [row["generated_report"] for row in plain]
    for row in rows:
        assert all(0 <= sentence["text_confidence"] <= 1 for sentence in row["sentences"])
        if row["sentences"]:
            with Image.open(tmp_path / "pictures" / row["picture"]) as picture:
                assert picture.width > 100
    assert any(row["sentences"] for row in rows)


def test_structured_reports_are_constrained(checkpoint, images, tmp_path):
    options = ("--folder", images, "--output_dir", tmp_path, "--max_new_tokens", 40)
    for row in write(checkpoint, *options, "--report_kind", "structured"):
        assert structured_validity(row["generated_report"]) == 1.0
    free = write(checkpoint, *options, "--report_kind", "structured", "--constrain_structure", False)
    assert all(structured_validity(row["generated_report"]) < 1 for row in free)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "give one of them"),
        (["--image", "a.png", "--folder", "b"], "give one of them"),
        (["--folder", "{empty}"], "has no .png"),
        (["--folder", "{images}"], "output_dir: missing"),
        (["--image", "a.png", "--grounding", "True"], "output_dir: missing"),
        (["--folder", "{images}", "--output_dir", "r", "--context", "{context}"], "image 'z.png': no such image"),
        (["--folder", "{images}", "--output_dir", "r", "--context", "nowhere.csv"], "no file nowhere.csv"),
    ],
)
def test_wrong_input_is_named(checkpoint, images, tmp_path, options, message):
    (tmp_path / "context.csv").write_text("image,history\nz.png,Smoker\n")
    (tmp_path / "empty").mkdir()
    places = {"images": images, "empty": tmp_path / "empty", "context": tmp_path / "context.csv"}
    with pytest.raises(ValueError, match=message):
        write(checkpoint, *(option.format(**places) for option in options))


@pytest.mark.slow
def test_two_processes_share_the_work(checkpoint, data, tmp_path):
    options = ["--checkpoint", str(checkpoint), "--data", data, "--device", "cpu", "--batch_size", "4"]
    in_two_processes(generate_reports, [*options, "--output_dir", str(tmp_path / "two")], tmp_path)
    one = write(checkpoint, "--data", data, "--output_dir", tmp_path / "one", "--batch_size", 4)
    assert (tmp_path / "two/reports.jsonl").read_text() == (tmp_path / "one/reports.jsonl").read_text()
    assert len(one) > 12


def test_companions_from_a_table(images, tmp_path):
    table = tmp_path / "context.csv"

    def contexts(**columns):
        pd.DataFrame({"image": ["a.png"]} | {name: [value] for name, value in columns.items()}).to_csv(
            table, index=False
        )
        return read_contexts(str(table), ["a.png", "b.jpg", "more/c.png"], images)

    names, (first, *_) = contexts(other_images="b.jpg", other_views="LL", prior_image="more/c.png", prior_days="12")
    assert names == ["a.png"]
    assert [(c["role"], c["image_id"], c["view_position"], c["days"]) for c in first["companions"]] == [
        ("view", "b.jpg", "LL", 0.0),
        ("prior", "more/c.png", "", 12.0),
    ]
    record = generation.FileRecords([images / "a.png"], names, [first])[0]
    assert record["companions"] == first["companions"] and record["prior_findings"] == ""
    assert contexts(indication="Cough.")[0] == ["a.png", "b.jpg", "more/c.png"]
    for columns, message in (
        ({"prior_days": "3"}, r"image 'a\.png': prior_days: there is no prior_image"),
        ({"prior_report": "Clear."}, r"image 'a\.png': prior_report: there is no prior_image"),
        ({"prior_image": "b.jpg", "prior_days": "soon"}, r"prior_days: 'soon' is no number"),
        ({"prior_image": "no.png"}, r"prior_image: no file .*no\.png"),
        ({"other_images": "b.jpg|more/c.png", "other_views": "LL"}, r"other_views: 1 for 2 other_images"),
    ):
        with pytest.raises(ValueError, match=message):
            contexts(**columns)


def test_sentences_have_boxes_and_support_is_asked_for_where_it_is(checkpoint, images, data, tmp_path):
    rows = write(checkpoint, "--data", data, "--output_dir", tmp_path / "a", "--grounding", True)
    sentences = [sentence for row in rows for sentence in row["sentences"]]
    assert sentences and all(len(each["boxes"]) == len(each["scores"]) for each in sentences)
    for box in (box for each in sentences for box in each["boxes"]):
        assert 0 <= box[0] < box[2] <= 2048 and 0 <= box[1] < box[3] <= 2048
    with pytest.raises(ValueError, match="calibrate_support"):
        write(checkpoint, "--image", images / "a.png", "--min_support", 0.5)


def test_a_generator_of_both_sections_gives_each_in_its_columns(checkpoint, data, tmp_path):
    folder = tmp_path / "both"
    shutil.copytree(checkpoint, folder)
    processor = CoGazeProcessor.from_pretrained(folder)
    processor.report_sections = ["findings", "impression"]
    processor.save_pretrained(folder)
    assert CoGazeProcessor.from_pretrained(folder).report_sections == ["findings", "impression"]
    rows = write(folder, "--data", data, "--output_dir", tmp_path / "out", "--one_per_study", True)
    assert all({"generated_impression", "reference_impression"} <= row.keys() for row in rows)
    assert any(row["reference_impression"] for row in rows)
    assert not any("Impression:" in row["reference_report"] for row in rows)
    scored = read_predictions(tmp_path / "out" / "reports.jsonl", True, "impression")
    assert len(scored) == sum(bool(row["reference_impression"]) for row in rows)
    with pytest.raises(ValueError, match="report_sections"):
        CoGazeProcessor(processor.image_processor, processor.tokenizer, report_sections=["impression"])


def test_a_guard_refuses_or_warns_in_words(checkpoint, images, tmp_path):
    noise = ("--folder", images, "--output_dir")
    refused = write(checkpoint, *noise, tmp_path / "b", "--on_other", "refuse")
    assert all(row["generated_report"] == "" and row["refused"] for row in refused)
    warned = write(checkpoint, *noise, tmp_path / "c", "--on_other", "warn")
    plain = write(checkpoint, *noise, tmp_path / "d")
    assert [row["generated_report"] for row in warned] == [row["generated_report"] for row in plain]
    assert all(row["warning"] for row in warned) and not any("warning" in row for row in plain)
    with pytest.raises(ValueError, match="a.png: looks like"):
        write(checkpoint, "--image", images / "a.png", "--on_other", "refuse")
