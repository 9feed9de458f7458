"""A report generator is reinforced from the command line, stopped, resumed, and by preferences."""

import json
import shutil

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from tests.training.training_runs import assert_same_weights, flags, in_two_processes, weights
from training import reinforce_reports as reinforce_reports_command
from training.reinforcement.preferences import PreferenceCollator
from training.reinforcement.reinforcing import StopOnDrift, reinforce_reports, reward_weights
from training.reinforcement.sampling import preference_pairs
from training.reports.writing import open_writer

REWARDS = json.dumps({"phantom_labels": 1.0, "gaze": 0.5, "length": 0.1, "repetition": 0.1})


@pytest.fixture(scope="module")
def run(tiny_run, generators):
    names = ("train_data", "validation_data", "report_to", "disable_tqdm", "use_cpu")
    own = {
        "checkpoint": generators["cross_attention"],
        "rewards": REWARDS,
        "max_new_tokens": 10,
        "per_device_train_batch_size": 4,
        "num_generations": 2,
        "learning_rate": 1e-2,
        "max_steps": 4,
        "eval_steps": 2,
        "save_steps": 2,
        "logging_steps": 1,
        "metrics": "phantom",
        "best_by": "Phantom labels micro F1",
    }
    return {name: tiny_run[name] for name in names} | own


@pytest.fixture(scope="module")
def reinforced(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reinforced")
    return folder, reinforce_reports(flags(run, output_dir=folder))


def test_a_checkpoint_says_by_what_it_was_rewarded(reinforced, run):
    folder, metrics = reinforced
    AutoModelForImageTextToText.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    saved = json.loads((folder / "training.json").read_text())
    assert saved["reinforced"] == {"objective": "grpo", "rewards": json.loads(REWARDS), "beta": 0.04, "steps": 4}
    for name in ("best", "length_ratio", "repetition", "held_out_reward"):
        assert saved[f"eval_{name}"] == metrics[f"eval_{name}"]
    start, end = weights(run["checkpoint"]), weights(folder)
    changed = {name.split(".")[0] for name in start if not torch.equal(start[name], end[name])}
    assert changed <= {"decoder", "memory_projection"}
    state = json.loads((sorted(folder.glob("checkpoint-*"))[-1] / "trainer_state.json").read_text())
    logged = {name for entry in state["log_history"] for name in entry}
    assert {"kl", "rewards/gaze/mean", "rewards/gaze/std", "rewards/gaze/left_out", "eval_best"} <= logged


def test_resumed_run_goes_on_bit_for_bit(reinforced, run, tmp_path):
    folder, _ = reinforced
    shutil.copytree(folder / "checkpoint-2", tmp_path / "checkpoint-2")
    reinforce_reports(flags(run, output_dir=tmp_path, resume_from_checkpoint=True))
    assert_same_weights(folder / "checkpoint-4", tmp_path / "checkpoint-4")


@pytest.mark.slow
def test_two_processes_make_the_step_of_one_on_the_same_samples(run, tmp_path):
    # Greedy draws are the same whoever makes them, so each group's advantages are zero and the KL term alone counts.
    changes = {"top_k": 1, "max_steps": 2, "beta": 1.0}
    reinforce_reports(flags(run, output_dir=tmp_path / "one", **changes))
    two = changes | {"per_device_train_batch_size": 2}
    in_two_processes(reinforce_reports_command, flags(run, output_dir=tmp_path / "two", **two), tmp_path)
    assert_same_weights(tmp_path / "one", tmp_path / "two", rtol=1e-4, atol=1e-5)


def test_a_run_that_drifts_is_stopped_and_says_why(run, tmp_path, capsys):
    reinforce_reports(flags(run, output_dir=tmp_path, max_kl=1e-9, learning_rate=0.1))
    assert "above max_kl" in capsys.readouterr().out
    assert json.loads((tmp_path / "training.json").read_text())["reinforced"]["steps"] < 4


@pytest.mark.parametrize(("ratio", "stops"), [(1.1, False), (0.9, False), (1.3, True), (0.7, True)])
def test_length_drift_counts_both_ways(ratio, stops, capsys):
    class Control:
        should_training_stop = False

    class State:
        global_step, is_world_process_zero = 3, True

    StopOnDrift(None, 0.2).on_log(None, State, control := Control(), {"eval_length_ratio": ratio})
    assert control.should_training_stop is stops


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"rewards": "{}"}, "rewards: give at least one"),
        ({"rewards": '{"gazing": 1}'}, "rewards: 'gazing' is none of phantom_labels, .*gaze"),
        ({"rewards": '{"gaze": "much"}'}, "rewards: the weight of gaze is 'much'"),
        ({"rewards": "gaze"}, "rewards: 'gaze' is no JSON object"),
        ({"best_by": "BLEU-4"}, "best_by: 'BLEU-4' is no score of metrics"),
        ({"objective": "dpo"}, "objective: dpo is for language models"),
    ],
)
def test_wrong_flags_are_named(changes, says, run, tmp_path):
    own = {name: value for name, value in run.items() if name != "num_generations"}
    with pytest.raises(ValueError, match=says):
        reinforce_reports(flags(own, output_dir=tmp_path, **changes))


