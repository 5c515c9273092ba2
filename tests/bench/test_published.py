"""What README.md shows of the benchmark's runs."""

import json
from pathlib import Path

import pytest

from tests.bench.published import BEGIN, END, kind_of_cpu, publish
from tests.support.paths import ROOT


@pytest.mark.parametrize(
    ("capabilities", "units"),
    [
        ({"amx_int8": True, "avx512_vnni": True, "avx2": True}, "AMX"),
        ({"amx_int8": False, "avx512_vnni": True, "avx2": True}, "AVX-512 VNNI"),
        ({"avx2": True}, "AVX2"),
    ],
)
def test_a_cpu_is_told_by_its_units_for_int8(capabilities: dict[str, bool], units: str) -> None:
    assert kind_of_cpu("A CPU", capabilities) == f"A CPU, {units}"


def test_a_run_takes_the_place_of_the_one_on_such_a_cpu(tmp_path: Path) -> None:
    readme, file = tmp_path / "README.md", tmp_path / "results.json"
    readme.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    publish(readme, file, "CPU one", "first.", {"portal-adds": [1.0]})
    publish(readme, file, "CPU two", "second.", {"portal-adds": [3.0]})
    publish(readme, file, "CPU one", "third.", {"portal-adds": [2.0]})
    text = readme.read_text()
    assert text.startswith(f"before\n{BEGIN}\n|  | must | goal | CPU one | CPU two |\n")
    assert text.endswith(f"- CPU one: third.\n- CPU two: second.\n{END}\nafter\n")
    assert "| 2.00 (2.00-2.00) met | 3.00 (3.00-3.00) missed |" in text
    assert list(json.loads(file.read_text())) == ["CPU one", "CPU two"]


def test_a_readme_without_marks_loses_no_run(tmp_path: Path) -> None:
    readme, file = tmp_path / "README.md", tmp_path / "results.json"
    readme.write_text("no marks\n")
    file.write_text('{"CPU one": {"about": "first.", "promises": {}}}')
    with pytest.raises(ValueError, match="expected the marks"):
        publish(readme, file, "CPU two", "second.", {})
    assert list(json.loads(file.read_text())) == ["CPU one"]


def test_readme_shows_the_published_runs(tmp_path: Path) -> None:
    readme, file = tmp_path / "README.md", tmp_path / "results.json"
    readme.write_text((ROOT / "README.md").read_text())
    runs = json.loads((ROOT / "tests/bench/results.json").read_text())
    kind, run = next(iter(runs.items()))
    file.write_text(json.dumps(runs))
    publish(readme, file, kind, run["about"], run["promises"])
    assert readme.read_text() == (ROOT / "README.md").read_text()
