"""Bundles and tensors: what is written loads, and nothing else does."""

import contextlib
import hashlib
import json
import shutil
import tomllib
from datetime import date

import numpy as np
import pandas as pd
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from phenokit.errors import BadInput, BundleError
from phenokit.networks import checkpoint
from phenokit.networks.card import Card, format_card, format_toml, parse_card
from phenokit.networks.checkpoint import (
    BUNDLE_FILES,
    bundle_folders,
    hash_weights,
    load_bundle,
    parse_tensors,
    read_card,
    read_tensors,
    write_bundle,
    write_tensors,
)

WEIGHT = np.arange(8, dtype=np.float32).reshape(2, 4) / 7


def metric(label: str = "NORM", **changes: object) -> dict:
    figure = {"label": label, "metric": "AUROC", "value": 0.9, "low": 0.8, "high": 0.95}
    return {**figure, "n": 100, "n_positive": 40, **changes}


def card(**changes: object) -> dict:
    return {
        "first_line": 'Trained on "simulated" ECGs; not for diagnosis.',
        "name": "toy",
        "version": "1.0.0",
        "intended_use": "Tests.\nNothing else.",
        "population": "Nobody.",
        "inputs": "12-lead ECG, 10 s",
        "outputs": "Two labels",
        "warnings": ["Not for diagnosis."],
        "owner": "PhenoKit",
        "date": date(2026, 11, 26),
        "licences": {"code": "Apache-2.0", "weights": "Apache-2.0", "training_data": "own"},
        "training": {
            "data": "simulated",
            "n_recordings": 100,
            "preprocessing": "0.5-40 Hz",
            "split": "by patient",
        },
        "calibration": {"method": "Platt", "data": "fold 9", "slope": [metric()]},
        "out_of_distribution": {
            "method": "Mahalanobis",
            "threshold": 3.0,
            "false_positive_rate": 0.05,
            "detection": [metric("noise")],
        },
        "prevalence": {"NORM": {"training": 0.4}, "1AVB": {"training": 0.1}},
        "performance": [metric(), metric("1AVB")],
        "subgroups": [metric(subgroup="age < 60")],
        "tripod_ai": {"3a": "Reported."},
        **changes,
    }


def parts(**changes: object) -> dict:
    prototypes = pd.DataFrame(
        {
            "prototype_id": [0, 1],
            "branch": ["rhythm", "global"],
            "label": ["AFIB", "NORM"],
            "dataset": ["simulated"] * 2,
            "record_id": ["007", "008"],
            "patient_id": ["1", None],
            "start": [0.0, 2.5],
            "stop": [10.0, 3.5],
            "labels": [["AFIB", "SR"], ["NORM"]],
        }
    )
    return {
        "config": {"network": "toy", "labels": ["AFIB", "NORM"]},
        "tensors": {
            "backbone.weight": WEIGHT,
            "rhythm.prototypes": WEIGHT[:1],
            "classifier.weight": WEIGHT[1:],
        },
        "prototypes": prototypes,
        "calibration": {"threshold": {"AFIB": 0.5, "NORM": 0.25}},
        "trust": {"mean": np.arange(3.0)},
        "card": card(),
        **changes,
    }


@pytest.fixture
def bundle(tmp_path):
    write_bundle(tmp_path / "toy", **parts())
    return tmp_path / "toy"


def relist(folder):
    """Make SHA256SUMS agree with the files: a forger who can count."""
    lines = [
        f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n"
        for name in BUNDLE_FILES
    ]
    (folder / "SHA256SUMS").write_text("".join(lines))


