"""Ablations on a dozen studies, and what their tables say of made-up results."""

import json
import shutil

import numpy as np
import pytest
import yaml
from PIL import Image
from transformers import TrainingArguments

from training.downstream.tasks import ClassificationArguments, SegmentationArguments
from training.experiments import stages
from training.experiments.plan import EXPERIMENTS, TRAININGS, Experiment, Row, Run, Table, merged, read_experiment
from training.experiments.running import run_experiment
from training.experiments.summary import markdown, summarise
from training.figures.experiments import panels_figure
from training.metrics.reports import MetricOptions
from training.metrics.scores import Score, from_json, to_json
from training.pretraining.training import PretrainArguments
from training.reports.training import ReportArguments
from training.reports.writing import WritingArguments
from training.runs.command_line import parse_arguments
from training.runs.families import FAMILIES
from training.runs.settings import EACH_EPOCH

COMMANDS = {
    "pretrain": ((PretrainArguments,), EACH_EPOCH),
    "report": ((ReportArguments, WritingArguments, MetricOptions), EACH_EPOCH),
    "classification": ((ClassificationArguments,), EACH_EPOCH),
    "segmentation": ((SegmentationArguments,), EACH_EPOCH),
}
FOLDERS = ["context/with", "context/without", "rho/1-0", "egma/both"]


@pytest.fixture(scope="module")
def config(tiny_run, tmp_path_factory):
    """A YAML file of two tables that share their reference, one of EGMA, and a preset of seconds."""
    folder = tmp_path_factory.mktemp("config")
    settings = {name: yaml.safe_load(value) for name, value in tiny_run.items()} | {"num_train_epochs": 1}
    settings["validation_data"]["split"] = "validation"
    encoders = {name: settings["model_overrides"][name] for name in ("vision_config", "text_config")}
    egma = settings | {"model_family": "egma", "model_overrides": encoders | {"pooled_text_layers": 1}}
    classification = {name: settings[name] for name in settings if name not in ("model_size", "vocab_size")}
    classification |= {"model_overrides": {"freeze_vision_encoder": False}, "on_missing_class": "skip"}
    reports = {
        name: classification[name] for name in classification if name not in ("model_overrides", "on_missing_class")
    }
    reports |= {"encode_once": 1, "metrics": ["phantom"], "best_by": ["Phantom labels micro F1"]}
    reports |= {"reference_tokens": 0, "max_new_tokens": 8, "epoch_studies": 2}
    heads = {"classification": classification, "segmentation": classification, "reports": reports}
    for name, values in {"cogaze": settings, "egma": egma, **heads}.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(values))
    shipped = yaml.safe_load((EXPERIMENTS / "ablations.yaml").read_text())
    for name, head in shipped["downstream"].items():
        head["config"] = f"{name}.yaml"
        head["changes"] = head.get("changes", {}) | {"num_train_epochs": 1}
        head["changes"].pop("model_overrides", None)
    small = {"train_data": {"size": 12}, "validation_data": {"size": 4}}
    sizes = {"train": {"size": 12}, "test": {"size": 6}, "gallery": {"size_per_class": 1}}
    rho = {"changes": {"model_overrides": {"gaze_top_fraction": 1.0}}}
    values = shipped | {
        "presets": {"small": {"seeds": [0], "bootstrap": 5, "changes": small, "scoring": sizes}},
        "tables": {
            "context": {
                "title": "Context",
                "config": "cogaze.yaml",
                "rows": {"with": {}, "without": {"changes": {"no_context": True}}},
            },
            "rho": {"title": "rho", "config": "cogaze.yaml", "curve": "rho", "rows": {"0.25": {}, "1.0": rho}},
            "egma": {"title": "EGMA", "config": "egma.yaml", "rows": {"both": {}}},
        },
    }
    (folder / "ablations.yaml").write_text(json.dumps(values))
    return folder / "ablations.yaml"


