import sys
import threading
from subprocess import run

import numpy as np
import pytest

from phenokit.engine import Engine, EngineBusy
from phenokit.errors import BundleError
from phenokit.networks.checkpoint import bundle_folders
from phenokit.pipeline import ScoredECG
from phenokit.simulation.ecg import simulate_ecg

MODEL = "ecg-demo"
needs_model = pytest.mark.skipif(
    MODEL not in {folder.name for folder in bundle_folders()}, reason=f"no model {MODEL}"
)


def recordings(n: int):
    names = ("normal", "right_bundle_branch_block", "atrial_fibrillation")
    return [
        simulate_ecg(
            names[seed % 3], rng=np.random.default_rng(seed), age=60.0, sex="female"
        ).recording
        for seed in range(n)
    ]


@pytest.fixture
def engine():
    engine = Engine()
    yield engine
    engine.close()


def test_importing_the_engine_does_not_import_torch():
    code = "import sys, phenokit.engine; sys.exit('torch' in sys.modules)"
    assert run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_full_queue_says_busy_at_once():
    engine, free = Engine(max_waiting=1), threading.Event()
    started = threading.Event()
    first = engine.run(lambda: (started.set(), free.wait(10)))
    started.wait(10)
    engine.run(lambda: None)
    with pytest.raises(EngineBusy, match="1 recordings are waiting"):
        engine.run(lambda: None)
    free.set()
    assert first.result(10)
    engine.close()


def test_work_runs_in_one_thread_in_order(engine: Engine):
    seen: list[tuple[int, int]] = []
    waiting = [
        engine.run(lambda n=n: seen.append((n, threading.get_ident()))) for n in range(20)
    ]
    waiting[-1].result(10)
    assert [n for n, _ in seen] == list(range(20))
    assert len({thread for _, thread in seen}) == 1


def test_a_model_that_is_not_installed_is_an_error_for_the_caller_only(engine: Engine):
    with pytest.raises(BundleError):
        engine.model("no-such-model")
    assert engine.run(lambda: 1).result(10) == 1


@needs_model
def test_a_recording_scores_the_same_alone_and_in_company(engine: Engine):
    ours = recordings(6)
    alone = [engine.score_ecg(one, MODEL) for one in ours]
    together: dict[int, ScoredECG] = {}

    def ask(n: int) -> None:
        together[n] = engine.score_ecg(ours[n], MODEL)

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(len(ours))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for n, one in enumerate(alone):
        np.testing.assert_array_equal(one.logit, together[n].logit)


@needs_model
def test_a_model_is_loaded_once(engine: Engine):
    engine.preload(MODEL)
    assert engine.model(MODEL) is engine.model(MODEL)


@needs_model
def test_an_explanation_adds_up_to_the_logit(engine: Engine):
    explanation = engine.explain(recordings(2)[1], MODEL)
    for finding in explanation.findings:
        total = finding.bias + sum(match.contribution for match in finding.matches)
        assert total == pytest.approx(finding.logit, abs=1e-5)
