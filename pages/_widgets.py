"""What the pages share: the engine, the model line, text without Markdown, ECG paper."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import streamlit as st
from streamlit.components.v2 import component
from streamlit.delta_generator import DeltaGenerator
from streamlit.runtime.pages_manager import PagesManager

from pages import _audit, _logs, _sign_in
from pages._sign_in import Visit
from phenokit.audit import AuditFailed
from phenokit.engine import Engine, EngineBusy
from phenokit.errors import PhenoKitError
from phenokit.networks.checkpoint import Bundle, bundle_folders, load_bundle
from phenokit.preprocessing.contract import InputContract
from phenokit.report.association_figures import Drawing
from phenokit.report.ecg_paper import BANNER, Tracing

Node = str | list
"""Text, or ``[tag, attributes, *children]``: the only way that words reach a page's own
markup. Words become text nodes in the browser and are never read as HTML."""

HERE = Path(__file__).parent
_RUN = threading.local()


@st.cache_resource(max_entries=1, on_release=Engine.close, show_spinner=False)
def engine() -> Engine:
    """The one inference engine of this process."""
    return Engine(while_waiting=_leave_if_unwanted)


def _leave_if_unwanted() -> None:
    """End a run whose tab is gone, or that another run has replaced.

    Streamlit does so wherever a script looks at its session.
    """
    _ = "record" in st.session_state


@st.cache_resource(max_entries=4, show_spinner=False)
def _bundle(name: str) -> Bundle:
    return load_bundle(name)


ECG, IEEG = "ecg-prototype", "ieeg-mvpformer"
"""Kinds of models."""


def model_names(kind: str = ECG) -> list[str]:
    """The models of a kind that are installed."""
    return [folder.name for folder in bundle_folders() if _kind(folder) == kind]


@st.cache_data(max_entries=16, show_spinner=False)
def _kind(folder: Path) -> str:
    return str(json.loads((folder / "config.json").read_bytes()).get("kind"))


def model_name() -> str:
    """Name of the model in use; the sidebar holds the choice."""
    return st.session_state.get("model") or model_names()[0]


def bundle() -> Bundle:
    """The bundle of the model in use, checked against its hashes, without torch."""
    return _bundle(model_name())


def bundle_of(name: str) -> Bundle:
    """An installed bundle, checked.

    Raises
    ------
    BundleError
        If it is not installed, or does not match its hashes.
    """
    return _bundle(name)


def thresholds(name: str) -> dict[str, float]:
    """The threshold of every label of a model; empty if it is not installed."""
    if name not in model_names():
        return {}
    calibration = _bundle(name).calibration
    return dict(zip(calibration["labels"], calibration["threshold"], strict=True))


def contract() -> InputContract:
    """What is done to a recording before the model in use reads it."""
    return InputContract.from_dict(bundle().config["input"])


def filter_words() -> str:
    """The filter of the model in use, in words."""
    one = contract()
    band = (
        f"{one.low:g} Hz high-pass" if one.high is None else f"{one.low:g}–{one.high:g} Hz"
    )
    scale = ", z-score per lead" if one.normalisation == "z_score" else ""
    return f"{band}, zero phase, {one.sampling_rate:g} Hz{scale}"


def calibration_words() -> str:
    """How logits become probabilities, by the card of the model in use."""
    return str(bundle().card["calibration"]["method"])


def show_frame(visit: Visit, kind: str = ECG) -> None:
    """Banner, model and user of every page, the choice of the model and the way out."""
    if kind == IEEG:
        _show_ieeg_frame(visit)
    else:
        _show_ecg_frame(visit)
    _audit.show_unlogged()


def _show_ecg_frame(visit: Visit) -> None:
    names = model_names()
    if not names:
        st.error(
            "No model is installed. Run `phenokit doctor` to see where models are looked "
            "up, or `phenokit models install FILE` to add one."
        )
        st.stop()
    left = _choices(visit, names, "model")
    try:
        card = bundle().card
    except PhenoKitError as error:
        st.error("The model does not match its hashes and was not loaded.")
        st.text(f"{getattr(error, 'code', '')}: {error}")
        st.stop()
    engine().preload(model_name())
    with left:
        _show_line(bundle(), card, visit.user)


def _choices(visit: Visit, names: Sequence[str], key: str) -> DeltaGenerator:
    """Model and way out at the right of the frame; returns the place at its left."""
    left, right = st.columns([7, 2] if visit.user else [6, 1], vertical_alignment="center")
    with right.container(
        horizontal=True, horizontal_alignment="right", vertical_alignment="center"
    ):
        if len(names) > 1:
            st.selectbox("Model", names, key=key, label_visibility="collapsed")
        _sign_in.show_user(visit)
    return left


def _show_ieeg_frame(visit: Visit) -> None:
    """Without a model recordings can still be read."""
    names = model_names(IEEG)
    left = _choices(visit, names, "ieeg-model")
    with left:
        try:
            bundle = _bundle(ieeg_model_name()) if names else None
            _show_line(bundle, {} if bundle is None else bundle.card, visit.user)
        except PhenoKitError as error:
            _show_line(None, {}, visit.user)
            st.error("The model does not match its hashes and was not loaded.")
            st.text(f"{getattr(error, 'code', '')}: {error}")


def ieeg_model_name() -> str:
    """Name of the iEEG model in use; empty where none is installed."""
    names = model_names(IEEG)
    chosen_name = st.session_state.get("ieeg-model")
    if chosen_name in names:
        return chosen_name
    return names[0] if names else ""


def _show_line(bundle: Bundle | None, card: Mapping[str, Any], user: str) -> None:
    # Not isolated: its style sheet also says how far the page stands from the top.
    frame = component(
        "phenokit_frame",
        js=_file("markup.js"),
        css=_file("frame.css"),
        isolate_styles=False,
    )
    model: list[Node] = [
        ["span", {}, "No iEEG model is installed: recordings can be read, not scored."]
    ]
    if bundle is not None:
        model = [
            ["span", {}, f"Model {card['name']} {card['version']}, "
                f"bundle {bundle.bundle_hash[:8]}"],
            ["span", {"class": "muted"}, str(card["first_line"])],
        ]  # fmt: skip
    if user:
        model.append(["span", {"class": "user"}, f"Signed in as {user}"])
    nodes = [["div", {"class": "frame"}, ["strong", {"class": "banner"}, BANNER], *model]]
    frame(data=nodes, key="frame")


def show(
    nodes: list[Node], *, key: str, on_choose: Callable[[], None] | None = None
) -> None:
    """Show text and drawings; `on_choose` is called after a click, see `chosen`."""
    mount = component("phenokit_markup", js=_file("markup.js"), css=_file("markup.css"))
    mount(data=nodes, key=key, on_chosen_change=on_choose or _nothing)


def show_figure(
    drawing: Drawing, *, key: str, on_select: Callable[[], None] | None = None
) -> None:
    """A figure in the colours of the page, with its words for those who cannot see it.

    Streamlit greys the words of a figure below the contrast that small print needs, so they
    get the colour of the page's text. `on_select` is called after a click or a box.
    """
    is_dark = st.context.theme.type == "dark"
    text = {"color": "#e8edf2" if is_dark else "#1b1f24"}
    figure = drawing.figure
    figure.update_layout(font=text, legend_font=text, title_font=text)
    figure.update_xaxes(tickfont=text, title_font=text)
    figure.update_yaxes(tickfont=text, title_font=text)
    figure.update_annotations(font=text)
    options: dict[str, Any] = {}
    if on_select is not None:
        options = {"on_select": on_select, "selection_mode": ("points", "box")}
    st.plotly_chart(
        figure,
        key=key,
        alt=drawing.alt,
        config={"displaylogo": False, "modeBarButtonsToRemove": ["lasso2d", "autoScale2d"]},
        **options,
    )


def require_app() -> None:
    """Let a page run through `app.py` only: the first line of every page.

    On the first visit of a process Streamlit runs a file of a folder called `pages` by
    itself, in its older way of several pages: without the banner and past any gate.
    """
    if not getattr(_RUN, "is_in_app", False):
        PagesManager.uses_pages_directory = False
        st.rerun()


@contextmanager
def page_of_the_app(name: str) -> Iterator[None]:
    """Run a page: `require_app` lets it pass, and `guard` is around it.

    Parameters
    ----------
    name
        Of the page, for the audit log.
    """
    st.session_state[_audit.PAGE] = name
    _RUN.is_in_app = True
    try:
        with guard():
            yield
    finally:
        _RUN.is_in_app = False


@contextmanager
def guard(*, is_use: bool = True) -> Iterator[None]:
    """Turn an error that nobody foresaw into one sentence; also around every fragment.

    Neither the page nor the log shows the text of the error: it may hold a name. The log
    has its kind and the lines of our code that it passed. A fragment runs alone when it is
    drawn again: Streamlit would log all that its error says, and its visit may be over.

    Parameters
    ----------
    is_use
        Whether somebody did something; not so where a fragment looks again by itself.
    """
    try:
        _sign_in.require_visit(is_use=is_use)
        yield
    except EngineBusy as error:
        st.warning(f"The model is busy: {error}.")
    except AuditFailed:
        st.error(
            "The audit log cannot be written, and nothing is shown or done without it. "
            "Tell your administrator."
        )
    except Exception as error:
        st.error(
            "Something went wrong on this page. Reload it; if it happens again, tell your "
            f"administrator incident {_logs.incident(error)}."
        )


def chosen(key: str) -> str:
    """What was clicked in `show(..., key=key)`; valid in its `on_choose`."""
    return str(st.session_state[key].chosen)


def show_tracing(
    tracing: Tracing, *, sampling_rate: float, mark: dict[str, Any] | None, key: str
) -> dict[str, Any] | None:
    """The paper with its calipers; returns a measurement when the reader keeps one."""
    mount = component("phenokit_paper", js=_file("paper.js"), css=_file("paper.css"))
    data = {
        "svg": tracing.svg,
        "alt": tracing.alt,
        "width": tracing.width,
        "height": tracing.height,
        "speed": tracing.speed,
        "gain": tracing.gain,
        "boxes": [vars(box) for box in tracing.boxes],
        "rate": sampling_rate,
        "mark": mark,
    }
    return mount(data=data, key=key, on_kept_change=_nothing).kept


@st.cache_resource(show_spinner=False)
def _file(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def show_traces(data: bytes, *, key: str, on_go: Callable[[], None]) -> None:
    """Overview and page of a long recording; see `phenokit.report.ieeg_viewer`.

    `on_go` is called when the reader asks for another page; `asked` says which.
    """
    mount = component("phenokit_ieeg", js=_file("ieeg.js"), css=_file("ieeg.css"))
    mount(data=data, key=key, on_go_change=on_go)


def asked(key: str) -> dict[str, Any] | None:
    """Where the reader of `show_traces(..., key=key)` wants to go; valid in its `on_go`."""
    return st.session_state[key].go


def _nothing() -> None:
    """A component only has the results that a callback is named for."""
