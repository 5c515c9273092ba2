"""What README.md tells to type exists."""

import importlib.util
import re

import pytest

from tests.support.paths import ROOT

README = (ROOT / "README.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()


def code(markdown: str) -> str:
    """Everything between backticks, fenced or not, without the shell's comments."""
    fenced = re.findall(r"^```\w*\n(.*?)^```", markdown, flags=re.MULTILINE | re.DOTALL)
    inline = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", markdown)
    return re.sub(r"\s#.*", "", "\n".join([*fenced, *inline]))


def make_targets(text: str) -> set[str]:
    """The targets of every ``make`` command, variables and options left out."""
    commands = re.findall(r"(?:^|[;&|(]|\$)[ \t]*make[ \t]+([^\n;&|)]+)", text, flags=re.MULTILINE)
    return {
        word
        for command in commands
        for word in re.sub(r"'[^']*'|\"[^\"]*\"", "", command).split()
        if re.fullmatch(r"[a-z][a-z-]*", word)
    }


def python_modules(text: str) -> set[str]:
    return set(re.findall(r"(?:python[\d.]*|\$\(RUN\))[ \t]+-m[ \t]+([a-zA-Z_][\w.]*)", text))


def test_commands_are_found_and_prose_is_not() -> None:
    fenced = "```sh\nmake two A='b c' # make three\ncd x && make four\n```\n"
    markdown = f"make sure\n`make one X=1`, or\n{fenced}"
    assert make_targets(code(markdown)) == {"one", "two", "four"}
    assert python_modules(code("`.venv/bin/python -m a.b --c`, python -m d")) == {"a.b"}


def test_every_make_command_of_the_readme_is_in_the_makefile() -> None:
    named = make_targets(code(README))
    assert {"serve", "test", "train"} <= named
    targets = set(re.findall(r"^([a-z][a-z-]*):", MAKEFILE, flags=re.MULTILINE))
    assert named <= targets


def test_every_target_that_the_makefile_lists_is_real() -> None:
    phony = re.search(r"^\.PHONY: ((?:.*\\\n)*.*)$", MAKEFILE, flags=re.MULTILINE)
    assert phony
    listed = set(re.findall(r"^([a-z]+):.*## ", MAKEFILE, flags=re.MULTILINE))
    assert listed == set(phony[1].replace("\\\n", " ").split())


@pytest.mark.parametrize("name", ["README.md", "Makefile"])
def test_every_python_module_that_is_run_can_be_found(name: str) -> None:
    text = code(README) if name == "README.md" else MAKEFILE
    named = python_modules(text)
    assert {module for module in named if module.startswith("training.")}
    missing = {module for module in named if importlib.util.find_spec(module) is None}
    assert missing == set()


def test_every_path_that_the_readme_links_to_exists() -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)\s]+)\)", README)
    assert links
    missing = [link for link in links if not (ROOT / link.partition("#")[0]).exists()]
    assert missing == []
