"""The pages name files that exist, their links lead somewhere, and their prose has at most 100 columns."""

import ast
import re

import pytest

from tests.integration.commands import ROOT

PAGES = [
    *sorted(path.name for path in ROOT.glob("*.md")),
    *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")),
]
COLUMNS = 100
#: A file in backticks. A name without a folder may be an example.
FILE = re.compile(r"`((?:[\w.-]+/)+[\w-]+\.(?:py|c|h|md|sh))`")
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)")
#: Where files that are named may be: from the top, in the package, or among the tests.
FOLDERS = (ROOT, ROOT / "mmgevent", ROOT / "tests")


def text_of(page):
    """Return a page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", (ROOT / page).read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)


def anchors_of(path):
    """Return the anchors of the headings of a page, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", path.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_each_file_that_a_page_names_is_there(page):
    named = set(FILE.findall(text_of(page)))
    assert [name for name in sorted(named) if not any((folder / name).exists() for folder in FOLDERS)] == []


@pytest.mark.parametrize("page", PAGES)
def test_each_link_leads_to_a_file_and_a_heading(page):
    lost = []
    for target, anchor in LINK.findall(text_of(page)):
        path = (ROOT / page).parent / target if target else ROOT / page
        if not path.exists() or (anchor and anchor not in anchors_of(path)):
            lost.append(f"{target}#{anchor}")
    assert lost == []


@pytest.mark.parametrize("page", PAGES)
def test_prose_has_at_most_100_columns(page):
    """Tables may be wider, and so may code, which is indented, and a link that cannot be broken."""
    lines = text_of(page).splitlines()
    wide = [line for line in lines if len(line) > COLUMNS and not line.startswith(("|", "    "))]
    assert [line for line in wide if not re.search(r"\]\(\S+\)[.,;:]?$", line)] == []


#: Messages of README.md that are Python's own or the user's, or have too few words of ours.
NOT_OURS = (
    "... byte 1234",
    "ModuleNotFoundError",
    "open(",
    "print()",
    "logging",
    "-o",
    "--procs",
    "-v",
    "setupfn on",
    "DuplicateKeyError",
)


def strings_of_the_package():
    """Return all strings that the code has, but docstrings; what an f-string fills in is a NUL."""
    found = []
    for path in (ROOT / "mmgevent").rglob("*.py"):
        tree = ast.parse(path.read_text("utf-8"))
        docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                parts = (part.value if isinstance(part, ast.Constant) else "\0" for part in node.values)
                found.append("".join(map(str, parts)))
            elif (
                isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings
            ):
                found.append(node.value)
    return "\n".join(found)


def messages_of_the_readme():
    """Return the messages of the table, less what stands for something else."""
    table = (
        (ROOT / "README.md").read_text("utf-8").partition("| message | what to do |")[2].partition("\n\n")[0]
    )
    for row in table.splitlines()[2:]:
        for message in re.findall(r"`([^`]+)`", row.split(" | ")[0]):
            if not message.startswith(NOT_OURS):
                yield message


def is_among(message, strings):
    """Return whether some words in a row are there, three or two: names and numbers stand between."""
    for part in re.split(r"\.\.\.|\b\d+\b|[():;,]", message):
        words = part.split()
        size = min(3, len(words))
        if size > 1 and any(
            " ".join(words[at : at + size]) in strings for at in range(len(words) - size + 1)
        ):
            return True
    return False


def test_each_message_of_the_readme_is_one_of_the_code():
    strings = strings_of_the_package()
    assert [message for message in messages_of_the_readme() if not is_among(message, strings)] == []


def test_the_checks_find_what_they_look_for():
    assert len(PAGES) >= 12
    assert len(FILE.findall(text_of("docs/reliability.md"))) > 50
    assert len(LINK.findall(text_of("README.md"))) > 15
    assert "what-is-promised" in anchors_of(ROOT / "docs" / "reliability.md")
    assert len(list(messages_of_the_readme())) > 50
    assert not is_among("the elephant is in the room", strings_of_the_package())
