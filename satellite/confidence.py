"""The probability that an event is a true lasting change, from a few of its own numbers.

In: the `EventEvidence` of an event. Out: a probability, and the message id that says on what it was measured. It is a
logistic function that never falls when the evidence grows, fitted on simulated sites and held against others
(`bench/satellite_confidence.py`; reliability table in docs/methods/satellite_events.md). It holds for land as simulated:
it is not a probability about any real place, and never one about a cause.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class EventEvidence:
    """What the confidence rests on.

    bands: number of bands of the cube. score: median over pixels. contrast: of its `Departure` (1),
    0 = cannot be said.
    pixels: number of them. agreement: share whose interval overlaps the event's; direction_agreement: whose reflectance moved
    the same way (1). clear_before, clear_after: clear dates on either side. gradual: most pixels changed gradually.
    """

    bands: int
    score: float
    contrast: float
    pixels: int
    agreement: float
    direction_agreement: float
    clear_before: int
    clear_after: int
    gradual: bool


FEATURES = ("constant", "log2_score", "log2_contrast", "log2_pixels", "agreement", "direction_agreement", "log2_clear", "gradual")
"""What `COEFFICIENTS` weigh, in this order."""

COEFFICIENTS = {
    "bands": (-5.45, 1.65, 1.25, 0.0, 0.0, 0.0, 0.0, -0.21),
    "index": (-6.53, 1.99, 0.5, 0.02, 0.0, 0.0, 0.0, 0.0),
}
"""Of several bands, and of one index: log odds per unit of each feature, by `bench/satellite_confidence.py --tiles 14 --fit`."""

UNSAID = 2.0
"""Contrast that is reckoned with where there is none: neither for nor against."""

RANGE = (0.02, 0.98)
"""No confidence outside: the held-out sample does not support more (docs/methods/satellite_events.md)."""


def features(evidence: EventEvidence) -> NDArray[np.float64]:
    """The values that are weighed, shape (8,), in the order of `FEATURES`."""
    return np.array(
        [
            1.0,
            math.log2(max(evidence.score, 1.0)),
            math.log2(max(evidence.contrast or UNSAID, 0.25)),
            math.log2(evidence.pixels),
            evidence.agreement,
            evidence.direction_agreement,
            math.log2(1 + min(evidence.clear_before, evidence.clear_after)),
            float(evidence.gradual),
        ]
    )


def event_confidence(evidence: EventEvidence) -> tuple[float, str]:
    """The probability (1) and the message id of its basis."""
    kind = "bands" if evidence.bands > 1 else "index"
    odds = float(features(evidence) @ np.array(COEFFICIENTS[kind]))
    probability = 1 / (1 + math.exp(-odds)) if odds > -500 else 0.0
    return min(max(probability, RANGE[0]), RANGE[1]), f"satellite.confidence_{kind}"
