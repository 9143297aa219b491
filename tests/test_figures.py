"""Pictures: same bytes every time, scale and north against independent geodesy."""

from __future__ import annotations

import math
from datetime import date, timedelta

import numpy as np
import pytest
from affine import Affine
from PIL import Image
from pyproj import CRS, Geod

from geoevidence import figures
from geoevidence.errors import ConfigError
from geoevidence.raster import Grid

GK = CRS.from_epsg(4547)


def north_up(crs: CRS, x: float, y: float, step: float, shape: tuple[int, int] = (40, 60)) -> Grid:
    return Grid(shape=shape, transform=Affine(step, 0, x, 0, -step, y), crs=crs)


def noise(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(7).normal(size=shape)


def test_stretch_keeps_missing_and_reuses_limits():
    bands = noise((3, 20, 30))
    bands[1, 4, 5] = np.nan
    image, limits = figures.stretch(bands)
    assert image.shape == (20, 30, 4) and image.dtype == np.uint8
    assert image[4, 5, 3] == 0 and (image[..., 3] == 0).sum() == 1
    seen = np.isfinite(bands).all(axis=0)
    assert limits[0] == pytest.approx(tuple(np.percentile(bands[0][seen], (2, 98))), abs=1e-12)
    brighter, same = figures.stretch(bands + 0.5, limits)
    assert same == limits
    assert brighter[..., :3].mean() > image[..., :3].mean()


def test_stretch_of_nothing_and_of_a_constant():
    empty, limits = figures.stretch(np.full((1, 3, 3), np.nan))
    assert not empty[..., 3].any() and limits == ((0.0, 1.0),)
    flat, _ = figures.stretch(np.full((1, 3, 3), 0.4))
    assert (flat[..., 3] == 255).all()


@pytest.mark.parametrize("metres, expected", [(1.0, 1), (1.99, 1), (5, 5), (49.9, 20), (3000, 2000), (0.07, 0.05)])
def test_round_length(metres, expected):
    assert figures.round_length(metres) == pytest.approx(expected, rel=1e-12)


def test_ground_metres_are_geodesic():
    metres, north = figures._metres_and_north(north_up(CRS.from_epsg(4326), 110.0, 30.0, 1e-4))
    truth = Geod(ellps="WGS84").inv(110.003, 29.998, 110.0031, 29.998)[2]
    assert metres == pytest.approx(truth, rel=1e-6)
    assert north == pytest.approx((0, -1), abs=1e-9)
    web, _ = figures._metres_and_north(north_up(CRS.from_epsg(3857), 12_245_143.0, 3_503_549.0, 10.0))
    # Web Mercator at 30 N stretches lengths by about 1 / cos(30 degrees); the bar must not.
    assert web == pytest.approx(10 * math.cos(math.radians(30)), rel=5e-3)


def test_north_follows_rotation_and_convergence():
    turned = Grid(
        shape=(50, 50), transform=Affine.translation(500000, 3300000) @ Affine.rotation(30) @ Affine.scale(10, -10), crs=GK
    )
    _, north = figures._metres_and_north(turned)
    # Columns run 30 degrees north of east, so north lies 30 degrees clockwise of up; 500 m off the meridian converge < 0.01.
    assert math.degrees(math.atan2(north[0], -north[1])) == pytest.approx(30, abs=0.01)
    _, north = figures._metres_and_north(north_up(GK, 600000, 3300000, 10.0))
    lat, d_lon = math.radians(29.8), math.radians(100300 / (111320 * math.cos(math.radians(29.8))))
    # Meridian convergence of a transverse Mercator, first order: d_lon * sin(lat); next term is below 1e-3 of it.
    assert math.atan2(-north[0], -north[1]) == pytest.approx(d_lon * math.sin(lat), rel=5e-3)


def test_map_picture_is_deterministic_and_marked(tmp_path):
    grid = north_up(GK, 500000, 3300000, 10.0)
    image, _ = figures.stretch(noise((3, *grid.shape)))
    square = {"type": "Polygon", "coordinates": [[[500100, 3299900], [500300, 3299900], [500300, 3299700], [500100, 3299900]]]}
    files = []
    for name, synthetic in (("a", False), ("b", False), ("c", True)):
        path = tmp_path / f"{name}.png"
        figures.map_picture(path, image, grid, title="变化前", date_text="2021-05-01", outlines=[square], synthetic=synthetic)
        files.append(path.read_bytes())
    assert files[0] == files[1] != files[2]
    assert b"Software" not in files[0] and b"tIME" not in files[0]
    marked = np.asarray(Image.open(tmp_path / "c.png").convert("RGB")).reshape(-1, 3)
    plain = np.asarray(Image.open(tmp_path / "a.png").convert("RGB")).reshape(-1, 3)
    red = np.array((0xC0, 0, 0))
    assert (marked == red).all(axis=1).sum() > 1000 > (plain == red).all(axis=1).sum()


def test_map_picture_refuses_an_image_of_another_shape(tmp_path):
    grid = north_up(GK, 500000, 3300000, 10.0)
    with pytest.raises(ValueError, match="does not fit"):
        figures.map_picture(tmp_path / "x.png", np.zeros((3, 4, 3), np.uint8), grid, title="", date_text="")


def test_series_plot_is_deterministic(tmp_path):
    days = [date(2019, 1, 1) + timedelta(days=9 * k) for k in range(80)]
    values = noise((80,))
    values[3] = np.nan
    clear = [k % 3 > 0 for k in range(80)]
    for name in ("a", "b"):
        figures.series_plot(
            tmp_path / f"{name}.png",
            series={"NDVI": (days, values, clear)},
            model=(days, values * 0.5),
            interval=(days[40], days[42]),
            break_date=days[41],
            y_label="NDVI",
            title="序列",
            synthetic=True,
        )
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_missing_fonts_say_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "_FONTS", tmp_path)
    figures._font.cache_clear()
    try:
        with pytest.raises(ConfigError) as caught:
            figures.series_plot(tmp_path / "x.png", series={}, y_label="", title="")
        assert caught.value.message_id == "core.fonts_missing"
        assert "make setup" in caught.value.render("en")
    finally:
        figures._font.cache_clear()
