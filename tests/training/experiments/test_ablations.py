"""Ablations on a dozen studies, and what their tables say of made-up results."""

import json
import shutil

import numpy as np
import pytest
import yaml
from PIL import Image

from training.experiments import ablations as run_ablations
from training.experiments import variants as runs
from training.experiments.ablation_report import ablations_figure, markdown, summarise
from training.experiments.ablations import CONFIG, merged, plan_run, read_ablations, rows_of
from training.pretraining.training import PretrainArguments
from training.runs.families import FAMILIES

NAMES = ["cogaze-gaze_top_fraction=1.0", "cogaze-no_context=True", "cogaze-reference", "egma-reference"]


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
    rho = {"model_overrides": {"gaze_top_fraction": 1.0}}
    ablations = {
        "bases": {"cogaze": {"config": "cogaze.yaml"}, "egma": {"config": "egma.yaml"}},
        "presets": {
            "small": {
                "seeds": [0],
                **{"train_studies": 12, "validation_studies": 4, "test_studies": 6, "gallery_per_class": 1},
            }
        },
        "downstream": {name: {"config": f"{name}.yaml", "changes": {"num_train_epochs": 1}} for name in heads},
        "margin": 0.05,
        "tables": {
            "context": {
                "title": "Context",
                "base": "cogaze",
                "rows": [{"label": "with", "changes": {}}, {"label": "without", "changes": {"no_context": True}}],
            },
            "rho": {
                "title": "rho",
                "base": "cogaze",
                "curve": "rho",
                "rows": [{"label": "0.25", "changes": {}}, {"label": "1.0", "changes": rho}],
            },
            "egma": {"title": "EGMA", "base": "egma", "rows": [{"label": "both", "changes": {}}]},
        },
    }
    (folder / "ablations.yaml").write_text(yaml.safe_dump(ablations))
    return folder / "ablations.yaml"


@pytest.fixture(scope="module")
def output(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("output")
    flags = ["--config", str(config), "--preset", "small", "--output_dir", str(folder), "--bootstrap", "5"]
    return folder / "small", run_ablations.main(flags), flags


def test_rows_are_trained_once_and_tabulated(output):
    folder, summary, _ = output
    assert sorted(path.name for path in (folder / "runs").iterdir()) == NAMES
    reference = json.loads((folder / "runs/cogaze-reference/seed-0/metrics.json").read_text())
    rows = {key: table["rows"] for key, table in summary["tables"].items()}
    assert rows["context"][0]["scores"] == rows["rho"][0]["scores"]
    assert rows["rho"][0]["scores"]["gaze_pointing_game"]["value"] == reference["gaze_pointing_game"]
    # A model that has never read a context is not asked with one, and EGMA knows none.
    files = {name: json.loads((folder / f"runs/{name}/seed-0/metrics.json").read_text()) for name in NAMES}
    assert [name for name in NAMES if "retrieval_image_to_report_p@1_context" in files[name]] == [NAMES[0], NAMES[2]]
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
        json.loads((folder / f"runs/cogaze-{name}/seed-0/config.json").read_text())
        for name in ("gaze_top_fraction=1.0", "reference")
    )
    assert changed["gaze_top_fraction"] == 1.0 and reference["gaze_top_fraction"] == 0.25
    assert {name for name in changed if changed[name] != reference[name]} == {"gaze_top_fraction"}


def test_what_is_finished_is_not_run_again(output, monkeypatch):
    _, summary, flags = output
    monkeypatch.setattr(runs, "pretrain", None)
    assert run_ablations.main(flags) == summary
    with pytest.raises(ValueError, match="made with learning_rate"):
        run_ablations.main([*flags, "--learning_rate", "0.01"])
    with pytest.raises(ValueError, match="made with bootstrap = 5, now it is 6"):
        run_ablations.main([*flags, "--bootstrap", "6"])


def test_what_was_cut_off_goes_on(output, tmp_path, monkeypatch):
    folder, _, flags = output
    shutil.copytree(folder / "runs", tmp_path / "small" / "runs")
    run = tmp_path / "small/runs/cogaze-reference/seed-0"
    flags = [*flags[:4], "--output_dir", str(tmp_path), "--bootstrap", "5", "--tables", "context"]
    given = []
    with monkeypatch.context() as patch:
        patch.setattr(runs, "pretrain", lambda argv: given.append(argv))
        # Trained, not scored.
        (run / "metrics.json").unlink()
        run_ablations.main(flags)
        assert not given and (run / "metrics.json").is_file()
        # Within its training.
        (run / "metrics.json").unlink()
        (run / "training.json").rename(run / "later.json")
        (run / "checkpoint-2").mkdir()
        patch.setattr(
            runs, "pretrain", lambda argv: given.append(argv) or (run / "later.json").rename(run / "training.json")
        )
        run_ablations.main(flags)
    assert given[0][-2:] == ["--resume_from_checkpoint", "True"]


