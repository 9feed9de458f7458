import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processing.datasets.phantom import load_phantom
from processing.datasets.phantom.anatomy import STRUCTURE_NAMES, load_body
from processing.datasets.phantom.appearance import WIDE, Appearance
from processing.datasets.phantom.exposure import aim, bend, warp, warp_all
from processing.datasets.phantom.habitus import landmarks, surround
from processing.datasets.phantom.overlays import mark, objects
from processing.datasets.phantom.plan import OBSERVATION_OF, Patient
from processing.datasets.phantom.rendering import render_study
from tests.processing.datasets.phantom.test_rendering import PATIENT, digest, make_lesion, make_plan

CODE = """
from tests.processing.datasets.phantom.test_rendering import *
plan = make_plan(make_lesion("edema"), make_lesion("central_line", "right"), views=("AP", "LATERAL"))
print(digest(render_study(plan, 96, "wide")))
"""


def render(*lesions, view="PA", size=128):
    return render_study(make_plan(*lesions, views=(view,)), size, WIDE)[0]


@pytest.fixture(scope="module")
def camera():
    return aim(load_body(0, WIDE), PATIENT, "PA", np.random.default_rng(0), 96, Appearance())


def test_same_plan_same_bytes_here_and_in_another_process():
    plan = make_plan(make_lesion("edema"), make_lesion("central_line", "right"), views=("AP", "LATERAL"))
    here = digest(render_study(plan, 96, WIDE))
    run = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    assert run.stdout.strip() == here, run.stderr


def test_shapes_types_and_names():
    for rendering in render_study(make_plan(make_lesion("effusion"), views=("PA", "LATERAL")), 80, WIDE):
        assert rendering.image.shape == (80, 80) and rendering.image.dtype == np.uint8
        assert rendering.lesion_masks[0].dtype == bool and rendering.lesion_masks[0].any()
        assert set(rendering.anatomy) == set(STRUCTURE_NAMES)
        assert all(0 <= cover.min() and cover.max() <= 1 for cover in rendering.anatomy.values())


@pytest.mark.parametrize("kind", OBSERVATION_OF)
def test_a_lesion_changes_its_mask_more_than_the_rest(kind):
    healthy, sick = render().image.astype(float), render(make_lesion(kind))
    mask, change = sick.lesion_masks[0], np.abs(sick.image - healthy)
    assert mask.any() and not mask.all()
    assert change[mask].mean() > 1.5 * change[~mask].mean() and change[mask].mean() > 1


def test_the_left_side_is_on_the_viewers_right():
    for kind in ("effusion", "nodule", "pacemaker"):
        columns = [np.nonzero(render(make_lesion(kind, side)).lesion_masks[0])[1].mean() for side in ("left", "right")]
        assert columns[0] > columns[1] + 10


def test_patients_differ_more_and_one_patient_keeps_his_shape():
    def lungs(seed, view_seed):
        plan = replace(make_plan(patient=replace(PATIENT, seed=seed)), view_seeds=(view_seed,))
        anatomy = render_study(plan, 64, WIDE)[0].anatomy
        return np.array([anatomy["left lung"].sum(), anatomy["right lung"].sum(), anatomy["heart"].sum()])

    one = np.stack([lungs(11, view) for view in range(5)])
    ratio = one[:, 2] / one[:, :2].sum(1)  # of heart to lungs: free of the field
    many = np.stack([lungs(seed, 0) for seed in range(5)])
    assert ratio.std() < (many[:, 2] / many[:, :2].sum(1)).std()


def test_soft_tissue_goes_on_beyond_the_ct(camera):
    body = load_body(0, WIDE)
    x, z = camera.plane()
    marks = landmarks(body, camera)
    whole = surround(np.zeros((96, 96)), body, PATIENT, camera, Appearance(arms=1.0), np.random.default_rng(1))
    beside = np.abs(x - marks.middle) > marks.half + 12
    chest = (z > marks.dome) & (z < marks.apex - 60)
    assert (whole >= 0).all()
    assert np.median(whole[np.ix_(chest, beside)]) > 30


def test_a_mastectomy_takes_away_one_breast(camera):
    body, look = load_body(0, WIDE), Appearance()
    woman = replace(PATIENT, sex="F", build=0.7)
    kept, taken = (
        surround(np.zeros((96, 96)), body, woman, camera, replace(look, mastectomy=share), np.random.default_rng(1))
        for share in (0.0, 1.0)
    )
    difference = kept - taken
    assert difference.max() > 5 and difference.min() > -1  # gas is seen through less
    columns = np.average(np.arange(96), weights=difference.sum(0))
    spread = np.sqrt(np.average((np.arange(96) - columns) ** 2, weights=difference.sum(0)))
    assert spread < 20  # on one side alone


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_a_bent_picture_shows_each_place_where_its_mask_does(seed, place):
    body = load_body(0, WIDE)
    rng = np.random.default_rng(place)
    camera = aim(body, PATIENT, "PA", rng, 96, Appearance())
    shift = bend(Patient("p", seed, 50, "F", 0.4), camera, rng, Appearance(roll=6.0))
    row, column = rng.uniform(20, 76, 2)
    rows, columns = np.mgrid[:96, :96]
    disc = (np.hypot(rows - row, columns - column) < 9).astype(np.float32)
    picture, mask = warp(100 * disc, shift, order=3), warp(disc, shift) > 0.5
    assert mask.any()
    assert ((picture > 50) != mask).mean() < 0.004


def test_no_displacement_changes_nothing():
    image = np.random.default_rng(0).normal(size=(40, 40))
    np.testing.assert_allclose(warp(image, np.zeros((2, 40, 40)), order=3), image, atol=1e-9)


def test_several_images_are_warped_as_each_by_itself():
    rng = np.random.default_rng(2)
    images, shift = rng.uniform(0, 1, (3, 32, 32)).astype(np.float32), rng.normal(0, 6, (2, 32, 32))
    expected = [warp(image, shift) for image in images]
    np.testing.assert_allclose(warp_all(images, shift), expected, atol=1e-5)


@pytest.mark.parametrize("view", ["PA", "AP", "LATERAL"])
def test_marks_stay_within_grey_levels_and_objects_only_add(view):
    anatomy = render(view=view, size=64).anatomy
    for seed in range(40):
        rng = np.random.default_rng(seed)
        assert objects(64, view, anatomy, 5.0, rng).min() >= 0
        grey = mark(np.full((64, 64), 0.5), view, rng)
        assert 0 <= grey.min() and grey.max() <= 1


def test_an_unknown_appearance_is_named():
    with pytest.raises(ValueError, match="appearance.*broad"):
        render_study(make_plan(), 64, "broad")
    with pytest.raises(ValueError, match="appearance.*broad"):
        load_phantom("test", 1, appearance="broad")


def test_appearances_share_plans_and_texts_and_not_pictures(tmp_path):
    narrow, wide = (
        load_phantom("test", 2, image_size=64, num_proc=1, cache_dir=tmp_path, appearance=a) for a in ("narrow", "wide")
    )
    for column in ("study_id", "findings", "labels", "indication", "view_position"):
        assert narrow[column][:] == wide[column][:]
    assert all(np.any(np.asarray(a) != np.asarray(b)) for a, b in zip(narrow["image"], wide["image"], strict=True))
