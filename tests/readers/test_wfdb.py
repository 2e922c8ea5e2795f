import os
from pathlib import Path

import numpy as np
import pytest
import wfdb
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from phenokit.errors import BadInput
from phenokit.readers.ecg import read_ecg
from phenokit.readers.wfdb import read_wfdb
from phenokit.recording import INDEPENDENT_LEADS, LEADS

NAME = "Mustermann"


@pytest.fixture
def digital() -> np.ndarray:
    return np.random.default_rng(5).integers(-1500, 1500, size=(12, 1000)).astype(np.int16)


def write(folder: Path, digital, *, name="a", leads=LEADS, record=None, **fields) -> Path:
    """Write a record by hand; fields replace those of every signal line."""
    fields = {
        "file": f"{name}.dat", "format": "16", "gain": "1000/mV", "bits": "16", "zero": "0",
        "first": "0", "block": "0", **fields,
    }  # fmt: skip
    lines = [record or f"{name} {len(leads)} 100 {digital.shape[1]}"]
    for lead, row in zip(leads, digital, strict=True):
        values = {
            "sum": str(int(row.astype(np.int64).sum()) % 65536),
            "lead": lead,
            **fields,
        }
        lines.append(
            "{file} {format} {gain} {bits} {zero} {first} {sum} {block} {lead}".format(
                **values
            )
        )
    (folder / f"{name}.hea").write_text("\n".join(lines) + "\n")
    (folder / f"{name}.dat").write_bytes(digital.T.astype("<i2").tobytes())
    return folder / f"{name}.hea"


def refusal(path: Path) -> BadInput:
    with pytest.raises(BadInput) as caught:
        read_wfdb(path, root=path.parent)
    return caught.value


def write_by_wfdb(folder: Path, digital, form: str, *, baseline=0) -> Path:
    """Write a record by the wfdb package; what it cannot write it can read."""
    own_bytes = {"61": digital.T.astype(">i2"), "160": digital.T.astype("<i4") + 32768}
    wfdb.wrsamp(
        "b", fs=500, units=["mV"] * 12, sig_name=list(LEADS), adc_gain=[200.0] * 12,
        d_signal=digital.T.astype(np.int64), baseline=[baseline] * 12,
        fmt=["16" if form in own_bytes else form] * 12, write_dir=str(folder),
    )  # fmt: skip
    path = folder / "b.hea"
    if form in own_bytes:
        path.write_text(path.read_text().replace("b.dat 16 ", f"b.dat {form} "))
        dtype = ">i2" if form == "61" else "<u2"
        path.with_suffix(".dat").write_bytes(own_bytes[form].astype(dtype).tobytes())
    return path


@pytest.mark.parametrize("form", ["16", "212", "24", "32", "61", "80", "160"])
@pytest.mark.parametrize("n_samples", [999, 1000])
def test_read_wfdb_is_bit_equal_to_rdsamp(form, n_samples, digital, tmp_path):
    limit = 100 if form == "80" else 2000
    path = write_by_wfdb(tmp_path, digital[:, :n_samples] % limit, form, baseline=7)
    ours = read_wfdb(path)
    signal, fields = wfdb.rdsamp(str(path.with_suffix("")))
    assert np.array_equal(ours.signal, np.asarray(signal).T)
    assert ours.sampling_rate == fields["fs"]


@pytest.mark.realdata
def test_read_wfdb_is_bit_equal_to_rdsamp_on_ptbxl():
    folder = os.environ.get("PHENOKIT_DATA")
    if folder is None:
        pytest.skip("PHENOKIT_DATA is not set")
    paths = sorted(Path(folder).glob("ptbxl-500-raw/records*/*/*.hea"))[::25]
    assert paths
    for path in paths:
        signal, _ = wfdb.rdsamp(str(path.with_suffix("")))
        assert np.array_equal(read_wfdb(path).signal, np.asarray(signal).T)


def test_read_wfdb_reads_the_marker_of_a_missing_sample_as_nan(digital, tmp_path):
    digital[3, 10] = -32768
    signal = read_wfdb(write(tmp_path, digital)).signal
    assert np.argwhere(np.isnan(signal)).tolist() == [[3, 10]]


@settings(
    max_examples=15,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    deadline=None,
)
@given(
    order=st.permutations(range(12)),
    case=st.sampled_from([str.lower, str.upper, str.strip]),
)
def test_the_order_and_case_of_the_leads_do_not_matter(order, case, digital, tmp_path):
    plain = read_wfdb(write(tmp_path, digital))
    names = [case(LEADS[i]) for i in order]
    shuffled = read_wfdb(write(tmp_path, digital[list(order)], name="s", leads=names))
    assert np.array_equal(plain.signal, shuffled.signal)


@settings(
    max_examples=15,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    deadline=None,
)
@given(factor=st.integers(2, 16))
def test_gain_and_samples_times_k_give_the_same_signal(factor, digital, tmp_path):
    plain = read_wfdb(write(tmp_path, digital))
    scaled = read_wfdb(
        write(tmp_path, digital * np.int16(factor), name="s", gain=f"{1000 * factor}/mV")
    )
    np.testing.assert_allclose(scaled.signal, plain.signal, rtol=1e-15)


