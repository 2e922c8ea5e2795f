import json
import sys
from typing import Any

import pyarrow.parquet as pq
import pytest
import typer.main

from phenokit.cli import app, main
from phenokit.statements import clinical_name


@pytest.fixture
def phenokit(monkeypatch, capsys):
    """`phenokit(*arguments)`: exit code, what was printed, and what went wrong."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["phenokit", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            main()
        out, err = capsys.readouterr()
        return exit_.value.code or 0, out, err

    return run


@pytest.fixture(scope="module")
def folder(tmp_path_factory, ecg, write_wfdb):
    folder = tmp_path_factory.mktemp("ecgs")
    write_wfdb(folder, "good", ecg("left_bundle_branch_block", seed=310))
    (folder / "bad.hea").write_text("bad\n")
    return folder


def commands(group: Any = None, above: tuple[str, ...] = ()):
    """Every command as typed, groups included."""
    group = group or typer.main.get_command(app)
    yield above
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*above, name))
        else:
            yield (*above, name)


@pytest.mark.parametrize("command", list(commands()), ids=" ".join)
def test_every_command_says_what_it_does(phenokit, command):
    code, out, _ = phenokit(*command, "--help")
    assert code == 0
    assert "Usage:" in out
    assert len(out.splitlines()) > 4


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("no-such-command",),
        ("score",),
        ("score", "x", "--out", "y", "--device", "abacus"),
        ("explain", "x", "--no-such-option"),
    ],
    ids=" ".join,
)
def test_usage_errors_end_with_64(phenokit, arguments):
    code, _, err = phenokit(*arguments)
    assert code == 64
    assert "Traceback" not in err


def test_an_unreadable_input_ends_with_65_and_its_code(phenokit, folder, tiny_bundle):
    code, _, err = phenokit("explain", folder / "nowhere.hea", "--model", tiny_bundle)
    assert code == 65
    assert err.startswith("phenokit: E_MISSING: ")


def test_a_model_that_is_not_there_ends_with_65(phenokit, folder):
    code, _, err = phenokit("explain", folder / "good.hea", "--model", "no-such-model")
    assert code == 65
    assert "no model of this name" in err


def test_an_explanation_as_json_adds_up(phenokit, folder, tiny_bundle):
    code, out, _ = phenokit(
        "explain", folder / "good.hea", "--model", tiny_bundle, "--json", "--open-abstained"
    )
    explanation = json.loads(out)
    assert code == 0
    assert len(explanation["findings"]) == 5
    for finding in explanation["findings"]:
        total = sum(p["contribution"] for p in finding["prototypes"])
        assert finding["bias"] + total == pytest.approx(finding["logit"], abs=1e-5)


def test_an_explanation_in_words_names_prototypes(phenokit, folder, tiny_bundle):
    code, out, _ = phenokit(
        "explain", folder / "good.hea", "--model", tiny_bundle, "--open-abstained"
    )
    assert code == 0
    assert out.startswith("Research use - not for diagnosis\n")
    assert clinical_name("CLBBB") in out
    assert "resembles record sim-" in out


@pytest.mark.parametrize(("strict", "expected"), [((), 0), (("--strict",), 3)])
def test_a_folder_is_scored_with_its_bad_file(
    phenokit, folder, tiny_bundle, tmp_path, strict, expected
):
    code, out, _ = phenokit(
        "score", folder, "--out", tmp_path, "--model", tiny_bundle, *strict
    )
    assert code == expected
    assert "1  rejected" in out
    table = pq.read_table(tmp_path / "part-00000.parquet")
    assert table["path"].to_pylist() == ["bad.hea", "good.hea"]


def test_a_folder_without_a_recording_ends_with_65(phenokit, tiny_bundle, tmp_path):
    (tmp_path / "in").mkdir()
    code, _, err = phenokit(
        "score", tmp_path / "in", "--out", tmp_path / "out", "--model", tiny_bundle
    )
    assert code == 65
    assert "no recording found" in err


def test_models_are_listed_shown_and_verified(phenokit, tiny_bundle, monkeypatch):
    monkeypatch.setenv("PHENOKIT_MODELS", str(tiny_bundle.parent))
    code, out, _ = phenokit("models", "list")
    assert (code, out.split()[:2]) == (0, ["tiny", "0.0.1"])
    assert "Not for diagnosis" in phenokit("models", "show", "tiny")[1]
    assert "all hashes match" in phenokit("models", "verify")[1]


def test_a_damaged_model_ends_with_65(phenokit, tiny_bundle, tmp_path):
    damaged = tmp_path / "tiny"
    damaged.mkdir()
    for file in tiny_bundle.iterdir():
        (damaged / file.name).write_bytes(file.read_bytes())
    weights = bytearray((damaged / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (damaged / "model.safetensors").write_bytes(weights)
    code, _, err = phenokit("models", "verify", damaged)
    assert code == 65
    assert "E_WEIGHTS_HASH: model.safetensors" in err


def test_a_model_is_evaluated(phenokit, tiny_bundle, tiny_archive, tmp_path):
    code, out, _ = phenokit(
        "evaluate", tiny_bundle, "--data", tiny_archive, "--out", tmp_path, "--split", "val"
    )
    assert code == 0
    assert "AUROC" in out
    assert out.strip() == (tmp_path / "metrics.md").read_text().strip()


def test_demo_recordings_can_be_explained(phenokit, tiny_bundle, tmp_path):
    code, _, _ = phenokit(
        "demo", "--out", tmp_path / "demo", "--seed", "2", "--patients", "0"
    )
    assert code == 0
    header = min((tmp_path / "demo").rglob("*.hea"))
    assert phenokit("explain", header, "--model", tiny_bundle)[0] == 0


@pytest.fixture
def plain_files(tmp_path):
    """Patients, diagnoses and a biomarker of 120 people, as options of `associate`."""
    people = [f"p{k:03}" for k in range(120)]
    patients = [f"{p},{('F', 'M')[k % 2]},{40 + k % 37}" for k, p in enumerate(people)]
    codes = [f"{p},I10,10,2015-0{m}-01" for p in people[:50] for m in (1, 2)]
    values = [f"{p},{(k * 37 % 120) / 10 + (k < 50)}" for k, p in enumerate(people)]
    tables = {
        "patients": ["person_id,sex,age", *patients],
        "diagnoses": ["person_id,icd_code,icd_version,date", *codes],
        "exposures": ["person_id,biomarker", *values],
    }
    for name, lines in tables.items():
        (tmp_path / f"{name}.csv").write_text("\n".join(lines) + "\n")
    options = [(f"--{name}", tmp_path / f"{name}.csv") for name in tables]
    return [word for option in options for word in option]


def test_exposures_are_associated_and_a_finished_run_is_told_again(
    phenokit, plain_files, tmp_path
):
    command = ("associate", *plain_files, "--out", tmp_path / "out")
    code, out, _ = phenokit(*command)
    assert code == 0
    assert "2 tests: 1 exposures, 2 of 1,817 phecodes, 120 patients" in out
    assert "N_FEW_CASES" in out
    table = pq.read_table(tmp_path / "out" / "associations.parquet").to_pylist()
    tested = [row["phecode"] for row in table if row["status"] == "tested"]
    assert tested == ["401", "401.1"]
    again = phenokit(*command)
    assert (again[0], again[1].splitlines()[-1]) == (0, out.splitlines()[-1])


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [
        (("--kinds", "prototype,klass"), 64, "klass is not one of prototype, class"),
        (("--minimum-cases", "4"), 64, "minimum-cases"),
        (("--days-before", "-9", "--days-after", "3"), 64, "ends before it begins"),
        (("--covariates", "age,smoking"), 65, "E_COLUMNS: There is no covariate smoking"),
        (("--phecode-version", "2.0"), 65, "E_MISSING: Phecode version 2.0"),
        (("--scores", "nowhere"), 65, "E_MISSING: "),
        (("--minimum-cases", "100"), 66, "Nothing can be tested: 1,817 N_FEW_CASES"),
    ],
)
def test_an_association_that_cannot_be_is_refused_by_its_exit_code(
    phenokit, plain_files, tmp_path, more, code, words
):
    found, _, err = phenokit("associate", *plain_files, "--out", tmp_path / "out", *more)
    assert found == code
    assert words in err
    assert "Traceback" not in err


def test_an_association_without_patients_or_with_other_options_ends_with_65(
    phenokit, plain_files, tmp_path
):
    code, _, err = phenokit("associate", *plain_files[2:], "--out", tmp_path / "none")
    assert (code, "E_MISSING: The patients table is missing" in err) == (65, True)
    command = ("associate", *plain_files, "--out", tmp_path / "out")
    assert phenokit(*command)[0] == 0
    code, _, err = phenokit(*command, "--refine", "all")
    assert (code, "differs in: options" in err) == (65, True)
    assert phenokit(*command, "--refine", "all", "--restart")[0] == 0


def test_the_doctor_runs_without_a_network(phenokit):
    code, out, _ = phenokit("doctor")
    assert code == 0
    assert "phenokit" in out.lower()


def test_an_internal_error_ends_with_70_and_keeps_its_message_to_itself(
    phenokit, monkeypatch, folder
):
    name = "Jane Doe 12345678"

    def fail(*_, **__):
        raise ValueError(name)

    monkeypatch.setattr("phenokit.pipeline.load_ecg_model", fail)
    code, out, err = phenokit("explain", folder / "good.hea")
    assert code == 70
    assert "ValueError" in err
    assert "12345678" not in out + err
