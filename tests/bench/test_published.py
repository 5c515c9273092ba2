"""What the READMEs show of the benchmark's runs."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.bench.published import BEGIN, END, FRONT_BEGIN, FRONT_END, kind_of_cpu, publish
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


@dataclass
class Documents:
    page: Path
    front: Path
    file: Path

    def publish(self, kind: str, about: str, promises: dict[str, list[float]]) -> None:
        publish(self.page, self.front, self.file, kind, about, promises)


@pytest.fixture
def documents(tmp_path: Path) -> Documents:
    page, front = tmp_path / "page.md", tmp_path / "front.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    front.write_text(f"before\n{FRONT_BEGIN}\nold\n{FRONT_END}\nafter\n")
    return Documents(page, front, tmp_path / "results.json")


def test_a_run_takes_the_place_of_the_one_on_such_a_cpu(documents: Documents) -> None:
    documents.publish("CPU one", "first.", {"portal-adds": [1.0]})
    documents.publish("CPU two", "second.", {"portal-adds": [3.0]})
    documents.publish("CPU one", "third.", {"portal-adds": [2.0]})
    text = documents.page.read_text()
    assert text.startswith(f"before\n{BEGIN}\n|  | must | goal | CPU one | CPU two |\n")
    assert text.endswith(f"- CPU one: third.\n- CPU two: second.\n{END}\nafter\n")
    assert "| 2.00 (2.00-2.00) met | 3.00 (3.00-3.00) missed |" in text
    assert list(json.loads(documents.file.read_text())) == ["CPU one", "CPU two"]


def test_the_front_shows_the_headlines_alone(documents: Documents) -> None:
    documents.publish("CPU one", "first.", {"portal-adds": [1.0], "batch-resnet18": [2.5]})
    text = documents.front.read_text()
    assert text.startswith(f"before\n{FRONT_BEGIN}\n|  | must | goal | CPU one |\n")
    assert text.endswith(f"| 1.00 (1.00-1.00) goal met |\n{FRONT_END}\nafter\n")
    assert "2.50" in documents.page.read_text()
    assert "2.50" not in text


@pytest.mark.parametrize("without", ["page", "front"])
def test_a_readme_without_marks_loses_no_run(documents: Documents, without: str) -> None:
    paths = {"page": documents.page, "front": documents.front}
    paths[without].write_text("no marks\n")
    before = {name: path.read_text() for name, path in paths.items()}
    documents.file.write_text('{"CPU one": {"about": "first.", "promises": {}}}')
    with pytest.raises(ValueError, match="expected the marks"):
        documents.publish("CPU two", "second.", {})
    assert list(json.loads(documents.file.read_text())) == ["CPU one"]
    assert {name: path.read_text() for name, path in paths.items()} == before


def test_the_readmes_show_the_published_runs(documents: Documents) -> None:
    bench, top = ROOT / "tests/bench/README.md", ROOT / "README.md"
    documents.page.write_text(bench.read_text())
    documents.front.write_text(top.read_text())
    runs = json.loads((ROOT / "tests/bench/results.json").read_text())
    kind, run = next(iter(runs.items()))
    documents.file.write_text(json.dumps(runs))
    documents.publish(kind, run["about"], run["promises"])
    assert documents.page.read_text() == bench.read_text()
    assert documents.front.read_text() == top.read_text()
