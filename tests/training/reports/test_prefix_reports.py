"""A language model behind CoGaze is trained, resumed, and writes reports with what its prompt says."""

import json
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, LlamaConfig

from modeling_cogaze import CoGazeConfig, CoGazeForPreTraining, CoGazeModel
from processing import CoGazeProcessor
from processing.prompts import report_messages
from processing.tokenization import build_tokenizer
from tests.small import GENERATOR, LLAMA
from tests.training.training_runs import assert_same_weights, flags, in_two_processes, weights
from training import generate_reports
from training import train_report_generator as train_report_generator_command
from training.reports.prompt_hints import predicted_diseases, read_images, similar_reports
from training.reports.similar_cases import SimilarCases
from training.reports.training import train_report_generator
from training.reports.writing import PromptedReportWriter, image_alone, open_writer


@pytest.fixture(scope="module")
def pretrained(small_phantom, tmp_path_factory):
    """An untrained encoder and an untrained Llama, as they would be pretrained."""
    folder = tmp_path_factory.mktemp("pretrained")
    tokenizer = build_tokenizer(small_phantom["findings"], 400)
    torch.manual_seed(0)
    config = CoGazeConfig.tiny(vocab_size=len(tokenizer), **GENERATOR)
    CoGazeForPreTraining(config).save_pretrained(folder / "cogaze")
    CoGazeProcessor.for_model(tokenizer, config).save_pretrained(folder / "cogaze")
    prompts = [message["content"] for message in report_messages("free_text", "", "-", "-")]
    tokenizer = build_tokenizer([*small_phantom["findings"], *prompts * 10], 800)
    special = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    AutoModelForCausalLM.from_config(LlamaConfig(vocab_size=len(tokenizer), **special, **LLAMA)).save_pretrained(
        folder / "llama"
    )
    tokenizer.save_pretrained(folder / "llama")
    return folder


@pytest.fixture(scope="module")
def run(tiny_run, pretrained):
    names = ("train_data", "validation_data", "per_device_train_batch_size", "report_to", "disable_tqdm", "use_cpu")
    return {name: tiny_run[name] for name in names} | {
        "decoder": "prefix",
        "checkpoint": pretrained / "cogaze",
        "decoder_weights": pretrained / "llama",
        "max_new_tokens": 8,
        "epoch_studies": 2,
        "num_train_epochs": 1,
        "learning_rate": 1e-2,
    }


