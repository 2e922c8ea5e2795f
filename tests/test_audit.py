import sqlite3
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from phenokit.audit import AuditFailed, AuditLog, audit_folder, is_binding
from phenokit.cli import main


@pytest.fixture
def log(tmp_path: Path) -> AuditLog:
    """Five rows: three recordings seen, the first twice, and an export."""
    log = AuditLog(tmp_path / "audit")
    for record in ("rec-a", "rec-b", "rec-a", "rec-c"):
        log.add("view", user="ann@site", record=record, page="ecg", bundle_hash="ab12")
    log.add("export", user="bob@site", record="rec-a", page="ecg", detail="csv")
    return log


def tamper(log: AuditLog, *statements: str) -> None:
    """As somebody with the file and a SQLite of their own."""
    with sqlite3.connect(log.folder / "audit.sqlite") as database:
        for trigger in ("entry_stays", "entry_remains", "entry_follows"):
            database.execute(f"DROP TRIGGER {trigger}")
        for statement in statements:
            database.execute(statement)
    database.close()


def test_a_row_says_who_did_what_and_when_and_the_log_verifies(log: AuditLog):
    entries = log.entries()
    assert [one.number for one in entries] == [1, 2, 3, 4, 5]
    assert (entries[4].user, entries[4].action, entries[4].detail) == (
        "bob@site", "export", "csv",
    )  # fmt: skip
    assert all(one.at.endswith("+00:00") for one in entries)
    verdict = log.verify()
    assert (verdict.n_entries, verdict.problem) == (5, "")


def test_pseudonyms_are_equal_for_one_record_and_differ_in_another_log(log: AuditLog):
    entries = log.entries()
    assert entries[0].record == entries[2].record == log.pseudonym("rec-a")
    assert entries[1].record != entries[0].record
    other = AuditLog(log.folder.with_name("other"))
    assert other.add("view", user="", record="rec-a").record != entries[0].record


def test_the_identifier_is_in_no_file_of_the_folder(log: AuditLog):
    for file in log.folder.iterdir():
        assert b"rec-" not in file.read_bytes()
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(log.folder.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entry SET user = 'bob@site' WHERE number = 1",
        "DELETE FROM entry WHERE number = 5",
        "INSERT OR REPLACE INTO entry SELECT 1, at, 'x', action, record, page, "
        "bundle_hash, detail, hash FROM entry WHERE number = 1",
    ],
)
def test_the_database_refuses_to_change_or_remove_a_row(log: AuditLog, statement: str):
    database = sqlite3.connect(log.folder / "audit.sqlite")
    with closing(database), pytest.raises(sqlite3.IntegrityError, match="only added"):
        database.execute(statement)


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("UPDATE entry SET user = 'bob@site' WHERE number = 2", "row 2 is not as it was"),
        ("UPDATE entry SET at = '2026-01-01' WHERE number = 5", "row 5 is not as it was"),
        ("DELETE FROM entry WHERE number = 3", "row 3 is missing"),
        ("DELETE FROM entry WHERE number = 5", "1 rows are missing at the end"),
        ("DELETE FROM entry", "5 rows are missing at the end"),
        (
            "INSERT INTO entry SELECT 6, at, user, action, record, page, bundle_hash, "
            "detail, hash FROM entry WHERE number = 5",
            "row 6 is not as it was",
        ),
    ],
)
def test_a_change_behind_the_triggers_shows(log: AuditLog, statement: str, problem: str):
    tamper(log, statement)
    assert problem in log.verify().problem


def test_renumbered_rows_show(log: AuditLog):
    tamper(
        log, "DELETE FROM entry WHERE number = 2",
        "UPDATE entry SET number = number - 1 WHERE number > 2",
    )  # fmt: skip
    assert "row 2 is not as it was" in log.verify().problem


def test_a_log_that_lost_its_end_takes_no_further_row(log: AuditLog):
    tamper(log, "DELETE FROM entry WHERE number = 5")
    with pytest.raises(AuditFailed, match="rows are missing at its end"):
        log.add("view", user="ann@site")
    assert "missing at the end" in log.verify().problem


