"""Currency types: printing, round trips, refusal of wrong types."""

import contextlib
from datetime import UTC, date, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geoevidence.errors import FormatError, GeoEvidenceError
from geoevidence.trust import canonical
from geoevidence.types import Finding, Message, ProcessResult, Product, Quantity, decimal_text, decimal_value, utc_text, utc_value

finite = st.floats(allow_nan=False, allow_infinity=False, width=64)
quantities = st.builds(
    Quantity,
    value=finite,
    unit=st.sampled_from(["m2", "m3", "m", "d"]),
    standard_uncertainty=st.none() | st.floats(min_value=0, max_value=1e12),
    coverage_factor=st.sampled_from([1.0, 2.0, 1.96]),
    propagation=st.text(max_size=8),
)
messages = st.recursive(
    st.builds(Message, id=st.text(min_size=1, max_size=12), values=st.just({})),
    lambda inner: st.builds(
        Message,
        id=st.text(min_size=1, max_size=12),
        values=st.dictionaries(
            st.text(max_size=6), st.text() | st.integers(-(2**53) + 1, 2**53 - 1) | st.dates() | quantities | inner, max_size=3
        ),
    ),
    max_leaves=4,
)


def test_a_quantity_is_printed_with_its_expanded_uncertainty():
    area = Quantity(value=1234.567, unit="m2", standard_uncertainty=12.3)
    assert area.format("zh") == "1235 ± 25 m² (k=2)"
    assert Quantity(value=0.123456, unit="m", standard_uncertainty=0.0021).format("en") == "0.1235 ± 0.0042 m (k=2)"
    assert Quantity(value=123456.0, unit="m3", standard_uncertainty=5200.0).format("en") == "123000 ± 10000 m³ (k=2)"


def test_a_missing_error_is_said():
    bare = Quantity(value=10.0, unit="m3", standard_uncertainty=None)
    assert "误差不可得" in bare.format("zh")
    assert "uncertainty not available" in bare.format("en")


@given(finite)
def test_decimal_text_reads_back_the_same_float(value):
    assert decimal_value(decimal_text(value), "x") == value


@given(quantities)
def test_a_quantity_survives_its_file_form(quantity):
    assert Quantity.from_dict(canonical.loads(canonical.dumps(quantity.to_dict()))) == quantity


@given(messages)
def test_a_message_survives_its_file_form(message):
    assert Message.from_dict(canonical.loads(canonical.dumps(message.to_dict()))) == message


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6) | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
FIELDS = [
    "id",
    "value",
    "values",
    "type",
    "unit",
    "standard_uncertainty",
    "coverage_factor",
    "propagation",
    "schema",
    "process",
    "findings",
]


@given(st.dictionaries(st.sampled_from(FIELDS), json_values))
def test_hostile_records_raise_only_our_errors(raw):
    for kind in (Quantity, Message, Finding, Product, ProcessResult):
        with contextlib.suppress(GeoEvidenceError):
            kind.from_dict(raw)


def finding(**changes):
    base = dict(
        id="S-001",
        message=Message(id="core.synthetic"),
        quantity=Quantity(value=10.5, unit="m2", standard_uncertainty=0.5),
        geometry={"type": "Polygon", "coordinates": [[[0.5, 1.0], [2.0, 1.0], [2.0, 3.0], [0.5, 1.0]]]},
        crs="EPSG:4490",
        period=(date(2024, 1, 2), date(2024, 2, 3)),
        method=Message(id="core.synthetic"),
        sources=("sha256:b", "sha256:a", "sha256:a"),
        limitations=(Message(id="core.synthetic"),),
        synthetic=True,
    )
    return Finding(**{**base, **changes})


def test_a_finding_survives_its_file_form_and_sorts_its_sources():
    stated = finding()
    assert stated.sources == ("sha256:a", "sha256:b")
    assert Finding.from_dict(canonical.loads(canonical.dumps(stated.to_dict()))) == stated


@pytest.mark.parametrize("changes", [{"limitations": ()}, {"crs": None}, {"period": (date(2024, 2, 1), date(2024, 1, 1))}])
def test_a_finding_without_limits_crs_or_order_is_refused(changes):
    with pytest.raises(ValueError):
        finding(**changes)


@pytest.mark.parametrize("path", ["/abs.tif", "../up.tif", "a/../../b", "a\\b", ""])
def test_a_product_stays_in_its_folder(path):
    with pytest.raises(ValueError):
        Product(path=path, kind="dsm", media_type="image/tiff", title=Message(id="core.synthetic"))


def test_a_result_is_written_only_with_exactly_its_files(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    product = Product(path="a.txt", kind="accuracy", media_type="text/plain", title=Message(id="core.synthetic"))
    result = ProcessResult(process="t", parameters={"x": "0.5"}, seed=1, products=(product,), findings=(finding(),))
    result.write(tmp_path)
    assert ProcessResult.read(tmp_path) == result
    (tmp_path / "b.txt").write_text("b")
    with pytest.raises(ValueError, match=r"b\.txt"):
        result.write(tmp_path)


def test_times_are_utc_to_the_second():
    moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert utc_value(utc_text(moment), "t") == moment
    for wrong in ("2026-01-02", "2026-13-02T00:00:00Z", 5, None):
        with pytest.raises(FormatError):
            utc_value(wrong, "t")
    with pytest.raises(ValueError):
        utc_text(datetime(2026, 1, 2))