def container(header: object, body: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def test_written_tensors_are_read_by_the_safetensors_library(tmp_path):
    tensors = {"b": WEIGHT, "a": WEIGHT.T.astype(np.float64), "c": np.float16(1.5)}
    write_tensors(tmp_path / "x.safetensors", tensors)
    theirs = safetensors.numpy.load_file(tmp_path / "x.safetensors")
    ours = read_tensors(tmp_path / "x.safetensors")
    for name, array in tensors.items():
        np.testing.assert_array_equal(theirs[name], array)
        np.testing.assert_array_equal(ours[name], array)
        assert ours[name].dtype == theirs[name].dtype == array.dtype


def test_tensors_of_the_safetensors_library_are_read(tmp_path):
    tensors = {"weight": WEIGHT, "step": np.array([3], np.int64)}
    safetensors.numpy.save_file(tensors, tmp_path / "x.safetensors", {"format": "pt"})
    ours = read_tensors(
        tmp_path / "x.safetensors", expected={"weight": (2, 4), "step": (1,)}
    )
    np.testing.assert_array_equal(ours["weight"], WEIGHT)
    assert ours["step"].tolist() == [3]


def test_tensor_bytes_do_not_depend_on_order_in_memory_or_in_the_mapping(tmp_path):
    write_tensors(tmp_path / "a.safetensors", {"x": WEIGHT, "y": WEIGHT[0]})
    write_tensors(
        tmp_path / "b.safetensors", {"y": WEIGHT[0], "x": np.asfortranarray(WEIGHT)}
    )
    first, second = (tmp_path / f"{name}.safetensors" for name in "ab")
    assert first.read_bytes() == second.read_bytes()


def test_float16_halves_the_file_and_refuses_what_it_cannot_hold(tmp_path):
    write_tensors(tmp_path / "x.safetensors", {"x": WEIGHT}, dtype="float16")
    read = read_tensors(tmp_path / "x.safetensors", dtypes=("float16",))
    np.testing.assert_array_equal(read["x"], WEIGHT.astype(np.float16))
    with pytest.raises(ValueError, match="x is not finite as float16"):
        write_tensors(tmp_path / "x.safetensors", {"x": 1e6 * WEIGHT}, dtype="float16")


def declared(**changes: object) -> dict:
    return {"weight": {"dtype": "F32", "shape": [2, 4], "data_offsets": [0, 32], **changes}}


BODY = WEIGHT.tobytes()
NAN = np.where(np.arange(8) == 3, np.nan, 1).astype("<f4").tobytes()
TWICE = b'{"a":{"dtype":"F32","shape":[8],"data_offsets":[0,32]},"a":1}'


@pytest.mark.parametrize(
    ("data", "where", "words"),
    [
        (b"", "", "not a safetensors"),
        (b"\x80\x04K\x01.", "", "not a safetensors"),
        ((1 << 40).to_bytes(8, "little") + b"{}" + BODY, "", "declares 1099511627776"),
        (container(b"{" * 5000), "", "JSON"),
        (container(TWICE, BODY), "", "JSON"),
        (container({"weight": 1}, BODY), "weight", "declared"),
        (container({"../x": declared()["weight"]}, BODY), "", "name"),
        (container(declared(dtype="BF16"), BODY), "weight", "type"),
        (container(declared(dtype="F64"), BODY), "weight", "type"),
        (container(declared(shape=[2, True]), BODY), "weight", "impossible"),
        (container(declared(shape=[-2, -4]), BODY), "weight", "impossible"),
        (container(declared(shape=[1 << 40, 1 << 40]), BODY), "weight", "another shape"),
        (container(declared(shape=[4, 2]), BODY), "weight", "4 x 2; the network has 2 x 4"),
        (container(declared(), BODY[:-1]), "weight", "0 to 32"),
        (container(declared(), BODY + b"\0"), "", "1 bytes that belong to no tensor"),
        (container(declared(data_offsets=[4, 36]), BODY + BODY[:4]), "weight", "from 0"),
        (container({**declared(), "b": declared()["weight"]}, BODY), "b", "from 32"),
        (container({}, b""), "weight", "missing"),
        (container({"wieght": declared()["weight"]}, BODY), "weight", "missing"),
        (container(declared(), NAN), "weight", "not finite"),
        (container({**declared(), "__metadata__": {"a": 1}}, BODY), "", "metadata"),
    ],
)
def test_parse_tensors_refuses_and_names_the_tensor(data, where, words):
    with pytest.raises(BundleError, match=words) as caught:
        parse_tensors(data, expected={"weight": (2, 4)}, dtypes=("float32",))
    assert caught.value.code == "E_WEIGHTS"
    assert caught.value.where == where


def test_read_tensors_loads_nothing_under_another_name(tmp_path):
    path = tmp_path / "x.pkl"
    path.write_bytes(container(declared(), BODY))
    with pytest.raises(BundleError, match="Only safetensors"):
        read_tensors(path)


@given(position=st.integers(0, 200), value=st.integers(0, 255), cut=st.integers(0, 120))
@settings(max_examples=200, deadline=None)
def test_damaged_tensors_raise_nothing_but_bundle_errors(position, value, cut):
    data = bytearray(container(declared(), BODY))
    data[position % len(data)] = value
    tensors = {}
    with contextlib.suppress(BundleError):
        tensors = parse_tensors(bytes(data[: len(data) - cut]))
    assert all(np.isfinite(array).all() for array in tensors.values())


def test_bundle_comes_back_as_it_was_written(bundle):
    given_parts, loaded = parts(), load_bundle(bundle)
    for name, array in given_parts["tensors"].items():
        np.testing.assert_array_equal(loaded.tensors[name], array)
    assert loaded.config == given_parts["config"]
    assert loaded.calibration == given_parts["calibration"]
    assert loaded.trust["mean"].tolist() == [0, 1, 2]
    assert loaded.prototypes["record_id"].tolist() == ["007", "008"]
    assert loaded.prototypes["patient_id"].tolist() == ["1", None]
    assert list(loaded.prototypes["labels"][0]) == ["AFIB", "SR"]
    assert loaded.card["prevalence"]["1AVB"]["training"] == 0.1
    sums = (bundle / "SHA256SUMS").read_bytes()
    assert loaded.bundle_hash == hashlib.sha256(sums).hexdigest()


def test_bundle_written_twice_has_the_same_hash(bundle, tmp_path):
    first = load_bundle(bundle)
    assert write_bundle(bundle, **parts()) == first.bundle_hash
    assert write_bundle(tmp_path / "other", **parts()) == first.bundle_hash


def test_weights_hash_survives_new_prototypes_and_sees_new_weights():
    tensors = parts()["tensors"]
    moved = {**tensors, "rhythm.prototypes": tensors["rhythm.prototypes"] + 1}
    other = {**tensors, "backbone.weight": np.nextafter(tensors["backbone.weight"], 9)}
    assert hash_weights(moved) == hash_weights(tensors)
    assert hash_weights(other) != hash_weights(tensors)


@pytest.mark.parametrize("name", BUNDLE_FILES)
@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "remove", "link"])
def test_load_bundle_names_the_damaged_file(bundle, tmp_path, name, damage):
    path = bundle / name
    data = bytearray(path.read_bytes())
    path.unlink()
    if damage == "link":
        (tmp_path / "elsewhere").write_bytes(data)
        path.symlink_to(tmp_path / "elsewhere")
    if damage == "flip":
        data[len(data) // 2] ^= 0x40
    if damage in ("flip", "cut", "empty"):
        length = {"flip": len(data), "cut": len(data) - 1, "empty": 0}[damage]
        path.write_bytes(data[:length])
    with pytest.raises(BadInput, match=name) as caught:
        load_bundle(bundle)
    assert caught.value.code == ("E_PATH" if damage == "link" else "E_WEIGHTS_HASH")


@pytest.mark.parametrize(
    "sums",
    ["", "x", "0" * 64 + "  config.json\n", "0" * 64 + "  ../config.json\n" * 6],
)
def test_load_bundle_refuses_another_list_of_sums(bundle, sums):
    (bundle / "SHA256SUMS").write_text(sums)
    with pytest.raises(BundleError, match="SHA256SUMS") as caught:
        load_bundle(bundle)
    assert caught.value.code == "E_WEIGHTS_HASH"


def test_load_bundle_refuses_a_file_that_is_not_listed(bundle):
    (bundle / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(BundleError, match="no part of it"):
        load_bundle(bundle)


@pytest.mark.parametrize(
    "name",
    ["config.json", "calibration.json", "prototypes.parquet", "trust.safetensors"],
)
def test_load_bundle_refuses_a_companion_of_other_weights(bundle, tmp_path, name):
    tensors = {**parts()["tensors"], "backbone.weight": -WEIGHT}
    write_bundle(tmp_path / "other", **parts(tensors=tensors))
    shutil.copy(tmp_path / "other" / name, bundle / name)
    relist(bundle)
    with pytest.raises(BundleError, match="was made for") as caught:
        load_bundle(bundle)
    assert (caught.value.code, caught.value.where) == ("E_VERSION", name)


def test_load_bundle_refuses_a_newer_format(bundle, monkeypatch):
    monkeypatch.setattr(checkpoint, "FORMAT_VERSION", 2)
    with pytest.raises(BundleError, match="format_version 1; this model has 2"):
        load_bundle(bundle)


def test_damage_is_named_by_its_cause_when_hashes_come_last(bundle):
    path = bundle / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(BundleError) as caught:
        load_bundle(bundle, verify=False)
    assert (caught.value.code, caught.value.where) == ("E_WEIGHTS", "rhythm.prototypes")
    path.write_bytes(path.read_bytes() + b"\0\0\0\0")
    with pytest.raises(BundleError) as caught:
        load_bundle(bundle, verify=False)
    assert (caught.value.code, caught.value.where) == ("E_VERSION", "config.json")


@pytest.mark.parametrize("column", checkpoint.PROTOTYPE_COLUMNS)
def test_write_bundle_names_the_missing_prototype_column(tmp_path, column):
    prototypes = parts()["prototypes"].drop(columns=column)
    with pytest.raises(BundleError, match=column):
        write_bundle(tmp_path / "toy", **parts(prototypes=prototypes))


def test_write_bundle_leaves_other_folders_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match=r"thesis\.tex"):
        write_bundle(tmp_path, **parts())
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_installed_bundles_are_found_by_name(bundle, monkeypatch):
    monkeypatch.setenv("PHENOKIT_MODELS", str(bundle.parent))
    assert bundle_folders() == [bundle]
    assert load_bundle("toy").path == bundle
    with pytest.raises(BundleError, match="installed: toy") as caught:
        load_bundle("tooy")
    assert caught.value.code == "E_MISSING"


def required_fields() -> list[str]:
    return [name for name, field in Card.model_fields.items() if field.is_required()]


@pytest.mark.parametrize("field", required_fields())
def test_card_without_a_required_field_is_refused_by_name(field):
    fields = card()
    del fields[field]
    with pytest.raises(BundleError, match=field) as caught:
        format_card(fields)
    assert caught.value.code == "E_VERSION"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"licences": {"code": "MIT"}}, "licences.weights"),
        ({"warnings": []}, "warnings"),
        ({"score": 3}, "score"),
        ({"performance": [metric(low=None)]}, "value, low and high"),
        ({"performance": [metric(low=0.99)]}, "low is above high"),
        ({"prevalence": {"NORM": {"training": 40.0}}}, "prevalence.NORM.training"),
    ],
)
def test_card_refuses_and_names_the_field(changes, words):
    with pytest.raises(BundleError, match=words):
        parse_card(format_toml_without_none(card(**changes)))


