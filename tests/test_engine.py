import sys
import threading
from concurrent.futures import ThreadPoolExecutor
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


class Gone(BaseException):
    """What ends a script whose tab was closed, or that another run replaced."""


def leave() -> None:
    raise Gone


def test_a_request_that_was_not_begun_in_time_is_refused_and_never_run():
    engine, free, ran = Engine(deadline=0.3), threading.Event(), []
    engine.run(lambda: free.wait(10))
    with pytest.raises(EngineBusy, match=r"not begun within 0.3 s"):
        engine._ask(lambda: ran.append(1))
    free.set()
    engine.close()
    assert not ran


def test_a_request_whose_asker_has_gone_leaves_its_place_and_is_never_run():
    engine = Engine(max_waiting=1, while_waiting=leave)
    started, free, ran = threading.Event(), threading.Event(), []
    engine.run(lambda: (started.set(), free.wait(10)))
    started.wait(10)
    for _ in range(3):  # each finds the place of the one before free
        with pytest.raises(Gone):
            engine._ask(lambda: ran.append(1))
    after = engine.run(lambda: 1)
    free.set()
    assert after.result(10) == 1
    engine.close()
    assert not ran


def test_an_asker_that_leaves_during_the_work_does_not_stop_the_next():
    engine = Engine(while_waiting=leave)
    free = threading.Event()
    with pytest.raises(Gone):
        engine._ask(lambda: free.wait(10))
    free.set()
    assert engine.run(lambda: 1).result(10) == 1
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


def score_by_threads(engine: Engine, ours: list, n_threads: int) -> list[ScoredECG]:
    """All recordings, each asked for by one of several threads."""

    def ask(recording) -> ScoredECG:
        return engine.score_ecg(recording, MODEL)

    with ThreadPoolExecutor(n_threads) as threads:
        return list(threads.map(ask, ours))


@needs_model
@pytest.mark.parametrize(
    "n", [32, pytest.param(1000, marks=[pytest.mark.slow, pytest.mark.nightly])]
)
def test_recordings_score_bit_for_bit_the_same_one_by_one_and_by_16_threads(n: int):
    engine = Engine(deadline=300.0)
    distinct = recordings(16)
    ours = [distinct[k % 16] for k in range(n)]
    one_by_one = {id(one): engine.score_ecg(one, MODEL) for one in distinct}
    together = score_by_threads(engine, ours, 16)
    engine.close()
    for recording, scored in zip(ours, together, strict=True):
        alone = one_by_one[id(recording)]
        np.testing.assert_array_equal(alone.logit, scored.logit)
        np.testing.assert_array_equal(alone.similarity, scored.similarity)


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
