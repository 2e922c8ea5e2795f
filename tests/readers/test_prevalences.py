from pathlib import Path

import numpy as np
import pytest

from phenokit.errors import BadInput
from phenokit.readers.prevalences import read_prevalences

HEAD = "test,above,prevalence,low,high,source,population,age_range,time_window\n"


def write(folder: Path, *rows: str) -> Path:
    path = folder / "prevalences.csv"
    path.write_text(HEAD + "\n".join(rows) + "\n")
    return path


def test_a_prevalence_is_read_with_its_limit_and_all_that_it_is_of(tmp_path: Path):
    path = write(tmp_path, "NT-proBNP,900,0.15,0.12,0.18,Registry 2020,all,40-85,30 days")
    (found,) = read_prevalences(path)
    assert (found.test, found.above, found.prevalence) == ("NT-proBNP", 900.0, 0.15)
    assert np.isnan(found.below)
    assert (found.source, found.time_window) == ("Registry 2020", "30 days")


@pytest.mark.parametrize(
    ("row", "code", "said"),
    [
        ("BNP,900,15,12,18,s,p,a,t", "E_PREVALENCE", "row 2"),
        ("BNP,900,0.15,0.16,0.18,s,p,a,t", "E_RANGE", "does not hold"),
    ],
)
def test_what_cannot_be_a_prevalence_is_refused(tmp_path: Path, row, code, said):
    with pytest.raises(BadInput) as refused:
        read_prevalences(write(tmp_path, row))
    assert refused.value.code == code
    assert said in f"{refused.value} {refused.value.where}"
