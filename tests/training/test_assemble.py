from datetime import date
from pathlib import Path

import numpy as np
import pytest
import torch

from phenokit.errors import BadInput
from phenokit.networks.checkpoint import load_bundle, read_card
from phenokit.networks.prototype import PrototypeConfig, from_arrays
from phenokit.preprocessing.contract import InputContract
from phenokit.readers.packed import open_archive
from phenokit.training.assemble import evaluate_bundle, project_bundle, train_ecg
from phenokit.training.recipe import Recipe, read_recipe

RECIPES = sorted((Path(__file__).parents[2] / "scripts").glob("ecg-*.toml"))


def test_every_prototype_names_its_source(tiny_bundle):
    table = load_bundle(tiny_bundle).prototypes
    assert (table["split"] == "train").all()
    assert table["record_id"].str.startswith("sim-").all()
    assert table["prototype_id"].tolist() == list(range(len(table)))
    windowed = table[table["branch"] == "morphology"]
    assert (windowed["start_sample"] == 32 * windowed["window_index"]).all()
    assert (windowed["receptive_field"] == 1.31).all()
    whole = table[table["branch"] != "morphology"]
    assert (whole["stop_sample"] == 1000).all()


def test_no_record_serves_two_prototypes_of_a_label(tiny_bundle):
    table = load_bundle(tiny_bundle).prototypes
    assert not table.duplicated(["branch", "label", "record_id"]).any()
    assert (table["n_same_record"] == 1).all()


def test_the_labels_of_a_source_include_the_prototypes_own(tiny_bundle):
    for _, row in load_bundle(tiny_bundle).prototypes.iterrows():
        assert row["label"] in row["labels"]


def test_the_card_tells_what_was_measured(tiny_bundle):
    card = read_card(tiny_bundle)
    assert card.training.n_recordings == card.training.n_patients == 72
    assert card.date == date(2025, 1, 1)
    assert {m.label for m in card.performance} >= {"NORM", "CLBBB"}
    assert "PVC" in card.labels_not_assessed
    assert "AFIB" not in card.labels_not_assessed
    assert card.prevalence["AFIB"].training == pytest.approx(1 / 3, abs=1e-6)


def test_evaluation_repeats_the_cards_figures(tiny_bundle, tiny_archive):
    result = evaluate_bundle(tiny_bundle, open_archive(tiny_archive), split="test", seed=3)
    card = read_card(tiny_bundle)
    shown = {(m.label, m.metric): m.value for m in card.performance}
    for label in result.metrics.labels:
        assert shown[label.label, "AUROC"] == pytest.approx(label.auroc.value)
    assert result.metrics.n_records == 24


def test_an_archive_prepared_otherwise_is_refused(tiny_bundle, tiny_archive, tmp_path):
    archive = open_archive(tiny_archive)
    object.__setattr__(archive, "contract_id", "raw")
    with pytest.raises(BadInput, match="pack it again") as refusal:
        evaluate_bundle(tiny_bundle, archive, split="test", seed=0)
    assert refusal.value.code == "E_VERSION"
    recipe = Recipe.model_validate(
        {"name": "x", "network": {"prototypes_per_label": {}}, "card": card_texts()}
    )
    with pytest.raises(BadInput, match="pack it again"):
        train_ecg(
            recipe,
            archive,
            tmp_path / "x",
            contract=InputContract(),
            seed=0,
            run_folder=tmp_path / "run",
            today=date(2025, 1, 1),
        )


def card_texts():
    words = ("first_line", "version", "intended_use", "population", "inputs", "outputs")
    more = {"warnings": ["x"], "licences": {}, "training_data": "x", "split": "x"}
    return dict.fromkeys((*words, "owner"), "x") | more


def test_a_split_without_records_is_refused(tiny_bundle, tiny_archive):
    with pytest.raises(BadInput, match="no record in the split nowhere"):
        evaluate_bundle(tiny_bundle, open_archive(tiny_archive), split="nowhere", seed=0)


def test_anchoring_moves_prototypes_only(tiny_bundle, tiny_archive, tmp_path):
    out = tmp_path / "anchored"
    project_bundle(
        tiny_bundle,
        open_archive(tiny_archive),
        out,
        unique="patient",
        include_waveforms=False,
        today=date(2025, 1, 2),
    )
    before, after = load_bundle(tiny_bundle), load_bundle(out)
    assert after.weights_hash == before.weights_hash
    assert after.bundle_hash != before.bundle_hash
    assert "waveform_uv" not in after.prototypes
    assert after.name == "anchored"
    # the archive is the one that it was trained on: the same sources
    assert set(after.prototypes["record_id"]) == set(before.prototypes["record_id"])


def test_the_card_has_counts_at_the_threshold_of_every_label(tiny_bundle):
    from phenokit.report.local_prevalence import label_on_card

    bundle = load_bundle(tiny_bundle)
    for label in bundle.calibration["labels"]:
        of = label_on_card(bundle.card, bundle.calibration, label)
        counted = of.point is not None and of.point.n_positive > 0
        assert counted or "the test fold has" in of.no_point


def test_the_stored_network_scores_its_sources_at_the_ceiling(tiny_bundle, tiny_archive):
    bundle, archive = load_bundle(tiny_bundle), open_archive(tiny_archive)
    network = from_arrays(
        PrototypeConfig.from_dict(bundle.config["network"]), bundle.tensors
    )
    ids = archive.table["record_id"].tolist()
    rows = np.array([ids.index(r) for r in bundle.prototypes["record_id"]])
    with torch.inference_mode():
        output = network(torch.from_numpy(archive.block(rows)))
    np.testing.assert_allclose(output.similarity.diagonal(), 1, atol=1e-5)
    windows = output.window.diagonal().tolist()
    assert windows == bundle.prototypes["window_index"].tolist()


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_recipes_of_the_shipped_models_are_valid(path):
    recipe = read_recipe(path)
    assert recipe.name == path.stem
    assert recipe.fit_config(1).seed == 1


def test_a_recipe_names_the_field_that_is_wrong(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text('name = "x"\n[network]\nwidth = 3\n')
    with pytest.raises(BadInput, match=r"recipe\.toml: \w+") as refusal:
        read_recipe(path)
    assert refusal.value.code == "E_COLUMNS"


RELATED = {("CD", "CLBBB"), ("CLBBB", "CD")}


def test_a_prototype_speaks_for_its_label_and_against_what_its_source_has_not(tiny_model):
    table = tiny_model.bundle.prototypes
    for label, weights in zip(tiny_model.labels, tiny_model.weight, strict=True):
        assert (weights != 0).any()
        for (_, row), weight in zip(table.iterrows(), weights, strict=True):
            has_it = label in row["labels"]
            speaks_for = has_it and (
                row["label"] == label or (row["label"], label) in RELATED
            )
            assert weight <= 0 or speaks_for
            assert weight >= 0 or not has_it
