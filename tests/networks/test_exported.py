"""The exported forward pass holds to what torch says, and scores without torch."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from phenokit import pipeline
from phenokit.errors import BadInput, BundleError
from phenokit.networks.exported import export
from phenokit.networks.prototype import (
    PrototypeNetwork,
    TorchForward,
    TrunkConfig,
    compact,
    for_inference,
    from_arrays,
    published,
    to_arrays,
)
from phenokit.networks.prototype_config import BRANCHES
from phenokit.pipeline import (
    BATCH,
    default_inference,
    load_ecg_model,
    load_model,
    score_ecg,
)
from phenokit.recording import LEADS, Recording
from phenokit.statements import SCP_STATEMENTS, Branch

BRANCH_LABELS: dict[Branch, tuple[str, ...]] = {
    branch: tuple(s.code for s in SCP_STATEMENTS if s.branch == branch)
    for branch in BRANCHES
}
LABELS = tuple(s.code for s in SCP_STATEMENTS)
PUBLISHED = published(BRANCH_LABELS, LABELS)
COMPACT = compact(BRANCH_LABELS, LABELS, per_label=dict.fromkeys(BRANCH_LABELS, 2))


def narrow(config):
    trunks = {
        name: TrunkConfig(trunk.kind, (4, 6, 8, 10))
        for name, trunk in config.trunks.items()
    }
    return replace(config, trunks=trunks, features=config.features and 12)


CONFIGS = {
    "published": PUBLISHED,
    "narrow": narrow(PUBLISHED),
    "narrow, best five windows": replace(narrow(PUBLISHED), pooling="topk"),
    "compact": COMPACT,
    "compact, reference cosine": replace(narrow(COMPACT), similarity="reference"),
}


def weights(config):
    """Random weights whose batch norms have seen data."""
    with torch.random.fork_rng():
        torch.set_rng_state(torch.Generator().manual_seed(5).get_state())
        network = PrototypeNetwork(config).train()
        with torch.no_grad():
            network(3 * torch.randn(4, 12, 1000) + 1)
    return to_arrays(network)


def both(config, arrays):
    network = for_inference(from_arrays(config, arrays))
    return export(config, arrays, batch=BATCH), TorchForward(network, "cpu")


@pytest.fixture(scope="module")
def signal():
    return np.random.default_rng(7).normal(size=(BATCH, 12, 1000)).astype(np.float32)


def assert_same_windows(ours, network, signal):
    """The same best windows, but for windows that are equally good to 1e-6."""
    with torch.inference_mode():
        windows = network.similarities(network.features(torch.from_numpy(signal)))
    start = 0
    for similarity in windows.values():
        similarity = similarity.numpy()
        stop = start + similarity.shape[1]
        chosen = np.take_along_axis(similarity, ours[:, start:stop, None], axis=2)[..., 0]
        np.testing.assert_allclose(chosen, similarity.max(axis=2), rtol=1e-6, atol=1e-6)
        start = stop


@pytest.mark.parametrize("name", CONFIGS)
def test_every_tensor_is_that_of_torch(name, signal):
    exported, eager = both(CONFIGS[name], weights(CONFIGS[name]))
    ours, theirs = exported(signal), eager(signal)
    for one, other in zip(ours, theirs, strict=True):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
    np.testing.assert_allclose(ours.similarity, theirs.similarity, rtol=0, atol=2e-6)
    np.testing.assert_allclose(ours.features, theirs.features, rtol=0, atol=1e-6)
    assert_same_windows(ours.window, eager.network, signal)


@pytest.mark.parametrize("name", ["published", "compact"])
def test_no_bit_depends_on_neighbours_place_or_call(name, signal):
    exported = export(CONFIGS[name], weights(CONFIGS[name]), batch=BATCH)
    expected = exported(signal)
    order = np.random.default_rng(1).permutation(BATCH)
    company = signal[order].copy()
    company[8:] = 0
    for one, other in zip(exported(company), expected, strict=True):
        np.testing.assert_array_equal(one[:8], other[order[:8]])


def simulated(ecg):
    conditions = ("normal", "atrial_fibrillation", "left_bundle_branch_block")
    return [ecg(conditions[n % 3], seed=300 + n) for n in range(6)]


def real():
    folder = os.environ.get("PHENOKIT_DATA")
    if folder is None:
        pytest.skip("PHENOKIT_DATA is not set")
    with np.load(Path(folder) / "ptbxl-500-raw/records500_delta_uV.npz") as archive:
        raw = archive["d"][:24].cumsum(-1, dtype=np.int16) / 1000.0
    return [Recording(row, LEADS, 500.0, str(n)) for n, row in enumerate(raw)]


@pytest.fixture(scope="module", params=["ecg-demo", "ecg-ptbxl"])
def shipped(request):
    return [load_ecg_model(request.param, inference=name) for name in ("openvino", "torch")]


def assert_scores_agree(recordings, models):
    scored, expected = (score_ecg(recordings, m, open_abstained=True) for m in models)
    for ours, theirs in zip(scored, expected, strict=True):
        assert (ours.code, ours.all_codes) == (theirs.code, theirs.all_codes)
        for field in ("similarity", "logit", "probability"):
            one, other = getattr(ours, field), getattr(theirs, field)
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
    eager = models[1].forward
    for first in range(0, len(recordings), BATCH):
        block = recordings[first : first + BATCH]
        signal = np.zeros((BATCH, 12, 1000), np.float32)
        for row, one in enumerate(block):
            signal[row] = pipeline.prepare(one, models[0].contract).signal
        ours, theirs = models[0].forward(signal), eager(signal)
        np.testing.assert_allclose(ours.features, theirs.features, rtol=0, atol=1e-5)
        assert_same_windows(ours.window, eager.network, signal)


def test_shipped_models_agree_on_simulated_recordings(ecg, shipped):
    assert_scores_agree(simulated(ecg), shipped)


@pytest.mark.realdata
def test_shipped_models_agree_on_real_recordings(shipped):
    assert_scores_agree(real(), shipped)


SCORE = """
import hashlib, sys
events = []
sys.addaudithook(lambda event, arguments: events.append((event, arguments)))
import numpy as np
from phenokit.pipeline import load_ecg_model, score_ecg
from phenokit.recording import LEADS, Recording
noise = np.random.default_rng(3).normal(size=(12, 5000))
signal = 0.3 * np.apply_along_axis(np.convolve, 1, noise, np.ones(20) / 5, "same")
model = load_ecg_model("ecg-demo", inference=sys.argv[1])
scored = score_ecg([Recording(signal, LEADS, 500.0, "x")], model, open_abstained=True)[0]
digest = hashlib.sha256()
for array in (scored.similarity, scored.logit, scored.probability, scored.window):
    digest.update(array.tobytes())
