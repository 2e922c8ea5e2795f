import json
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from phenokit.errors import BadInput
from phenokit.evidence.associations import COLUMNS
from phenokit.report.associations import (
    attrition_table,
    coverage_sentence,
    export_associations,
    exposure_name,
    finding_sentence,
    format_p,
    hide_small,
    is_significant,
    not_tested_table,
    overview,
    read_result,
    search_rows,
    strongest_pairs,
    top_rows,
)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory, write_association_run):
    return read_result(write_association_run(tmp_path_factory.mktemp("run") / "out"))


@pytest.mark.parametrize(
    ("p", "words"),
    [(1, "1.0"), (0.5, "0.50"), (0.0996, "0.10"), (0.032, "0.032"), (0.0012, "0.0012"),
     (0.00099, "9.9e-4"), (9.96e-10, "1.0e-9"), (3.2e-9, "3.2e-9")],
)  # fmt: skip
def test_a_p_value_has_two_digits(p: float, words: str):
    assert format_p(-np.log10(p)) == words


def test_a_p_value_too_small_for_a_number_is_still_a_p_value():
    assert format_p(9999.5) == "3.2e-10000"


def test_the_columns_of_a_result_are_those_of_the_file_in_their_order(result):
    assert list(result.rows_of("prototype 3").columns) == list(COLUMNS)
    n_tested = result.table["status"].to_pylist().count("tested")
    assert result.n_tests == n_tested == 3 * 54


def test_rows_of_an_exposure_keep_the_order_of_the_map(result, association_rows):
    rows = association_rows(60, exposure="prototype 3", n_tests=162, seed=0)
    assert result.rows_of("prototype 3")["phecode"].tolist() == rows["phecode"].tolist()


def test_the_overview_counts_what_holds_and_puts_the_strongest_first(result):
    table = overview(result)
    for one in table.to_dict("records"):
        rows = result.rows_of(one["exposure"])
        assert one["tested"] == (rows["status"] == "tested").sum() == 54
        assert one["significant"] == is_significant(rows).sum() == 2
        assert one["phecode"] == "427.21"
    assert table["neg_log_p_value"].is_monotonic_decreasing


def test_names_say_the_label_in_clinical_words(result):
    assert exposure_name(result, "prototype 3") == "Prototype 3: Atrial fibrillation (AFIB)"
    assert (
        exposure_name(result, "class AFIB")
        == "Class prediction: Atrial fibrillation (AFIB)"
    )


def test_a_search_is_of_code_name_and_category_and_reads_nothing_as_a_pattern(result):
    rows = top_rows(result.rows_of("prototype 3"), 60)
    assert search_rows(rows, "FIBRILL")["phecode"].tolist() == ["427.21"]
    assert search_rows(rows, "7.21")["phecode"].tolist() == ["427.21"]
    assert search_rows(rows, ".*").empty
    assert search_rows(rows, "", first=["401"])["phecode"].tolist()[:2] == ["401", "427.21"]


def test_tested_and_not_tested_add_up_to_all_rows(result):
    rows = result.rows_of("prototype 5")
    lacking = not_tested_table(rows)
    assert lacking["not_tested"].sum() + (rows["status"] == "tested").sum() == len(rows)
    assert lacking["reason"].tolist() == ["too few cases or too few controls"]


def test_the_sentence_of_coverage_adds_up():
    sentence = coverage_sentence(
        143, {"N_SEX": 73, "N_FEW_CASES": 1601, "N_CONSTANT": 0}, minimum_cases=20
    )
    assert sentence == (
        "143 of 1,817 phecodes are tested. Not tested: 1,601 (fewer than 20 cases or fewer "
        "than 20 controls); 73 (the phecode is restricted to a sex that is not in the "
        "cohort)."
    )


def test_a_sentence_has_interval_unit_method_and_both_counts(association_rows):
    (row,) = top_rows(association_rows(60), 1).to_dict("records")
    sentence = finding_sentence(row)
    for words in (
        "427.21 Atrial fibrillation", "(1.44–1.82) per standard deviation", "p = 1.2e-15",
        "(score test)", f"{row['cases']:,} cases", f"{row['controls']:,} controls",
    ):  # fmt: skip
        assert words in sentence