def test_read_wfdb_converts_by_the_declared_unit(digital, tmp_path):
    plain = read_wfdb(write(tmp_path, digital)).signal
    in_uv = read_wfdb(write(tmp_path, digital, name="u", gain="1/uV")).signal
    in_v = read_wfdb(write(tmp_path, digital, name="v", gain="1000000/V")).signal
    np.testing.assert_allclose(in_uv, plain, rtol=1e-14)
    np.testing.assert_allclose(in_v, plain, rtol=1e-14)


def test_a_baseline_is_subtracted_and_stands_in_for_adc_zero(digital, tmp_path):
    plain = read_wfdb(write(tmp_path, digital)).signal
    based = read_wfdb(write(tmp_path, digital, name="b", gain="1000(200)/mV")).signal
    zeroed = read_wfdb(write(tmp_path, digital, name="z", zero="200")).signal
    np.testing.assert_allclose(based, plain - 0.2, atol=1e-12)
    assert np.array_equal(based, zeroed)


def test_a_byte_offset_and_a_skew_are_applied(digital, tmp_path):
    path = write(tmp_path, digital, format="16:3+24")
    data = path.with_suffix(".dat")
    data.write_bytes(b"x" * 24 + data.read_bytes())
    signal = read_wfdb(path).signal
    np.testing.assert_allclose(signal[:, :-3], digital[:, 3:] / 1000)
    assert np.isnan(signal[:, -3:]).all()


def test_eight_independent_leads_give_the_other_four(digital, tmp_path):
    rows = [LEADS.index(lead) for lead in INDEPENDENT_LEADS]
    recording = read_wfdb(write(tmp_path, digital[rows], leads=INDEPENDENT_LEADS))
    np.testing.assert_allclose(recording.channel("III"), (digital[1] - digital[0]) / 1000)
    np.testing.assert_allclose(
        recording.channel("aVR"), -(digital[0].astype(float) + digital[1]) / 2000
    )
    assert recording.derived == ("III", "aVR", "aVL", "aVF")
    assert [notice.code for notice in recording.notices] == ["W_DERIVED"]


def test_extra_leads_are_listed_and_not_read(digital, tmp_path):
    names = ("V7", *LEADS, "v4r")
    recording = read_wfdb(
        write(tmp_path, np.concatenate([digital[:1], digital, digital[:1]]), leads=names)
    )
    np.testing.assert_allclose(recording.signal, digital / 1000)
    assert recording.extra_channels == ("V7", "V4R")


def test_a_negative_gain_is_applied_and_names_the_leads(digital, tmp_path):
    recording = read_wfdb(write(tmp_path, digital, gain="-1000/mV"))
    np.testing.assert_allclose(recording.signal, -digital / 1000)
    assert recording.notices[0].code == "A_POLARITY"
    assert "I, II, III" in recording.notices[0].message


@pytest.mark.parametrize("suffix", ["", ".hea", ".dat"])
def test_read_ecg_takes_header_signal_file_and_record_name(suffix, digital, tmp_path):
    path = write(tmp_path, digital, name="10.5_a")
    assert read_ecg(path.with_name("10.5_a" + suffix)).record_id == "10.5_a"


def test_comments_are_dropped_whatever_their_encoding(digital, tmp_path):
    path = write(tmp_path, digital)
    path.write_bytes(
        b"# \xe4\xf6 " + NAME.encode() + b"\n" + path.read_bytes() + b"#" + b"\xff"
    )
    assert NAME not in repr(read_wfdb(path))


