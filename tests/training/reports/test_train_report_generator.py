"""Report generators are trained, resumed and scored."""

import json
import shutil

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, GPT2Config, GPT2LMHeadModel

from modeling_cogaze import CoGazeConfig, CoGazeForPreTraining, EgmaConfig, EgmaForPreTraining
from processing import CoGazeProcessor, EgmaProcessor
from processing.reports import parse_structured, structured_validity
from processing.tokenization import build_tokenizer
from tests.training.training_runs import assert_same_weights, flags, in_two_processes, weights
from training import train_report_generator as train_report_generator_command
from training.reports.training import train_report_generator
from training.reports.writing import ReportPreparation, ReportWriter, one_per_study, score_rows

SIZES = {
    "vision_config": {"image_size": 64, "hidden_sizes": [16, 32], "depths": [1, 1], "embedding_size": 8},
    "text_config": {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
}
COGAZE = {"hidden_size": 32, "intermediate_size": 32, "perceiver_depth": 1, "num_latents": 4}


@pytest.fixture(scope="module")
def pretrained(small_phantom, tmp_path_factory):
    """Untrained checkpoints of both families, as pretraining leaves them."""
    tokenizer = build_tokenizer(small_phantom["findings"], 400)
    folders = {}
    for name, config_class, model_class, processor_class, own in (
        ("cogaze", CoGazeConfig, CoGazeForPreTraining, CoGazeProcessor, COGAZE),
        ("egma", EgmaConfig, EgmaForPreTraining, EgmaProcessor, {"projection_dim": 32, "pooled_text_layers": 1}),
    ):
        torch.manual_seed(0)
        config = config_class.tiny(vocab_size=len(tokenizer), **SIZES, **own)
        folders[name] = tmp_path_factory.mktemp(name)
        model_class(config).save_pretrained(folders[name])
        processor_class.for_model(tokenizer, config).save_pretrained(folders[name])
    return folders


@pytest.fixture(scope="module")
def run(tiny_run, pretrained):
    names = ("train_data", "validation_data", "per_device_train_batch_size", "report_to", "disable_tqdm", "use_cpu")
    own = {"checkpoint": pretrained["cogaze"], "max_new_tokens": 12, "epoch_studies": 3, "num_train_epochs": 1}
    return {name: tiny_run[name] for name in names} | own


@pytest.fixture(scope="module")
def trained(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reports")
    changes = {"num_train_epochs": 2, "crop": 0.9, "context_dropout": 0.3, "output_dir": folder}
    metrics = train_report_generator(
        [*flags(run, **changes), "--metrics", "bleu", "phantom", "--train_sampling_strategy", "group_by_length"]
    )
    return folder, changes, metrics


def test_a_checkpoint_writes_reports(trained, small_phantom):
    folder, _, metrics = trained
    model, processor = AutoModelForImageTextToText.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    assert model.generation_config.max_new_tokens == 12 and model.generation_config.num_beams == 1
    rows = list(ReportWriter(model, processor, options={"num_beams": 2}).rows(small_phantom, [0, 3]))
    assert [row["dicom_id"] for row in rows] == [small_phantom[place]["image_id"] for place in (0, 3)]
    assert rows[0]["reference_report"] == small_phantom[0]["findings"]
    saved = json.loads((folder / "training.json").read_text())
    assert saved["eval_best"] == metrics["eval_BLEU-4"] and saved["report_kind"] == "free_text"
    assert "eval_Phantom labels micro F1" in saved


def test_resumed_run_continues_bit_for_bit(trained, run, tmp_path):
    folder, changes, _ = trained
    first, last = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    shutil.copytree(first, tmp_path / first.name)
    resumed = changes | {"output_dir": tmp_path, "resume_from_checkpoint": True}
    train_report_generator(
        [*flags(run, **resumed), "--metrics", "bleu", "phantom", "--train_sampling_strategy", "group_by_length"]
    )
    assert_same_weights(last, tmp_path / last.name)


def test_a_run_by_length_goes_on_in_the_middle_of_an_epoch_bit_for_bit(run, tmp_path):
    options = {"num_train_epochs": 2, "save_strategy": "steps", "save_steps": 1, "eval_strategy": "no"}
    options |= {"load_best_model_at_end": "False", "per_device_train_batch_size": 2, "save_total_limit": 20}
    by_length = ["--metrics", "bleu", "--train_sampling_strategy", "group_by_length"]
    train_report_generator([*flags(run, **options, output_dir=tmp_path / "whole"), *by_length])
    saved = sorted((tmp_path / "whole").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    assert len(saved) % 2 == 0 and len(saved) > 4
    for place in (1, len(saved) // 2 + 1):  # in the first epoch, and in the second
        folder = tmp_path / f"from {place}"
        shutil.copytree(saved[place], folder / saved[place].name)
        train_report_generator([*flags(run, **options, output_dir=folder, resume_from_checkpoint=True), *by_length])
        assert_same_weights(saved[-1], folder / saved[-1].name)


def test_structured_reports_from_an_encoder_that_ran_once(trained, run, tmp_path, small_phantom):
    folder, _, _ = trained
    options = {"checkpoint": folder, "report_kind": "structured", "encode_once": 2, "crop": 0.9}
    overrides = {"processor_overrides": '{"max_report_length": 90}', "best_by": "Structure validity"}
    metrics = train_report_generator(
        [*flags(run, **options, **overrides, output_dir=tmp_path), "--metrics", "structure", "phantom"]
    )
    assert 0 <= metrics["eval_Structure validity"] <= 1
    before, after = weights(folder), weights(tmp_path)
    changed = {name.split(".")[0] for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed == {"decoder"}
    processor = AutoProcessor.from_pretrained(tmp_path)
    assert (processor.report_kind, processor.max_report_length) == ("structured", 90)
    model = AutoModelForImageTextToText.from_pretrained(tmp_path)
    writer = ReportWriter(model, processor, options={"max_new_tokens": 60}, constrain=True)
    for row in writer.rows(small_phantom, [0, 1]):
        assert structured_validity(row["generated_report"]) == 1.0
        assert parse_structured(row["reference_report"])


def test_egma_learns_to_write_with_a_pretrained_decoder(run, pretrained, tmp_path):
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(vocab_size=300, n_embd=16, n_layer=1, n_head=2)).save_pretrained(tmp_path / "gpt")
    options = {"checkpoint": pretrained["egma"], "decoder_weights": tmp_path / "gpt", "output_dir": tmp_path / "out"}
    metrics = train_report_generator(flags(run, **options))
    assert metrics["eval_loss"] > 0
    assert weights(tmp_path / "out")["decoder.transformer.wte.weight"].shape[1] == 16


def test_the_decoder_learns_faster(run, tmp_path):
    """With plain SGD, weights move in proportion to their learning rate."""
    options = {
        "optim": "sgd",
        "max_steps": 1,
        "learning_rate": 1e-3,
        "max_grad_norm": 0,
        "lr_scheduler_type": "constant",
    }
    start = train_report_generator(flags(run, **options | {"learning_rate": 0}, output_dir=tmp_path / "start"))
    moves = {}
    for factor in (1.0, 10.0):
        factors = json.dumps({"decoder": factor})
        train_report_generator(flags(run, **options, learning_rate_factors=factors, output_dir=tmp_path / str(factor)))
        moves[factor] = {n: v - weights(tmp_path / "start")[n] for n, v in weights(tmp_path / str(factor)).items()}
    assert start["eval_loss"] > 0
    name = "decoder.transformer.h.0.mlp.c_fc.weight"
    torch.testing.assert_close(moves[10.0][name], 10 * moves[1.0][name], rtol=1e-3, atol=1e-6)
    name = next(n for n in moves[1.0] if "perceiver" in n and n.endswith("weight") and moves[1.0][n].any())
    torch.testing.assert_close(moves[10.0][name], moves[1.0][name])


@pytest.mark.slow
def test_two_processes_step_as_one_with_twice_the_batch(run, tmp_path):
    step = {"max_steps": 1, "optim": "sgd", "learning_rate": 0.1, "max_grad_norm": 0, "lr_scheduler_type": "constant"}
    # Without dropout, which would differ; batch normalisation stays as it was, since the encoder is frozen.
    dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    step |= {"decoder_overrides": json.dumps(dropout), "model_overrides": '{"freeze_encoder": true}'}
    two = flags(run, **step, output_dir=tmp_path / "two", per_device_train_batch_size=3)
    in_two_processes(train_report_generator_command, two, tmp_path)
    train_report_generator(flags(run, **step, output_dir=tmp_path / "one", per_device_train_batch_size=6))
    summaries = [json.loads((tmp_path / name / "training.json").read_text()) for name in ("one", "two")]
    assert [summary["processes"] for summary in summaries] == [1, 2]
    assert summaries[0]["eval_BLEU-4"] == pytest.approx(summaries[1]["eval_BLEU-4"])
    assert_same_weights(tmp_path / "one", tmp_path / "two", rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"best_by": "BLEU-5"}, "best_by: 'BLEU-5'"),
        ({"metrics": "phantoms", "best_by": "x"}, "best_by: 'x'"),
        ({"model_overrides": '{"wings": 2}'}, "model_overrides: 'wings'"),
        ({"processor_overrides": '{"wings": 2}'}, "processor_overrides: 'wings'"),
        ({"train_data": '{"name": "shards", "root": "nowhere"}'}, "nowhere"),
    ],
)
def test_wrong_settings_stop_before_the_first_step(run, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        train_report_generator(flags(run, **changes, output_dir=tmp_path))


def test_an_empty_report_stops_or_is_skipped(run, tmp_path, monkeypatch, small_phantom):
    def with_empty_report(spec, argument):
        findings = list(small_phantom["findings"])
        findings[2] = " "
        return small_phantom.remove_columns("findings").add_column("findings", findings)

    monkeypatch.setattr("training.reports.training.load_data", with_empty_report)
    with pytest.raises(ValueError, match=r"record 2 .*the report is empty"):
        train_report_generator(flags(run, output_dir=tmp_path))
    train_report_generator(flags(run, output_dir=tmp_path, on_bad_record="skip"))
    assert json.loads((tmp_path / "training.json").read_text())["skipped_records"] == {"train": 1, "validation": 1}


def test_what_is_prepared(small_phantom):
    record = small_phantom[0]
    structured = ReportPreparation(use_context=False, report_kind="structured")(record)
    assert structured_validity(structured["findings"]) == 1.0
    assert structured["indication"] == structured["history"] == "" and structured["gaze"] == []
    assert ReportPreparation(report_kind="structured")(structured)["findings"] == structured["findings"]
    assert ReportPreparation()(record)["findings"] == record["findings"]


def test_one_image_per_study_is_frontal(small_phantom):
    places = one_per_study(small_phantom)
    studies = [small_phantom[place]["study_id"] for place in places]
    assert sorted(studies) == sorted(set(small_phantom["study_id"])) and len(studies) == len(set(studies))
    frontal = {r["study_id"] for r in small_phantom if r["view_position"] in ("PA", "AP")}
    for place, study in zip(places, studies, strict=True):
        assert (small_phantom[place]["view_position"] != "LATERAL") == (study in frontal)


def test_perfect_reports_score_one(small_phantom):
    rows = [
        {
            "dicom_id": record["image_id"],
            "patient_id": record["patient_id"],
            "reference_report": record["findings"],
            "generated_report": f"{record['findings']} {record['impression']}",
            "labels": record["labels"],
        }
        for record in small_phantom
    ]
    assert score_rows(rows, ["phantom"]).values["Phantom labels micro F1"] > 0.97
