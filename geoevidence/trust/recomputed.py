"""Whether a record of recomputation covers the numbers that findings state (check 5.1).

A signer may be trusted and still have run less than the findings say: each number must stand in the record as it is
stated, found again, and within the tolerance that the format allows. Standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Set
from fractions import Fraction
from typing import Any, NamedTuple, Optional

from geoevidence.trust.manifest import RecomputedQuantity, RecomputedResult

_DECIMAL = re.compile(r"-?[0-9]{1,40}(\.[0-9]{1,40})?([eE][+-]?[0-9]{1,3})?", re.ASCII)
_SHARE = Fraction(1000001, 10000000)
"""A tenth of the stated standard uncertainty; the last digits are for the rounding of the product."""
_RELATIVE = Fraction(1000001, 10**12)
"""A millionth of a value without uncertainty."""


class StatedNumber(NamedTuple):
    """A number of a finding. value, uncertainty: decimals as text; uncertainty None where none is stated."""

    finding: str
    unit: str
    value: str
    uncertainty: Optional[str]


_UNREADABLE = StatedNumber("", "", "", None)
"""Stands for a number that cannot be read: no record covers it."""


def stated_numbers(findings: Any) -> set[StatedNumber]:
    """The numbers of a findings file, as parsed."""
    try:
        quantities = [(each["id"], each["quantity"]) for each in findings["findings"]]
        return {_stated(finding, each) for finding, each in quantities if each is not None}
    except (KeyError, TypeError):
        return {_UNREADABLE}


def _stated(finding: Any, quantity: Any) -> StatedNumber:
    number = StatedNumber(finding, quantity["unit"], quantity["value"], quantity["standard_uncertainty"])
    texts = (number.value, "0" if number.uncertainty is None else number.uncertainty)
    readable = isinstance(finding, str) and isinstance(number.unit, str)
    return number if readable and all(isinstance(text, str) and _DECIMAL.fullmatch(text) for text in texts) else _UNREADABLE


def covers(result: RecomputedResult, stated: Set[StatedNumber]) -> bool:
    """True when each number has a row that states it, found again as the row says."""
    rows = {(row.finding, row.unit, row.stated): row for row in result.quantities}
    return all(_found_again(rows.get((each.finding, each.unit, each.value)), each) for each in stated)


def _found_again(row: Optional[RecomputedQuantity], stated: StatedNumber) -> bool:
    if row is None or row.found is None:
        return False
    value, found, tolerance = Fraction(row.stated), Fraction(row.found), Fraction(row.tolerance)
    if row.status == "identical":
        return found == value
    uncertainty = Fraction(stated.uncertainty) if stated.uncertainty is not None else Fraction(0)
    most = _SHARE * uncertainty if uncertainty else _RELATIVE * abs(value)
    return row.status == "within_tolerance" and abs(found - value) <= tolerance <= most
