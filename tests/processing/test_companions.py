"""Other views and priors in the processor's calls and records."""

import numpy as np
import pytest
import torch
from PIL import Image

from processing import CoGazeProcessor
from processing.tokenization import PRIOR_TOKEN, build_tokenizer
from tests.processing.test_processing_cogaze import TEXTS, make_processor, picture


@pytest.fixture(scope="module")
def processor() -> CoGazeProcessor:
    made = make_processor(max_companions=2)
    return CoGazeProcessor(
        made.image_processor, build_tokenizer(TEXTS * 5, 321, prior=True), grid_size=(4, 4), max_companions=2
    )


def test_lists_give_each_companion_its_row(processor):
    batch = processor(
        images=[picture(0), picture(1), picture(2)],
        view_position=["PA", "AP", "PA"],
        other_images=[None, [picture(3)], picture(4)],
        other_views=[None, ["lateral"], None],
        prior_images=[picture(5), None, [picture(6)]],
        prior_view_position=["AP", "", None],
        prior_days=[12, None, None],
        prior_report=["Lungs are clear.", None, ""],
    )
    assert batch["companion_index"].tolist() == [0, 1, 2, 2]
    assert batch["companion_role_ids"].tolist() == [1, 0, 0, 1]
    assert batch["companion_days"].tolist() == [12, 0, 0, -1]
    views = [processor.view_positions[i] for i in batch["companion_view_ids"]]
    assert views == ["AP", "LATERAL", "", ""]
    seen = processor(images=[picture(5), picture(3), picture(4), picture(6)])["pixel_values"]
    assert batch["companion_pixel_values"].equal(seen)
    prior = processor.tokenizer.convert_tokens_to_ids(PRIOR_TOKEN)
    assert (batch["context_input_ids"] == prior).sum(1).tolist() == [1, 0, 0]
    assert batch["context_attention_mask"].any(1).tolist() == [True, False, False]


def test_one_study_takes_single_values(processor):
    single = processor(images=picture(0), prior_images=picture(1), prior_days=3.5, prior_report="Clear lungs.")
    assert single["companion_pixel_values"].shape == (1, 3, 32, 32) and single["companion_days"].tolist() == [3.5]
    several = processor(images=picture(0), other_images=[picture(1), picture(2)], other_views=["LL", ""])
    assert several["companion_index"].tolist() == [0, 0]
    assert "companion_index" not in processor(images=picture(0))


def test_the_prior_report_stands_behind_its_token(processor):
    texts = {"indication": "Cough.", "history": "Fever.", "prior_report": f"Clear lungs {PRIOR_TOKEN}."}
    ids = processor(images=picture(0), prior_images=picture(1), **texts)["context_input_ids"][0]
    written = processor.tokenizer.decode(ids)
    assert written.index("[HISTORY]") < written.index(PRIOR_TOKEN) and written.count(PRIOR_TOKEN) == 1
    assert "Clear lungs" in written.split(PRIOR_TOKEN)[1]


BAD = [
    ({"prior_days": -1, "prior_images": 1}, r"prior_days\[0\]: -1; .* a prior lies before"),
    ({"prior_days": float("nan"), "prior_images": 1}, r"prior_days\[0\]: nan"),
    ({"prior_days": "soon", "prior_images": 1}, r"prior_days\[0\]: 'soon'"),
    ({"prior_days": [1, 2], "prior_images": 1}, r"prior_days\[0\]: 2 entries for 1 priors"),
    ({"prior_report": "Clear."}, r"prior_report\[0\]: there is no prior; give prior_images"),
    ({"prior_days": 4}, r"prior_days\[0\]: there is no prior"),
    ({"prior_view_position": "PA"}, r"prior_view_position\[0\]: there is no prior"),
    ({"other_images": [None]}, r"other_images\[0\]: a companion without an image"),
    ({"other_images": 3}, r"other_images\[0\]: 3 other views and 0 priors are more than the 2 companions"),
    ({"other_images": 2, "prior_images": 1}, r"other_images\[0\]: 2 other views and 1 priors are more"),
    ({"other_images": 2, "other_views": ["PA"]}, r"other_views\[0\]: 1 entries for 2 images in other_images"),
    ({"other_images": 1, "other_views": "SIDEWAYS"}, r"other_views\[0\]: 'SIDEWAYS' is unknown"),
    ({"prior_images": Image.new("L", (40, 40))}, r"prior_images\[0\]: every pixel has the same value"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_bad_companions_are_named(processor, arguments, message):
    for name in ("other_images", "prior_images"):
        if isinstance(arguments.get(name), int):
            arguments = arguments | {name: [picture(i) for i in range(arguments[name])]}
    with pytest.raises(ValueError, match=message):
        processor(images=picture(0), **arguments)
    lists = {name: [None, value] for name, value in arguments.items()}
    with pytest.raises(ValueError, match=message.replace(r"\[0\]", r"\[1\]")):
        processor(images=[picture(0), picture(1)], **lists)


def test_a_processor_without_companions_refuses_them():
    with pytest.raises(ValueError, match="more than the 0 companions .*max_companions"):
        make_processor()(images=picture(0), prior_images=picture(1))
    plain = make_processor(max_companions=1)
    with pytest.raises(ValueError, match=r"prior_report: the tokenizer has no \[PRIOR\]"):
        plain(images=picture(0), prior_images=picture(1), prior_report="Clear.")


def record(seed=0, companions=(), **fields):
    own = {"image": picture(seed), "image_width": 48, "image_height": 40, "image_id": f"i{seed}", "study_id": "s"}
    return own | {"findings": "Lungs are clear.", "companions": list(companions)} | fields


def companion(seed, role="prior", days=9.0, view="PA"):
    return {"role": role, "image_id": f"i{seed}", "image": picture(seed), "view_position": view, "days": days}


def test_records_bring_their_companions(processor):
    records = [
        record(0, [companion(1, "view", 0.0, "LATERAL"), companion(2)], prior_findings="No pleural effusion."),
        record(3),
        record(4, [companion(5, days=None)], prior_findings=""),
    ]
    batch = processor.collate(records)
    called = processor(
        images=[each["image"] for each in records],
        other_images=[picture(1), None, None],
        other_views=["LATERAL", None, None],
        prior_images=[picture(2), None, picture(5)],
        prior_view_position=["PA", None, "PA"],
        prior_days=[9, None, None],
        prior_report=["No pleural effusion.", "", ""],
    )
    for name in [name for name in called if name.startswith(("companion", "context"))]:
        torch.testing.assert_close(batch[name], called[name])
    alone = make_processor().collate(records)
    assert not [name for name in alone if name.startswith("companion")]
    with pytest.raises(ValueError, match=r"records\[1\] \(image_id i7\): prior_days\[0\]: -2"):
        processor.collate([record(6), record(7, [companion(8, days=-2.0)])])


def test_stored_features_take_the_place_of_pictures(processor):
    stored = companion(1) | {"image": {"vision_features": torch.ones(17, 8)}}
    features = {"picture_size": (48, 40), "vision_features": torch.zeros(17, 8)}
    batch = processor.collate([record(0, [stored]) | features, record(2) | features])
    assert batch["companion_vision_features"].shape == (1, 17, 8) and "companion_pixel_values" not in batch
    np.testing.assert_array_equal(batch["companion_index"], [0])
