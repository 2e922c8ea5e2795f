"""A simulated cohort as files."""

from typing import Any

import numpy as np
import pytest
import wfdb

from phenokit.readers.cohorts import check_tables, read_cohort_tables
from phenokit.readers.ecg import read_ecg
from phenokit.simulation.cohort import simulate_cohort, simulate_recording
from phenokit.simulation.hospital import cohort_files, wfdb_212, write_recordings


@pytest.fixture(scope="module")
def cohort():
    return simulate_cohort(30, seed=3)


def test_a_record_in_format_212_is_read_by_wfdb_to_half_a_step(cohort, tmp_path):
    plan = next(plan for plan in cohort.plans if "normal" not in plan.conditions)
    write_recordings([plan], tmp_path)
    simulated = simulate_recording(plan)
    record: Any = wfdb.rdrecord(str(tmp_path / plan.record_id))
    header: Any = wfdb.rdheader(str(tmp_path / plan.record_id))
    assert record.fmt == ["212"] * 12
    assert record.checksum == header.checksum
    assert np.abs(record.p_signal.T - simulated.signal).max() <= 0.0025 + 1e-9


def test_our_strict_reader_finds_nothing_to_remark_on(cohort, tmp_path):
    write_recordings(cohort.plans[:1], tmp_path)
    recording = read_ecg(tmp_path / f"{cohort.plans[0].record_id}.hea", root=tmp_path)
    assert recording.notices == ()
    assert recording.sampling_rate == 250
    assert recording.signal.shape == (12, 2500)


def test_extremes_survive_packing_and_what_is_larger_is_clipped(cohort):
    recording = simulate_recording(cohort.plans[0])
    signal = recording.signal
    signal[0, :4] = [10.235, -10.235, 99.0, -99.0]
    _, data = wfdb_212(recording)
    first = np.frombuffer(data, np.uint8)[:3].astype(int)
    value = first[0] | ((first[1] & 0x0F) << 8)
    assert value == 2047
    assert len(data) == 12 * 2500 * 3 // 2


def test_the_tables_pass_the_strict_reader(cohort, tmp_path):
    for name, data in cohort_files(cohort, seed=3, model="ecg-demo").items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    tables = read_cohort_tables(tmp_path)
    check_tables(tables)
    assert tables.recordings is not None
    assert len(tables.patients) == 30
    assert list(tables.recordings["record_id"]) == [p.record_id for p in cohort.plans]


def test_a_recording_that_is_there_is_not_made_again(cohort, tmp_path):
    assert write_recordings(cohort.plans[:3], tmp_path) == 3
    (tmp_path / f"{cohort.plans[1].record_id}.hea").unlink()
    assert write_recordings(cohort.plans[:3], tmp_path) == 1
