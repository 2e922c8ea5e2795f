from pathlib import Path

import pytest

from phenokit.errors import BadInput
from phenokit.readers.cohort_folders import find_cohorts, read_cohort_folder

TOML = """
name = "Ward"
description = "All of 2020."
simulated = true
model = "ecg-demo"
[defaults]
minimum_codes = 1
linking = "same_admission"
later = "not known here"
"""


def cohort(root: Path, name: str, toml: str = TOML) -> Path:
    (root / name).mkdir(parents=True)
    (root / name / "cohort.toml").write_text(toml)
    return root / name


def test_a_cohort_says_what_it_is_and_how_it_is_best_analysed(tmp_path: Path):
    found = read_cohort_folder(cohort(tmp_path, "a"))
    assert (found.name, found.is_simulated, found.model) == ("Ward", True, "ecg-demo")
    assert found.defaults == {"minimum_codes": 1, "linking": "same_admission"}


@pytest.mark.parametrize(
    "toml",
    ["name = 3", "simulated = 'yes'", "[defaults]\nminimum_codes = '2'", "= x",
     "name = \xff", "[defaults]\nminimum_codes = true"],
)  # fmt: skip
def test_a_description_of_another_kind_is_refused(tmp_path: Path, toml: str):
    folder = cohort(tmp_path, "a")
    (folder / "cohort.toml").write_bytes(toml.encode("latin-1"))
    with pytest.raises(BadInput, match=r"cohort\.toml"):
        read_cohort_folder(folder)


def test_cohorts_are_found_by_name_and_links_are_left_out(tmp_path: Path):
    cohort(tmp_path / "root", "b", 'name = "A"')
    cohort(tmp_path / "root", "a", 'name = "B"')
    cohort(tmp_path / "root", "broken", "= x")
    outside = cohort(tmp_path, "outside")
    (tmp_path / "root" / "link").symlink_to(outside)
    (tmp_path / "root" / "no cohort").mkdir()
    found = find_cohorts([tmp_path / "root", tmp_path / "absent"])
    assert [one.name for one in found] == ["A", "B", "broken"]
