"""Each experiment of the paper comes out again."""

from __future__ import annotations

import json
import subprocess

import pytest

from collegium.jobs.subprocesses import environment, python
from collegium.search.reproduce.experiments import EXPERIMENTS, main, reproduce


def checked(name):
    seen: list[float] = []
    made = reproduce(name, report=lambda fraction, message: seen.append(fraction))
    assert made.name == name
    assert made.agrees, made.text()
    assert all(len(row) == len(made.columns) for row in made.rows)
    assert all(0 <= fraction <= 1 for fraction in seen)
    assert made.plot("png").startswith(b"\x89PNG")
    json.dumps(made.data())
    for row in made.rows:
        assert all(cell in made.text() and cell in made.markdown() for cell in row)
    return made


def test_table_1_has_the_published_sizes_and_multiplicities():
    rows = {row[0]: row for row in checked("table1").rows}
    assert len(rows) == 14
    assert rows["ResNeXt-29 37×10d"][2:4] == ("13,743,646", "13.7M")
    assert rows["ResNeXt-29 14×10d"][6] == "14.21"


def test_table_2_has_the_published_sizes():
    rows = {row[0]: row for row in checked("table2").rows}
    assert len(rows) == 12
    assert rows["ResNet-50 12×10d"][2] == "25,758,040"


def test_figure_3_has_the_published_optimum():
    paper, exact, fitted, wider = checked("figure3").rows
    assert paper[1] == "48"
    assert (exact[1], exact[4]) == ("44", "2.51")
    assert fitted[1:] == ("46", "32.0", "12.95", "2.47")
    assert (wider[1], wider[4]) == ("45", "2.44")


def test_alpha_is_the_papers_at_white_inputs_and_larger_at_natural_ones():
    rows = {row[0]: row for row in checked("alpha").rows}
    assert rows["correlation 0"][4] == "2.89"
    assert rows["correlation 0.95"][4] == "4.92"
    assert float(rows["correlation 0"][1]) == pytest.approx(1.6, abs=0.01)


@pytest.mark.parametrize("name", ["lemma1", "figure2", "theorem1"])
def test_sampled_experiments_confirm_their_claims(name, monkeypatch):
    # smaller than the published setting, for time
    monkeypatch.setattr("collegium.search.reproduce.kernels.WIDTH", 200)
    monkeypatch.setattr("collegium.search.reproduce.kernels.SIZES", (1, 10, 100, 1_000))
    monkeypatch.setattr("collegium.search.reproduce.kernels.MOST_KERNELS", 200_000)
    monkeypatch.setattr("collegium.search.reproduce.training.WIDTHS", (16, 32, 64))
    monkeypatch.setattr("collegium.search.reproduce.training.MULTIPLICITIES", (1, 4, 16))
    checked(name)


def test_an_unknown_experiment_is_refused():
    assert len(EXPERIMENTS) == 8
    with pytest.raises(KeyError):
        reproduce("figure9")


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_computed(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        "collegium.search.reproduce.experiments.reproduce", lambda *given, **more: pytest.fail("computed")
    )
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as ended:
        main(["table2", "--output", str(tmp_path / "file")])
    assert (ended.value.code, f"--output: {tmp_path / 'file'}: File exists" in capsys.readouterr().err) == (2, True)


def test_what_is_written_is_utf8_whatever_the_locale(tmp_path):
    command = python("-m", "collegium.search.reproduce", "table1", "--output", str(tmp_path))
    plain = environment(LC_ALL="C", PYTHONCOERCECLOCALE="0", PYTHONUTF8="0")
    done = subprocess.run(command, env=plain, capture_output=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert "α = 1.6" in (tmp_path / "table1.md").read_text(encoding="utf-8")
    assert b"? = 1.6" in done.stdout


def test_the_program_prints_and_writes(tmp_path, capsys):
    assert main(["table2", "--output", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "ResNet-50 12×10d" in printed
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"table2.md", "table2.json", "table2.svg"}
    assert "25,758,040" in (tmp_path / "out" / "table2.md").read_text()
    assert main(["alpha", "--json", "--output", str(tmp_path)]) == 0
    assert json.loads(capsys.readouterr().out)["agrees"]
    with pytest.raises(SystemExit):
        main(["figure9"])


@pytest.mark.parametrize("seconds", ["nan", "-1", "0", "inf"])
def test_a_time_that_is_none_is_refused(seconds, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["network", "--seconds", seconds, "--output", str(tmp_path)])
    assert ended.value.code == 2
    assert f"--seconds: '{seconds}' is no number above 0" in capsys.readouterr().err
