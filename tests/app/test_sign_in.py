"""The gate: who comes in, what is refused, and when a visit ends."""

import ast
import time
from pathlib import Path

import pytest
from streamlit.runtime.context import ContextProxy, StreamlitHeaders
from streamlit.testing.v1 import AppTest

from pages import _sign_in
from pages._sign_in import (
    PROXY_HEADER,
    REQUIRED,
    NotSetUp,
    Refused,
    Rules,
    identify_by_proxy,
    identify_by_token,
    is_allowed,
    read_rules,
    require_safe,
)
from phenokit.audit import AuditLog, audit_folder
from phenokit.doctor import HARDENED

ROOT = Path(__file__).parents[2]
SECRET = "a secret of the proxy"
SAFE = {
    **{name: HARDENED[name] for name in REQUIRED},
    "server.address": "127.0.0.1",
    "server.allowedHosts": ["phenokit.example.org"],
}


# The rules


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    file = tmp_path / "secret"
    file.write_text(f"{SECRET}\n")
    return file


def test_without_a_word_nobody_signs_in_and_a_visit_lasts_fifteen_minutes():
    rules = read_rules({})
    assert (rules.mode, rules.is_open, rules.allowed) == ("none", True, None)
    assert rules.idle == 15 * 60


@pytest.mark.parametrize(
    ("variables", "why"),
    [
        ({"PHENOKIT_SIGNIN": "ldap"}, "is one of none, open, oidc, proxy"),
        ({"PHENOKIT_SIGNIN": "proxy"}, "PHENOKIT_PROXYSECRET"),
        ({"PHENOKIT_SIGNIN": "proxy", "PHENOKIT_PROXYSECRET": "/none"}, "no file"),
        ({"PHENOKIT_IDLE": "0"}, "PHENOKIT_IDLE"),
        ({"PHENOKIT_IDLE": "nan"}, "PHENOKIT_IDLE"),
        ({"PHENOKIT_IDLE": "soon"}, "PHENOKIT_IDLE"),
        ({"PHENOKIT_USERS": "/none"}, "PHENOKIT_USERS"),
        ({"PHENOKIT_SIGNOUT": "javascript:alert(1)"}, "https"),
        ({"PHENOKIT_SIGNOUT": "//elsewhere.example"}, "path of this host"),
        ({"PHENOKIT_SIGNOUT": "/\\elsewhere.example"}, "path of this host"),
    ],
)
def test_rules_that_cannot_be_told_keep_the_app_closed(variables: dict, why: str):
    with pytest.raises(NotSetUp, match=why):
        read_rules(variables)


def test_a_short_secret_is_none(secret_file: Path):
    secret_file.write_text("short")
    with pytest.raises(NotSetUp, match="fewer than 16"):
        read_rules({"PHENOKIT_SIGNIN": "proxy", "PHENOKIT_PROXYSECRET": str(secret_file)})


def test_the_list_names_users_and_groups_in_a_variable_or_a_file(tmp_path: Path):
    file = tmp_path / "users"
    file.write_text("# ward 3\nann@example.org\n\ngroup:cardiology  # all of them\n")
    for stated in (str(file), "ann@example.org, group:cardiology"):
        rules = read_rules({"PHENOKIT_USERS": stated})
        assert is_allowed(rules, "ann@example.org", frozenset())
        assert is_allowed(rules, "bob@example.org", frozenset({"cardiology"}))
        assert not is_allowed(rules, "cardiology", frozenset({"neurology"}))
        assert not is_allowed(rules, "Ann@example.org", frozenset({"ann@example.org"}))
    assert is_allowed(read_rules({}), "anybody", frozenset())


# The server


@pytest.mark.parametrize("address", [None, "", "0.0.0.0", "::", "10.0.0.7", "127.example"])
def test_nobody_signs_in_on_this_machine_only(address: str | None):
    with pytest.raises(NotSetUp, match="nobody has to sign in"):
        require_safe("none", {**SAFE, "server.address": address})
    for mode in ("open", "oidc", "proxy"):
        require_safe(mode, {**SAFE, "server.address": address})


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_this_machine_has_many_addresses(address: str):
    require_safe("none", {**SAFE, "server.address": address})


@pytest.mark.parametrize("hosts", [[], ["*"], ["localhost", "*"]])
def test_the_hosts_have_to_be_named(hosts: list[str]):
    with pytest.raises(NotSetUp, match="allowedHosts"):
        require_safe("proxy", {**SAFE, "server.allowedHosts": hosts})


@pytest.mark.parametrize("name", REQUIRED)
def test_a_loosened_setting_keeps_the_app_closed(name: str):
    loose = {False: True, True: False, "none": "full"}[SAFE[name]]
    with pytest.raises(NotSetUp, match=name):
        require_safe("proxy", {**SAFE, name: loose})


