import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import wfdb

from phenokit.errors import BadInput
from phenokit.readers.physionet import fetch_records
from phenokit.readers.wfdb import read_wfdb
from phenokit.recording import LEADS


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder, says nothing, and redirects what lies below /away."""

    asked: list[str]

    def do_GET(self):
        self.asked.append(self.path)
        if self.path.startswith("/away"):
            self.send_response(302)
            self.send_header("Location", "ftp://localhost/")
            self.end_headers()
        else:
            super().do_GET()

    def log_message(self, format, *args):
        pass


@pytest.fixture
def mirror(tmp_path):
    """The folder that is served, its address, and the paths that were asked for."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = type("OwnHandler", (Handler,), {"asked": []})
    with ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(handler, directory=str(folder))
    ) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}", handler.asked
        server.shutdown()
        thread.join()


def write_record(folder, record_id):
    place = folder / "records500" / f"{record_id // 1000 * 1000:05d}"
    place.mkdir(parents=True, exist_ok=True)
    wfdb.wrsamp(
        f"{record_id:05d}_hr",
        fs=500,
        units=["mV"] * 12,
        sig_name=list(LEADS),
        d_signal=np.random.default_rng(record_id).integers(-900, 900, (5000, 12)),
        fmt=["16"] * 12,
        adc_gain=[1000.0] * 12,
        baseline=[0] * 12,
        write_dir=str(place),
    )
    return place / f"{record_id:05d}_hr.hea"


def test_records_arrive_byte_for_byte_in_the_official_layout(mirror, tmp_path):
    folder, address, _ = mirror
    served = [write_record(folder, 7), write_record(folder, 21837)]
    shown = []
    out = tmp_path / "out"
    n_fetched = fetch_records(
        ["7", "21837"], out, source=address + "/", progress=lambda *a: shown.append(a)
    )
    assert (n_fetched, shown) == (2, [(1, 2), (2, 2)])
    for header in served:
        arrived = out / header.relative_to(folder)
        assert read_wfdb(arrived).sha256 == read_wfdb(header).sha256
    assert len([path for path in out.rglob("*") if path.is_file()]) == 4
    assert not list(out.rglob(".fetch-*"))


def test_a_record_that_is_present_is_not_asked_for_again(mirror, tmp_path):
    folder, address, asked = mirror
    write_record(folder, 7)
    fetch_records(["7"], tmp_path / "out", source=address)
    asked.clear()
    assert fetch_records(["7"], tmp_path / "out", source=address) == 0
    assert asked == []


def test_a_damaged_copy_is_fetched_anew(mirror, tmp_path):
    folder, address, _ = mirror
    write_record(folder, 7)
    fetch_records(["7"], tmp_path / "out", source=address)
    (tmp_path / "out/records500/00000/00007_hr.dat").write_bytes(b"cut")
    assert fetch_records(["7"], tmp_path / "out", source=address) == 1
    assert read_wfdb(tmp_path / "out/records500/00000/00007_hr.hea").duration == 10


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (lambda data: data.write_bytes(data.read_bytes()[:-24]), "E_SIZE_MISMATCH"),
        (lambda data: data.write_bytes(bytes(2**20 + 1)), "E_TOO_LARGE"),
        (lambda data: data.unlink(), "E_MISSING"),
    ],
)
def test_a_record_that_arrives_damaged_gets_no_name(mirror, tmp_path, damage, code):
    folder, address, _ = mirror
    damage(write_record(folder, 7).with_suffix(".dat"))
    with pytest.raises(BadInput) as refusal:
        fetch_records(["7"], tmp_path / "out", source=address)
    assert refusal.value.code == code
    assert list((tmp_path / "out/records500/00000").iterdir()) == []


def test_without_a_server_the_remedy_is_said(mirror, tmp_path):
    with pytest.raises(BadInput, match=r"cannot be reached.*PHENOKIT_PTBXL") as refusal:
        fetch_records(["7"], tmp_path, source="http://127.0.0.1:9")  # the discard port
    assert refusal.value.code == "E_MISSING"


@pytest.mark.parametrize(
    "source",
    ["http://example.org/ptb-xl", "file:///etc", "ftp://localhost", "", "http://["],
)
def test_only_https_or_this_machine_is_asked(tmp_path, source):
    with pytest.raises(BadInput, match="https address") as refusal:
        fetch_records(["7"], tmp_path, source=source)
    assert refusal.value.code == "E_PATH"


def test_a_redirection_to_another_kind_of_address_is_refused(mirror, tmp_path):
    _, address, _ = mirror
    with pytest.raises(BadInput, match="https address"):
        fetch_records(["7"], tmp_path / "out", source=f"{address}/away")


@pytest.mark.parametrize("record_id", ["../7", "0", "7.0", "100000", "\u0667", ""])
def test_a_record_id_is_a_number_of_ptbxl_before_it_is_a_path(tmp_path, record_id):
    with pytest.raises(BadInput) as refusal:
        fetch_records(["7", record_id], tmp_path / "out")
    assert refusal.value.code == "E_RANGE"
    assert not (tmp_path / "out").exists()
