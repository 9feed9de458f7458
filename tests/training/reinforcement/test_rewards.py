"""Rewards against hand counts, and the gaze reward against maps that are known."""

import numpy as np
import pytest
import torch

from processing.datasets.records import CHEXBERT_OBSERVATIONS
from training.metrics.alignment import gaze_pointing_game, jensen_shannon
from training.reinforcement.gaze import PATCHES, GazeReward, agreements, matched
from training.reinforcement.rewards import METRICS, REWARDS, reward_named, sign_of, weighted
from training.reports.writing import open_writer


def labels(**codes: int) -> list[int]:
    return [codes.get(name.replace(" ", "_"), -1) for name in CHEXBERT_OBSERVATIONS]


def test_phantom_labels_are_an_f1():
    record = {"labels": labels(Edema=1, Pleural_Effusion=1, Fracture=0)}
    texts = ["There is edema.", "There is edema. There is a pleural effusion.", "There is a fracture.", ""]
    assert REWARDS["phantom_labels"](texts, [record] * 4) == pytest.approx([2 / 3, 1, 0, 0])
    healthy = {"labels": labels(No_Finding=1)}
    assert REWARDS["phantom_labels"](["No pleural effusion.", "There is edema."], [healthy] * 2) == [1, 0]
    assert REWARDS["phantom_labels"](["There is edema."], [{"labels": None}]) == [None]


def test_length_repetition_and_comparison():
    record = {"findings": "one two three four"}
    assert REWARDS["length"](["a b c", "a b c d e f g h i", "a b c d"], [record] * 3) == pytest.approx([0.75, 0, 1])
    assert REWARDS["length"](["a"], [{"findings": ""}]) == [None]
    assert REWARDS["repetition"](["a b c a b c", "a b", "a b c d"], [record] * 3) == pytest.approx([0.75, 1, 1])
    texts = ["The heart is normal. The effusion has decreased.", "The lungs are clear."]
    assert REWARDS["comparison"](texts, [{"companions": []}, {}]) == pytest.approx([0.5, 1])
    assert REWARDS["comparison"](texts[:1], [{"companions": [{"role": "prior"}]}]) == [None]


def test_any_score_is_a_reward_of_each_report_by_itself():
    records = [{"findings": "The lungs are clear."}, {"findings": ""}, {"findings": "There is a large effusion."}]
    texts = ["The lungs are clear.", "Anything.", "The lungs are clear."]
    found = reward_named("BLEU-1")(texts, records)
    assert found[0] == pytest.approx(1) and found[1] is None and found[2] < 0.3
    assert reward_named("BLEU-1")(texts[:1], records[:1])[0] == pytest.approx(found[0])


def test_a_metric_of_which_less_is_better_is_negated():
    assert [name for name in METRICS if sign_of(name) < 0] == ["RadCliQ-v1 (less is better)"]


@pytest.mark.parametrize(("name", "says"), [("bleu", "is none of"), ("CheXbert-14 micro F1", "cannot be computed")])
def test_rewards_that_are_not_there_are_named(name, says):
    with pytest.raises(ValueError, match=f"rewards: .*{name}.*{says}"):
        reward_named(name)


def test_weights_leave_out_what_is_missing():
    found = {"a": [1.0, None, None], "b": [0.5, 2.0, None]}
    assert weighted(found, {"a": 2.0, "b": -1.0}) == [1.5, -2.0, None]


def test_sentences_are_matched_one_to_one_with_those_that_say_the_same():
    spoken = ["There is a large right pleural effusion.", "The heart is normal in size.", "No pneumothorax."]
    written = ["Heart is normal in size.", "Right pleural effusion is large.", "Large right pleural effusion."]
    assert matched(written, spoken) == [(0, 1), (1, 0)]
    assert matched([], spoken) == [] and matched(["Unrelated words entirely"], spoken) == []


def test_agreement_is_the_mean_of_pointing_and_closeness():
    rng = np.random.default_rng(0)
    maps, targets = rng.dirichlet(np.ones(16), 5), 7 * rng.dirichlet(np.ones(16), 5)
    truth = targets / targets.sum(1, keepdims=True)
    expected = (gaze_pointing_game(maps, targets) + 1 - jensen_shannon(maps, truth) / np.log(2)) / 2
    np.testing.assert_allclose(agreements(maps, targets, np.ones(5, bool)), expected)
    np.testing.assert_allclose(agreements(truth, targets, np.ones(5, bool)), 1)
    masks = np.zeros((5, 16))
    masks[:3, :] = np.eye(16)[maps[:3].argmax(1)]
    masks[3:, :] = 1 - np.eye(16)[maps[3:].argmax(1)]
    np.testing.assert_array_equal(agreements(maps, masks, np.zeros(5, bool)), [1, 1, 1, 0, 0])


@pytest.fixture(scope="module")
def gaze_reward(generators, small_phantom):
    writer = open_writer(generators["cross_attention"])
    records = [record for record in small_phantom if record["gaze"]][:2]
    encoded = writer.model.encode(**{"pixel_values": writer.inputs(records)["pixel_values"]})
    ready = [record | {PATCHES: patches} for record, patches in zip(records, encoded.patch_features, strict=True)]
    return GazeReward(writer.model, writer.processor), ready


def test_gaze_rewards_saying_what_was_said_and_looking_there(gaze_reward):
    reward, (record, other) = gaze_reward
    spoken = [each["text"] for each in record["gaze"][0]["sentences"]]
    whole, half, more, nothing, foreign = reward(
        [" ".join(spoken), spoken[0], " ".join([*spoken, "The quick brown fox jumps."]), "", "The quick brown fox."],
        [record] * 5,
    )
    assert 0 < half < whole <= 1 and nothing == foreign == 0
    assert more < whole
    # By hand: each sentence's own map against its own gaze.
    tokens = reward.processor.tokenize_sentences(spoken)
    maps = reward.model.predict_gaze(
        record[PATCHES][None], tokens["input_ids"], tokens["attention_mask"], torch.zeros(len(spoken), dtype=torch.long)
    )
    size = (record["image_width"], record["image_height"])
    targets = reward.processor(gaze=[record["gaze"][:1]], image_size=[size])["gaze_targets"][:-1].numpy()
    expected = agreements(maps.detach().numpy(), targets, np.ones(len(spoken), bool)).mean()
    assert whole == pytest.approx(expected, abs=1e-5)
    # Neither the order nor the company of reports counts.
    again = reward([spoken[0], " ".join(spoken)], [record, other])
    assert again[0] == pytest.approx(half, abs=1e-5)


def test_lesion_masks_stand_in_for_gaze(gaze_reward):
    reward, (record, _) = gaze_reward
    everywhere = np.full((record["image"].size[1], record["image"].size[0]), 255, np.uint8)
    region = {"label": "Edema", "box": [0, 0, 1, 1], "mask": everywhere, "sentence": 0}
    bare = record | {"gaze": [], "findings": "There is edema. Heart is normal.", "regions": [region]}
    assert reward(["There is edema.", "There is edema. More words here."], [bare] * 2) == [1, 1]
    assert reward(["Heart is normal."], [bare]) == [0]
    assert reward(["There is edema."], [bare | {"regions": []}]) == [None]
