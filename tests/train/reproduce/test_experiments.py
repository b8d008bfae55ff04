import json

import pytest

from collegium.search.engine import run as search
from collegium.search.spec import SearchSpec
from collegium.train.limits import check_study_cost
from collegium.train.reproduce import experiments
from collegium.train.reproduce import noise as reproduce_noise
from collegium.train.reproduce import t5 as reproduce_t5
from collegium.train.reproduce import table5 as reproduce_table5
from collegium.train.reproduce.comparison import pearson
from collegium.train.reproduce.experiments import ALIASES, EXPERIMENTS, Options, main
from collegium.train.reproduce.figure4 import ensembles

MLP = {"family": "mlp", "inputs": 64, "hidden": [100] * 5, "outputs": 10}


def test_figure4_covers_the_curve_with_ensembles_of_one_size():
    answer = search(SearchSpec.model_validate({"baseline": MLP, "estimator": {"method": "exact"}}))
    points = {point.name: point for point in ensembles(answer)}
    assert (points["baseline"].width, points["baseline"].multiplicity) == (100, 1)
    assert (points["primal"].width, points["primal"].multiplicity) == (17, 20)
    assert points["dual"].multiplicity == 9
    assert len(points) >= 9
    assert min(points.values(), key=lambda point: point.variance).name == "primal"
    assert points["dual"].variance == pytest.approx(points["baseline"].variance, rel=0.1)


@pytest.mark.slow
def test_figure4_is_printed_and_written(tmp_path, capsys):
    assert main(["figure4", "--seeds", "2", "--effort", "0.02", "--output", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "20 × 17" in printed
    assert "standard errors" in printed
    table = json.loads((tmp_path / "figure4-digits.json").read_text())
    assert len(table["rows"]) >= 9
    assert (tmp_path / "figure4-digits.svg").read_bytes().startswith(b"<?xml")
    assert "| primal | 20 × 17 |" in (tmp_path / "figure4-digits.md").read_text()


@pytest.mark.slow
def test_table5_runs_on_cifar_from_the_data_folder(cifar10, tmp_path, capsys):
    short = ["table5", "--data", "cifar10", "--seeds", "1", "--effort", "0.01", "--output", str(tmp_path)]
    assert main([*short, "--data-dir", str(cifar10)]) == 0
    assert "majority-A3" in capsys.readouterr().out
    rows = json.loads((tmp_path / "table5-cifar10.json").read_text())["rows"]
    assert len(rows) == 15
    assert not any("–" in row[optimizer] for row in rows for optimizer in ("Adam", "SGD"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seeds", "0"], "--seeds: '0' is no whole number above 0"),
        (["--processes", "0"], "--processes: '0' is no whole number above 0"),
        (["--effort", "0"], "--effort: '0' is no number above 0"),
        (["--effort", "nan"], "--effort: 'nan' is no number above 0"),
        (["--effort", "inf"], "--effort: 'inf' is no number above 0"),
        (["--device", "tpu"], "--device: device 'tpu' is neither"),
        (["--device", "cuda:99"], "--device: torch finds "),
    ],
)
def test_options_that_cannot_be_meant_are_refused_before_anything_is_trained(words, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as raised:
        main(["figure4", "--output", str(tmp_path), *words])
    assert raised.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("lost", [{"failure": {"message": "the disk is full"}}, {"failure": None}])
def test_no_table_is_printed_of_trainings_that_failed(lost, tmp_path, capsys, monkeypatch):
    class Failing:
        def __init__(self, *_):
            pass

        def __enter__(self):
            return lambda children, progress: [
                {"key": child["key"], "id": None, "status": "failed", "result": None, **lost} for child in children
            ]

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(experiments, "Pool", Failing)
    assert main(["figure4", "--seeds", "1", "--output", str(tmp_path)]) == 1
    printed = capsys.readouterr()
    assert not printed.out
    why = "the disk is full" if lost["failure"] else "it did not finish"
    assert f"error baseline / vanilla / default has no training that ended: {why}" in printed.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("data", "folder", "message"),
    [
        ("cifar10", "nowhere", "put cifar-10-binary.tar.gz"),
        ("cifar10", None, "is not in /usr/share/datasets: put cifar-10-binary.tar.gz"),
        ("flowers", "nowhere", "not on 'flowers'"),
    ],
)
def test_data_that_is_not_there_is_named_before_anything_is_trained(data, folder, message, capsys, monkeypatch):
    monkeypatch.delenv("COLLEGIUM_DATA_DIR", raising=False)
    with pytest.raises(SystemExit) as raised:
        main(["table5", "--data", data, *(["--data-dir", folder] if folder else [])])
    assert raised.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", ["figure4", "majority"])
def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_trained(name, tmp_path, capsys):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as ended:
        main([name, "--output", str(tmp_path / "file")])
    assert (ended.value.code, "--output: " in capsys.readouterr().err) == (2, True)


def test_the_other_experiments_are_studies_that_can_be_posted():
    options = Options(seeds=10)
    table5 = reproduce_table5.study_of(options)
    assert table5.trainings() == 3 * 5 * 2 * (10 + 10)
    architecture, recipe = table5.architectures[0], table5.recipes[0]
    majority = next(method for method in table5.methods if method.method == "majority")
    assert table5.training(architecture, majority, recipe).expansion.copies == 3
    noise = reproduce_noise.study_of(options, 0.2)
    assert noise.data.label_noise == 0.2
    assert [method.label for method in noise.methods] == ["vanilla", "majority"]
    t5 = reproduce_t5.study_of(options, "first")
    assert t5.methods[1].expansion.initialization == "replicated"
    for study in (table5, noise, t5):
        check_study_cost(study)


def test_every_published_accuracy_of_table5_is_there():
    keys = {(method, name) for method in reproduce_table5.METHODS for name in reproduce_table5.ARCHITECTURES}
    assert set(reproduce_table5.PUBLISHED) == keys


def test_every_name_and_alias_has_an_experiment():
    assert set(ALIASES.values()) <= set(EXPERIMENTS)
    with pytest.raises(ValueError, match="runs on digits"):
        _ = Options(data="imagenet").inputs


def test_a_correlation_is_one_on_a_line():
    assert pearson([(1, 2), (2, 4), (5, 10)]) == pytest.approx(1)
    assert pearson([(1, 2), (2, 0), (3, -2)]) == pytest.approx(-1)
