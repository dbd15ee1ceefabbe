"""Messages, help, descriptions, first lines of docstrings and pages use the standard words of
CONTRIBUTING's glossary.

Of Python files every string constant of several words is read, whole; of docstrings the first line.
"""

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeGuard

import pytest

from tests.commands import ROOT

STANDARD = {
    r"mend(s|ed|ing)?": "fix",
    r"cures?|cured": "fix, hint",
    r"(is|are|was|were|be) away": "is unreachable",
    r"comes? back": "recovers",
    r"(go|goes|gone|going) on": "resumes, continues",
    r"takes? nothing|sign of life|achieves? nothing": "is unreachable, is unresponsive",
    r"(passed|passes) over": "skip",
    r"patience": "timeout, retry time",
    r"once more|again and again": "retry",
    r"lets? go of": "releases",
    r"tells|told": "reports, states",
    r"(is|are|was|were) said": "is stated",
    r"what came of": "result of",
    r"nobody|somebody|whoever": "the user, the job, the process",
    r"figures": "metrics, numbers",
    r"in words(?! of)": "description",
    r"look(s|ed)? at": "checks, inspects",
    r"fooled|told apart": "adversarial_losses, discriminator_losses",
    r"first process": "supervisor",
    r"hardly": "stalled",
    r"at once": "immediately, at the same time",
    r"for want of": "for lack of",
}
"""Word that the glossary replaces, as a pattern -> the standard ones."""

REPLACED = re.compile(rf"\b({'|'.join(STANDARD)})\b", re.IGNORECASE)
CLAUSE = re.compile(r"(What|Who|Whom|Whose|Whatever|Whoever|Whether)\b")
ASKING = re.compile(rf"{CLAUSE.pattern}|(How|Where|When|Which)\b")
"""Openings that a value's description has not either; docstrings of functions may."""
FOLDERS = sorted(
    {path.parent for top in ("adapt", "storage") for path in ROOT.glob(f"{top}/**/*.py")}
)
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md")])
TO_PASS: set[str] = set()
"""Folders and pages whose words are still to be passed over; empty is the aim."""