@pytest.fixture(scope="module")
def output(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("output")
    options = {"experiment": str(config), "output_dir": str(folder)}
    return folder / "small", run_experiment(**options), options


def test_rows_are_trained_once_and_tabulated(output):
    folder, tables, _ = output
    assert sorted(path.parent.relative_to(folder) for path in folder.rglob("seed-0")) == sorted(
        path.relative_to(folder) for path in map(folder.joinpath, FOLDERS)
    )
    files = {name: json.loads((folder / name / "seed-0/metrics.json").read_text()) for name in FOLDERS}
    rows = {key: table["rows"] for key, table in tables.items()}
    computed = {name: score for name, score in files["context/with"]["scores"].items() if "value" in score}
    assert rows["context"][0]["scores"] == rows["rho"][0]["scores"] == computed
    # A model that has never read a context is not asked with one, and EGMA knows none.
    assert ["retrieval_image_to_report_p@1_context" in files[name]["scores"] for name in FOLDERS] == [
        True,
        False,
        True,
        False,
    ]
    # Too few studies for an AUROC: no number.
    assert "zero_shot_macro_auroc" not in rows["context"][0]["scores"]
    assert not list(folder.rglob("checkpoint-*"))
    table = (folder / "table.md").read_text()
    assert "**does not count**" in table and "not that it is clinically useful" in table and "one seed" in table
    assert Image.open(folder / "ablations.png").size[0] > 800
    # EGMA has seen no labels.
    assert [row["label_supervised"] for row in (*rows["context"], *rows["egma"])] == [True, True, False]
    assert "| without † |" in table and "**both** (reference) |" in table


def test_changed_overrides_keep_the_others(output):
    folder, *_ = output
    changed, reference = (
        json.loads((folder / name / "seed-0/config.json").read_text()) for name in ("rho/1-0", "context/with")
    )
    assert changed["gaze_top_fraction"] == 1.0 and reference["gaze_top_fraction"] == 0.25
    assert {name for name in changed if changed[name] != reference[name]} == {"gaze_top_fraction"}


def test_what_is_finished_is_not_run_again(output, monkeypatch):
    _, tables, options = output
    monkeypatch.setattr(stages, "pretrain", None)
    assert run_experiment(**options) == tables
    with pytest.raises(ValueError, match="made with learning_rate"):
        run_experiment(**options, further=["--learning_rate", "0.01"])
    with pytest.raises(ValueError, match="made with bootstrap = 5, now it is 6"):
        run_experiment(**options, bootstrap=6)


def test_what_was_cut_off_goes_on(output, tmp_path, monkeypatch):
    folder, _, options = output
    shutil.copytree(folder, tmp_path / "small")
    run = tmp_path / "small/context/with/seed-0"
    options = options | {"output_dir": str(tmp_path), "only": ["context"]}
    given = []
    with monkeypatch.context() as patch:
        patch.setattr(stages, "pretrain", lambda argv: given.append(argv))
        # Trained, not scored.
        (run / "metrics.json").unlink()
        run_experiment(**options)
        assert not given and (run / "metrics.json").is_file()
        # Within its training.
        (run / "metrics.json").unlink()
        (run / "training.json").rename(run / "later.json")
        (run / "checkpoint-2").mkdir()
        patch.setattr(
            stages, "pretrain", lambda argv: given.append(argv) or (run / "later.json").rename(run / "training.json")
        )
        run_experiment(**options)
    assert given[0][-2:] == ["--resume_from_checkpoint", "True"]


def test_a_head_is_trained_on_each_frozen_encoder(output):
    folder, _, options = output
    heads = ["classification", "segmentation", "reports"]
    table = run_experiment(**options, only=["context"], downstream=heads)["context"]
    asked = {"classification": "macro_auroc", "segmentation": "dice_lesion", "reports": "Phantom labels micro F1"}
    for row, no_context in zip(table["rows"], (False, True), strict=True):
        own = folder / "context" / row["name"] / "seed-0"
        for head, name in asked.items():
            found = from_json(json.loads((own / head / "metrics.json").read_text())["scores"])[name]
            assert found.value is None or row["scores"][head]["value"] == found.value
            settings = json.loads(next((own / head).rglob("settings.json")).read_text())
            assert settings["no_context"] is no_context and settings.get("linear_probe", True)
            assert json.loads(settings["train_data"])["size"] == 12
    assert table["level"]["reports"] >= 0 and "segmentation" not in table["counts"]


def test_unknown_names_are_refused(config, tmp_path):
    options = {"experiment": str(config), "output_dir": str(tmp_path)}
    with pytest.raises(ValueError, match="preset: 'week'"):
        run_experiment(**options, preset="week")
    with pytest.raises(ValueError, match="only: 'loss' is no table or row"):
        run_experiment(**options, only=["loss"])
    with pytest.raises(ValueError, match="downstream: the file has no 'nose'"):
        run_experiment(**options, downstream=["nose"])
    with pytest.raises(ValueError, match="experiment: no file .* shipped are ablations"):
        run_experiment("none")
    with pytest.raises(ValueError, match="seed: .* give --seeds"):
        run_experiment(**options, further=["--seed", "3"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda config: config.pop("tables"), "lacks 'tables'"),
        (lambda config: config["tables"]["rho"].pop("title"), "table 'rho' lacks 'title'"),
        (lambda config: config["tables"]["rho"]["rows"]["1.0"].update(preset="smal"), "row 1.0 .* preset 'smal'"),
        (lambda config: config["tables"]["egma"].update(config="none.yaml"), "'egma' names none.yaml"),
        (lambda config: config["tables"]["egma"].pop("config"), "'egma' lacks 'config'"),
        (lambda config: config["tables"]["egma"].update(reference="neither"), "reference 'neither' of table 'egma'"),
        (lambda config: config["tables"]["egma"].update(chagnes={}), "has the key 'chagnes'"),
        (lambda config: config["tables"]["egma"].update(start_from="all"), "'all', which is no row above it"),
        (lambda config: config.update(stage="pretraining"), "stage: 'pretraining' is none of"),
    ],
)
def test_what_a_file_lacks_is_named(config, tmp_path, change, message):
    changed = yaml.safe_load(config.read_text())
    # Beside it are none of the files that it names: the shipped ones are found all the same.
    for table in changed["tables"].values():
        table["config"] = "pretrain/demo.yaml"
    for name, head in changed["downstream"].items():
        head["config"] = "report/demo.yaml" if name == "reports" else f"{name}/phantom.yaml"
    change(changed)
    (tmp_path / "copy.yaml").write_text(yaml.safe_dump(changed))
    with pytest.raises(ValueError, match=message):
        run_experiment(str(tmp_path / "copy.yaml"), output_dir=str(tmp_path / "out"))