import json
from openvino.tools.ovc import telemetry_utils
print(json.dumps({
    "engine": model.inference, "sha256": digest.hexdigest(),
    "torch": "torch" in sys.modules,
    "connected": [event for event, _ in events if event.startswith("socket.")],
    "written": [a[0] for e, a in events if e == "open" and set(str(a[1])) & set("wax+")],
    "reports_by": telemetry_utils.tm.__name__,
}))
"""


def scored_elsewhere(threads, inference="openvino"):
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": threads,
        "PYTHONDONTWRITEBYTECODE": "1",  # what is written is then what we write
        "OPENBLAS_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", SCORE, inference],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def elsewhere():
    return scored_elsewhere("1")


def test_scoring_imports_no_torch(elsewhere):
    assert elsewhere["engine"].startswith("openvino 2026.")
    assert not elsewhere["torch"]


def test_scoring_reports_nothing_to_anybody(elsewhere):
    assert elsewhere["connected"] == []
    assert elsewhere["written"] == []
    assert elsewhere["reports_by"] == "openvino.tools.ovc.telemetry_stub"


def test_bytes_are_equal_in_another_process_with_other_threads(elsewhere):
    assert scored_elsewhere("2")["sha256"] == elsewhere["sha256"]


def test_as_many_threads_as_asked_in_float32(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    config = narrow(COMPACT)
    compiled = export(config, weights(config), batch=2).request.get_compiled_model()
    assert compiled.get_property("INFERENCE_NUM_THREADS") == 1
    assert compiled.get_property("INFERENCE_PRECISION_HINT").to_string() == "f32"


DAMAGE = {
    "trunks.rhythm.stem.0.weight": (lambda a: a[:, :11], "shape 4 x 11 x 7"),
    "contexts.global.1.bn2.running_var": (lambda a: None, "is missing"),
    "prototypes.morphology": (lambda a: a[:, :, :2], "shape 104 x 10 x 2"),
    "classifiers.global.weight": (lambda a: a[1:], "shape 2 x 6"),
    "fusion.bias": (lambda a: a[:5], "shape 5"),
    "strange": (lambda a: np.zeros(1), "is unknown to the network"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_tensors_that_do_not_fit_are_refused_by_name_as_in_torch(name):
    change, words = DAMAGE[name]
    config = narrow(COMPACT)
    arrays = weights(config)
    damaged = change(arrays.pop(name, None))
    arrays |= {} if damaged is None else {name: damaged}
    for load in (
        lambda: export(config, arrays, batch=2),
        lambda: from_arrays(config, arrays),
    ):
        with pytest.raises(BundleError, match=words) as refusal:
            load()
        assert (refusal.value.code, refusal.value.where) == ("E_WEIGHTS", name)


def test_the_default_is_torch_where_openvino_is_not_installed(tiny_bundle, monkeypatch):
    monkeypatch.setattr(pipeline, "find_spec", lambda name: None)
    assert default_inference("cpu") == "torch"
    model = load_ecg_model(tiny_bundle, device="cpu")
    assert model.inference == f"torch {torch.__version__.split('+')[0]}"
    with pytest.raises(BadInput, match=r"phenokit\[fast\]"):
        load_model(tiny_bundle, inference="openvino")


@pytest.mark.parametrize(
    ("machine", "device"), [("aarch64", "cpu"), ("x86_64", "cuda"), ("x86_64", "cuda:1")]
)
def test_the_default_is_torch_where_openvino_was_not_measured(machine, device, monkeypatch):
    monkeypatch.setattr(pipeline.platform, "machine", lambda: machine)
    assert default_inference(device) == "torch"


def test_what_cannot_be_exported_is_refused(tiny_bundle, ieeg_bundle):
    with pytest.raises(BadInput, match="not on cuda"):
        load_model(tiny_bundle, device="cuda", inference="openvino")
    with pytest.raises(BadInput, match="by torch alone"):
        load_model(ieeg_bundle, inference="openvino")