@pytest.fixture(scope="module")
def trained(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reports")
    changes = {"num_train_epochs": 2, "crop": 0.9, "output_dir": folder}
    metrics = train_report_generator(flags(run, **changes))
    return folder, changes, metrics


def test_adapter_and_lora_are_trained_and_saved_alone(trained, run, small_phantom):
    folder, _, metrics = trained
    assert metrics["eval_loss"] > 0
    saved = weights(folder)
    assert all(".lora_" in name or name.startswith("adapter.") for name in saved)
    assert all(value.any() for name, value in saved.items() if ".lora_B." in name)
    model = AutoModelForImageTextToText.from_pretrained(folder)
    base = AutoModelForCausalLM.from_pretrained(run["decoder_weights"])
    assert torch.equal(model.language_model.lm_head.weight, base.lm_head.weight)
    assert AutoProcessor.from_pretrained(folder).prompt_parts == ["similar_report", "diseases"]
    index = SimilarCases.load(folder / "similar_cases")
    assert len(index) == len(small_phantom)
    index.check(model.encoder.cogaze)


def test_resumed_run_continues_bit_for_bit(trained, run, tmp_path):
    folder, changes, _ = trained
    first, last = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    shutil.copytree(first, tmp_path / first.name)
    train_report_generator(flags(run, **changes | {"output_dir": tmp_path, "resume_from_checkpoint": True}))
    assert_same_weights(last, tmp_path / last.name)


def test_prompts_say_what_the_encoder_finds(trained, small_phantom):
    folder, _, _ = trained
    writer = open_writer(str(folder), options={"max_new_tokens": 8})
    assert isinstance(writer, PromptedReportWriter)
    records = [small_phantom[row] for row in range(5)]
    inputs = writer.inputs(records)
    prompts = writer.processor.tokenizer.batch_decode(inputs["input_ids"])
    encoded = inputs["encoder_outputs"]
    drafts = similar_reports(writer.cases, writer.model.get_image_features(encoded), records)
    names = predicted_diseases(writer.model, encoded)
    reports = {record["study_id"]: record["findings"] for record in small_phantom}
    patients = {record["findings"]: record["patient_id"] for record in small_phantom}
    for record, prompt, draft, diseases in zip(records, prompts, drafts, names, strict=True):
        assert draft in reports.values()
        assert draft != record["findings"]
        assert patients[draft] != record["patient_id"]
        assert draft[-40:] in prompt
        assert record["findings"] not in prompt
        assert ("Predicted diseases" in prompt) == bool(diseases)
        assert ", ".join(diseases) in prompt
    # The encoder ran before the prompts were written, and does not run again.
    runs = []
    writer.model.encoder.cogaze.vision_model.register_forward_hook(lambda *args: runs.append(1))
    assert len(writer.write(records)[0]) == 5
    assert len(runs) == 1


def test_reading_a_data_set_is_reading_its_images_one_by_one(trained, small_phantom):
    folder, _, _ = trained
    writer = open_writer(str(folder))
    model, processor = writer.model, writer.processor

    def collate(records):
        return processor.collate([image_alone(record) for record in records])

    features, names = read_images(model, small_phantom, collate, True, batch_size=4)
    assert len(features) == len(names) == len(small_phantom)
    for row in (0, 7):
        encoded = writer.inputs([small_phantom[row]])["encoder_outputs"]
        torch.testing.assert_close(
            torch.from_numpy(features[row]), model.get_image_features(encoded)[0], rtol=1e-4, atol=1e-5
        )
        assert names[row] == predicted_diseases(model, encoded)[0]


def test_reports_are_generated_by_the_script(trained, run, tmp_path, small_phantom):
    folder, _, _ = trained
    output = tmp_path / "reports.jsonl"
    options = {"checkpoint": folder, "data": run["validation_data"], "output_dir": tmp_path, "max_new_tokens": 8}
    rows = generate_reports.main(flags({}, **options, batch_size=3, device="cpu", grounding=True))
    assert [json.loads(line)["dicom_id"] for line in output.read_text().splitlines()] == [
        row["dicom_id"] for row in rows
    ]
    by_writer = open_writer(str(folder), options={"max_new_tokens": 8}, batch_size=2)
    expected = {row["dicom_id"]: row["generated_report"] for row in by_writer.rows(small_phantom, range(len(rows)))}
    assert {row["dicom_id"]: row["generated_report"] for row in rows} == expected


def test_a_random_language_model_is_trained_whole_from_images_that_are_encoded_once(run, tmp_path):
    options = {
        "encode_once": 2,
        "crop": 0.9,
        "decoder_overrides": json.dumps(LLAMA),
        "model_overrides": json.dumps({"freeze_language_model": False, "lora_rank": 0, "prefix_latents": ["vision"]}),
        "processor_overrides": '{"max_prompt_length": 1000}',
        "output_dir": tmp_path,
    }
    without = {name: value for name, value in run.items() if name != "decoder_weights"}
    train_report_generator([*flags(without, **options), "--prompt_parts", "diseases"])
    saved = weights(tmp_path)
    assert "language_model.model.embed_tokens.weight" in saved
    assert not any(name.startswith("encoder.") or "lora" in name for name in saved)
    assert not (tmp_path / "similar_cases").exists()
    writer = open_writer(str(tmp_path))
    assert writer.processor.prompt_parts == ["diseases"]
    assert writer.model.config.num_image_tokens == writer.processor.num_image_tokens == 4


def test_structured_reports_go_on_from_free_text(trained, run, tmp_path, small_phantom):
    folder, _, _ = trained
    changes = {"checkpoint": folder, "report_kind": "structured", "similar_cases": folder / "similar_cases"}
    changes |= {"processor_overrides": '{"max_prompt_length": 1000}', "output_dir": tmp_path}
    without = {name: value for name, value in run.items() if name != "decoder_weights"}
    train_report_generator([*flags(without, **changes), "--metrics", "structure", "--best_by", "Structure validity"])
    writer = open_writer(str(tmp_path), options={"max_new_tokens": 60}, constrain=True)
    report = writer.write([small_phantom[0]])[0][0]
    assert writer.processor.report_kind == "structured"
    assert report.split(":")[0] in report_messages("structured", "")[0]["content"]


@pytest.mark.slow
def test_two_processes_step_as_one_with_twice_the_batch(run, tmp_path):
    """They share the reading of the images, too, for similar reports and diseases."""
    step = {"max_steps": 1, "optim": "sgd", "learning_rate": 1.0, "max_grad_norm": 0, "lr_scheduler_type": "constant"}
    step |= {"model_overrides": '{"lora_dropout": 0.0}'}
    two = flags(run, **step, output_dir=tmp_path / "two", per_device_train_batch_size=3)
    in_two_processes(train_report_generator_command, two, tmp_path)
    assert json.loads((tmp_path / "two" / "training.json").read_text())["processes"] == 2
    train_report_generator(flags(run, **step, output_dir=tmp_path / "one", per_device_train_batch_size=6))
    assert_same_weights(tmp_path / "one", tmp_path / "two", rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_overrides": '{"wings": 2}'}, "model_overrides: 'wings' is no field of a CoGazePrefixConfig"),
        ({"decoder_overrides": '{"hidden_size": 8}'}, "decoder_overrides: the language model's config comes with"),
        ({"prompt_parts": "age"}, "prompt_parts"),
        ({"similar_cases": "nowhere"}, "similar_cases: no index in nowhere"),
        ({"decoder": "cross_attention", "decoder_weights": ""}, "decoder: .* give --decoder prefix"),
    ],
)
def test_wrong_settings_stop_before_the_first_step(trained, run, tmp_path, changes, message):
    if "decoder" in changes:
        changes = changes | {"checkpoint": trained[0]}
    with pytest.raises(ValueError, match=message):
        train_report_generator(flags(run, **changes, output_dir=tmp_path))


def test_an_encoder_without_disease_heads_predicts_none(run, pretrained, tmp_path):
    CoGazeModel.from_pretrained(pretrained / "cogaze").save_pretrained(tmp_path / "headless")
    AutoProcessor.from_pretrained(pretrained / "cogaze").save_pretrained(tmp_path / "headless")
    with pytest.raises(ValueError, match="no disease head"):
        train_report_generator(flags(run, checkpoint=tmp_path / "headless", output_dir=tmp_path / "out"))


def test_an_index_of_another_encoder_is_refused(trained, tmp_path):
    folder, _, _ = trained
    shutil.copytree(folder, tmp_path / "copy", ignore=shutil.ignore_patterns("checkpoint-*"))
    index = SimilarCases.load(folder / "similar_cases")
    index.encoder = "another"
    index.save(tmp_path / "copy" / "similar_cases")
    with pytest.raises(ValueError, match="made by the encoder another"):
        open_writer(str(tmp_path / "copy"))
    shutil.rmtree(tmp_path / "copy" / "similar_cases")
    with pytest.warns(UserWarning, match="without an index of similar cases"):
        assert open_writer(str(tmp_path / "copy")).cases is None
