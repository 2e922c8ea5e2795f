"""The app as `AppTest` runs it, on demo recordings that the test session writes."""

from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from phenokit.networks.checkpoint import bundle_folders
from phenokit.simulation.demo import write_demo_recordings

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def demo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    write_demo_recordings(folder, seed=7)
    return folder


@pytest.fixture
def app(demo_folder: Path, monkeypatch: pytest.MonkeyPatch) -> AppTest:
    if "ecg-demo" not in {folder.name for folder in bundle_folders()}:
        pytest.skip("the model ecg-demo is not installed")
    monkeypatch.setenv("PHENOKIT_DEMO", str(demo_folder))
    monkeypatch.delenv("PHENOKIT_RECORDINGS", raising=False)
    return AppTest.from_file(str(ROOT / "app.py"), default_timeout=60)


@pytest.fixture(scope="session")
def cohort_demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A demo folder with a simulated cohort of 240 patients, scored by ecg-demo."""
    from phenokit.batch.demo import write_demo

    if "ecg-demo" not in {folder.name for folder in bundle_folders()}:
        pytest.skip("the model ecg-demo is not installed")
    folder = tmp_path_factory.mktemp("cohort-demo")
    write_demo(folder, n_patients=240, seed=3, workers=1)
    return folder


@pytest.fixture
def cohort_app(
    app: AppTest, cohort_demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AppTest:
    """The app on `cohort_demo`, with jobs and reviews of its own."""
    monkeypatch.setenv("PHENOKIT_DEMO", str(cohort_demo))
    monkeypatch.setenv("PHENOKIT_JOBS", str(tmp_path / "jobs"))
    monkeypatch.setenv("PHENOKIT_REVIEWS", str(tmp_path / "reviews.sqlite"))
    for name in ("PHENOKIT_COHORTS", "PHENOKIT_SUPPRESS"):
        monkeypatch.delenv(name, raising=False)
    return app
