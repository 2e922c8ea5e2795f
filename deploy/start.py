"""What a container does: `app` opens the app once it is ready; anything else is a command.

Ready means that no setting of the app was loosened, that every model was checked against
its hashes, and that a demo recording was read and scored. Otherwise the container ends
with a sentence that says why, instead of standing there and looking healthy.
"""

import os
import sys
import tempfile
from pathlib import Path

from phenokit.doctor import VARIABLES, State, model_facts, setting_facts
from phenokit.errors import Outcome, PhenoKitError
from phenokit.networks.checkpoint import bundle_folders
from phenokit.pipeline import ECGModel, load_model, score_ecg
from phenokit.readers.ecg import read_ecg
from phenokit.simulation.demo import write_demo_recordings

APP = Path(__file__).parents[1] / "app.py"
sys.path.insert(0, str(APP.parent))  # where the pages are

from pages._sign_in import NotSetUp, read_rules  # noqa: E402

ALLOWED = {"server.address", VARIABLES["PHENOKIT_SIGNIN"]}
"""In a container the app listens on the internal network, where the proxy is; how people
sign in has a sentence of its own."""


def main(arguments: list[str]) -> None:
    """Open the app, or run a `phenokit` command."""
    if arguments != ["app"]:
        sys.argv = ["phenokit", *arguments]
        from phenokit.cli import main as run_command

        run_command()
    problem = what_is_wrong()
    if problem:
        sys.exit(f"phenokit: not ready: {problem}")
    sys.stderr.write("phenokit: ready, the app opens\n")
    sys.stderr.flush()
    os.chdir(APP.parent)  # where Streamlit looks for .streamlit/config.toml
    command = [sys.executable, "-m", "streamlit", "run", str(APP)]
    os.execv(sys.executable, command)


def what_is_wrong() -> str:
    """Why the app should not open; empty where it may."""
    for fact in setting_facts(os.environ):
        if fact.state is not State.FINE and fact.name not in ALLOWED:
            return f"{fact.name} is {fact.value}: {fact.remedy}"
    try:
        rules = read_rules(os.environ)
    except NotSetUp as error:
        return str(error)
    if rules.mode == "none":
        return (
            "others may reach the app and nobody has to sign in. Set PHENOKIT_SIGNIN to "
            "proxy or oidc, or to open where the port is published on this machine alone"
        )
    for fact in model_facts():
        if fact.state is not State.FINE:
            return f"{fact.name}: {fact.value}"
    demo = os.environ.setdefault("PHENOKIT_DEMO", f"{tempfile.gettempdir()}/phenokit-demo")
    try:
        return _scores(Path(demo))
    except (PhenoKitError, OSError) as error:
        return f"no demo recording could be scored ({type(error).__name__})"


def _scores(demo: Path) -> str:
    """Read a demo recording and let every ECG model score it, as the app would."""
    with tempfile.TemporaryDirectory() as folder:
        headers = sorted(demo.glob("demo*.hea")) if demo.is_dir() else []
        if not headers:
            headers = write_demo_recordings(Path(folder) if demo.is_dir() else demo, seed=1)
        recording = read_ecg(headers[0])
    for bundle in bundle_folders():
        model = load_model(bundle.name)
        if isinstance(model, ECGModel):
            scored = score_ecg([recording], model)[0]
            if scored.outcome is Outcome.REJECTED:
                return f"{bundle.name} rejects the demo recording with {scored.code}"
            sys.stderr.write(f"phenokit: {bundle.name}: {scored.outcome}\n")
    return ""


if __name__ == "__main__":
    main(sys.argv[1:])