# Who it is


def headers(**more: list[str]) -> dict[str, list[str]]:
    given = {PROXY_HEADER: [SECRET], "X-Forwarded-User": ["ann@example.org"]}
    return given | {name.replace("_", "-"): value for name, value in more.items()}


PROXY = Rules(mode="proxy", secret=SECRET.encode())


def test_the_proxy_names_user_and_groups():
    found = identify_by_proxy(PROXY, headers(X_Forwarded_Groups=["ward 3,cardiology "]))
    assert found == ("ann@example.org", frozenset({"ward 3", "cardiology"}))


@pytest.mark.parametrize(
    "given",
    [
        {"X_PhenoKit_Proxy": []},
        {"X_PhenoKit_Proxy": ["a guess"]},
        {"X_PhenoKit_Proxy": [""]},
        {"X_PhenoKit_Proxy": ["ü"]},
        {"X_PhenoKit_Proxy": [SECRET, "a guess"]},
        {"X_Forwarded_User": []},
        {"X_Forwarded_User": [" "]},
        {"X_Forwarded_User": ["ann@example.org", "root@example.org"]},
    ],
)
def test_a_request_that_names_itself_is_refused(given: dict):
    with pytest.raises(Refused):
        identify_by_proxy(PROXY, headers(**given))


def test_an_address_that_nobody_verified_is_nobodys_name():
    claims = {"is_logged_in": True, "email": "root@example.org", "sub": "4711"}
    assert identify_by_token(claims) == ("4711", frozenset())
    assert identify_by_token({**claims, "email_verified": False}) == ("4711", frozenset())
    found = identify_by_token({**claims, "email_verified": True, "groups": ["a"]})
    assert found == ("root@example.org", frozenset({"a"}))
    assert identify_by_token({}) is None
    with pytest.raises(Refused):
        identify_by_token({"is_logged_in": True})


# The app behind a proxy, as AppTest runs it


@pytest.fixture
def sent() -> dict[str, str]:
    """Headers of the next run; a test changes them."""
    return {PROXY_HEADER: SECRET, "X-Forwarded-User": "ann@example.org"}


@pytest.fixture
def guarded(
    app: AppTest, sent: dict, secret_file: Path, tmp_path: Path, monkeypatch
) -> AppTest:
    for name, value in {
        "PHENOKIT_SIGNIN": "proxy",
        "PHENOKIT_PROXYSECRET": str(secret_file),
        "PHENOKIT_USERS": "ann@example.org,bob@example.org",
        "PHENOKIT_AUDIT": str(tmp_path / "audit"),
    }.items():
        monkeypatch.setenv(name, value)
    _sign_in._LAST_USE.clear()  # every AppTest is the same session to Streamlit
    # AppTest has no request; what Streamlit reads of one is put in its place.
    monkeypatch.setattr(
        ContextProxy, "headers", property(lambda _: StreamlitHeaders(list(sent.items())))
    )
    return app


def rows() -> list[tuple[str, str, str]]:
    return [(e.user, e.action, e.detail) for e in AuditLog(audit_folder()).entries()]


def test_who_is_named_comes_in_and_is_logged_once(guarded: AppTest):
    for _ in range(2):
        guarded.run()
    assert [one.value for one in guarded.title] == ["ECG"]
    assert rows().count(("ann@example.org", "sign-in", "proxy")) == 1


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({PROXY_HEADER: "a guess"}, "not through the proxy"),
        ({"X-Forwarded-User": "eve@example.org"}, "not on the list"),
    ],
)
def test_who_may_not_come_in_sees_a_sentence_and_nothing_else(
    guarded: AppTest, sent: dict, changed: dict, code: str
):
    sent.update(changed)
    guarded.run().run()
    assert [one.value for one in guarded.title] == ["PhenoKit"]
    assert "no access" in guarded.error[0].value
    assert not guarded.selectbox
    assert [row[1:] for row in rows() if row[1] == "refused"] == [("refused", code)]


def open_first(app: AppTest) -> None:
    app.run()
    record = app.selectbox(key="record-Demo")
    record.select(record.options[0]).run()
    assert not app.exception


def test_another_user_in_the_same_session_finds_nothing_of_the_first(
    guarded: AppTest, sent: dict
):
    open_first(guarded)
    assert "opened" in guarded.session_state
    sent["X-Forwarded-User"] = "bob@example.org"
    guarded.run()
    assert [one.value for one in guarded.title] == ["ECG"]
    assert "opened" not in guarded.session_state
    assert guarded.selectbox(key="record-Demo").value is None


