"""Running recorded analyses again: what comes out the same, close, different, or cannot be run, and how it is said."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from geoevidence.custody import Case
from geoevidence.errors import CoverageError, InputError, VerificationError
from geoevidence.package import DerivedEvent, recompute_events, recompute_package, record_of, seal_zip
from geoevidence.package.recompute import derived_events, fetch_from_case
from geoevidence.trust.events import parse_leaf
from geoevidence.trust.manifest import RecomputedResult, parse_recompute
from geoevidence.types import ProcessResult, Product, Progress, Quantity, no_progress
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
