"""The documents of packages: what the writers make, the parsers take, and nothing else; hostile bytes raise FormatError alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geoevidence.trust import FormatError, dumps, parse_envelope, parse_leaf
from geoevidence.trust import manifest as m
from geoevidence.trust.archive import sort_key
from geoevidence.trust.canonical import MAX_INTEGER
from geoevidence.trust.policy import parse_policy
from tests.trust import tree
from tests.trust.builder import CASE, SOFTWARE, WORKSPACE, Key

HEX = st.binary(min_size=32, max_size=32).map(bytes.hex)
PAIR = st.tuples(HEX, HEX)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
TIME = st.sampled_from(["2026-11-23T08:00:00Z", "1999-12-31T23:59:59Z"])
SEAL_NAMES = st.sampled_from(
    ["seal/proof.tlog", "seal/statement.dsse", "seal/time-1.tsr", "seal/witness-9.cosig", "seal/recompute.dsse"]
)
MANIFEST_SUBJECTS = st.tuples(PAIR, PAIR, PAIR, PAIR).map(lambda pairs: dict(zip(m.MANIFESTS, pairs, strict=True)))
STATUS = st.sampled_from(m.RECOMPUTE_STATUSES)
DECIMAL = st.floats(allow_nan=False, allow_infinity=False).map(repr) | st.just("0") | st.just("-3.50")


@st.composite
def results(draw: st.DrawFn) -> tuple[tuple[str, str, str], m.RecomputedResult]:
    event = f"E-{draw(st.integers(0, 2**32 - 1)):08x}-{draw(st.integers(1, 99))}"
    rows = []
    for _ in range(draw(st.integers(0, 2))):
        status = draw(STATUS)
        found = None if status == "not_run" else draw(DECIMAL)
        rows.append(m.RecomputedQuantity(draw(TEXT), draw(TEXT), draw(DECIMAL), found, draw(DECIMAL), status))
    files = [m.RecomputedFile(draw(TEXT), draw(STATUS), draw(TEXT)) for _ in range(draw(st.integers(0, 2)))]
    worst = max([each.status for each in (*rows, *files)] or ["identical"], key=m.RECOMPUTE_STATUSES.index)
    status = draw(st.sampled_from(m.RECOMPUTE_STATUSES[m.RECOMPUTE_STATUSES.index(worst) :]))
    reason = draw(st.none() | st.tuples(TEXT, st.dictionaries(TEXT, TEXT, max_size=2)))
    made = m.RecomputedResult(event, draw(TEXT), status, reason, tuple(rows), tuple(files))
    return (f"derived/{event}/result.json", draw(HEX), draw(HEX)), made


COMMON = {"case": st.just(CASE), "workspace": st.just(WORKSPACE), "package_root": HEX}
SAID = {"software": st.just(SOFTWARE), "time_claimed": TIME, "demonstration": st.booleans()}
STATEMENTS = st.builds(
    m.Statement, subjects=MANIFEST_SUBJECTS, items=st.integers(0, MAX_INTEGER), checkpoint_before=TEXT,
    predicate_type=st.sampled_from([m.PACKAGE_V1, m.PACKAGE_V2]), **COMMON, **SAID,
)  # fmt: skip
SUPPLEMENT_STATEMENTS = st.builds(m.SupplementStatement, subjects=MANIFEST_SUBJECTS, supplement_sha256=HEX, **COMMON, **SAID)
CLOSINGS = st.builds(m.Closing, subjects=st.dictionaries(SEAL_NAMES, PAIR), **COMMON)
REDACTIONS = st.builds(
    m.Redaction, subjects=st.tuples(MANIFEST_SUBJECTS, st.dictionaries(SEAL_NAMES, PAIR)).map(lambda both: {**both[0], **both[1]}),
    files_withheld=st.integers(0, 9), leaves_withheld=st.integers(0, 9), disclosures_withheld=st.integers(0, 9), reason=TEXT,
    **COMMON, **SAID,
)  # fmt: skip
RECORDS = st.lists(results(), max_size=3, unique_by=lambda each: each[0][0]).flatmap(
    lambda made: st.builds(
        m.RecomputeRecord, subjects=st.just(tuple(each[0] for each in made)), results=st.just(tuple(each[1] for each in made)),
        scope=st.sampled_from(m.RECOMPUTE_SCOPES), software=st.just(SOFTWARE), code_digest=st.none() | HEX.map("sha256:{}".format),
        environment_digest=st.none(), machine=TEXT, time_claimed=TIME, **COMMON,
    )
)  # fmt: skip
SUPPLEMENTS = st.builds(
    m.SupplementDocument, kind=st.sampled_from(m.SUPPLEMENT_KINDS), statement_sha256=HEX, statement_sm3=HEX,
    previous=st.none() | HEX, author=TEXT, text=TEXT, **COMMON,
)  # fmt: skip
NAMED = st.integers(1, 250).map(lambda seed: replace(Key(seed).named, certificates=(b"\x30\x00",) * (seed % 3)))
KEY_CHANGES = st.builds(
    m.KeyChange, action=st.just("rotated"), key_id=HEX, new_key=NAMED, reason=st.sampled_from(["superseded", "lost"]),
    effective=st.integers(0, 99),
) | st.builds(
    m.KeyChange, action=st.just("revoked"), key_id=HEX, new_key=st.none(), reason=st.sampled_from(["compromised", "ended"]),
    effective=st.integers(0, 99),
)  # fmt: skip
KINDS: list[tuple[Any, Callable[[bytes], Any]]] = [
    (STATEMENTS, m.parse_statement),
    (SUPPLEMENT_STATEMENTS, m.parse_supplement_statement),
    (CLOSINGS, m.parse_closing),
    (REDACTIONS, m.parse_redaction),
    (RECORDS, m.parse_recompute),
    (SUPPLEMENTS, m.parse_supplement),
    (KEY_CHANGES, m.parse_key_change),
]
IDS = [parse.__name__ for _, parse in KINDS]


@pytest.mark.parametrize(("made", "parse"), KINDS, ids=IDS)
def test_what_is_written_is_read(made: Any, parse: Callable[[bytes], Any]) -> None:
    @settings(max_examples=40, deadline=None)
    @given(made)
    def check(document: Any) -> None:
        data = document.to_bytes()
        assert parse(data) == document and parse(data).to_bytes() == data

    check()


@pytest.mark.parametrize(("made", "parse"), KINDS, ids=IDS)
def test_what_is_changed_is_refused_or_read_as_it_is(made: Any, parse: Callable[[bytes], Any]) -> None:
    """Any value put anywhere into a document: a FormatError, or a document that gives the same bytes again."""
    odd = st.sampled_from([None, True, 0, -1, 2**53, "", "x", "0" * 64, [], {}, [{}], {"": 1}])

    @settings(max_examples=150, deadline=None)
    @given(made, st.data())
    def check(document: Any, data: st.DataObject) -> None:
        value = json.loads(document.to_bytes())
        place = value
        while True:
            names = sorted(place) if isinstance(place, dict) else list(range(len(place)))
            name = data.draw(st.sampled_from(names))
            if not place[name] or not isinstance(place[name], (dict, list)) or data.draw(st.booleans()):
                break
            place = place[name]
        action = data.draw(st.sampled_from(["set", "drop", "add"]))
        if action == "set":
            place[name] = data.draw(odd)
        elif action == "drop":
            del place[name]
        elif isinstance(place, dict):
            place["more"] = data.draw(odd)
        else:
            place.append(data.draw(odd))
        try:
            changed = dumps(value)
        except FormatError:
            return
        try:
            again = parse(changed)
        except FormatError as error:
            assert error.render("zh") and error.render("en")
        else:
            assert again.to_bytes() == changed

    check()


PARSERS: list[Callable[[bytes], Any]] = [
    *(parse for _, parse in KINDS),
    m.statement_kind,
    m.parse_keys,
    m.parse_items,
    m.parse_disclosures,
    lambda data: m.parse_manifest(data, where="m"),
    parse_policy,
    parse_leaf,
    parse_envelope,
]


@settings(max_examples=300, deadline=None)
@given(
    data=st.binary(max_size=60), start=st.sampled_from([b"", b"{", b"[\n", b'[{"', b'{"schema":']), which=st.sampled_from(PARSERS)
)
def test_hostile_bytes_raise_format_errors_alone(data: bytes, start: bytes, which: Callable[[bytes], Any]) -> None:
    try:
        which(start + data)
    except FormatError as error:
        error.render("zh")


def test_a_document_longer_than_the_bound() -> None:
    with pytest.raises(FormatError):
        m.parse_closing(b" " * (m.MAX_DOCUMENT + 1))


# ---- one by one -----------------------------------------------------------------------------------------


def test_records_say_no_better_than_their_rows() -> None:
    record = tree._recomputed(status="differs")()["seal/recompute.dsse"]
    payload = parse_envelope(record).payload
    assert m.parse_recompute(payload).status == "differs"
    better = payload.replace(b'"status":"differs","tool"', b'"status":"identical","tool"')
    assert better != payload
    with pytest.raises(FormatError) as error:
        m.parse_recompute(better)
    assert error.value.values["field"] == "results.status"
    assert replace(m.parse_recompute(payload), subjects=(), results=()).status == "not_run"


def test_kinds_of_statements() -> None:
    for make, kind in ((tree.base, m.PACKAGE_V2), (lambda: tree.base(1), m.PACKAGE_V1), (tree._supplement(), m.SUPPLEMENT_TYPE)):
        assert m.statement_kind(parse_envelope(make()["seal/statement.dsse"]).payload) == kind


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("time-1.tsr", ("time", 1)),
        ("witness-99.cosig", ("witness", 99)),
        ("time-0.tsr", None),
        ("time-01.tsr", None),
        ("time-100.tsr", None),
        ("time-1.cosig", None),
        ("witness-1.tsr", None),
        ("time-1.tsr\n", None),
        ("time-١.tsr", None),
    ],
)
def test_numbers_of_evidence(name: str, number: tuple[str, int] | None) -> None:
    assert m.evidence_number(name) == number


@given(
    st.lists(
        st.builds(
            m.ItemLine, leaf=HEX, item=st.none() | st.sampled_from(["E-00000000-1-1", 'a"b']), path=TEXT, salt=HEX, sha256=HEX,
            size=st.integers(0, MAX_INTEGER), sm3=HEX,
        ) | HEX.map(m.ItemLine),
        min_size=1, max_size=6, unique_by=lambda line: line.path if line.path is not None else line.leaf,
    )
)  # fmt: skip
def test_items_round_trip(lines: list[m.ItemLine]) -> None:
    shown = sorted((line for line in lines if line.path is not None), key=lambda line: sort_key(line.path or ""))
    hidden = [line for line in lines if line.path is None]
    if len({sort_key(line.path or "") for line in shown}) == len(shown):
        made = m.items_bytes([*hidden, *shown])
        assert m.parse_items(made) == [*hidden, *shown]
        for line in shown:
            assert line.path is not None and line.size is not None and line.sha256 and line.sm3 and line.salt
            described = dumps({"path": line.path, "sha256": line.sha256, "size": line.size, "sm3": line.sm3})
            from geoevidence.trust import leaf_hash

            made_leaf = m.item_leaf(line.path, line.size, line.sha256, line.sm3, line.salt)
            assert made_leaf == leaf_hash(bytes.fromhex(line.salt) + described).hex()


LINE = m.item_line_bytes(m.ItemLine("0" * 64, None, "data/a", "0" * 64, "0" * 64, 3, "0" * 64))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[",
        b"[\n]\n",
        b"x\n" + LINE + b"\n]\n",
        b"[\n" + LINE + b"\n",
        b"[\n" + LINE + b"\n]",
        b"[\n" + LINE + b"\n]\nx\n",
        b"[\n" + LINE + b"\n" + LINE + b"\n]\n",
        b"[\n" + LINE + b",\n" + LINE + b"\n]\n",
        b"[\n" + LINE + b",\n]\n",
        b"[\n" + LINE.replace(b'"size":3', b'"size":9999999999999999') + b"\n]\n",
        b"[\n" + LINE.replace(b"data/a", b"data/\xff") + b"\n]\n",
        b"[\n" + LINE.replace(b"data/a", b"data/\\u0061") + b"\n]\n",
        b"[\n" + LINE.replace(b"data/a", b"data/\\ud800") + b"\n]\n",
        b"[\n" + LINE.replace(b'"size":3', b'"size":03') + b"\n]\n",
        b'[\n{"leaf":"0"}\n]\n',
        b"[\n5\n]\n",
    ],
)
def test_items_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        m.parse_items(data)


def test_manifest_round_trip_with_odd_names() -> None:
    digests = {path: "0" * 64 for path in ("data/a%b", "data/c\rd", "data/e\nf", "data/照片", "VERIFY.txt")}
    made = m.manifest_bytes(digests)
    assert m.parse_manifest(made, where="m") == digests and b"%25" in made and b"%0D" in made and b"%0A" in made
    for line in (
        b"0" * 64 + b"  data/%0d\n",
        b"0" * 64 + b"  data/%2525%\n",
        b"0" * 64 + b"  data/\xff\n",
        b"0" * 64 + b"  data/a",
    ):
        with pytest.raises(FormatError):
            m.parse_manifest(line, where="m")


def test_keys_of_both_versions() -> None:
    rows = [Key(1).named, replace(Key(2).named, certificates=(b"\x30\x00",))]
    assert set(m.parse_keys(m.keys_bytes(rows))) == set(rows)
    old = m.keys_bytes(rows, version=1)
    assert all(not row.certificates for row in m.parse_keys(old)) and b"certificates" not in old
    mixed = [json.loads(m.keys_bytes(rows[:1]))[0], json.loads(m.keys_bytes(rows[1:], version=1))[0]]
    for wrong in (
        mixed,
        mixed[::-1],
        [{**mixed[0], "certificates": {}}],
        [{**mixed[0], "certificates": [5]}],
        [{**mixed[0], "certificates": ["="]}],
        {},
        [],
        [[]],
    ):
        with pytest.raises(FormatError):
            m.parse_keys(dumps(wrong))


def test_attestations_repeat_the_event() -> None:
    leaf = parse_leaf(tree.sample().leaves[2])
    value = json.loads(m.attestation_payload(leaf))
    assert [each["name"] for each in value["subject"]] == [each.path for each in leaf.event.outputs]
    assert value["predicate"]["leaf_hash"] == leaf.hash.hex() and value["predicate"]["event"] == leaf.event.event_id
    assert value["predicate"]["inputs"] == leaf.event.raw["inputs"] and value["predicateType"] == m.DERIVATION_TYPE


@pytest.mark.parametrize(
    ("path", "event"),
    [
        ("data/attestations/E-bd8a63bd-3.dsse", "E-bd8a63bd-3"),
        ("data/attestations/x.dsse", None),
        ("data/attestations/E-bd8a63bd-3", None),
        ("data/attestations/E-bd8a63bd-3.dsse/x", None),
        ("attestations/E-bd8a63bd-3.dsse", None),
    ],
)
def test_names_of_attestations(path: str, event: str | None) -> None:
    assert m.attested_event(path) == event


def test_bag_info_of_every_kind() -> None:
    for document in (
        m.Statement({}, CASE, WORKSPACE, 0, "", "", SOFTWARE, "2026-11-23T08:00:00Z", True),
        m.SupplementStatement({}, CASE, WORKSPACE, "", "", SOFTWARE, "2026-11-23T08:00:00Z", True),
        m.Redaction({}, CASE, WORKSPACE, "", 0, 0, 0, "", SOFTWARE, "2026-11-23T08:00:00Z", True),
    ):
        assert document.bag_info(12, 3) == (
            f"Bag-Software-Agent: {SOFTWARE}\nBagging-Date: 2026-11-23\nExternal-Identifier: {CASE}\nPayload-Oxum: 12.3\n".encode()
        )