def test_a_visit_without_use_ends_and_its_data_are_gone(guarded: AppTest, monkeypatch):
    monkeypatch.setenv("PHENOKIT_IDLE", "0.05")
    open_first(guarded)
    time.sleep(3.5)
    guarded.run()
    assert "signed out after 0.05 minutes" in guarded.info[0].value
    assert "opened" not in guarded.session_state
    assert "record" not in guarded.query_params
    guarded.run()
    assert "signed out" in guarded.info[0].value  # asking again does not let in
    guarded.button[0].click().run()
    assert [one.value for one in guarded.title] == ["ECG"]
    assert [row[1] for row in rows() if row[1].startswith("sign")] == [
        "sign-in", "sign-out", "sign-in",
    ]  # fmt: skip


def test_who_signs_out_is_out(guarded: AppTest):
    open_first(guarded)
    guarded.button(key="sign-out").click().run()
    assert "You have signed out" in guarded.info[0].value
    assert "opened" not in guarded.session_state
    assert rows()[-1] == ("ann@example.org", "sign-out", "asked")


def with_a_button() -> None:
    """An app of one button, which makes a file."""
    import os
    from pathlib import Path

    import streamlit as st

    from pages import _audit, _sign_in

    if not _sign_in.enter().closed:
        make = Path(os.environ["PHENOKIT_JOBS"]).touch
        st.button("Run", on_click=_audit.logged(make, "job", detail="start score"))
        _audit.show_unlogged()


@pytest.mark.parametrize("case", ["in time", "too late", "unlogged"])
def test_a_click_is_logged_first_and_does_nothing_once_the_visit_is_over(
    guarded: AppTest, tmp_path: Path, monkeypatch, case: str
):
    made = tmp_path / "made"
    monkeypatch.setenv("PHENOKIT_JOBS", str(made))
    app = AppTest.from_function(with_a_button).run()
    if case == "too late":
        monkeypatch.setenv("PHENOKIT_IDLE", "0.001")
        time.sleep(0.2)
    if case == "unlogged":
        (tmp_path / "audit" / "audit.key").chmod(0o644)
    app.button[0].click().run()
    assert made.exists() == (case == "in time")
    (tmp_path / "audit" / "audit.key").chmod(0o600)
    assert (("ann@example.org", "job", "start score") in rows()) == (case == "in time")
    if case == "unlogged":
        assert "was not done" in app.error[0].value


def test_what_is_opened_scored_and_reviewed_is_logged_under_a_pseudonym(guarded: AppTest):
    open_first(guarded)
    guarded.run()
    entries = AuditLog(audit_folder()).entries()
    seen = [(e.action, e.page, e.detail) for e in entries if e.action in {"view", "score"}]
    assert seen[0] == ("view", "ecg", "ECG")
    assert seen[1][:2] == ("score", "ecg")
    assert seen[1][2].startswith("ECG result ")
    assert len(seen) == 2  # a second run of the page shows nothing new
    assert entries[-1].record == entries[-2].record != ""
    assert len(entries[-1].bundle_hash) == 64


def test_nothing_is_shown_that_cannot_be_logged(guarded: AppTest, tmp_path: Path):
    open_first(guarded)
    (tmp_path / "audit" / "audit.key").chmod(0o644)
    record = guarded.selectbox(key="record-Demo")
    record.select(record.options[1]).run()
    assert "audit log cannot be written" in guarded.error[0].value
    assert [one.value for one in guarded.title] == ["ECG"]
    assert not guarded.toggle


# Every way out of a page


def calls(path: Path) -> list[str]:
    return [
        ast.unparse(node.func)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
    ]


@pytest.mark.parametrize(
    "path", sorted((ROOT / "pages").glob("*.py")), ids=lambda path: path.name
)
def test_every_file_of_a_page_is_handed_out_through_the_log(path: Path):
    called = [name for name in calls(path) if name.endswith("download_button")]
    allowed = {"st.download_button"} if path.name == "_audit.py" else set()
    assert set(called) <= {"_audit.download_button"} | allowed


@pytest.mark.parametrize(
    "path", sorted((ROOT / "pages").glob("*.py")), ids=lambda path: path.name
)
def test_every_job_and_review_is_asked_for_through_the_log(path: Path):
    """A callback that starts, ends or judges something is wrapped in `_audit.logged`."""
    deeds = {"cancel_job", "start", "resume", "_start", "_resume", "_keep", "remove_job",
             "_acknowledge", "mark_reviewed"}  # fmt: skip
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.keyword) and node.arg in {"on_click", "on_change"}:
            assert ast.unparse(node.value) not in deeds
