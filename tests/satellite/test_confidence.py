"""The probability: rises with every kind of evidence, stays in its range, names its basis."""

from __future__ import annotations

from dataclasses import replace

import pytest

from satellite.confidence import COEFFICIENTS, FEATURES, RANGE, UNSAID, EventEvidence, event_confidence, features

PLAIN = EventEvidence(
    bands=6,
    score=10.0,
    contrast=3.0,
    pixels=15,
    agreement=0.9,
    direction_agreement=0.9,
    clear_before=60,
    clear_after=30,
    gradual=False,
)


@pytest.mark.parametrize("bands", [1, 6])
@pytest.mark.parametrize(
    "more",
    [
        {"score": 40.0},
        {"contrast": 9.0},
        {"pixels": 60},
        {"agreement": 1.0},
        {"direction_agreement": 1.0},
        {"clear_after": 50},
        {"gradual": False},
    ],
)
def test_more_evidence_never_lowers_it(bands: int, more: dict[str, float]) -> None:
    least = replace(PLAIN, bands=bands, gradual=True)
    assert event_confidence(replace(least, **more))[0] >= event_confidence(least)[0]  # type: ignore[arg-type]


def test_it_stays_in_its_range_and_names_its_basis() -> None:
    nothing = replace(PLAIN, score=0.5, contrast=0.1, pixels=1, agreement=0, direction_agreement=0, clear_after=0)
    everything = replace(PLAIN, score=1e6, contrast=1e6, pixels=100000, clear_before=10**6, clear_after=10**6)
    assert event_confidence(nothing)[0] == RANGE[0] and event_confidence(everything)[0] == RANGE[1]
    assert event_confidence(PLAIN)[1] == "satellite.confidence_bands"
    assert event_confidence(replace(PLAIN, bands=1))[1] == "satellite.confidence_index"
    assert all(len(values) == len(FEATURES) for values in COEFFICIENTS.values())


def test_contrast_decides_and_its_absence_does_not() -> None:
    low, high = (event_confidence(replace(PLAIN, contrast=value))[0] for value in (0.5, 8.0))
    assert high > low + 0.3
    assert features(replace(PLAIN, contrast=0.0)).tolist() == features(replace(PLAIN, contrast=UNSAID)).tolist()