def test_weights_are_numbers():
    assert reward_weights({"gaze": 1, "length": -0.5}) == {"gaze": 1, "length": -0.5}


def test_preferences_are_the_best_and_worst_drawn(generators, small_phantom):
    writer = open_writer(generators["prefix"], batch_size=5)
    torch.manual_seed(0)

    def by_length(texts, records):
        return [len(text) for text in texts]

    pairs = preference_pairs(writer, small_phantom, {"long": by_length}, {"long": 2.0}, 3, {"max_new_tokens": 6})
    assert 0 < len(pairs) <= len(small_phantom)
    for pair in pairs:
        assert len(pair["chosen"]) > len(pair["rejected"]) and pair["image"] == small_phantom[pair["row"]]["image_id"]
        assert pair["rewards"] == [2 * len(pair["chosen"]), 2 * len(pair["rejected"])]
    same = preference_pairs(writer, small_phantom, {"one": lambda t, r: [1.0] * len(t)}, {"one": 1.0}, 2, {})
    assert same == []


def test_pairs_read_as_the_model_reads_reports(generators, small_phantom):
    writer = open_writer(generators["prefix"])
    pairs = [{"row": 0, "chosen": "Heart is normal.", "rejected": "Lungs are clear. No effusion."}]
    pairs += [{"row": 3, "chosen": "There is edema in both lungs.", "rejected": "No edema."}]
    batch = PreferenceCollator(writer, small_phantom)(pairs)
    completions = batch.pop("completion_mask")
    with torch.no_grad():
        logits = writer.model(**batch).logits[:, :-1].log_softmax(-1)
    found = (
        logits.gather(-1, batch["input_ids"][:, 1:, None].clamp(max=logits.shape[-1] - 1))[..., 0] * completions[:, 1:]
    ).sum(1)
    texts = [pair[side] for side in ("chosen", "rejected") for pair in pairs]
    for row, text in enumerate(texts):
        inputs = writer.inputs([small_phantom[pairs[row % 2]["row"]]])
        labels = writer.processor.encode_reports([text])
        with torch.no_grad():
            loss = writer.model(**inputs, labels=labels).loss
        torch.testing.assert_close(found[row], -loss * (labels.shape[1] - 1), rtol=1e-4, atol=1e-4)


def test_dpo_prefers_what_is_rewarded(run, generators, tmp_path):
    changes = {"checkpoint": generators["prefix"], "objective": "dpo", "max_steps": 12, "learning_rate": 5e-3}
    own = {name: value for name, value in run.items() if name != "num_generations"}
    reinforce_reports(flags(own, output_dir=tmp_path, eval_steps=12, save_steps=12, pair_samples=3, **changes))
    pairs = [json.loads(line) for line in (tmp_path / "preferences.jsonl").read_text().splitlines()]
    assert pairs and all(pair["rewards"][0] > pair["rewards"][1] for pair in pairs)
    state = json.loads((tmp_path / "checkpoint-12" / "trainer_state.json").read_text())
    margins = [entry["rewards/margins"] for entry in state["log_history"] if "rewards/margins" in entry]
    assert margins[0] == pytest.approx(0, abs=1e-5) and margins[-1] > 0
    assert json.loads((tmp_path / "training.json").read_text())["reinforced"]["objective"] == "dpo"