def test_a_head_is_trained_on_each_frozen_encoder(output, config):
    folder, summary, flags = output
    flags = [*flags, "--tables", "context", "--downstream", "classification", "segmentation", "reports"]
    table = run_ablations.main(flags)["tables"]["context"]
    for row, no_context in zip(table["rows"], (False, True), strict=True):
        own = folder / "runs" / row["run"] / "seed-0"
        for head, key in (("classification", "macro_auroc"), ("segmentation", "dice_lesion")):
            found = json.loads((own / head / "metrics.json").read_text())
            column = run_ablations.DOWNSTREAM[head]
            if value := found["scores"][key].get("value"):
                assert row["scores"][column]["value"] == value
            settings = found["seeds"][0]["settings"]
            assert settings["linear_probe"] and settings["no_context"] is no_context
        found = json.loads((own / "reports/metrics.json").read_text())
        assert row["scores"]["reports_label_micro_f1"]["value"] == found["label_micro_f1"]
        assert yaml.safe_load((own / "reports.yaml").read_text())["no_context"] is no_context
    assert table["chance"]["reports_label_micro_f1"] >= 0 and "segmentation_dice_lesion" not in table["counts"]


def test_unknown_names_are_refused(config, tmp_path):
    flags = ["--config", str(config), "--output_dir", str(tmp_path)]
    with pytest.raises(ValueError, match="preset: 'week'"):
        run_ablations.main([*flags, "--preset", "week"])
    with pytest.raises(ValueError, match="tables: 'loss'"):
        run_ablations.main([*flags, "--preset", "small", "--tables", "loss"])
    with pytest.raises(ValueError, match="config: no file"):
        run_ablations.main(["--config", str(tmp_path / "none.yaml")])
    with pytest.raises(ValueError, match="seed: .* give --seeds"):
        run_ablations.main([*flags, "--preset", "small", "--seed", "3"])
    twice = yaml.safe_load(config.read_text())
    twice["tables"]["context"]["rows"][1]["changes"] = {}
    (tmp_path / "twice.yaml").write_text(yaml.safe_dump(twice))
    with pytest.raises(ValueError, match="'context' needs one row"):
        read_ablations(tmp_path / "twice.yaml")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda config: config.pop("tables"), "lacks 'tables'"),
        (lambda config: config.pop("bases"), "lacks 'bases'"),
        (lambda config: config["tables"]["rho"].pop("title"), "table 'rho' lacks 'title'"),
        (lambda config: config["tables"]["rho"]["rows"][1].update(preset="smal"), "row '1.0' .* preset 'smal'"),
        (lambda config: config["bases"]["egma"].update(config="none.yaml"), "base 'egma' names none.yaml"),
        (lambda config: config["bases"].update(egma={}), "base 'egma' lacks 'config'"),
    ],
)
def test_what_a_config_lacks_is_named(config, tmp_path, change, message):
    changed = yaml.safe_load(config.read_text())
    # Beside it are none of the files that it names: the shipped ones are found all the same.
    changed["bases"]["cogaze"]["config"] = "pretrain/demo.yaml"
    change(changed)
    (tmp_path / "copy.yaml").write_text(yaml.safe_dump(changed))
    with pytest.raises(ValueError, match=message):
        flags = ["--preset", "small", "--output_dir", str(tmp_path / "out")]
        run_ablations.main(["--config", str(tmp_path / "copy.yaml"), *flags])


def test_the_shipped_rows_make_models():
    """Every row of the shipped file is a set of flags that training/pretrain.py and the models know."""
    config = read_ablations(CONFIG)
    names = {}
    for preset in config["presets"]:
        for table in rows_of(config, preset, None).values():
            for row in table["rows"]:
                run = plan_run(config, CONFIG, config["presets"][preset], table["base"], row["changes"])
                known = PretrainArguments.__dataclass_fields__
                assert row["changes"].keys() <= known.keys()
                arguments = PretrainArguments(**{n: v for n, v in run.settings.items() if n in known})
                config_class, *_ = FAMILIES[arguments.model_family]
                fields = dict(arguments.model_overrides or {})
                if arguments.model_family == "egma" and arguments.egma_losses:
                    fields["losses"] = arguments.egma_losses
                config_class.named("tiny", **fields)
                names.setdefault(preset, set()).add(run.name)
    assert len(names["hour"]) == 17 and names["hour"] < names["full"]


