"""What the Space asks of a model, without a server."""

import itertools
import shutil
import threading

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_cogaze import CoGazeForPreTraining
from processing.reports import STRUCTURED_HEADERS, parse_structured
from tests.spaces.studies import REPORTS, picture


@pytest.fixture(scope="module")
def studies(report_model):
    return [report_model.study(picture(number)) for number in range(4)]


def final(model, study, **options):
    from report_model import Context

    return list(model.write(study, options.pop("context", Context()), **options))[-1]


def test_a_report_streams_in_and_ends_with_its_sentences(report_model, studies):
    from report_model import Context

    for study, expected in zip(studies, REPORTS, strict=True):
        parts = list(report_model.write(study, Context()))
        texts = [part.text for part in parts]
        assert texts[-1] == expected
        assert len(parts) > 3 and all(later.startswith(earlier) for earlier, later in itertools.pairwise(texts))
        assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
        assert " ".join(sentence.text for sentence in parts[-1].sentences) == expected
        for sentence in parts[-1].sentences:
            assert sentence.gaze_map.shape == tuple(report_model.processor.grid_size)
            assert sentence.gaze_map.sum() == pytest.approx(1, abs=1e-5)
            assert 0 <= sentence.map_confidence <= 1 and 0 <= sentence.text_confidence <= 1


def test_reports_written_side_by_side_are_not_mixed(report_model, studies):
    reports = [None] * 12

    def write(place: int) -> None:
        reports[place] = final(report_model, studies[place % 4])

    threads = [threading.Thread(target=write, args=(place,)) for place in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    alone = [final(report_model, study) for study in studies]
    for place, report in enumerate(reports):
        assert report.text == alone[place % 4].text
        for mine, other in zip(report.sentences, alone[place % 4].sentences, strict=True):
            np.testing.assert_allclose(mine.gaze_map, other.gaze_map, atol=1e-6)


def test_a_report_that_nobody_waits_for_is_given_up(report_model, studies):
    from report_model import Context

    before = threading.active_count()
    writing = report_model.write(studies[0], Context())
    next(writing)
    writing.close()
    assert threading.active_count() == before


def test_structured_by_rules_keeps_every_sentence_under_a_heading(report_model, studies):
    report = final(report_model, studies[3], kind="structured")
    assert parse_structured(report.text)
    assert sorted(sentence.text for sentence in report.sentences) == sorted(
        ["There is pulmonary edema.", "A pacemaker is in place.", "The heart is normal."]
    )
    ranks = [STRUCTURED_HEADERS.index(sentence.heading) for sentence in report.sentences]
    assert ranks == sorted(ranks) and len(set(ranks)) == 3
    free = {sentence.text: sentence.gaze_map for sentence in final(report_model, studies[3]).sentences}
    for sentence in report.sentences:
        np.testing.assert_allclose(sentence.gaze_map, free[sentence.text], atol=1e-6)


def test_a_structured_generator_writes_nothing_else(report_model, studies):
    from report_model import ReportModel

    own = (report_model.model, report_model.processor)
    model = ReportModel(*own, structured=own)
    report = final(model, studies[0], kind="structured")
    sections = parse_structured(report.text)
    assert sections and report.text.splitlines()[0].rstrip(":") in STRUCTURED_HEADERS
    assert all(sentence.heading in sections for sentence in report.sentences)


def test_gaze_is_the_models_own_map(report_model, studies):
    sentence = "The heart is enlarged."
    tokens = report_model.processor.tokenize_sentences([sentence])
    expected = report_model.encoder.get_gaze_maps(studies[1].pixel_values, **tokens)
    np.testing.assert_allclose(report_model.gaze(studies[1], sentence).ravel(), expected[0].detach().numpy(), atol=1e-6)


def test_zero_shot_shares_are_a_softmax_of_the_cosines(report_model, studies):
    from report_model import Context

    rows = report_model.zero_shot(studies[2], Context("PA", "Cough.", ""), ["An effusion.", "No effusion.", "Edema."])
    cosines = np.array([cosine for _, cosine, _ in rows])
    logits = np.exp(cosines * report_model.encoder.logit_scale.exp().item())
    np.testing.assert_allclose([share for *_, share in rows], logits / logits.sum(), atol=1e-5)
    assert [prompt for prompt, *_ in rows] == ["An effusion.", "No effusion.", "Edema."]


def test_observations_come_from_prompts_or_from_a_disease_head(report_model, studies, checkpoints):
    from report_model import Context, ReportModel

    zero_shot = report_model.observations(studies[0], Context())
    assert len(zero_shot) == 14 and all(0 < share < 1 for share in zero_shot.values())
    model = ReportModel.open(str(checkpoints["report"]), classifier=str(checkpoints["pretraining"]), device="cpu")
    scores = model.observations(studies[0], Context("PA", "Cough.", ""))
    head = CoGazeForPreTraining.from_pretrained(checkpoints["pretraining"]).eval()
    inputs = model.processor(images=picture(0), view_position="PA", indication="Cough.", history="")
    expected = head(**inputs).vision_logits[0].sigmoid().detach().numpy()
    np.testing.assert_allclose(list(scores.values()), expected, atol=1e-5)
    assert list(scores) == head.config.label_names
    model.classifier[0].config.positives_per_class = [0, *[5] * 13]
    assert list(model.observations(studies[0], Context()).values())[0] is None


def test_similar_cases_are_those_of_the_index_beside_the_checkpoint(report_model, studies, checkpoints, tmp_path):
    from datasets import Dataset

    from report_model import Context, ReportModel
    from training.data.feature_cache import weights_fingerprint
    from training.reports.similar_cases import SimilarCases

    with pytest.raises(ValueError, match="without an index"):
        report_model.similar(studies[0], Context())
    names = ("findings", "study_id", "patient_id", "image_id")
    cases = Dataset.from_list(
        [dict.fromkeys(names, f"{number}") | {"findings": REPORTS[number]} for number in range(4)]
    )
    latents = torch.stack([report_model._image_embedding(study, Context()) for study in studies]).detach().numpy()
    folder = tmp_path / "report"
    shutil.copytree(checkpoints["report"], folder)
    SimilarCases(cases, latents, weights_fingerprint(report_model.encoder)).save(folder / "similar_cases")
    found = ReportModel.open(str(folder), device="cpu").similar(studies[2], Context(), 3)
    assert found[0] == (REPORTS[2], pytest.approx(1, abs=1e-5)) and len(found) == 3
    SimilarCases(cases, latents, "another").save(folder / "similar_cases")
    with pytest.raises(ValueError, match="another"):
        ReportModel.open(str(folder), device="cpu")


def test_the_box_is_what_the_model_sees(report_model):
    wide = report_model.study(Image.fromarray(np.tile(np.arange(200, dtype=np.uint8), (100, 1))))
    assert wide.box == pytest.approx((0.25, 0, 0.75, 1), abs=0.02)
    large = report_model.study(Image.fromarray(np.tile(np.arange(2100) % 256, (2100, 1)).astype(np.uint8)))
    assert max(large.shown.size) == 1024


def test_wrong_checkpoints_are_named(checkpoints, tmp_path):
    from report_model import ReportModel

    with pytest.raises(ValueError, match="COGAZE_MODEL.*CoGazeForConditionalGeneration"):
        ReportModel.open(str(checkpoints["pretraining"]))
    with pytest.raises(ValueError, match="COGAZE_CLASSIFIER.*disease head"):
        ReportModel.open(str(checkpoints["report"]), classifier=str(checkpoints["report"]))
    with pytest.raises(ValueError, match="COGAZE_MODEL.*not to be had"):
        ReportModel.open("org/missing")