def texts(source: str) -> Iterator[tuple[int, str]]:
    """(line, text) of a Python file: string constants of several words; docstrings' first lines."""
    tree = ast.parse(source)
    docstrings = {
        id(node.value): node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            text = node.value.strip()
            yield node.lineno, text.partition("\n\n")[0] if id(node) in docstrings else text


def clauses(source: str) -> Iterator[tuple[int, str]]:
    """(line, first line) of docstrings and of fields' descriptions that open with a clause."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node) or ""
            if CLAUSE.match(text):
                yield getattr(node, "lineno", 1), text.partition("\n")[0]
        if isinstance(node, ast.Module | ast.ClassDef):
            yield from asking((one.lineno, one.value) for one in node.body[1:] if is_text(one))
        if isinstance(node, ast.keyword) and node.arg == "description":
            yield from asking([(node.value.lineno, node.value)])


def is_text(node: ast.stmt) -> TypeGuard[ast.Expr]:
    """A docstring, also of an attribute."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def asking(values: Iterable[tuple[int, ast.expr]]) -> Iterator[tuple[int, str]]:
    """(line, first line) of texts of attributes and fields that open with a clause."""
    for line, node in values:
        text = node.value if isinstance(node, ast.Constant) else ""
        if isinstance(text, str) and ASKING.match(text):
            yield line, text.partition("\n")[0]


ERRORS = {"Mistake", "MissingObject", "StoreUnavailable", "ShortObject", "DamagedObject"}


def joined_fixes(source: str) -> Iterator[tuple[int, str]]:
    """(line, text) of errors that name a fix in the text of the problem, not as `fix`."""
    for call in ast.walk(ast.parse(source)):
        if isinstance(call, ast.Call) and is_error(ast.unparse(call.func)):
            for node in ast.walk(call):
                text = node.value if isinstance(node, ast.Constant) else ""
                if isinstance(text, str) and "Fix:" in text:
                    yield node.lineno, text


def is_error(name: str) -> bool:
    """`JobError`, `errors.StoreError`, `ValueError`, `Mistake`."""
    last = name.rpartition(".")[2]
    return last.endswith("Error") or last in ERRORS


def one_sided(source: str) -> Iterator[tuple[int, str]]:
    """(line, text) of errors that name the expected value and not the one that they got."""
    for call in ast.walk(ast.parse(source)):
        if isinstance(call, ast.Call) and call.args and is_error(ast.unparse(call.func)):
            text = ast.unparse(call.args[0])
            if "expected" in text and not re.search(r"\bgot\b|known_names\(|{known}|missing", text):
                yield call.lineno, text


def prose(page: str) -> Iterator[tuple[int, str]]:
    """(line number, line) of a page without its code."""
    code = False
    for number, line in enumerate(page.splitlines(), 1):
        code ^= line.lstrip().startswith("```")
        if not code:
            yield number, re.sub(r"`[^`]*`|\]\([^)]*\)", " ", line)


def faults(found: Iterator[tuple[int, str]]) -> list[str]:
    """`line 3: 'mended': fix` for every replaced word."""
    return [
        f"line {line}: {word[0]!r}: {standard(word[0])}"
        for line, text in found
        for word in REPLACED.finditer(text)
    ]


def standard(word: str) -> str:
    """The words that replace one."""
    fitting = (value for key, value in STANDARD.items() if re.fullmatch(key, word, re.IGNORECASE))
    return next(fitting)


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.slow
@pytest.mark.parametrize("folder", [one for one in FOLDERS if name(one) not in TO_PASS], ids=name)
def test_messages_and_first_lines_use_the_standard_words(folder: Path) -> None:
    found = []
    for path in sorted(folder.glob("*.py")):
        source = path.read_text()
        opened = [f"line {line}: opens with a clause: {text}" for line, text in clauses(source)]
        found += [f"{name(path)} {fault}" for fault in [*faults(texts(source)), *opened]]
    assert found == [], "\n".join(["", *found])


@pytest.mark.slow
@pytest.mark.parametrize("folder", FOLDERS, ids=name)
def test_errors_name_the_fix_apart_from_the_problem(folder: Path) -> None:
    found = [
        f"{name(path)} line {line}: {text}"
        for path in sorted(folder.glob("*.py"))
        for line, text in joined_fixes(path.read_text())
    ]
    assert found == [], "\n".join(["", *found])


@pytest.mark.slow
@pytest.mark.parametrize("folder", FOLDERS, ids=name)
def test_errors_name_what_they_got_beside_what_they_expected(folder: Path) -> None:
    found = [
        f"{name(path)} line {line}: {text}"
        for path in sorted(folder.glob("*.py"))
        for line, text in one_sided(path.read_text())
    ]
    assert found == [], "\n".join(["", *found])


def test_errors_of_one_side_are_found() -> None:
    source = (
        'raise JobError(f"{x}: expected a path")\nraise ValueError("expected 3, got 4")\n'
        'raise Mistake(f"x: expected a name, {known_names(x, y)}")\nraise JobError("x: full")\n'
        'raise StoreError(\n    "x: expected "\n    "a store (all)"\n)\n'
    )
    assert [line for line, _ in one_sided(source)] == [1, 5]


def test_fixes_in_the_text_of_a_problem_are_found() -> None:
    source = (
        'raise JobError("x: expected y. Fix: z")\n'
        'raise errors.StoreUnavailable(\n    f"{x}: fails. "\n    "Fix: z"\n)\n'
        'raise ValueError("x: expected y, got z")\n'
        'raise Mistake("x: expected y", fix="z")\n'
        'log.warning("x is full. Fix: z")\n'
    )
    assert [line for line, _ in joined_fixes(source)] == [1, 3]


@pytest.mark.parametrize("page", [one for one in PAGES if name(one) not in TO_PASS], ids=name)
def test_pages_use_the_standard_words(page: Path) -> None:
    found = faults(prose(page.read_text()))
    assert found == [], "\n".join(["", *found])


def test_replaced_words_are_found_where_people_read_them() -> None:
    source = (
        '"""What it is."""\n'
        'def f() -> None:\n    """Whose it is."""\n'
        'raise JobError("x: expected y", fix="mend it")\n'
        'log.warning(f"{uri} is away for now")\nkey = "mend"\n# mend\n'
    )
    assert faults(texts(source)) == ["line 4: 'mend': fix", "line 5: 'is away': is unreachable"]
    assert [line for line, _ in clauses(source)] == [1, 2]
    attributes = (
        'WAIT_S = 3\n"""How long it waits."""\nclass Row:\n    """A row."""\n    size: int\n'
        '    """Which size."""\n    key: str = Field(description="Whether " "it is.")\n'
        'def f() -> bool:\n    """Whether it is so."""\n'
    )
    assert sorted(line for line, _ in clauses(attributes)) == [2, 6, 7, 8]
    page = "It goes on.\n```sh\nmend\n```\n`mend` is code, [mend](mend.md) is not.\n"
    assert [fault[:6] for fault in faults(prose(page))] == ["line 1", "line 5"]


@pytest.mark.parametrize("pattern", STANDARD)
def test_words_inside_of_other_words_are_no_faults(pattern: str) -> None:
    assert not re.search(rf"\b({pattern})\b", "amendment secure recommend whole prefigures")


def test_what_is_still_to_be_passed_exists() -> None:
    assert {name(one) for one in [*FOLDERS, *PAGES]} >= TO_PASS
