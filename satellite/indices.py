"""Spectral indices as plain facts, and the names that bands go by.

All are ratios of reflectances, so a common scale cancels (an offset does not). NaN in, NaN out; 0/0 is NaN.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

ALIASES: Mapping[str, str] = {
    "b2": "blue",
    "b02": "blue",
    "b3": "green",
    "b03": "green",
    "b4": "red",
    "b04": "red",
    "b8": "nir",
    "b08": "nir",
    "b8a": "nir",
    "b11": "swir1",
    "b12": "swir2",
    "swir16": "swir1",
    "swir22": "swir2",
}
"""Sentinel-2 (and STAC common) names of the bands that the indices use, in lower case."""

DIFFERENCES: Mapping[str, tuple[str, str]] = {
    "NDVI": ("nir", "red"),
    "MNDWI": ("green", "swir1"),
    "NDWI": ("green", "nir"),
    "NBR": ("nir", "swir2"),
    "NDBI": ("swir1", "nir"),
    "NDTI": ("red", "green"),
    "NDRB": ("red", "blue"),
}
"""Normalised differences (a - b) / (a + b).

NDVI: Rouse et al. 1974, NASA SP-351; NDWI: McFeeters 1996, doi:10.1080/01431169608948714;
MNDWI: Xu 2006, doi:10.1080/01431160600589179; NBR: Key and Benson 2006, USDA RMRS-GTR-164;
NDBI: Zha et al. 2003, doi:10.1080/01431160304987; NDTI (turbidity): Lacaux et al. 2007, doi:10.1016/j.rse.2006.07.012;
NDRB: slope of the visible spectrum from blue to red, steep on soil and sand (Ben-Dor et al. 1999, Soil reflectance, in Remote
Sensing for the Earth Sciences), flat on concrete and asphalt (Herold et al. 2004, doi:10.1016/j.rse.2004.02.013).
"""
SHOWN = ("NDVI", "MNDWI", "NDWI", "NBR")
"""Differences that are drawn over time and compared before and after."""
_BRIGHTNESS = ("blue", "green", "red", "nir")


def band_role(name: str) -> str:
    """The common name (blue, green, red, nir, swir1, swir2) of a band name, or the name in lower case."""
    key = name.lower()
    return ALIASES.get(key, key)


def band_roles(names: Sequence[str]) -> dict[str, int]:
    """Common name -> position of the first band that has it."""
    roles: dict[str, int] = {}
    for position, name in enumerate(names):
        roles.setdefault(band_role(name), position)
    return roles


def _ratio(above: NDArray[np.floating], below: NDArray[np.floating]) -> NDArray[np.float64]:
    above, below = np.asarray(above, np.float64), np.asarray(below, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(below == 0, np.nan, above / below)


def normalised_difference(a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.float64]:
    """(a - b) / (a + b), NaN where the sum is zero or a value is missing."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return _ratio(a - b, a + b)


def bare_soil_index(
    blue: NDArray[np.floating], red: NDArray[np.floating], nir: NDArray[np.floating], swir1: NDArray[np.floating]
) -> NDArray[np.float64]:
    """BSI = ((swir1 + red) - (nir + blue)) / ((swir1 + red) + (nir + blue)). Rikimaru et al. 2002, Trop. Ecol. 43."""
    return normalised_difference(np.add(swir1, red), np.add(nir, blue))


def available_indices(bands: Sequence[str]) -> tuple[str, ...]:
    """Names of the indices that these bands allow; a cube whose only band is an index has that one."""
    roles = band_roles(bands)
    if len(bands) == 1:
        return (bands[0],)
    names = [name for name in SHOWN if all(role in roles for role in DIFFERENCES[name])]
    if "MNDWI" in names:
        names.remove("NDWI") if "NDWI" in names else None
    if all(role in roles for role in ("blue", "red", "nir", "swir1")):
        names.append("BSI")
    return tuple(names)


def surface_indices(bands: Sequence[str]) -> tuple[str, ...]:
    """Names of all indices that these bands allow, brightness included; a cube whose only band is an index has that one."""
    roles = band_roles(bands)
    if len(bands) == 1:
        return (bands[0],)
    names = [name for name, needed in DIFFERENCES.items() if all(role in roles for role in needed)]
    names += ["BSI"] if all(role in roles for role in ("blue", "red", "nir", "swir1")) else []
    names += ["brightness"] if all(role in roles for role in _BRIGHTNESS) else []
    return tuple(names)


def index_values(name: str, values: NDArray[np.floating], bands: Sequence[str], *, axis: int = 0) -> NDArray[np.float64]:
    """An index of `values`, whose `axis` runs over `bands`; that axis is gone from the result.

    `brightness` is the mean reflectance of blue, green, red and near infrared: it alone depends on the scale.
    """
    roles = band_roles(bands)
    if len(bands) == 1 and name == bands[0]:
        return np.take(np.asarray(values, np.float64), 0, axis=axis)

    def band(role: str) -> NDArray[np.floating]:
        return np.take(values, roles[role], axis=axis)

    if name == "BSI":
        return bare_soil_index(band("blue"), band("red"), band("nir"), band("swir1"))
    if name == "brightness":
        return np.mean([np.asarray(band(role), np.float64) for role in _BRIGHTNESS], axis=0)
    a, b = DIFFERENCES[name]
    return normalised_difference(band(a), band(b))