def test_merging_keeps_what_is_not_named():
    base = {"a": {"x": 1, "y": {"z": 2}}, "b": 3}
    assert merged(base, {"a": {"y": {"w": 4}}, "c": 5}) == {"a": {"x": 1, "y": {"z": 2, "w": 4}}, "b": 3, "c": 5}
    assert base == {"a": {"x": 1, "y": {"z": 2}}, "b": 3}


def made_up(auroc: float, precision: float, width: float = 0.02) -> dict:
    values = {"zero_shot_macro_auroc": auroc, "retrieval_image_to_report_p@1": precision, "gaze_pointing_game": 0.8}
    intervals = {f"{name}_interval": [value - width, value + width] for name, value in values.items()}
    facts = {"training_minutes": 3.0, "test_images": 9, "test_patients": 5, "label_supervised": True}
    facts |= {"gaze_pointing_game_mean_map": 0.5, "gaze_pointing_game_sentence_type_map": 0.7}
    return values | intervals | facts | {"retrieval_image_to_report_p@1_chance": 0.2}


TABLES = {
    "loss": {
        "title": "Loss",
        "base": "cogaze",
        "rows": [
            {"label": "all", "changes": {}, "run": "all", "published": {"P@1": 0.755}},
            {"label": "less", "changes": {"x": 1}, "run": "less"},
            {"label": "same", "changes": {"x": 2}, "run": "same"},
        ],
    }
}


def summary_of(results: dict, seeds: int) -> dict:
    return {"seeds": list(range(seeds)), "margin": 0.05, "tables": summarise(TABLES, results, 0.05)}


def test_rows_outside_the_references_interval_are_named(tmp_path):
    results = {
        "all": [made_up(0.70, 0.4), made_up(0.72, 0.4)],
        "less": [made_up(0.60, 0.5), made_up(0.62, 0.5)],
        "same": [made_up(0.71, 0.41), made_up(0.71, 0.41)],
    }
    summary = summary_of(results, 2)
    table = summary["tables"]["loss"]
    first = table["rows"][0]["scores"]["zero_shot_macro_auroc"]
    assert first["value"] == pytest.approx(0.71) and first["std"] == pytest.approx(np.std([0.70, 0.72], ddof=1))
    assert first["interval"] == pytest.approx([0.69, 0.73])
    assert all(table["counts"].values()) and table["chance"] == {
        "zero_shot_macro_auroc": 0.5,
        "retrieval_image_to_report_p@1": 0.2,
        "gaze_pointing_game": 0.7,
    }
    text = markdown(summary)
    assert "Below the reference's interval: less (zero-shot macro AUROC)." in text
    assert "Above the reference's interval: less (P@1, balanced gallery)." in text
    assert "0.710 [0.690, 0.730] ± 0.014" in text and "P@1 0.755" in text and "2 seeds" in text
    ablations_figure(summary, tmp_path / "figure.png")
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
def test_a_column_counts_by_its_reference_alone(auroc, precision, counts):
    """And not by another column."""
    results = {"all": [made_up(auroc, precision)], "less": [made_up(0.9, 0.9)], "same": [made_up(0.9, 0.9)]}
    summary = summary_of(results, 1)
    names = {"zero_shot_macro_auroc": "zero-shot macro AUROC", "retrieval_image_to_report_p@1": "P@1, balanced gallery"}
    table, text = summary["tables"]["loss"], markdown(summary)
    assert tuple(table["counts"].get(name) for name in names) == counts
    # The gaze's interval begins at 0.78, its baseline's level is 0.7.
    said = [{True: "yes", False: "**does not count**", None: ""}[each] for each in (*counts, True)]
    assert "| the reference begins 0.05 above it | " + " | ".join(said) + " |  |  |" in text
    above = [line for line in text.splitlines() if line.startswith("Above the reference's interval")]
    assert [bool(above) and title in above[0] for title in names.values()] == [bool(each) for each in counts]