@pytest.mark.parametrize(
    ("record", "code"),
    [
        ("a 12 1e3 1000", "E_HEADER"),
        ("a 12 -100 1000", "E_HEADER"),
        ("a 12 +100 1000", "E_HEADER"),
        ("a 12 100,5 1000", "E_HEADER"),
        ("a 12 nan 1000", "E_HEADER"),
        ("a 12", "E_HEADER"),
        ("a 12 100", "E_HEADER"),
        ("a 0 100 1000", "E_HEADER"),
        ("a 11 100 1000", "E_HEADER"),
        ("a/2 12 100 1000", "E_HEADER"),
        ("a 12 100 1000 10:00:00 1/1/2020 x", "E_HEADER"),
        ("../a 12 100 1000", "E_PATH"),
        ("s3://b/a 12 100 1000", "E_PATH"),
        ("x" * 300 + " 12 100 1000", "E_PATH"),
        ("a 12 0 1000", "E_FS"),
        ("a 12 99.9 1000", "E_FS"),
        ("a 12 1001 1000", "E_FS"),
        ("a 12 100 999", "E_SIZE_MISMATCH"),
        ("a 12 100 100000000000", "E_SIZE_MISMATCH"),
    ],
)
def test_read_wfdb_refuses_a_record_line(record, code, digital, tmp_path):
    assert refusal(write(tmp_path, digital, record=record)).code == code


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"gain": "0/mV"}, "E_CALIBRATION"),
        ({"gain": "1000"}, "E_UNITS"),
        ({"gain": "1000/furlong"}, "E_UNITS"),
        ({"gain": "1..5/mV"}, "E_HEADER"),
        ({"gain": "nan/mV"}, "E_HEADER"),
        ({"gain": "1e999/mV"}, "E_HEADER"),
        ({"gain": "1_000/mV"}, "E_HEADER"),
        ({"gain": "1000(x)/mV"}, "E_HEADER"),
        ({"sum": "1e3"}, "E_HEADER"),
        ({"sum": "12345678"}, "E_CHECKSUM"),
        ({"format": "8"}, "E_FORMAT"),
        ({"format": "16x2"}, "E_FORMAT"),
        ({"format": "16:1000"}, "E_EMPTY"),
        ({"format": "212"}, "E_SIZE_MISMATCH"),
        ({"file": "../a.dat"}, "E_PATH"),
        ({"file": "/etc/hostname"}, "E_PATH"),
        ({"file": "s3://bucket/a.dat"}, "E_PATH"),
        ({"file": "b.dat"}, "E_MISSING"),
        ({"lead": "I"}, "E_LEADS"),
        ({"lead": "<b>"}, "E_LEADS"),
    ],
)
def test_read_wfdb_refuses_a_signal_line(fields, code, digital, tmp_path):
    error = refusal(write(tmp_path, digital, **fields))
    assert error.code == code
    assert "<b>" not in str(error)


@pytest.mark.parametrize(
    ("time", "codes"),
    [
        ("10:20:30.5 31/12/2020", []),
        ("25:61:00", ["W_TIME"]),
        ("1:2:3 31/02/2020", ["W_TIME"]),
    ],
)
def test_an_impossible_time_is_dropped_with_a_warning(time, codes, digital, tmp_path):
    recording = read_wfdb(write(tmp_path, digital, record=f"a 12 100 1000 {time}"))
    assert [notice.code for notice in recording.notices] == codes


def test_read_wfdb_names_the_missing_lead(digital, tmp_path):
    error = refusal(write(tmp_path, digital[:11], leads=LEADS[:11]))
    assert (error.code, error.where) == ("E_LEADS", "V6")
    assert "V6 missing" in str(error)


def test_bytes_take_precedence_over_meaning(digital, tmp_path):
    path = write(tmp_path, digital, gain="0/furlong", lead="I")
    assert refusal(path).code == "E_UNITS"
    path.with_suffix(".dat").write_bytes(b"\0" * 24000)
    assert refusal(path).code == "E_CHECKSUM"
    path.with_suffix(".dat").write_bytes(b"")
    assert refusal(path).code == "E_SIZE_MISMATCH"


@pytest.mark.parametrize("which", ["a.hea", "a.dat"])
@pytest.mark.parametrize("what", ["fifo", "link", "device", "folder"])
def test_read_wfdb_opens_regular_files_only(which, what, digital, tmp_path):
    path = write(tmp_path, digital)
    target = tmp_path / which
    target.rename(tmp_path / "other")
    if what == "fifo":
        os.mkfifo(target)
    elif what == "folder":
        target.mkdir()
    else:
        target.symlink_to(tmp_path / "other" if what == "link" else "/dev/zero")
    assert refusal(path).code == "E_PATH"


def test_a_sparse_file_of_a_terabyte_is_refused_unread(digital, tmp_path):
    path = write(tmp_path, digital)
    os.truncate(path.with_suffix(".dat"), 1 << 40)
    assert refusal(path).code == "E_SIZE_MISMATCH"
    os.truncate(path.with_suffix(".dat"), 24 * (1 << 35))
    header = path.read_text().replace("a 12 100 1000", f"a 12 100 {1 << 35}")
    path.write_text(header)
    assert refusal(path).code == "E_TOO_LARGE"


def test_one_flipped_bit_in_the_signal_is_refused(digital, tmp_path):
    path = write(tmp_path, digital)
    data = bytearray(path.with_suffix(".dat").read_bytes())
    data[777] ^= 4
    path.with_suffix(".dat").write_bytes(data)
    assert refusal(path).code == "E_CHECKSUM"


@settings(
    max_examples=300,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    deadline=None,
)
@given(data=st.data())
def test_a_fuzzed_header_is_read_or_refused_and_nothing_else(data, digital, tmp_path):
    path = tmp_path / "a.hea"
    if not path.exists():
        write(tmp_path, digital)
        (tmp_path / "good").write_bytes(path.read_bytes())
    header = bytearray((tmp_path / "good").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(header)))
        stop = min(len(header), start + data.draw(st.integers(0, 5)))
        header[start:stop] = data.draw(
            st.one_of(
                st.binary(max_size=4), st.sampled_from([b" ", b"\n", b"9" * 20, b"-1"])
            )
        )
    path.write_bytes(header)
    try:
        recording = read_wfdb(path, root=tmp_path)
    except BadInput:
        return
    assert recording.signal.shape == (12, 1000)
