"""What can run a recorded process again: the table that recomputation and sealing are handed.

Knows no streamlit. An engine is loaded when it is first asked, so that a bare install can hold the table and say what is missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from geoevidence.package import Engine
from geoevidence.types import ProcessResult, Product, Progress, Quantity


@dataclass(frozen=True)
class _Engine:
    """The functions of one engine package, by their names there."""

    package: str

    def _function(self, name: str) -> Any:
        return getattr(import_module(self.package), name)

    def figures(self, former: ProcessResult, *, products: Path, inputs: Path) -> Mapping[str, Quantity]:
        figures: Mapping[str, Quantity] = self._function("figures_again")(former, products=products, inputs=inputs)
        return figures

    def again(self, former: ProcessResult, *, inputs: Path, out: Path, progress: Progress) -> ProcessResult:
        result: ProcessResult = self._function("run_again")(former, inputs=inputs, out=out, progress=progress)
        return result

    def compare(self, product: Product, stated: Path, found: Path) -> tuple[Any, str]:
        status, detail = self._function("compare_product")(product, stated, found)
        return status, detail


class _Redaction:
    """Blurred pictures and rounded coordinates: no numbers, but files that can be made again."""

    def figures(self, former: ProcessResult, *, products: Path, inputs: Path) -> Mapping[str, Quantity]:
        return {}

    def again(self, former: ProcessResult, *, inputs: Path, out: Path, progress: Progress) -> ProcessResult:
        from geoevidence.redaction import redact_again

        return redact_again(former, inputs=inputs, out=out)

    def compare(self, product: Product, stated: Path, found: Path) -> tuple[Any, str]:
        from geoevidence.comparison import compare_product

        return compare_product(product, stated, found, tolerances={}) or ("not_run", "other bytes; not compared by value")


ENGINES: Mapping[str, Engine] = {
    "drone.survey": _Engine("drone"),
    "drone.measure": _Engine("drone"),
    "drone.compare": _Engine("drone"),
    "satellite.monitor": _Engine("satellite"),
    "redact.blur": _Redaction(),
    "redact.round": _Redaction(),
}
"""Name of a process -> what runs it again."""
