"""The READMEs name what is there: commands, options, paths, settings, versions."""

import ast
import importlib.util
import json
import os
import re
import shlex
import subprocess
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from portal.settings import Settings
from tests.support.documents import (
    COMMANDS,
    DOCUMENTS,
    NOT_RUN,
    Command,
    Way,
    commands_in,
    commands_to,
    fenced,
    read,
)
from tests.support.paths import ROOT
from training.config import load_config

MAKEFILE = (ROOT / "Makefile").read_text()
RELEASED = {
    (str(report["model"]), str(report["version"]))
    for report in (
        json.loads(path.read_text()) for path in (ROOT / "training/releases").glob("*/report.json")
    )
}
# Versions that a reader makes, in examples; none of them may be one that is there.
NEW = {
    ("baseline", "3.0"),
    ("efficientnet_lite2", "3.0"),
    *(("resnet18", version) for version in ("3.0", "3.1", "3.2", "3.3")),
}
# What appears when the product runs or is trained.
APPEARS = (".run/", "logs/", "training/data", "training/runs", "build/", "2750/", "EuroSAT_RGB/")
IN_AN_ARCHIVE = {"model-config.yaml"}
MODELS = sorted(path.stem for path in (ROOT / "training/configs").glob("*.yaml"))
SET = re.compile(r"--set (\S+=[^\s']+)")
each_document = pytest.mark.parametrize("document", DOCUMENTS)


def inline(markdown: str) -> list[str]:
    """What stands between single backticks, in prose."""
    prose = re.sub(r"^```.*?^```", "", markdown, flags=re.MULTILINE | re.DOTALL)
    found: list[str] = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", prose)
    return found


def code(markdown: str) -> str:
    """Everything between backticks, fenced or not, without the shell's comments."""
    texts = [command.text for command in commands_in("", markdown)]
    return "\n".join([*texts, *inline(markdown)])


def make_words(text: str) -> tuple[set[str], set[str]]:
    """The targets and the variables of every ``make`` command."""
    commands = re.findall(r"(?:^|[;&|(]|\$)[ \t]*make[ \t]+([^\n;&|)]+)", text, flags=re.MULTILINE)
    words = [
        word for command in commands for word in re.sub(r"'[^']*'|\"[^\"]*\"", "", command).split()
    ]
    return (
        {word for word in words if re.fullmatch(r"[a-z][a-z-]*", word)},
        {word.partition("=")[0] for word in words if re.match(r"[A-Z_]+=", word)},
    )


def python_modules(text: str) -> set[str]:
    return set(re.findall(r"(?:python[\d.]*|\$\(RUN\))[ \t]+-m[ \t]+([a-zA-Z_][\w.]*)", text))


def file_of(module: str) -> Path | None:
    """The source that ``python -m`` runs; None for a module that is not ours."""
    if module.partition(".")[0] not in {"training", "portal", "deploy", "tests"}:
        return None
    path = ROOT / module.replace(".", "/")
    return path / "__main__.py" if path.is_dir() else path.with_suffix(".py")


def options_of(source: str) -> set[str]:
    """The options that a script gives to its argparse."""
    return {
        str(argument.value)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "add_argument"
        for argument in node.args
        if isinstance(argument, ast.Constant) and str(argument.value).startswith("--")
    }


def unknown_options(command: str) -> set[str]:
    """The options of a command of ours that its script does not have."""
    unknown: set[str] = set()
    for call in re.split(r"[;&|]+", command):
        if (found := re.search(r"-m ([\w.]+)(.*)", call)) and (file := file_of(found[1])):
            given = set(re.findall(r"(?<!\S)(--[a-z-]+)", found[2]))
            unknown |= given - options_of(file.read_text())
    return unknown


