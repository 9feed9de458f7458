import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processing.datasets.phantom.anatomy import STRUCTURE_NAMES, load_body
from processing.datasets.phantom.lesions import VOLUME_LESIONS
from processing.datasets.phantom.plan import OBSERVATION_OF, Lesion, Patient, StudyPlan
from processing.datasets.phantom.projection import SLAB, SOURCE_DISTANCE, WATER, AxisMap, Camera
from processing.datasets.phantom.rendering import film, render_study

ROOT = Path(__file__).parents[4]
PATIENT = Patient("p", seed=11, age=55, sex="M", build=0.3)
LOBE_OF = {"left": "left lower lobe", "right": "right lower lobe"}
LOBAR = ("opacity", "consolidation", "nodule", "mass", "atelectasis")
MIDLINE = ("cardiomegaly", "wide_mediastinum", "endotracheal_tube", "enteric_tube")


def make_plan(*lesions, views=("PA",), patient=PATIENT):
    return StudyPlan("s", patient, lesions, views, tuple(range(7, 7 + len(views))))


def make_lesion(kind, side="left", severity=0.8):
    if kind in MIDLINE:
        return Lesion(kind, "midline", "", severity, 3)
    return Lesion(kind, side, LOBE_OF[side] if kind in LOBAR else "", severity, 3)


def example_plan():
    return make_plan(make_lesion("edema"), make_lesion("central_line", "right"), views=("AP", "LATERAL"))


def render(*lesions, view="PA", size=128):
    return render_study(make_plan(*lesions, views=(view,)), size)[0]


def digest(renderings):
    state = hashlib.sha256()
    for rendering in renderings:
        state.update(rendering.image.tobytes())
        for mask in rendering.lesion_masks:
            state.update(mask.tobytes())
        for name in sorted(rendering.anatomy):
            state.update(name.encode() + rendering.anatomy[name].tobytes())
    return state.hexdigest()


def test_shapes_types_and_names():
    lesions = (make_lesion("effusion"), make_lesion("pacemaker"))
    renderings = render_study(make_plan(*lesions, views=("PA", "AP", "LATERAL")), 96)
    assert len(renderings) == 3
    for rendering in renderings:
        assert rendering.image.shape == (96, 96) and rendering.image.dtype == np.uint8
        assert [m.shape for m in rendering.lesion_masks] == [(96, 96)] * 2
        assert all(m.dtype == bool and m.any() for m in rendering.lesion_masks)
        for name, cover in rendering.anatomy.items():
            assert name in STRUCTURE_NAMES
            assert cover.shape == (64, 64) and cover.dtype == np.float32
            assert 0 <= cover.min() and cover.max() <= 1
    assert set(renderings[0].anatomy) == set(STRUCTURE_NAMES)
    images = [r.image.astype(float) for r in renderings]
    assert min(np.abs(a - b).mean() for a, b in ((images[0], images[1]), (images[0], images[2]))) > 3


def test_same_plan_same_bytes_here_and_in_another_process():
    plan = example_plan()
    render_study(make_plan(make_lesion("mass")), 64)  # what came before leaves no trace
    here = digest(render_study(plan, 96))
    assert digest(render_study(plan, 96)) == here
    code = "from test_rendering import *; print(digest(render_study(example_plan(), 96)))"
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{Path(__file__).parent}"}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert run.stdout.strip() == here, run.stderr


@pytest.mark.parametrize("kind", OBSERVATION_OF)
def test_a_lesion_changes_its_mask_more_than_the_rest(kind):
    healthy = render(size=160).image.astype(float)
    for side in ("left", "right"):
        sick = render(make_lesion(kind, side), size=160)
        mask = sick.lesion_masks[0]
        change = np.abs(sick.image - healthy)
        assert mask.any() and not mask.all()
        assert change[mask].mean() > 2 * change[~mask].mean()  # the exposure follows large lesions
        assert change[mask].mean() > 1


@pytest.mark.parametrize("kind", ["effusion", "consolidation", "mass", "pacemaker"])
def test_dense_lesions_are_brighter(kind):
    sick = render(make_lesion(kind))
    mask = sick.lesion_masks[0]
    assert sick.image[mask].mean() > render().image[mask].mean() + 5


def test_pneumothorax_is_darker():
    sick = render(make_lesion("pneumothorax", severity=1.0))
    mask = sick.lesion_masks[0]
    assert sick.image[mask].mean() < render().image[mask].mean() - 3


@pytest.mark.parametrize("kind", [k for k in VOLUME_LESIONS if k not in MIDLINE] + ["chest_tube"])
@pytest.mark.parametrize("view", ["PA", "AP"])
def test_the_left_side_is_on_the_viewers_right(kind, view):
    middle = np.average(np.arange(64), weights=render(view=view).anatomy["spine"].sum(0)) * 2
    for side, sign in (("left", 1), ("right", -1)):
        columns = np.flatnonzero(render(make_lesion(kind, side), view=view).lesion_masks[0].any(0))
        assert sign * (columns.mean() - middle) > 0


def test_anatomy_lies_where_it_should():
    anatomy = render().anatomy
    rows, columns = np.mgrid[:64, :64]
    x = {name: np.average(columns, weights=cover) for name, cover in anatomy.items()}
    y = {name: np.average(rows, weights=cover) for name, cover in anatomy.items()}
    assert x["right lung"] < x["trachea"] < x["left lung"]
    assert x["heart"] > x["spine"]
    for side in ("left", "right"):
        assert y[f"{side} apex"] < y[f"{side} hilum"] < y[f"{side} costophrenic angle"]
        lung = anatomy[f"{side} lung"] > 0.5
        assert anatomy[f"{side} lower lobe"][lung].sum() > 0.9 * anatomy[f"{side} lower lobe"].sum()
    assert y["clavicles"] < y["heart"] < y["diaphragm"]