@pytest.mark.parametrize("name", [path.stem for path in sorted(EXPERIMENTS.glob("*.yaml"))])
def test_the_shipped_rows_are_flags_that_their_commands_know(name, tmp_path):
    """And those of pretraining make models."""
    for preset in yaml.safe_load((EXPERIMENTS / f"{name}.yaml").read_text()).get("presets") or [None]:
        runs = [run for row in read_experiment(name, preset, [str(tmp_path)]).rows for run in row.runs]
        assert {run.stage for run in runs} <= stages.STAGES.keys()
        for run in runs:
            if run.stage in TRAININGS:
                kinds, defaults = COMMANDS[run.stage]
                flags = [*run.flags, "--output_dir", str(tmp_path / "out"), "--report_to", "none"]
                parse_arguments((*kinds, TrainingArguments), flags, defaults=defaults)
            if run.stage == "pretrain":
                known = PretrainArguments.__dataclass_fields__
                arguments = PretrainArguments(**{n: v for n, v in run.settings.items() if n in known})
                config_class, *_ = FAMILIES[arguments.model_family]
                fields = dict(arguments.model_overrides or {})
                if arguments.model_family == "egma" and arguments.egma_losses:
                    fields["losses"] = arguments.egma_losses
                config_class.named("tiny", **fields)


def test_rows_that_change_the_same_share_a_run():
    hour = read_experiment("ablations", "hour")
    assert len({run.folder for row in hour.rows for run in row.runs}) == 17
    references = {table.reference_row.runs[0].folder for table in hour.tables}
    assert len(references) == 2, "one of each family"


def test_fine_tunings_seeds_follow_one_another(tmp_path):
    with pytest.raises(ValueError, match="seeds: row .* follow one another"):
        read_experiment("real", checkpoints=[str(tmp_path)], seeds=[0, 2])


def test_merging_keeps_what_is_not_named():
    base = {"a": {"x": 1, "y": {"z": 2}}, "b": 3}
    assert merged(base, {"a": {"y": {"w": 4}}, "c": 5}) == {"a": {"x": 1, "y": {"z": 2, "w": 4}}, "b": 3, "c": 5}
    assert base == {"a": {"x": 1, "y": {"z": 2}}, "b": 3}