def test_a_log_made_anew_shows_against_a_head_that_was_kept_elsewhere(log: AuditLog):
    kept = log.verify().head
    log.add("view", user="ann@site", record="rec-d")
    assert log.verify(head=kept).problem == ""
    for file in log.folder.iterdir():
        file.unlink()
    log.add("view", user="ann@site", record="rec-a")
    assert log.verify().problem == ""  # the limit that the module states
    assert "not among the rows" in log.verify(head=kept).problem


def test_a_crash_between_row_and_head_is_no_tampering(log: AuditLog):
    head = (log.folder / "audit.head").read_bytes()
    log.add("view", user="ann@site")
    (log.folder / "audit.head").write_bytes(head)
    assert log.verify().problem == ""
    assert log.add("view", user="ann@site").number == 7
    assert log.verify().problem == ""


def test_processes_and_threads_that_write_at_once_lose_nothing(tmp_path: Path):
    code = (
        "import sys; from pathlib import Path; from phenokit.audit import AuditLog\n"
        "log = AuditLog(Path(sys.argv[1]))\n"
        "for k in range(15): log.add('view', user=sys.argv[2], detail=str(k))"
    )
    writers = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path), f"process {n}"])
        for n in range(3)
    ]
    log = AuditLog(tmp_path)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda k: log.add("export", user="me", detail=str(k)), range(20)))
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    verdict = log.verify()
    assert (verdict.n_entries, verdict.problem) == (65, "")
    of_one = [one.detail for one in log.entries() if one.user == "process 1"]
    assert of_one == [str(k) for k in range(15)]


def test_a_log_that_cannot_be_written_says_so(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(AuditFailed, match="cannot be written"):
        AuditLog(tmp_path / "file" / "audit").add("view", user="ann@site")


def test_without_its_key_or_with_one_that_others_can_read_nothing_is_added(log: AuditLog):
    key = log.folder / "audit.key"
    key.chmod(0o644)
    with pytest.raises(AuditFailed, match="can be read by others"):
        log.add("view", user="ann@site")
    key.unlink()
    with pytest.raises(AuditFailed, match="key is gone"):
        log.add("view", user="ann@site")


@pytest.mark.parametrize("text", ["Müller, Anna", "a" * 65, "p1\nINSERT", "<b>"])
def test_a_detail_is_a_short_code_and_never_a_name(log: AuditLog, text: str):
    with pytest.raises(ValueError, match="short codes"):
        log.add("view", user="ann@site", detail=text)


def test_the_log_binds_where_its_folder_was_named(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.delenv("PHENOKIT_AUDIT", raising=False)
    assert (audit_folder(), is_binding()) == (tmp_path / "phenokit" / "audit", False)
    monkeypatch.setenv("PHENOKIT_AUDIT", str(tmp_path / "here"))
    assert (audit_folder(), is_binding()) == (tmp_path / "here", True)


@pytest.fixture
def run(capsys, monkeypatch):
    """`run(*words, audit=)`: exit code and output of `phenokit audit`."""

    def run(*words: str, audit: Path) -> tuple[int, str]:
        monkeypatch.setenv("PHENOKIT_AUDIT", str(audit))
        monkeypatch.setattr(sys, "argv", ["phenokit", "audit", *words])
        with pytest.raises(SystemExit) as left:
            main()
        return int(str(left.value.code)), "".join(capsys.readouterr())

    return run


def test_verify_and_export_say_by_their_exit_code_whether_the_log_is_intact(
    log: AuditLog, tmp_path: Path, run
):
    assert run("verify", audit=log.folder)[0] == 0
    csv = tmp_path / "rows.csv"
    code, said = run("export", "--out", str(csv), "--record", "rec-a", audit=log.folder)
    assert (code, said.strip()) == (0, f"3 rows in {csv}")
    assert log.entries()[-1].detail == "audit log"  # handing out the log is logged
    tamper(log, "UPDATE entry SET user = 'x' WHERE number = 1")
    code, said = run("verify", audit=log.folder)
    assert (code, "row 1 is not as it was written" in said) == (65, True)
    assert run("verify", audit=tmp_path / "none")[0] == 64