def test_small_rows_are_hidden_and_counted_but_nothing_is_not_small():
    rows = pd.DataFrame({"cases": [0, 1, 9, 10, 500], "controls": [900, 900, 900, 900, 9]})
    left, n_hidden = hide_small(rows, 10)
    assert (left["cases"].tolist(), n_hidden) == ([0, 10], 3)
    assert hide_small(rows, 0)[1] == 0


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet"])
def test_an_export_has_hashes_settings_and_guarded_text(result, tmp_path: Path, kind: str):
    rows = result.rows_of("prototype 3")
    rows.loc[0, "phecode_string"] = "=HYPERLINK(1)"
    files = export_associations(rows, result, "x", version="1", kind=kind)
    sidecar = json.loads(files["x.json"])
    assert sidecar["settings"] == {"minimum_cases": 20}
    assert list(sidecar["columns"]) == list(COLUMNS)
    if kind == "parquet":
        (tmp_path / "x").write_bytes(files["x.parquet"])
        assert (
            pq.read_table(tmp_path / "x")["phecode"].to_pylist() == rows["phecode"].tolist()
        )
    else:
        text = files[f"x.{kind}"].decode()
        assert "'=HYPERLINK(1)" in text
        assert text.splitlines()[0].split("," if kind == "csv" else "\t") == list(COLUMNS)


def test_attrition_keeps_every_rule_and_the_counts_add_up(result):
    table = attrition_table(result.cohort)
    left = table["n_patients"].tolist()
    dropped = table["dropped_patients"].tolist()
    assert left[0] - dropped[1] == left[1]


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (lambda out: (out / "manifest.json").unlink(), "E_MISSING"),
        (lambda out: (out / "manifest.json").write_text('{"format": "x"}'), "E_FORMAT"),
        (lambda out: (out / "associations.parquet").write_bytes(b"PAR1"), "E_FORMAT"),
        (lambda out: pq.write_table(
            pq.read_table(out / "associations.parquet").drop_columns(["auc", "note"]),
            out / "associations.parquet"), "E_COLUMNS"),
    ],
    ids=["unfinished", "another command's", "cut off", "columns missing"],
)  # fmt: skip
def test_a_run_that_cannot_be_shown_is_refused_with_its_code(
    write_association_run, tmp_path: Path, damage, code: str
):
    out = write_association_run(tmp_path / "out")
    damage(out)
    with pytest.raises(BadInput) as caught:
        read_result(out)
    assert caught.value.code == code


def test_an_overview_of_a_quarter_of_a_million_pairs_takes_less_than_a_second(
    result, association_rows
):
    import dataclasses

    import pyarrow as pa

    names = [f"prototype {k}" for k in range(150)]
    one = association_rows(1800)
    frame = pd.concat([one.assign(exposure=name) for name in names])
    exposures = pd.DataFrame(
        {"exposure": names, "exposure_kind": "prototype", "label": "AFIB"}
    )
    table = pa.Table.from_pandas(frame, preserve_index=False)
    large = dataclasses.replace(result, table=table, exposures=exposures)
    start = time.perf_counter()
    assert len(overview(large)) == 150
    assert time.perf_counter() - start < 2


def test_the_strongest_pairs_name_a_phecode_and_its_parent_once():
    rows = pd.DataFrame(
        {
            "label": ["CD", "CD", "MI"],
            "phecode": ["420", "420.2", "411"],
            "prototype": ["prototype 1", "prototype 1", "prototype 2"],
            "cases": [40, 40, 90],
            "controls": [900, 900, 800],
            "prototype_auc": [0.7, 0.7, 0.9],
            "other_auc": [0.6, 0.6, np.nan],
        }
    )
    assert strongest_pairs(rows)["phecode"].tolist() == ["411", "420.2"]
    assert strongest_pairs(rows, 1)["phecode"].tolist() == ["411"]
