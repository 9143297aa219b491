"""Running recorded analyses again: what comes out the same, close, different, or cannot be run, and how it is said."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import pytest

from geoevidence.custody import Case
from geoevidence.errors import CoverageError, InputError, VerificationError
from geoevidence.package import DerivedEvent, draft, recompute, recompute_events, recompute_package, record_of, seal_zip
from geoevidence.package.recompute import derived_events, fetch_from_case, recomputing, sign_record
from geoevidence.trust import parse_envelope
from geoevidence.trust.events import parse_leaf
from geoevidence.trust.manifest import RecomputedResult, parse_recompute
from geoevidence.types import Message, ProcessResult, Product, Progress, Quantity, no_progress
from tests.custody.workspaces import CARD, Place, full_case, result


@dataclass
class Engine:
    """An engine whose answers are the recorded ones, changed by `change`; it notes what it was given."""

    change: Callable[[Quantity], Quantity | None] = lambda quantity: quantity
    write: bytes | None = None
    error: Exception | None = None
    seen: tuple[str, ...] = ()

    def figures(self, former: ProcessResult, *, products: Path, inputs: Path) -> Mapping[str, Quantity]:
        if self.error is not None:
            raise self.error
        self.seen = tuple(sorted(path.relative_to(inputs).as_posix() for path in inputs.rglob("*") if path.is_file()))
        assert (products / "dsm.tif").read_bytes().startswith(b"II*\x00heights")
        changed = {each.id: self.change(each.quantity) for each in former.findings if each.quantity}
        return {name: quantity for name, quantity in changed.items() if quantity is not None}

    def again(self, former: ProcessResult, *, inputs: Path, out: Path, progress: Progress) -> ProcessResult:
        figures = self.figures(former, products=inputs.parent / "products", inputs=inputs)
        out.mkdir()
        made = self.write or (inputs.parent / "products" / "dsm.tif").read_bytes()
        (out / "dsm.tif").write_bytes(made)
        findings = tuple(replace(each, quantity=figures.get(each.id)) for each in former.findings)
        new = replace(former, findings=findings)
        new.write(out)
        return new

    def compare(self, product: Product, stated: Path, found: Path) -> tuple[str, str]:
        return ("within_tolerance", "close") if found.read_bytes().endswith(b".") else ("differs", "far")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture
def case(place: Place) -> Case:
    return full_case(place)


def events_of(case: Case) -> tuple[DerivedEvent, ...]:
    return derived_events(parse_leaf(event.leaf).event for event in case.events())


def run(case: Case, engine: Engine, scope: str = "headline") -> RecomputedResult:
    (found,) = recompute_events(events_of(case), fetch=fetch_from_case(case), engines={"drone.survey": engine}, scope=scope)  # type: ignore[arg-type]
    return found


@pytest.mark.parametrize("scope", ["headline", "full"])
def test_the_same_numbers_are_identical(case: Case, scope: str) -> None:
    engine = Engine()
    found = run(case, engine, scope)
    assert found.status == "identical" and found.reason is None and found.tool == "drone.survey"
    assert [(row.finding, row.stated, row.found, row.status) for row in found.quantities] == [
        ("S-001", "13.5", "13.5", "identical"),
        ("S-002", "14.5", "14.5", "identical"),
    ]
    # inputs lie by their names on the card, as they did when the process ran
    assert engine.seen == tuple(sorted(CARD))
    assert [(row.path.split("/")[-1], row.status) for row in found.files] == (
        [] if scope == "headline" else [("dsm.tif", "identical"), ("result.json", "identical")]
    )


# 0.25 m2 is the stated standard uncertainty; a tenth of it is allowed
@pytest.mark.parametrize(
    ("value", "error", "status"),
    [
        (0.0249, 0.25, "within_tolerance"), (0.0251, 0.25, "differs"), (-0.0251, 0.25, "differs"), (0.0, 0.27, "within_tolerance"),
        (0.0, 0.28, "differs"), (0.0, None, "differs"),
    ],
)  # fmt: skip
def test_the_tolerance_is_a_tenth_of_the_stated_uncertainty(case: Case, value: float, error: float | None, status: str) -> None:
    found = run(case, Engine(lambda stated: replace(stated, value=stated.value + value, standard_uncertainty=error)))
    assert found.status == status and found.quantities[0].tolerance == "0.025"


def test_another_unit_differs(case: Case) -> None:
    assert run(case, Engine(lambda stated: replace(stated, unit="m3"))).status == "differs"


def test_a_number_that_does_not_come_out_is_not_run(case: Case) -> None:
    found = run(case, Engine(lambda stated: stated if stated.value > 14 else None))
    assert found.status == "not_run"
    assert [(row.found, row.status) for row in found.quantities] == [(None, "not_run"), ("14.5", "identical")]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (CoverageError("drone.nothing_measured", path="a", reason="b"), "drone.nothing_measured"),
        (ModuleNotFoundError("no", name="pycolmap"), "package.recompute_not_installed"),
    ],
)
def test_what_cannot_run_says_why(case: Case, error: Exception, reason: str) -> None:
    found = run(case, Engine(error=error))
    assert found.status == "not_run" and found.reason is not None and found.reason[0] == reason


def test_a_fault_of_the_program_is_not_hidden(case: Case) -> None:
    with pytest.raises(ZeroDivisionError):
        run(case, Engine(error=ZeroDivisionError()))


def test_a_process_that_nobody_knows_is_not_run(case: Case) -> None:
    (found,) = recompute_events(events_of(case), fetch=fetch_from_case(case), engines={}, scope="headline")
    assert found.reason == ("package.recompute_no_engine", {"process": "drone.survey"})
    assert [row.status for row in found.quantities] == ["not_run", "not_run"]


@pytest.mark.parametrize(("made", "status"), [(b"II*\x00heights.", "within_tolerance"), (b"II*\x00heights!", "differs")])
def test_a_product_of_other_bytes_is_compared_by_its_engine(case: Case, made: bytes, status: str) -> None:
    found = run(case, Engine(write=made), "full")
    assert found.status == status
    assert {row.path.split("/")[-1]: row.status for row in found.files} == {"dsm.tif": status, "result.json": "identical"}


def test_findings_that_are_gone_differ(case: Case) -> None:
    @dataclass
    class Fewer(Engine):
        def again(self, former: ProcessResult, *, inputs: Path, out: Path, progress: Progress) -> ProcessResult:
            return super().again(replace(former, findings=former.findings[:1]), inputs=inputs, out=out, progress=no_progress)

    found = run(case, Fewer(), "full")
    assert found.status == "differs"
    assert next(row for row in found.files if row.path.endswith("result.json")).status == "differs"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("period", (date(2001, 1, 1), date(2001, 1, 2))),
        ("geometry", {"type": "Point", "coordinates": [1.0, 2.0]}),
        ("limitations", (Message(id="package.record.title"),)),
        ("sources", ("sha256:" + "0" * 64,)),
        ("message", Message(id="package.record.title")),
        ("crs", "EPSG:3857"),
    ],
)
def test_a_finding_that_says_something_else_differs(case: Case, name: str, value: object) -> None:
    class Other(Engine):
        def again(self, former: ProcessResult, *, inputs: Path, out: Path, progress: Progress) -> ProcessResult:
            place = {"geometry": {"type": "Point", "coordinates": [9.0, 9.0]}, "crs": "EPSG:4326"}
            first = replace(former.findings[0], **({**place, name: value} if name in place else {name: value}))
            changed = replace(former, findings=(first, *former.findings[1:]))
            return super().again(changed, inputs=inputs, out=out, progress=no_progress)

    row = next(row for row in run(case, Other(), "full").files if row.path.endswith("result.json"))
    assert row.status == "differs" and row.detail.startswith("S-001.")


def test_gaps_that_were_dropped_differ(case: Case) -> None:
    class More(Engine):
        def again(self, former: ProcessResult, *, inputs: Path, out: Path, progress: Progress) -> ProcessResult:
            gaps = (*former.gaps, Message(id="core.synthetic"))
            return super().again(replace(former, gaps=gaps), inputs=inputs, out=out, progress=no_progress)

    assert next(row for row in run(case, More(), "full").files if row.path.endswith("result.json")).detail == "gaps"


def test_an_outline_may_move_by_a_cell_only() -> None:
    def square(side: float, at: float = 3_360_000.0) -> dict[str, object]:
        ring = [[527_000.0, at], [527_000.0 + side, at], [527_000.0 + side, at + side], [527_000.0, at]]
        return {"type": "GeometryCollection", "geometries": [{"type": "Polygon", "coordinates": [ring]}]}

    same = recompute._same_place
    assert same(square(20.0), square(20.4)) and not same(square(20.0), square(22.0))
    assert (
        same(None, None)
        and not same(None, square(1.0))
        and not same(square(1.0), {"type": "GeometryCollection", "geometries": []})
    )
    degrees = [{"type": "Point", "coordinates": [114.0, 30.0 + by]} for by in (0.0, 1e-6, 1e-4)]
    assert same(degrees[0], degrees[1]) and not same(degrees[0], degrees[2])


@pytest.mark.parametrize("scope", ["headline", "full"])
def test_a_number_that_comes_out_but_is_not_stated_differs(case: Case, scope: str) -> None:
    class More(Engine):
        def figures(self, former: ProcessResult, *, products: Path, inputs: Path) -> Mapping[str, Quantity]:
            figures = super().figures(former, products=products, inputs=inputs)
            return {**figures, "D-099": next(iter(figures.values()))}

        def again(self, former: ProcessResult, *, inputs: Path, out: Path, progress: Progress) -> ProcessResult:
            more = replace(former.findings[0], id="D-099")
            return super().again(replace(former, findings=(*former.findings, more)), inputs=inputs, out=out, progress=no_progress)

    found = run(case, More(), scope)
    assert found.status == "differs" and "D-099" in next(row.detail for row in found.files if row.status == "differs")


def test_a_result_without_a_number_is_not_called_identical(place: Place) -> None:
    case = place.workspace.new_case("1", demonstration=True)
    case.ingest(place.card(CARD))
    with case.derivation(
        process="drone.survey", inputs=case.items(role="original"), parameters={"gsd": "0.05"}, seed=7
    ) as run_once:
        stated = result(run_once, findings=1)
        run_once.commit(replace(stated, findings=tuple(replace(each, quantity=None) for each in stated.findings)))
    found = run(case, Engine(), "headline")
    assert found.status == "not_run" and found.reason is not None and found.reason[0] == "package.recompute_no_numbers"


def test_a_record_of_a_package_reads_back(place: Place, case: Case) -> None:
    sealed = seal_zip(case, place.root / "package.zip")
    record = recompute_package(sealed.path, engines={"drone.survey": Engine()}, scope="headline", session=place.session)
    assert record.status == "identical" and record.package_root == sealed.package_root and record.scope == "headline"
    assert record.machine and record.case == case.id
    again = parse_recompute(record.to_bytes())
    assert again == record and again.to_bytes() == record.to_bytes()


def test_a_changed_package_is_not_computed_from(place: Place, case: Case) -> None:
    sealed = seal_zip(case, place.root / "package.zip")
    data = bytearray(sealed.path.read_bytes())
    data[data.index(b"heights")] ^= 1
    sealed.path.write_bytes(data)
    with pytest.raises(VerificationError) as refused:
        recompute_package(sealed.path, engines={}, scope="headline", session=place.session)
    assert refused.value.message_id == "package.recompute_broken"
    with pytest.raises(InputError):
        recompute_package(place.root / "absent", engines={}, scope="headline", session=place.session)


def test_a_number_without_uncertainty_may_move_in_its_last_digits(place: Place) -> None:
    case = place.workspace.new_case("1")
    case.ingest(place.card(CARD))
    with case.derivation(process="drone.survey", inputs=case.items(role="original"), parameters={}, seed=7) as derivation:
        made = result(derivation)
        bare = tuple(
            replace(each, quantity=Quantity(value=1000.0, unit="m2", standard_uncertainty=None)) for each in made.findings
        )
        derivation.commit(replace(made, findings=bare))
    for apart, status in ((0.0009, "within_tolerance"), (0.0011, "differs")):
        found = run(case, Engine(lambda stated, apart=apart: replace(stated, value=stated.value + apart)))  # type: ignore[misc]
        assert found.status == status


def test_the_record_names_program_and_machine(place: Place, case: Case) -> None:
    results = recompute_events(events_of(case), fetch=fetch_from_case(case), engines={}, scope="full")
    record = record_of(
        events_of(case),
        results,
        case=case.id,
        workspace=case.workspace_id,
        package_root="0" * 64,
        scope="full",
        session=place.session,
    )
    assert record.code_digest and record.code_digest.startswith("sha256:") and record.software == place.session.software
    assert record.status == "not_run"


def test_sealing_gets_a_record_of_what_states_numbers(place: Place, case: Case) -> None:
    record = recomputing(case, engines={"drone.survey": Engine()})(draft(case), "0" * 64)
    assert record is not None and (record.status, record.case, record.package_root) == ("identical", case.id, "0" * 64)
    envelope = parse_envelope(sign_record(record, place.session))
    envelope.verify({place.session.signer.public_key.key_id: place.session.signer.public_key}, where="x")
    assert parse_recompute(envelope.payload) == record


def test_where_no_result_states_a_number_there_is_no_record(place: Place) -> None:
    case = place.workspace.new_case("1")
    case.ingest(place.card(CARD))
    with case.derivation(process="blur", inputs=case.items(role="original"), parameters={}, seed=7) as once:
        made = result(once)
        once.commit(
            replace(made, process="blur", parameters={}, findings=tuple(replace(f, quantity=None) for f in made.findings))
        )
    (found,) = recompute_events(events_of(case), fetch=fetch_from_case(case), engines={}, scope="headline")
    assert found.reason is not None and found.reason[0] == "package.recompute_no_numbers"
    assert recomputing(case, engines={})(draft(case), "0" * 64) is None


def test_files_are_copied_where_they_cannot_be_linked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise OSError(1, "Operation not permitted")

    (tmp_path / "a").write_bytes(b"photo")
    recompute.place(tmp_path / "a", tmp_path / "linked" / "a")
    monkeypatch.setattr(os, "link", refuse)
    recompute.place(tmp_path / "a", tmp_path / "copied" / "a")
    assert [(tmp_path / each / "a").read_bytes() for each in ("linked", "copied")] == [b"photo"] * 2
    assert [(tmp_path / each / "a").stat().st_nlink for each in ("linked", "copied")] == [2, 1]


def test_products_that_are_gone_or_new_differ(case: Case) -> None:
    class Renamed(Engine):
        def again(self, former: ProcessResult, *, inputs: Path, out: Path, progress: Progress) -> ProcessResult:
            new = super().again(former, inputs=inputs, out=out, progress=no_progress)
            (out / "dsm.tif").rename(out / "other.tif")
            return replace(new, products=(replace(new.products[0], path="other.tif"),))

    rows = {row.path.rpartition("/")[2]: (row.status, row.detail) for row in run(case, Renamed(), "full").files}
    assert rows["dsm.tif"] == ("differs", "missing") and rows["other.tif"] == ("differs", "new")


def test_a_result_whose_numbers_alone_moved_is_judged_by_them(case: Case) -> None:
    found = run(case, Engine(lambda stated: replace(stated, value=stated.value + 1e-6)), "full")
    row = next(row for row in found.files if row.path.endswith("result.json"))
    assert (row.status, row.detail, found.status) == ("within_tolerance", "bytes", "within_tolerance")


def test_a_finding_that_is_elsewhere_differs_by_that_alone(case: Case) -> None:
    class Moved(Engine):
        def again(self, former: ProcessResult, *, inputs: Path, out: Path, progress: Progress) -> ProcessResult:
            first = replace(former.findings[0], geometry={"type": "Point", "coordinates": [104.0, 31.5]})
            moved = replace(former, findings=(first, *former.findings[1:]))
            return super().again(moved, inputs=inputs, out=out, progress=no_progress)

    row = next(row for row in run(case, Moved(), "full").files if row.path.endswith("result.json"))
    assert (row.status, row.detail) == ("differs", "S-001.geometry")
