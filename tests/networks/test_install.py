import zipfile

import pytest

from phenokit.errors import BadInput, BundleError
from phenokit.networks.checkpoint import bundle_folders, load_bundle
from phenokit.networks.install import install_bundle


def zipped(folder, path, *, prefix=""):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, prefix + file.name)
    return path


@pytest.mark.parametrize("prefix", ["", "some-folder/"])
def test_an_installed_bundle_loads_under_the_name_on_its_card(
    tmp_path, write_toy_bundle, prefix
):
    made = write_toy_bundle(tmp_path / "made")
    models = tmp_path / "models"
    bundle = install_bundle(zipped(made, tmp_path / "a.zip", prefix=prefix), models)
    assert bundle.path == models / "toy"
    assert bundle.bundle_hash == load_bundle(made).bundle_hash
    assert load_bundle(models / "toy").bundle_hash == bundle.bundle_hash
    assert [path.name for path in models.iterdir()] == ["toy"]


def test_installing_the_same_bundle_again_changes_nothing(tmp_path, write_toy_bundle):
    file = zipped(write_toy_bundle(tmp_path / "made"), tmp_path / "a.zip")
    first = install_bundle(file, tmp_path / "models")
    stamp = (first.path / "SHA256SUMS").stat().st_mtime_ns
    assert install_bundle(file, tmp_path / "models").bundle_hash == first.bundle_hash
    assert (first.path / "SHA256SUMS").stat().st_mtime_ns == stamp


def test_another_bundle_of_the_same_name_is_refused_and_the_first_stays(
    tmp_path, write_toy_bundle
):
    models = tmp_path / "models"
    first = install_bundle(
        zipped(write_toy_bundle(tmp_path / "1"), tmp_path / "1.zip"), models
    )
    other = zipped(write_toy_bundle(tmp_path / "2", seed=2), tmp_path / "2.zip")
    with pytest.raises(BundleError, match="Another model toy is installed") as refusal:
        install_bundle(other, models)
    assert refusal.value.code == "E_VERSION"
    assert load_bundle(models / "toy").bundle_hash == first.bundle_hash
    assert bundle_folders(models) == [models / "toy"]


def test_a_changed_byte_installs_nothing(tmp_path, write_toy_bundle):
    made = write_toy_bundle(tmp_path / "made")
    weights = bytearray((made / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (made / "model.safetensors").write_bytes(weights)
    with pytest.raises(BundleError) as refusal:
        install_bundle(zipped(made, tmp_path / "a.zip"), tmp_path / "models")
    assert refusal.value.code == "E_WEIGHTS_HASH"
    assert list((tmp_path / "models").iterdir()) == []


@pytest.mark.parametrize(
    ("extra", "code"),
    [("../evil", "E_PATH"), ("a/b/c.txt", "E_WEIGHTS_HASH"), ("code.py", "E_WEIGHTS_HASH")],
)
def test_a_zip_file_that_is_not_just_a_bundle_is_refused(
    tmp_path, write_toy_bundle, extra, code
):
    file = zipped(write_toy_bundle(tmp_path / "made"), tmp_path / "a.zip")
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(extra, "x")
    with pytest.raises(BadInput) as refusal:
        install_bundle(file, tmp_path / "models")
    assert refusal.value.code == code
    assert not (tmp_path / "evil").exists()
    assert bundle_folders(tmp_path / "models") == []
