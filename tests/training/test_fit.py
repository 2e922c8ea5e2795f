import weakref
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch

from phenokit.errors import BadInput
from phenokit.networks.prototype import compact, to_arrays
from phenokit.readers.packed import PackedArchive
from phenokit.recording import LEADS
from phenokit.training.augment import Augmentation
from phenokit.training.dataset import training_set
from phenokit.training.fit import fit, project, score_rows
from phenokit.training.loop import FitConfig, descend

LABELS = ("A", "B", "C")
SETTINGS = FitConfig(
    batch_size=12,
    feature_epochs=2,
    joint_epochs=2,
    averaging=0.5,
    augmentation=Augmentation(shift=20, mixup=0.2),
    l1_grid=(1e-3,),
)


def archive_of(n=72):
    """Labels that anyone can tell: A oscillates fast, B in V1 only, C is either."""
    rng = np.random.default_rng(2)
    time = np.arange(1000) / 100
    signal = rng.normal(0, 0.3, (n, 12, 1000))
    a, b = np.arange(n) % 2 == 0, np.arange(n) % 3 == 0
    signal[a] += np.sin(2 * np.pi * 9 * time)
    signal[b, 6] += 3 * np.sin(2 * np.pi * 2 * time)
    split = np.repeat(["train", "val", "test"], [n // 2, n // 4, n - n // 2 - n // 4])
    table = pd.DataFrame(
        {
            "record_id": [f"r{i}" for i in range(n)],
            "patient_id": [f"p{i}" for i in range(n)],
        }
    ).assign(dataset="waves", split=split, fold=1, age=50.0, sex=None)
    return PackedArchive(
        signal=np.rint(signal * 1000).astype(np.int16),
        scale=0.001,
        unit="z",
        contract_id="test",
        sampling_rate=100.0,
        leads=LEADS,
        table=table,
        label_codes=LABELS,
        labels=np.stack([a, b, a | b], axis=1).astype(np.float32),
        dataset="waves",
        notes="",
    )


@pytest.fixture(scope="module")
def data():
    return training_set(archive_of(), LABELS)


def config():
    return compact(
        {"rhythm": ("A",), "morphology": ("B",), "global": ("C",)},
        LABELS,
        per_label={"rhythm": 2, "morphology": 2, "global": 2},
        widths=(8, 8, 8, 8),
    )


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    log = []
    network, sources = fit(
        config(),
        data,
        SETTINGS,
        run_folder=tmp_path_factory.mktemp("run"),
        report=log.append,
    )
    return network, sources, log


def test_every_stage_reports_its_epochs(trained):
    stages = [(p.stage, p.epoch, p.n_epochs) for p in trained[2]]
    assert stages == [
        ("features", 1, 2),
        ("features", 2, 2),
        ("heads", 1, 1),
        ("joint", 1, 2),
        ("joint", 2, 2),
        ("heads", 1, 1),
    ]
    assert all(np.isfinite([p.loss, p.validation]).all() for p in trained[2])


def test_waves_that_anyone_can_tell_are_told(data, trained):
    _, logit = score_rows(trained[0], data, data.test)
    present = data.labels[data.test] == 1
    for k in (0, 2):
        assert logit[present[:, k], k].mean() > logit[~present[:, k], k].mean() + 1


def test_prototypes_come_from_training_records_of_their_label(data, trained):
    network, sources, _ = trained
    for name, branch in network.config.branches.items():
        column = data.label_codes.index(branch.labels[0])
        assert sources[name].found.all()
        assert set(sources[name].row) <= set(data.train)
        assert (data.labels[sources[name].row, column] == 1).all()


def test_a_prototype_has_similarity_1_to_its_source(data, trained):
    network, sources, _ = trained
    start = 0
    for found in sources.values():
        similarity, _ = score_rows(network, data, found.row)
        own = similarity[:, start : start + len(found.row)].diagonal()
        np.testing.assert_allclose(own, 1, atol=1e-5)
        start += len(found.row)


def test_a_prototype_speaks_only_for_the_labels_of_its_source(data, trained):
    network, sources, _ = trained
    rows = np.concatenate([found.row for found in sources.values()])
    has_label = data.labels[rows].T == 1  # (label, prototype)
    weight = to_arrays(network)["fusion.weight"]
    assert (weight[has_label] >= 0).all()
    assert (weight[~has_label] <= 0).all()
    assert (weight != 0).any()


def test_a_second_projection_changes_nothing(data, trained):
    network, sources, _ = trained
    before = to_arrays(network)
    again = project(network, data)
    for name, found in again.items():
        assert set(found.row) == set(sources[name].row)
    after = to_arrays(network)
    moved = [k for k in before if not np.allclose(before[k], after[k], atol=1e-6)]
    assert moved == []


class PowerCut(Exception):
    pass


def cut_after(stage, epoch):
    def report(step):
        if (step.stage, step.epoch) == (stage, epoch):
            raise PowerCut

    return report


@pytest.mark.parametrize("stage", ["features", "joint"])
def test_a_run_that_was_killed_ends_in_the_same_bits(data, trained, tmp_path, stage):
    with pytest.raises(PowerCut):
        fit(config(), data, SETTINGS, run_folder=tmp_path, report=cut_after(stage, 1))
    torch.rand(7)  # whatever else was drawn in between
    resumed, sources = fit(config(), data, SETTINGS, run_folder=tmp_path, resume=True)
    expected = to_arrays(trained[0])
    for name, array in to_arrays(resumed).items():
        np.testing.assert_array_equal(array, expected[name], err_msg=name)
    for name, found in sources.items():
        assert found.row.tolist() == trained[1][name].row.tolist()


@pytest.mark.gpu
def test_a_run_that_was_killed_ends_in_the_same_bits_on_cuda(data, tmp_path, cuda):
    def train(folder, **options):
        folder = tmp_path / folder
        return fit(config(), data, SETTINGS, run_folder=folder, device=cuda, **options)[0]

    expected = to_arrays(train("whole"))
    with pytest.raises(PowerCut):
        train("cut", report=cut_after("features", 1))
    torch.rand(7, device=cuda)  # whatever else was drawn in between
    for name, array in to_arrays(train("cut", resume=True)).items():
        np.testing.assert_array_equal(array, expected[name], err_msg=name)


def test_a_checkpoint_of_another_configuration_is_refused(data, tmp_path):
    short = replace(SETTINGS, feature_epochs=1, joint_epochs=0)
    with pytest.raises(PowerCut):
        fit(config(), data, short, run_folder=tmp_path, report=cut_after("features", 1))
    with pytest.raises(BadInput, match="another configuration") as refusal:
        fit(config(), data, replace(short, seed=1), run_folder=tmp_path, resume=True)
    assert refusal.value.code == "E_VERSION"


def test_a_stage_ends_when_validation_gets_no_better(data, tmp_path):
    patient = replace(
        SETTINGS, feature_epochs=20, joint_epochs=0, patience=1, learning_rate=1e-9
    )
    log = []
    with pytest.raises(PowerCut):
        fit(config(), data, patient, run_folder=tmp_path, report=recorder(log))
    scores = [p.validation for p in log if p.stage == "features"]
    assert 2 <= len(scores) < 20
    assert scores[-1] <= max(scores[:-1])
    assert all(b > a for a, b in pairwise(scores[:-1]))


def recorder(log):
    def report(step):
        log.append(step)
        if step.stage != "features":
            raise PowerCut

    return report


def test_a_patient_on_both_sides_of_a_split_is_refused():
    archive = archive_of()
    archive.table.loc[70, "patient_id"] = "p3"
    with pytest.raises(
        BadInput, match="1 patients occur in more than one split"
    ) as refusal:
        training_set(archive, LABELS)
    assert refusal.value.code == "E_DUP_ID"


def test_records_without_a_patient_are_nobodys_twin():
    archive = archive_of()
    archive.table["patient_id"] = None
    assert training_set(archive, LABELS).patient_ids == [None] * 72


def test_a_label_that_the_archive_lacks_is_named():
    with pytest.raises(BadInput, match="no label AFIB") as refusal:
        training_set(archive_of(), ("A", "AFIB"))
    assert refusal.value.code == "E_COLUMNS"


def linear_problem():
    generator = torch.Generator().manual_seed(1)
    layer = torch.nn.Linear(12, 3)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    signal = torch.randn(7, 12, 5, generator=generator)
    return layer, signal, torch.rand(7, 3, generator=generator)


@pytest.mark.parametrize("fits", [1, 2, 3, 7])
def test_a_batch_too_large_for_memory_gives_the_step_of_the_whole(fits):
    layer, signal, labels = linear_problem()
    sizes = []

    def loss(x, y):
        sizes.append(len(x))
        if len(x) > fits:
            raise torch.OutOfMemoryError
        return (layer(x.mean(-1)) - y).square().mean()

    (layer(signal.mean(-1)) - labels).square().mean().backward()
    expected = [p.grad for p in layer.parameters()]
    total = descend(torch.optim.SGD(layer.parameters(), lr=0.0), loss, signal, labels)
    with torch.no_grad():
        whole = float((layer(signal.mean(-1)) - labels).square().mean())
    assert total == pytest.approx(whole)
    torch.testing.assert_close([p.grad for p in layer.parameters()], expected)
    assert max(sizes[:1]) == 7
    assert max(sizes[-(7 // fits) :]) <= fits


class Scarce(torch.autograd.Function):
    """The identity; its gradient needs more memory than there is for over four records."""

    @staticmethod
    def forward(ctx, x, graph):
        ctx.graph = graph
        return x.clone()

    @staticmethod
    def backward(ctx, *gradients):
        if len(gradients[0]) > 4:
            raise torch.OutOfMemoryError
        return gradients[0], None


def test_what_did_not_fit_is_let_go_before_the_next_try():
    layer, signal, labels = linear_problem()
    kept, still_there = [], []

    def loss(x, y):
        still_there.append(sum(graph() is not None for graph in kept))
        graph = type("Graph", (), {})()
        kept.append(weakref.ref(graph))
        return (Scarce.apply(layer(x.mean(-1)), graph) - y).square().mean()

    descend(torch.optim.SGD(layer.parameters(), lr=0.1), loss, signal, labels)
    assert still_there == [0, 0, 0]  # seven records, then four and three


def test_memory_for_not_even_one_record_is_an_error():
    layer, signal, labels = linear_problem()

    def loss(x, y):
        raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        descend(torch.optim.SGD(layer.parameters(), lr=0.1), loss, signal, labels)