def format_toml_without_none(fields: dict) -> bytes:
    fields["performance"] = [
        {key: value for key, value in figure.items() if value is not None}
        for figure in fields["performance"]
    ]
    return format_toml(fields).encode()


def test_card_says_why_a_figure_is_undefined():
    reason = metric(value=None, low=None, high=None, undefined="no cases in fold 10")
    fields = card(performance=[{k: v for k, v in reason.items() if v is not None}])
    assert parse_card(format_card(fields)).performance[0].undefined == "no cases in fold 10"


def test_read_card_takes_a_bundle_or_a_file(bundle):
    assert read_card(bundle) == read_card(bundle / "card.toml")
    assert read_card(bundle).date == date(2026, 11, 26)


scalars = (
    st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.dates()
    | st.text(st.characters(exclude_categories=["Cs"]))
)
keys = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
tables = st.recursive(
    st.dictionaries(keys, scalars | st.lists(scalars, max_size=3), max_size=4),
    lambda below: st.dictionaries(
        keys, scalars | below | st.lists(below, min_size=1, max_size=3), max_size=4
    ),
    max_leaves=12,
)


@given(tables)
@settings(max_examples=100, deadline=None)
def test_toml_that_is_written_is_read_back_the_same(table):
    assert tomllib.loads(format_toml(table)) == table
