"""Phecode maps, and who is a case, a control or excluded."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from phenokit.cohort import CaseStatus
from phenokit.errors import BadInput
from phenokit.readers.diagnoses import Diagnoses, read_diagnoses, read_phecode_counts
from phenokit.readers.phecodes import (
    CITATIONS,
    TABLES,
    CaseRule,
    ancestors,
    case_status,
    first_code_days,
    phecode_order,
    read_phecode_map,
)

CONTROL, CASE, EXCLUDED = CaseStatus


@pytest.fixture(scope="module")
def map12():
    return read_phecode_map("1.2")


@pytest.fixture(scope="module")
def map_x():
    return read_phecode_map("X")


def phecodes_of(phecode_map, code, version):
    table = phecode_map.icd.to_pandas()
    is_it = (table["icd_code"] == code) & (table["icd_version"] == version)
    return sorted(table["phecode"][is_it])


def coded(rows):
    """Diagnoses of (person, code, version, date) rows."""
    columns = list(zip(*rows, strict=True))
    days = pa.array(np.array(columns[3], dtype="datetime64[D]"))
    names = ("person_id", "icd_code", "icd_version")
    texts = {
        name: pa.array(column, pa.string()).dictionary_encode()
        for name, column in zip(names, columns, strict=False)
    }
    return Diagnoses(pa.table(texts | {"date": days}))


def status_of(found, phecode):
    return found.status.column(found.status.phecodes.index(phecode)).tolist()


# The maps


def test_the_shipped_maps_have_the_phecodes_and_icd_codes_of_their_source(map12, map_x):
    assert (len(map12), len(map_x)) == (1817, 3612)
    for name, nine, ten in (("12", 13707, 57145), ("X", 12666, 54519)):
        icd = pq.read_table(TABLES / f"phecode{name}_icd.parquet").to_pandas()
        codes = icd.groupby("flag")["ICD"].nunique()
        assert codes.to_dict() == {"9": nine, "10": ten}


@pytest.mark.parametrize(("code", "version"), [("I214", "10"), ("41071", "9")])
def test_infarction_of_both_versions_is_one_phecode(map12, map_x, code, version):
    assert phecodes_of(map12, code, version) == ["411", "411.2"]
    assert phecodes_of(map_x, code, version) == ["CV_404", "CV_404.1", "CV_404.11"]


@pytest.mark.parametrize(("code", "version"), [("I4891", "10"), ("42731", "9")])
def test_fibrillation_counts_for_all_phecodes_above_it(map12, code, version):
    assert phecodes_of(map12, code, version) == ["427", "427.2", "427.21"]


def test_placeholders_of_the_map_match_in_any_case(map12):
    assert "S2231XA" in map12.icd["icd_code"].to_pylist()
    assert not any(code != code.upper() for code in map12.icd["icd_code"].to_pylist())


def test_phecodes_keep_their_zeros(map12):
    assert sum(phecode.startswith("0") for phecode in map12.info["phecode"]) == 46


def test_the_exclusion_range_of_fibrillation_is_the_arrhythmias(map12):
    related = map12.exclusions["427.21"]
    assert {"427.2", "427.22", "426.2", "427"} <= set(related)
    assert "427.21" not in related
    assert "428.1" not in related


def test_phecode_x_has_no_exclusions_and_lists_every_ancestor(map_x):
    assert map_x.exclusions == {}
    known = set(map_x.info["phecode"])
    pairs = {tuple(row.values()) for row in map_x.icd.slice(0, 20_000).to_pylist()}
    whole = {tuple(row.values()) for row in map_x.icd.to_pylist()}
    for code, version, phecode in pairs:
        for above in known.intersection(ancestors(phecode)):
            assert (code, version, above) in whole


@pytest.mark.parametrize("version", ["1.2", "X"])
def test_the_order_is_categories_then_numbers(version):
    info = read_phecode_map(version).info
    categories = info["phecode_category"]
    assert (categories != categories.shift()).sum() == categories.nunique()
    for _, group in info.groupby("phecode_category"):
        keys = [phecode_order(phecode) for phecode in group["phecode"]]
        assert keys == sorted(keys)


def test_citations_name_the_papers_of_each_map(map12, map_x):
    assert "Denny" in map12.citation
    assert "Wu P" in map12.citation
    assert "Shuey" in map_x.citation
    assert CITATIONS["X"] == map_x.citation


INFO = (
    "phecode,phecode_string,phecode_category,sex,exclude_range\n"
    "008,Gut,infections,Both,\n"
    "427.21,AF,heart,Both,427\n"
    "427,Rhythm,heart,Both,\n"
    "600,Prostate,urology,Male,\n"
)
ICD = "ICD,flag,phecode\nI48.91,10,427.21\n008.5,9,008\nn40,10,600\n"


def own_map(folder, info=INFO, icd=ICD):
    (folder / "info.csv").write_text(info)
    (folder / "icd.csv").write_text(icd)
    return read_phecode_map("own", info=folder / "info.csv", icd=folder / "icd.csv")


def test_a_map_of_ones_own_is_rolled_up_by_number(tmp_path):
    own = own_map(tmp_path)
    assert own.info["phecode"].tolist() == ["008", "427", "427.21", "600"]
    assert phecodes_of(own, "I4891", "10") == ["427", "427.21"]
    assert phecodes_of(own, "N40", "10") == ["600"]
    assert own.exclusions == {"427.21": ("427",)}


def test_a_map_that_lists_the_roll_up_is_not_rolled_up_further(tmp_path):
    icd = "ICD,flag,phecode,phecode_unrolled\nI48.91,10,427.21,427.21\n"
    assert phecodes_of(own_map(tmp_path, icd=icd), "I4891", "10") == ["427.21"]


@pytest.mark.parametrize(
    ("info", "icd", "code", "where"),
    [
        (INFO.replace("008,Gut", "8,Gut"), ICD, "E_CODE", "column phecode, row 3"),
        (INFO.replace(",427\n", ",428\n"), ICD, "E_CODE", "column exclude_range, row 3"),
        (INFO.replace("Male", "men"), ICD, "E_CODE", "column sex, row 5"),
        (INFO + "008,Gut,infections,Both,\n", ICD, "E_DUP_ID", "column phecode, rows 2, 6"),
        (INFO, ICD.replace("n40,10", "n40,11"), "E_CODE", "column flag, row 4"),
        (INFO, ICD.replace("008.5,9", "8,9"), "E_CODE", "column ICD, row 3"),
    ],
)
def test_a_damaged_map_is_refused_by_column_and_row(tmp_path, info, icd, code, where):
    with pytest.raises(BadInput) as caught:
        own_map(tmp_path, info, icd)
    assert (caught.value.code, caught.value.where) == (code, where)


# Case status by hand


def test_every_patient_of_a_small_cohort_is_judged_as_by_hand(map12):
    persons = ["both", "once", "same day", "related", "none", "rolled", "outside"]
    found = case_status(
        coded(
            [
                ("both", "I4891", "10", "2020-01-01"),
                ("both", "42731", "9", "2014-05-05"),  # the other version, another day
                ("once", "I4891", "10", "2020-01-01"),
                ("same day", "I4891", "10", "2020-01-01"),
                ("same day", "I480", "10", "2020-01-01"),
                ("related", "I442", "10", "2020-01-01"),  # 426.24, in the range of 427.21
                ("rolled", "I4891", "10", "2020-01-01"),
                ("rolled", "I4892", "10", "2020-02-01"),  # flutter: 427.22
                ("outside", "E119", "10", "2020-01-01"),
                ("not in the cohort", "I4891", "10", "2020-01-01"),
            ]
        ),
        persons,
        ["Female"] * 7,
        map12,
        cases=CaseRule(minimum_codes=2),
    )
    #                 both  once      same day  related   none     rolled    outside
    fibrillation = [CASE, EXCLUDED, EXCLUDED, EXCLUDED, CONTROL, EXCLUDED, CONTROL]
    both = [CASE, EXCLUDED, EXCLUDED, EXCLUDED, CONTROL, CASE, CONTROL]
    assert status_of(found, "427.21") == fibrillation
    assert status_of(found, "427.2") == both  # fibrillation and flutter on distinct dates
    counts = found.counts.set_index("phecode").loc["427.21"]
    assert counts.tolist() == [1, 2, 3, 1, 0, 0]  # rolled has 427.21 once: too few codes
    assert found.n_without_codes == 1
    assert found.mapping is not None
    assert found.mapping.n_rows_of_others == 1


def test_one_code_makes_a_case_where_one_is_asked_for(map12):
    rows = [("a", "I4891", "10", "2020-01-01"), ("b", "I442", "10", "2020-01-01")]
    sex = ["Male", "Male"]
    one = case_status(coded(rows), ["a", "b"], sex, map12, cases=CaseRule(1))
    assert status_of(one, "427.21") == [CASE, EXCLUDED]
    wide = CaseRule(1, use_exclusions=False)
    assert status_of(
        case_status(coded(rows), ["a", "b"], sex, map12, cases=wide), "427.21"
    ) == [CASE, CONTROL]


def test_codes_of_one_day_count_each_where_dates_need_not_differ(map12):
    rows = [("a", "I4891", "10", "2020-01-01")] * 2
    rule = CaseRule(2, distinct_dates=False)
    assert status_of(case_status(coded(rows), ["a"], [""], map12, cases=rule), "427") == [1]


def test_the_other_sex_and_an_unknown_one_are_excluded_and_counted_apart(map12):
    rows = [(person, "N401", "10", "2020-01-01") for person in ("man", "woman", "unknown")]
    persons = ["man", "woman", "unknown", "healthy man", "healthy woman"]
    sex = ["Male", "Female", "", "Male", "Female"]
    found = case_status(coded(rows), persons, sex, map12, cases=CaseRule(1))
    expected = [CASE, EXCLUDED, EXCLUDED, CONTROL, EXCLUDED]
    assert status_of(found, "600") == expected
    assert found.counts.set_index("phecode").loc["600"].tolist() == [1, 1, 0, 0, 2, 1]


def test_the_version_decides_what_a_v_code_means(map12):
    # V10.3: a history of breast cancer in ICD-9, a cyclist's collision in ICD-10.
    for version, expected in (("9", CASE), ("10", CONTROL)):
        rows = [("a", "V103", version, "2014-01-01")]
        found = case_status(coded(rows), ["a"], ["Female"], map12, cases=CaseRule(1))
        assert status_of(found, "174") == [expected]


def test_unmapped_codes_are_counted_and_the_frequent_ones_listed(map12):
    rows = [
        *[("a", "Z66", "10", "2020-01-01")] * 3,
        *[("a", "V1582", "9", "2012-01-01")] * 2,
        ("b", "I214", "10", "2020-01-01"),
        ("c", "Z515", "10", "2020-01-01"),
    ]
    found = case_status(coded(rows), ["a", "b"], ["", ""], map12, cases=CaseRule(1))
    mapping = found.mapping
    assert mapping is not None
    assert (mapping.n_rows, mapping.n_mapped_rows, mapping.n_rows_of_others) == (6, 1, 1)
    assert mapping.unmapped == (("Z66", "10", 3), ("V1582", "9", 2))
    assert mapping.rate == pytest.approx(1 / 6)


def test_a_window_takes_the_codes_of_its_days_both_ends_included(map12):
    rows = [("a", "I214", "10", f"2020-01-{day}") for day in ("09", "10", "20", "21")]
    first = np.array(["2020-01-10", "2020-01-11", "2020-01-21"], dtype="datetime64[D]")
    last = np.array(["2020-01-20", "2020-01-19", "2020-01-30"], dtype="datetime64[D]")
    found = case_status(
        coded(rows), ["a"] * 3, [""] * 3, map12, cases=CaseRule(2), days=(first, last)
    )
    assert status_of(found, "411.2") == [CASE, CONTROL, EXCLUDED]


def test_distinct_dates_without_dates_are_refused_with_the_remedy(tmp_path, map12):
    (tmp_path / "d.csv").write_text("person_id,icd_code,icd_version\na,I214,10\n")
    diagnoses = read_diagnoses(tmp_path / "d.csv")
    with pytest.raises(BadInput, match=r"no column date.*or ask for 1 code"):
        case_status(diagnoses, ["a"], [""], map12, cases=CaseRule(2))
    found = case_status(diagnoses, ["a"], [""], map12, cases=CaseRule(1))
    assert status_of(found, "411.2") == [CASE]


# Case status against the definition, and laws


def naive(rows, persons, sex, phecode_map, rule):
    """The definition, one patient and one phecode after the other."""
    leads = {}
    for code, version, phecode in zip(
        *(phecode_map.icd[name].to_pylist() for name in phecode_map.icd.column_names),
        strict=True,
    ):
        leads.setdefault((code, version), set()).add(phecode)
    codes = {person: {} for person in persons}
    for person, code, version, day in rows:
        for phecode in leads.get((code, version), ()):
            if person in codes:
                codes[person].setdefault(phecode, []).append(day)
    columns = {}
    for phecode, only in phecode_map.info[["phecode", "sex_restriction"]].to_numpy():
        column = []
        for person, one_sex in zip(persons, sex, strict=True):
            days = codes[person].get(phecode, [])
            n = len(set(days)) if rule.distinct_dates else len(days)
            related = phecode_map.exclusions.get(phecode, ()) if rule.use_exclusions else ()
            if only not in ("Both", one_sex):
                column.append(EXCLUDED)
            elif n >= rule.minimum_codes:
                column.append(CASE)
            elif days or any(other in codes[person] for other in related):
                column.append(EXCLUDED)
            else:
                column.append(CONTROL)
        columns[phecode] = column
    return columns


@pytest.fixture(scope="module")
def random_rows(map12):
    rng = np.random.default_rng(3)
    icd = map12.icd.select(["icd_code", "icd_version"]).to_pandas().drop_duplicates()
    is_heart_or_pelvis = icd["icd_code"].str.match(r"I[24]|4[12]|N[468]|6[0-2]|Z6")
    pool = icd[is_heart_or_pelvis].to_numpy()
    pool = pool[rng.choice(len(pool), 60, replace=False)]
    persons = [f"p{i}" for i in range(40)]
    rows = [
        (persons[person], *pool[code], f"2020-01-{day:02d}")
        for person, code, day in rng.integers((0, 0, 1), (40, 60, 4), (900, 3))
    ]
    return rows, persons[:35]


@pytest.mark.parametrize(
    "rule",
    [
        CaseRule(1),
        CaseRule(2),
        CaseRule(3),
        CaseRule(2, distinct_dates=False),
        CaseRule(2, use_exclusions=False),
    ],
)
def test_case_status_is_that_of_the_definition(random_rows, map12, rule):
    rows, persons = random_rows
    sex = (["Female", "Male", ""] * 12)[: len(persons)]
    found = case_status(coded(rows), persons, sex, map12, cases=rule)
    expected = naive(rows, persons, sex, map12, rule)
    assert {p: status_of(found, p) for p in found.status.phecodes} == expected
    assert sum(CASE in column for column in expected.values()) > 10


def test_the_reasons_add_up_to_the_patients(random_rows, map12):
    rows, persons = random_rows
    sex = (["Female", "Male", ""] * 12)[: len(persons)]
    found = case_status(coded(rows), persons, sex, map12, cases=CaseRule(2))
    reasons = found.counts.drop(columns="phecode")
    assert (reasons.to_numpy() >= 0).all()
    assert (reasons.sum(axis=1) == len(persons)).all()
    assert reasons["cases"].tolist() == [len(rows) for rows in found.status.case_rows]


def test_the_order_of_the_rows_changes_nothing(random_rows, map12):
    rows, persons = random_rows
    sex = ["Female"] * len(persons)
    moved = np.random.default_rng(5).permutation(len(rows))
    one = case_status(coded(rows), persons, sex, map12, cases=CaseRule(2))
    other = case_status(
        coded([rows[i] for i in moved]), persons, sex, map12, cases=CaseRule(2)
    )
    pd.testing.assert_frame_equal(one.counts, other.counts)
    assert one.mapping == other.mapping
    for name in ("case_rows", "excluded_rows"):
        for a, b in zip(
            getattr(one.status, name), getattr(other.status, name), strict=True
        ):
            assert a.dtype == b.dtype == np.int32
            np.testing.assert_array_equal(a, b)


def test_a_person_in_several_rows_has_the_same_status_in_each(random_rows, map12):
    rows, persons = random_rows
    sex = ["Female"] * len(persons)
    once = case_status(coded(rows), persons, sex, map12, cases=CaseRule(2))
    twice = case_status(
        coded(rows), persons * 2, sex * 2, map12, cases=CaseRule(2, use_exclusions=True)
    )
    assert status_of(twice, "427.2") == status_of(once, "427.2") * 2


# PheTK's counts


def counted(folder, text):
    (folder / "counts.csv").write_text(text)
    return read_phecode_counts(folder / "counts.csv")


def test_counts_of_phetk_make_cases_controls_and_excluded(tmp_path, map12):
    counts = counted(
        tmp_path, "person_id,phecode,count\na,427.21,2\nb,427.21,1\nc,426.24,5\n"
    )
    persons = ["a", "b", "c", "d", "a"]
    found = case_status(counts, persons, [""] * 5, map12, cases=CaseRule(2))
    assert status_of(found, "427.21") == [CASE, EXCLUDED, EXCLUDED, CONTROL, CASE]
    assert found.mapping is None
    assert found.n_without_codes == 1


@pytest.mark.parametrize(
    ("phecodes", "rows", "words"),
    [(("8", "427"), "row 2", "zeros were lost"), (("427", "999.9"), "row 3", "no such")],
)
def test_counted_phecodes_that_the_map_lacks_are_refused(
    tmp_path, map12, phecodes, rows, words
):
    body = "".join(f"a,{phecode},2\n" for phecode in phecodes)
    counts = counted(tmp_path, "person_id,phecode,count\n" + body)
    with pytest.raises(BadInput, match=words) as caught:
        case_status(counts, ["a"], [""], map12, cases=CaseRule(2))
    assert (caught.value.code, caught.value.where) == ("E_CODE", f"column phecode, {rows}")


# The day of a first code


def test_the_first_code_of_each_person_is_found_through_the_roll_up(map12):
    diagnoses = coded(
        [
            ("a", "I4891", "10", "2015-03-01"),  # 427.21, so 427.2 and 427 as well
            ("a", "42731", "9", "2014-02-01"),  # 427.21 in ICD-9-CM
            ("a", "I471", "10", "2013-01-01"),  # 427.11, so 427 alone
            ("b", "I10", "10", "2012-05-05"),
            ("b", "I4891", "10", "2016-07-08"),
            ("stranger", "I4891", "10", "2001-01-01"),
        ]
    )
    found = first_code_days(diagnoses, ["b", "c", "a", "b"], map12, ["427", "427.21"])
    nothing = "NaT"
    fibrillation = ["2016-07-08", nothing, "2014-02-01", "2016-07-08"]
    assert found["427.21"].astype(str).tolist() == fibrillation
    arrhythmia = ["2016-07-08", nothing, "2013-01-01", "2016-07-08"]
    assert found["427"].astype(str).tolist() == arrhythmia


def test_the_day_of_a_first_code_needs_dates(map12):
    rows = coded([("a", "I10", "10", "2012-05-05")])
    undated = Diagnoses(rows.table.drop_columns(["date"]))
    with pytest.raises(BadInput, match="add the column date") as error:
        first_code_days(undated, ["a"], map12, ["401"])
    assert error.value.code == "E_COLUMNS"