def recipe(command: str) -> str:
    """What make would do, without doing it."""
    environ = {name: value for name, value in os.environ.items() if "MAKE" not in name}
    environ.pop("MFLAGS", None)
    words = shlex.split(command)
    ended = subprocess.run(
        [words[0], "-n", *words[1:]],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.replace("\\\n", " ")


class Asked(dict[str, str]):
    """An empty environment that remembers what it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def get(self, name: str, default: Any = None) -> Any:
        self.names.append(name)
        return default


def settings_and_defaults() -> dict[str, str]:
    """Each variable of the portal with its default as a README writes it."""
    asked = Asked()
    settings = Settings.from_environment(asked)
    return {
        name: shown(getattr(settings, name.removeprefix("PORTAL_").lower(), None))
        for name in asked.names
    }


def shown(default: object) -> str:
    """A default in a table."""
    if isinstance(default, SecretStr):
        default = default.get_secret_value()
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, int) and default and default % 2**20 == 0:
        return f"{default // 2**20} MiB"
    if isinstance(default, int | float):
        return f"{default:g}"
    return str(default) if default else "none"


def versions_in(markdown: str) -> set[tuple[str, str]]:
    """Models with versions, in all the ways in which a command or a text names them."""
    model = rf"(?<![\w-])({'|'.join(MODELS)})"
    version = r"(\d+\.\d+(?:\.\d+)?)(?![\w.]*\d)"
    between = (r"[ /-]", r"&version=", r" VERSION=", r" -F version=", r"-\d+\.\d+ ")
    found: set[tuple[str, str]] = set()
    for middle in between:
        found |= set(re.findall(f"{model}{middle}{version}", markdown))
    for block in fenced(markdown, "json"):
        fields = dict(re.findall(r'"(model|version)":\s*"([^"]*)"', block))
        found |= {(fields["model"], fields["version"])} if len(fields) == 2 else set()
    for run in re.findall(rf"{model}-[\d.]+ .*--version {version}", markdown):
        found.add(run)
    return found


def without_runs(markdown: str) -> str:
    """Without the benchmark's runs, which were of the releases of their day."""
    return re.sub(r"<!-- bench:.*?<!-- end of bench -->", "", markdown, flags=re.DOTALL)


def slugs(markdown: str) -> set[str]:
    """The anchors of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", markdown, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_commands_are_found_and_prose_is_not() -> None:
    block = "```sh\nmake two A='b c' \\\n  --d # make three\n# make five\ncd x && make four\n```\n"
    markdown = f"make sure\n`make one X=1`, or\n{block}"
    assert make_words(code(markdown)) == ({"one", "two", "four"}, {"X", "A"})
    assert [command.text for command in commands_in("", block)] == [
        "make two A='b c' --d",
        "cd x && make four",
    ]
    assert python_modules(code("`.venv/bin/python -m a.b --c`, python -m d")) == {"a.b"}


def test_every_way_to_name_a_version_is_seen() -> None:
    ways = (
        "baseline 1.1, `baseline-1.2.mar`; models/baseline/1.3/promote ?model=baseline&version=1.4"
        " MODEL=baseline VERSION=1.5 training/runs/baseline-1.6-spatial releases/baseline-1.6 1.7"
        ' x/baseline-1.6 --version 1.8\n```json\n{"model": "baseline",\n "version": "1.9"}\n```\n'
    )
    assert versions_in(ways) == {("baseline", f"1.{number}") for number in range(1, 10)}
    assert versions_in("the baseline in 0.15 ms, baseline 1.2.3") == {("baseline", "1.2.3")}


def test_an_option_that_a_script_lacks_is_seen() -> None:
    assert unknown_options(".venv/bin/python -m training.archive --store x --shop y") == {"--shop"}
    assert unknown_options("python -m training.train --set a=1 && x --other") == set()


def test_a_command_that_nobody_runs_is_refused() -> None:
    with pytest.raises(ValueError, match="no rule runs `make coffee`, and NOT_RUN gives no reason"):
        _ = Command("README.md", "make coffee").way


def test_every_readme_is_listed() -> None:
    folders = ("deploy", "handlers", "portal", "training", "tests", "model_store")
    found = {path for folder in folders for path in (ROOT / folder).rglob("README.md")}
    assert found | {ROOT / "README.md"} == {ROOT / document for document in DOCUMENTS}


@each_document
def test_a_readme_is_short(document: str) -> None:
    assert len(read(document).splitlines()) <= DOCUMENTS[document]


@each_document
def test_every_make_command_is_in_the_makefile(document: str) -> None:
    targets, variables = make_words(code(read(document)))
    assert targets <= set(re.findall(r"^([a-z][a-z-]*):", MAKEFILE, flags=re.MULTILINE))
    assert variables <= set(re.findall(r"\$\(([A-Z_]+)\)", MAKEFILE))


def test_every_target_that_the_makefile_lists_is_real() -> None:
    phony = re.search(r"^\.PHONY: ((?:.*\\\n)*.*)$", MAKEFILE, flags=re.MULTILINE)
    assert phony
    listed = set(re.findall(r"^([a-z]+):.*## ", MAKEFILE, flags=re.MULTILINE))
    assert listed == set(phony[1].replace("\\\n", " ").split())


@pytest.mark.parametrize("name", [*DOCUMENTS, "Makefile"])
def test_every_python_module_that_is_run_can_be_found(name: str) -> None:
    named = python_modules(MAKEFILE if name == "Makefile" else code(read(name)))
    missing = {module for module in named if importlib.util.find_spec(module) is None}
    assert missing == set()


def test_modules_are_found_in_the_documents() -> None:
    assert "training.requantize" in python_modules(code(read("training/README.md")))
    assert "deploy.serve" in python_modules(MAKEFILE)


@each_document
def test_every_option_is_one_of_its_script(document: str) -> None:
    for command in COMMANDS:
        if command.document == document:
            made = recipe(command.text) if command.text.startswith("make ") else command.text
            assert unknown_options(made.replace("\n", " ; ")) == set(), command


def test_every_knob_that_is_set_exists() -> None:
    sets = 0
    for command in commands_to(Way.NOT_RUN):
        if command.text.startswith("make train "):
            words = shlex.split(recipe(command.text))
            given = [word for before, word in pairwise(words) if before == "--set"]
            load_config(ROOT / words[words.index("--config") + 1], given)  # BadConfig if not
            sets += len(given)
    assert sets
    prose = [
        word for name in DOCUMENTS for text in inline(read(name)) for word in SET.findall(text)
    ]
    assert prose
    load_config(None, prose)


def test_every_command_is_run_or_says_why_not() -> None:
    assert {command.way for command in COMMANDS} == set(Way)
    stale = [
        pattern
        for pattern in NOT_RUN
        if not any(re.match(pattern, command.text) for command in commands_to(Way.NOT_RUN))
    ]
    assert stale == []


@each_document
def test_every_link_leads_somewhere(document: str) -> None:
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", read(document)):
        path, _, anchor = link.partition("#")
        target = (ROOT / document).parent / path if path else ROOT / document
        assert target.exists(), link
        if anchor:
            assert anchor in slugs(target.read_text()), link


@each_document
def test_every_path_exists(document: str) -> None:
    lines = read(document).splitlines()
    missing = []
    for line in lines:
        words = [word for text in inline(line) for word in text.split()]
        paths = [
            word
            for word in words
            if re.fullmatch(r"[\w.-]+(/[\w.-]*)+|[\w-]+\.(py|properties|yaml)", word)
            and not word.startswith(APPEARS)
        ]
        # a line that tells of a folder names what is in it without the folder
        rooms = [ROOT, (ROOT / document).parent, *(ROOT / path for path in paths)]
        missing += [
            path
            for path in paths
            if not any((room / path).exists() for room in rooms) and path not in IN_AN_ARCHIVE
        ]
    assert missing == []


@each_document
def test_every_module_in_backticks_exists(document: str) -> None:
    named = {
        text
        for text in inline(read(document))
        if re.fullmatch(r"(training|portal|deploy|handlers|tests)(\.\w+)+(?<!\.log)", text)
    }
    assert {name for name in named if importlib.util.find_spec(name) is None} == set()


def test_the_table_of_variables_is_that_of_the_settings() -> None:
    rows = re.findall(
        r"^\| `(PORTAL_\w+)` \| ([^|]+) \|", read("deploy/README.md"), flags=re.MULTILINE
    )
    table = {name: default.strip("`") for name, default in rows}
    assert len(rows) == len(table)
    assert table == settings_and_defaults()
    assert len(table) == len(vars(Settings()))


@each_document
def test_every_variable_of_the_portal_exists(document: str) -> None:
    named = set(re.findall(r"\bPORTAL_[A-Z_]*[A-Z]\b", read(document)))
    assert named <= {*settings_and_defaults(), "PORTAL_TOKEN"}  # the last is that of the commands


@each_document
def test_every_version_is_released_or_one_that_a_reader_makes(document: str) -> None:
    assert versions_in(without_runs(read(document))) <= RELEASED | NEW


def test_new_versions_are_new_and_named() -> None:
    assert not NEW & RELEASED
    named = {found for document in DOCUMENTS for found in versions_in(read(document))}
    assert named >= NEW


def test_the_first_sentence_tells_what_was_measured() -> None:
    sentence = read("README.md").split("\n\n")[1]
    table = re.search(r"<!-- releases:.*<!-- end of releases -->", read("README.md"), re.DOTALL)
    assert table
    for figure in re.findall(r"(\d+\.\d) %", sentence):
        assert any(
            f"{float(cell):.1f}" == figure for cell in re.findall(r"(\d+\.\d\d) %", table[0])
        )
