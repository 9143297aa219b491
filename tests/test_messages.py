"""The texts: both languages say the same, every text that the source asks for is there with the values it needs."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from geoevidence.messages import SUBJECTS, texts

ROOT = Path(__file__).resolve().parents[1]
FIELD = re.compile(r"\{([a-z_][a-z0-9_]*)\}")
MESSAGE_ID = re.compile(r"[a-z][a-z0-9_]*(\.[a-z0-9_]+)+")
TAKES_MESSAGE_ID = re.compile(r"(Error|Message|render|text_of|tell)$")
CATALOGUES = [
    *((f"geoevidence/messages/{{lang}}/{subject}.json") for subject in SUBJECTS),
    "geoevidence/trust/messages/{lang}.json",
]
HAN = re.compile(r"[\u4e00-\u9fff]")


def read(pattern: str, lang: str) -> dict[str, str]:
    def no_duplicates(pairs: list[tuple[str, str]]) -> dict[str, str]:
        assert len(dict(pairs)) == len(pairs), f"{pattern}: an id stands twice"
        return dict(pairs)

    return json.loads((ROOT / pattern.format(lang=lang)).read_text(encoding="utf-8"), object_pairs_hook=no_duplicates)


@pytest.mark.parametrize("pattern", CATALOGUES)
def test_both_languages_have_the_same_texts(pattern: str) -> None:
    zh, en = read(pattern, "zh"), read(pattern, "en")
    assert sorted(zh) == sorted(en)
    differ = {name: (FIELD.findall(zh[name]), FIELD.findall(en[name])) for name in zh}
    assert {name: pair for name, pair in differ.items() if set(pair[0]) != set(pair[1])} == {}


@pytest.mark.parametrize("lang", ["zh", "en"])
@pytest.mark.parametrize("pattern", CATALOGUES)
def test_a_catalogue_is_flat_sorted_and_readable(pattern: str, lang: str) -> None:
    entries = read(pattern, lang)
    written = (ROOT / pattern.format(lang=lang)).read_text(encoding="utf-8")
    assert written.rstrip("\n") == json.dumps(entries, ensure_ascii=False, indent=1, sort_keys=True)
    for name, text in entries.items():
        assert MESSAGE_ID.fullmatch(name), name
        assert isinstance(text, str) and text.strip(), name
        left = FIELD.sub("", text)
        assert "{" not in left and "}" not in left, f"{name} has a field that is never filled: {text}"
        assert "TODO" not in text and "XXX" not in text
    if lang == "en":
        # Names of places, laws and standards may stand in Chinese; a whole Chinese sentence was forgotten.
        forgotten = [name for name, text in entries.items() if len(HAN.findall(text)) > len(text) / 2]
        assert not forgotten


def test_no_id_stands_in_two_catalogues() -> None:
    seen: dict[str, str] = {}
    for pattern in CATALOGUES:
        for name in read(pattern, "en"):
            assert seen.setdefault(name, pattern) == pattern, f"{name} stands in {seen[name]} and {pattern}"
    assert sorted(seen) == sorted(texts("en"))


@dataclass(frozen=True)
class Use:
    """One place where the source asks for a text: the values it gives, or None where they cannot be read off."""

    where: str
    id: str
    values: frozenset[str] | None


def sources() -> Iterator[tuple[str, ast.AST]]:
    for package in ("geoevidence", "drone", "satellite", "app"):
        for path in sorted((ROOT / package).rglob("*.py")):
            if "node_modules" not in path.parts:
                yield path.relative_to(ROOT).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


SOURCES = list(sources())


def _literals(node: ast.expr | None) -> list[str]:
    """The message ids that an expression may be, as far as they stand there as literals."""
    if isinstance(node, ast.IfExp):
        return _literals(node.body) + _literals(node.orelse)
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and MESSAGE_ID.fullmatch(node.value):
        return [node.value]
    return []


def _values(call: ast.Call) -> frozenset[str] | None:
    """Names of the values handed to a text by a call: keywords of an error, the keys of a literal dict of a message."""
    keywords = {keyword.arg: keyword.value for keyword in call.keywords}
    if None in keywords:
        return None
    given = keywords.get("values")
    if given is None and len(call.args) > 1:
        given = call.args[1]
    if isinstance(given, ast.Dict):
        if all(isinstance(key, ast.Constant) and isinstance(key.value, str) for key in given.keys):
            return frozenset(key.value for key in given.keys if isinstance(key, ast.Constant) and isinstance(key.value, str))
        return None
    if given is not None:
        return None
    return frozenset(name for name in keywords if name)


def uses() -> Iterator[Use]:
    for path, tree in SOURCES:
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if TAKES_MESSAGE_ID.search(called):
                named = next((keyword.value for keyword in node.keywords if keyword.arg in ("id", "message_id")), None)
                for message_id in _literals(named if named is not None else (node.args[0] if node.args else None)):
                    yield Use(f"{path}:{node.lineno}", message_id, _values(node))


USES = list(uses())


def test_the_source_asks_for_texts() -> None:
    assert len(USES) > 100, "the scan of the source finds too little to mean anything"


def test_every_text_that_is_asked_for_exists() -> None:
    known = texts("en")
    missing = sorted(f"{use.where}: {use.id}" for use in USES if use.id not in known)
    assert not missing, "\n".join(missing)


def test_every_text_is_given_its_values() -> None:
    known = texts("en")
    lacking = sorted(
        f"{use.where}: {use.id} lacks {sorted(set(FIELD.findall(known[use.id])) - use.values)}"
        for use in USES
        if use.id in known and use.values is not None and not set(FIELD.findall(known[use.id])) <= use.values
    )
    assert not lacking, "\n".join(lacking)


def test_no_text_is_dead() -> None:
    """Every id is named in the source, or begins with what some source line puts ids together from."""
    whole, starts = set(), set()
    for _, tree in SOURCES:
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                whole.add(node.value)
            elif isinstance(node, ast.JoinedStr) and node.values and isinstance(node.values[0], ast.Constant):
                starts.add(str(node.values[0].value))
            elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
                starts |= {str(part.value) for part in ast.walk(node.left) if isinstance(part, ast.Constant)}
    starts = {start for start in starts if re.match(r"[a-z][a-z0-9_]*\.", start)}
    scripts = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "app/web/src").rglob("*.js")))
    dead = sorted(
        name for name in texts("en") if name not in whole and name not in scripts and not name.startswith(tuple(starts))
    )
    assert not dead, f"{len(dead)} texts are never used: {dead}"