COLUMNS = {
    "zero_shot_macro_auroc": "zero-shot macro AUROC",
    "retrieval_image_to_report_p@1": "P@1, balanced gallery",
    "gaze_pointing_game": "gaze pointing game",
}


def made_up(auroc: float, precision: float, width: float = 0.02) -> dict:
    scores = [
        Score("zero_shot_macro_auroc", auroc, chance=0.5),
        Score("retrieval_image_to_report_p@1", precision, chance=0.2),
        Score("gaze_pointing_game", 0.8, chance=0.25, baselines={"mean map": 0.5, "by type of sentence": 0.7}),
    ]
    for score in scores:
        score.interval = (score.value - width, score.value + width)
    kept = to_json(score for score in scores if np.isfinite(score.value))
    return {"scores": kept, "training_minutes": 3.0, "label_supervised": True, "measured_on": "9 images."}


def summary_of(tmp_path, results: dict[str, list[dict]]) -> tuple[dict, Experiment]:
    rows, metrics = [], {}
    for name, each in results.items():
        runs = [Run("pretrain", tmp_path / f"{name}-{seed}") for seed in range(len(each))]
        metrics |= {run.folder: found for run, found in zip(runs, each, strict=True)}
        rows.append(Row(name, runs, {"P@1": 0.755} if name == "all" else {}))
    experiment = Experiment(tmp_path, [Table("loss", "Loss", rows, "all")], COLUMNS, {}, {}, margin=0.05)
    return summarise(experiment, lambda run: metrics[run.folder]), experiment


def test_rows_outside_the_references_interval_are_named(tmp_path):
    results = {
        "all": [made_up(0.70, 0.4), made_up(0.72, 0.4)],
        "less": [made_up(0.60, 0.5), made_up(0.62, 0.5)],
        "same": [made_up(0.71, 0.41), made_up(0.71, 0.41)],
    }
    tables, experiment = summary_of(tmp_path, results)
    table = tables["loss"]
    first = from_json(table["rows"][0]["scores"])["zero_shot_macro_auroc"]
    assert first.value == pytest.approx(0.71) and first.std == pytest.approx(np.std([0.70, 0.72], ddof=1))
    assert first.interval == pytest.approx([0.69, 0.73])
    assert all(table["counts"].values()) and list(table["level"].values()) == [0.5, 0.2, 0.7]
    text = markdown(tables, experiment)
    assert "Below the reference's interval: less (zero-shot macro AUROC)." in text
    assert "Above the reference's interval: less (P@1, balanced gallery)." in text
    assert "0.710 [0.690, 0.730] ± 0.014" in text and "P@1 0.755" in text and "2 seeds" in text
    panels_figure(tables, COLUMNS, tmp_path / "figure.png")
    assert Image.open(tmp_path / "figure.png").size[0] > 400


@pytest.mark.parametrize(
    ("auroc", "precision", "counts"),
    [
        (0.58, 0.2, (True, False)),
        (0.56, 0.28, (False, True)),
        (0.56, 0.26, (False, False)),
        (np.nan, 0.3, (None, True)),
    ],
)
def test_a_column_counts_by_its_reference_alone(tmp_path, auroc, precision, counts):
    """And not by another column."""
    results = {"all": [made_up(auroc, precision)], "less": [made_up(0.9, 0.9)], "same": [made_up(0.9, 0.9)]}
    tables, experiment = summary_of(tmp_path, results)
    table, text = tables["loss"], markdown(tables, experiment)
    assert tuple(table["counts"].get(name) for name in list(COLUMNS)[:2]) == counts
    # The gaze's interval begins at 0.78, its baseline's level is 0.7.
    said = [{True: "yes", False: "**does not count**", None: ""}[each] for each in (*counts, True)]
    assert f"above it | {' | '.join(said)} |" in text
    above = [line for line in text.splitlines() if line.startswith("Above the reference's interval")]
    named = [bool(above) and title in above[0] for title in list(COLUMNS.values())[:2]]
    assert named == [bool(each) for each in counts]
    assert "one seed" in text


def test_without_a_column_that_counts_no_difference_is_claimed(tmp_path):
    results = {"all": [made_up(0.5, 0.2)], "less": [made_up(0.9, 0.9)]}
    for each in (*results["all"], *results["less"]):
        del each["scores"]["gaze_pointing_game"]
    tables, experiment = summary_of(tmp_path, results)
    assert "No column counts." in markdown(tables, experiment)
