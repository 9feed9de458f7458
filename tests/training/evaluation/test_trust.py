"""Support of generated sentences: truth by labels and sides, the fitted model, and what a checkpoint says with it."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from modeling_cogaze import CoGazeForConditionalGeneration
from modeling_cogaze.support import SIGNS, SupportHead, fingerprint_of
from processing import CoGazeProcessor
from processing.datasets.phantom.labeler import phantom_labels
from processing.datasets.records import CHEXBERT_OBSERVATIONS as NAMES
from processing.reports import sentence_spans, without_sentences
from processing.statements import agreement
from training.calibrate_support import main as calibrate_support
from training.evaluation.trust import (
    JudgedSentences,
    attach_support,
    disease_heads,
    empty_head,
    fit_support,
    judge_sentences,
    save_model,
    supported,
    trust,
)
from training.figures.trust import draw_trust
from training.metrics.sentences import risk_at, risk_coverage, sentence_is_right, trust_scores
from training.reports.writing import ReportWriter


def right(text, known, regions=(), width=100):
    return sentence_is_right(phantom_labels(text), known, NAMES, text, regions, width)


def known(**present):
    codes = [-1] * len(NAMES)
    for name, code in present.items():
        codes[NAMES.index(name.replace("_", " "))] = code
    return codes


def test_a_sentence_is_right_where_all_that_it_says_is_so():
    effusion = known(Pleural_Effusion=1)
    assert right("There is a pleural effusion.", effusion) is True
    assert right("No pleural effusion.", effusion) is False
    assert right("No pneumothorax.", effusion) is True
    assert right("No pleural effusion or pneumothorax.", effusion) is False
    assert right("There is a pleural effusion and edema.", effusion) is False
    assert right("Possible pleural effusion.", known(Pleural_Effusion=2)) is True
    assert right("The views were obtained.", effusion) is None


def test_a_side_is_judged_where_the_picture_shows_it():
    effusion = known(Pleural_Effusion=1)
    left = [{"label": "Pleural Effusion", "box": [60, 50, 90, 90]}]
    assert right("There is a left pleural effusion.", effusion, left) is True
    assert right("There is a right pleural effusion.", effusion, left) is False
    assert right("There are left and right pleural effusions.", effusion, left) is True
    assert right("There is a right pleural effusion.", effusion) is True  # no region says where


def test_risk_and_coverage_are_counted_as_one_would_by_hand():
    support, truth = np.array([0.9, 0.2, 0.8, 0.4]), np.array([True, False, False, True])
    kept, risk = risk_coverage(support, truth)
    np.testing.assert_allclose(kept, [0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(risk, [0, 1 / 2, 1 / 3, 2 / 4])
    assert risk_at(support, truth, 0.7) == pytest.approx(1 / 3) and risk_at(support, truth, 1) == 0.5
    assert trust_scores(support, truth)["support_auroc"] == 0.75


def judged(count=400, seed=0, signs=3):
    rng = np.random.default_rng(seed)
    values, affirms = rng.normal(size=(count, signs)) * [1, 5, 0.1] + [0, 3, 1], rng.random(count) < 0.5
    odds = np.where(affirms, 1.5 * values[:, 0], 0.4 * (values[:, 1] - 3)) + 0.5
    truth = rng.random(count) < 1 / (1 + np.exp(-odds))
    patients = np.array([f"p{row // 5}" for row in range(count)])
    return JudgedSentences(values.astype(np.float32), affirms, truth, patients, [""] * count)


def test_the_fitted_model_is_scikit_learns_one_for_each_kind():
    seen, other = judged(), judged(seed=1)
    head = fit_support(SupportHead(["a", "b", "c"]), seen)
    found = supported(head, other)
    for kind in (True, False):
        rows, here = seen.affirms == kind, other.affirms == kind
        mean, std = seen.signs[rows].mean(0), seen.signs[rows].std(0)
        model = LogisticRegression(max_iter=1000).fit((seen.signs[rows] - mean) / std, seen.right[rows])
        expected = model.predict_proba((other.signs[here] - mean) / std)[:, 1]
        np.testing.assert_allclose(found[here], expected, atol=1e-4)
    scores = trust(other, found, rounds=20)
    assert scores["support_auroc"].value > 0.7 and scores["support_ece"].value < 0.15
    assert scores["risk_at_70"].value < scores["risk_at_100"].value and scores["support_auroc"].interval


def test_too_few_wrong_sentences_give_their_share_alone():
    seen = judged(60)
    seen.right[seen.affirms] = True
    head = fit_support(SupportHead(["a", "b", "c"]), seen)
    found = supported(head, seen)[seen.affirms]
    count = seen.affirms.sum()
    np.testing.assert_allclose(found, (count + 1) / (count + 2), atol=1e-5)


def test_sentences_are_left_out_with_what_nothing_is_left_of():
    text = "Heart is large. No effusion. Lungs are clear."
    assert without_sentences(text, [False, True, False]) == "Heart is large. Lungs are clear."
    assert without_sentences(text, [True] * 3) == ""
    structured = "Pleura:\n- No effusion.\n- Small pneumothorax.\n\nCardiovascular:\n- Heart is large."
    assert without_sentences(structured, [True, False, False]) == (
        "Pleura:\n- Small pneumothorax.\n\nCardiovascular:\n- Heart is large."
    )
    assert without_sentences(structured, [False, False, True]) == "Pleura:\n- No effusion.\n- Small pneumothorax."
    assert len(sentence_spans(structured)) == 3


def test_agreement_is_of_words_and_of_what_is_affirmed():
    assert agreement("No pleural effusion.", ["No pleural effusion.", "Large mass."]) == 1
    assert agreement("No pleural effusion.", ["Pleural effusion."]) == 0
    assert agreement("Left pleural effusion.", ["Right pleural effusion."]) == pytest.approx(2 / 3)
    assert agreement("Left effusion.", []) == 0


@pytest.fixture(scope="module")
def generator(tiny_checkpoint):
    processor = CoGazeProcessor.from_pretrained(tiny_checkpoint)
    torch.manual_seed(0)
    model = CoGazeForConditionalGeneration.from_pretraining(
        tiny_checkpoint, processor.tokenizer, initializer_range=0.4
    ).eval()
    model.generation_config.max_new_tokens = 12
    return model, processor


def test_a_checkpoint_is_saved_with_its_support_and_tells_it(generator, tiny_checkpoint, small_phantom, tmp_path):
    model, processor = generator
    head = empty_head(SIGNS, disease_heads(tiny_checkpoint))
    writer = ReportWriter(model, processor, batch_size=3)
    records = [small_phantom[row] for row in range(3)]
    batch = writer.inputs(records)
    before = model.generate(**batch, return_grounding=True, processor=processor)
    assert before.support is None and before.left_out is None
    seen = judge_sentences(writer, small_phantom.select(range(3)), SIGNS, head, 2)
    assert seen.signs.shape == (len(seen), len(SIGNS)) and np.isfinite(seen.signs).all()
    head.coefficients.copy_(torch.randn(2, len(SIGNS)))
    head.scales.fill_(1)
    attach_support(model, head, 2)
    try:
        state = torch.random.get_rng_state()
        grounded = model.generate(**batch, return_grounding=True, processor=processor)
        assert torch.equal(torch.random.get_rng_state(), state)  # sampling takes no draw from anyone
        assert torch.equal(grounded.sequences, before.sequences)
        assert ((grounded.support >= 0) & (grounded.support <= 1)).all() and len(grounded.support)
        again = model.generate(**batch, return_grounding=True, processor=processor, min_support=0.5)
        torch.testing.assert_close(again.support, grounded.support)
        assert torch.equal(again.left_out, grounded.support < 0.5)
        texts = processor.decode_reports(again.sequences)
        for row, (text, kept) in enumerate(zip(texts, again.reports, strict=True)):
            flags = again.left_out[again.sentence_report_index == row].tolist()
            assert kept == without_sentences(text, flags)

        model.save_pretrained(tmp_path)
        save_model(model, tmp_path)
        opened = CoGazeForConditionalGeneration.from_pretrained(tmp_path).eval()
        opened.generation_config.max_new_tokens = 12
        found = opened.generate(**batch, return_grounding=True, processor=processor)
        torch.testing.assert_close(found.support, grounded.support)
        with torch.no_grad():
            opened.decoder.get_input_embeddings().weight.mul_(1.5)
            for parameter in opened.decoder.parameters():
                parameter.add_(0.1)
        with pytest.raises(ValueError, match="another checkpoint's weights"):
            opened.generate(**batch, return_grounding=True, processor=processor)
        assert not torch.allclose(fingerprint_of(opened), fingerprint_of(model), rtol=5e-3)
    finally:
        model.config.support = None
        del model.support
    with pytest.raises(ValueError, match="calibrate_support"):
        model.generate(**batch, return_grounding=True, processor=processor, min_support=0.5)
    with pytest.raises(ValueError, match="return_grounding"):
        model.generate(**batch, min_support=0.5)
    with pytest.raises(ValueError, match="no probability"):
        model.generate(**batch, min_support=2, return_grounding=True, processor=processor)


def test_the_picture_is_drawn(small_phantom, tmp_path):
    seen = judged(100)
    draw_trust(np.linspace(0.1, 0.9, 100), seen.right, tmp_path / "support.png", small_phantom)
    assert (tmp_path / "support.png").stat().st_size > 10_000


def test_the_command_names_a_checkpoint_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="checkpoint: no folder"):
        calibrate_support(["--checkpoint", str(tmp_path / "nowhere"), "--batch_size", "8", "--device", "cpu"])