def test_severity_widens_the_heart():
    def width(severity):
        rendering = render(make_lesion("cardiomegaly", severity=severity))
        assert (rendering.anatomy["heart"] >= render().anatomy["heart"]).all()
        return rendering.lesion_masks[0].any(0).sum()

    healthy = (render().anatomy["heart"] > 0.5).any(0).sum() * 2
    assert healthy < width(0.0) < width(0.5) < width(1.0)


@pytest.mark.parametrize("kind", ["opacity", "consolidation", "effusion", "pneumothorax", "nodule", "edema"])
def test_severity_makes_a_lesion_plainer(kind):
    healthy = render().image.astype(float)
    change = [np.abs(render(make_lesion(kind, severity=s)).image - healthy).sum() for s in (0.0, 0.5, 1.0)]
    assert change[0] < change[1] < change[2]


@pytest.mark.parametrize("kind", ["effusion", "edema", "opacity"])
def test_bilateral_lesions_are_on_both_sides(kind):
    rendering = render(Lesion(kind, "bilateral", "", 0.8, 4))
    left, right = (
        np.kron(rendering.anatomy[f"{side} lung"] > 0.5, np.ones((2, 2), bool)) for side in ("left", "right")
    )
    assert (rendering.lesion_masks[0] & left & ~right).any() and (rendering.lesion_masks[0] & right & ~left).any()


def test_a_study_does_not_depend_on_its_other_views():
    alone = render_study(make_plan(make_lesion("effusion")), 96)
    both = render_study(make_plan(make_lesion("effusion"), views=("PA", "LATERAL")), 96)
    assert digest(alone) == digest(both[:1])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"views": ("OBLIQUE",)}, "views.*OBLIQUE"),
        ({"view_seeds": (1, 2)}, "view_seeds"),
        ({"lesions": (Lesion("wart", "left"),)}, "wart"),
        ({"lesions": (Lesion("mass", "left", "left toe"),)}, "left toe"),
        ({"lesions": (Lesion("mass", "up", "left lower lobe"),)}, "side.*up"),
        ({"lesions": (Lesion("mass", "left", "left lower lobe", 2.0),)}, "severity"),
    ],
)
def test_errors_name_what_is_wrong(change, named):
    with pytest.raises(ValueError, match=named):
        render_study(replace(make_plan(), **change), 64)


def test_too_small_a_picture():
    with pytest.raises(ValueError, match="image_size"):
        render_study(make_plan(), 8)


def make_camera(view, shape=(40, 40, 40), size=64, **pose):
    axes = [AxisMap([0, n], [0, 2 * n]) for n in shape]
    pose = {"turn": 0.0, "tilt": 0.0, "centre": (40.0, 40.0), "field": 100.0} | pose
    return Camera(view, axes, shape, image_size=size, **pose)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(sorted(SOURCE_DISTANCE)),
    st.tuples(*[st.integers(8, 32)] * 3),
    st.floats(-0.08, 0.08),
    st.floats(-0.08, 0.08),
)
def test_volumes_project_to_where_points_do(view, voxel, turn, tilt):
    camera = make_camera(view, turn=turn, tilt=tilt)
    cube = np.full((4, 4, 4), WATER, np.int16)
    path = camera.project_box(tuple(v - 2 for v in voxel), cube)
    (column, row), scale = (a[0] for a in camera.points([np.array(voxel) - 0.5]))
    rows, columns = np.mgrid[:64, :64]
    assert abs(np.average(columns, weights=path) - column) < 0.35 + 4 * SLAB * abs(turn)
    assert abs(np.average(rows, weights=path) - row) < 0.35 + 4 * SLAB * abs(tilt)
    # 8 mm of water, on an area of 8 mm by 8 mm magnified.
    assert path.sum() == pytest.approx(8 * (8 * scale) ** 2, rel=0.03)


def test_magnification_is_that_of_a_point_source():
    camera = make_camera("AP")
    near, far = camera.points([[10, 5, 10], [10, 35, 10]])[1] * camera.pixel
    # The detector is 25 mm behind the first voxel's centre, the source 1 m from it.
    assert near == pytest.approx(1000 / (1000 - 25 - 10))
    assert far == pytest.approx(1000 / (1000 - 25 - 70))


def test_projection_of_a_part_equals_the_whole():
    rng = np.random.default_rng(0)
    volume = np.zeros((40, 40, 40), np.int16)
    volume[6:19, 9:22, 11:30] = rng.integers(0, 200, (13, 13, 19))
    for view in SOURCE_DISTANCE:
        camera = make_camera(view, turn=0.05, tilt=0.03)
        part = camera.project_box((6, 9, 11), volume[6:19, 9:22, 11:30])
        assert np.abs(part - camera.project_box((0, 0, 0), volume)).max() < 1e-9


def test_film_darkens_with_exposure_and_keeps_air_black():
    path = np.full((64, 64), 150.0)
    path[:, :8], path[20:40, 20:40] = 0.0, 220.0
    image = film(path, np.random.default_rng(0), 2.0, frontal=False).astype(float)
    assert image[10:50, 1:6].max() < 20
    assert image[22:38, 22:38].mean() > image[45:60, 22:38].mean() + 20


def test_bodies_differ_and_are_counted():
    assert (load_body(0).density != load_body(1).density).mean() > 0.1
    with pytest.raises(ValueError, match="index"):
        load_body(1000)
