"""Grids, strict reading, deterministic writing; the choice of a reference system."""

import numpy as np
import pytest
from affine import Affine
from pyproj import CRS

from geoevidence.crs import crs_label, parse_crs, report_crs, transform_geometry
from geoevidence.errors import CrsError, FormatError
from geoevidence.raster import Grid, Raster, read_raster, write_cog

GRID = Grid(shape=(600, 700), transform=Affine(10, 0, 5e5, 0, -10, 3.4e6), crs=CRS.from_epsg(4547))


def heights():
    data = np.random.default_rng(3).normal(size=(1, 600, 700)).astype(np.float32)
    data[0, :20] = np.nan
    return Raster(data=data, grid=GRID, nodata=float("nan"), unit="m")


def test_a_cog_comes_back_as_it_was_and_with_the_same_bytes(tmp_path):
    raster = heights()
    for name in ("a.tif", "b.tif"):
        write_cog(tmp_path / name, raster, band_names=["height"], tags={"A": "1"})
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "b.tif").read_bytes()
    write_cog(tmp_path / "c.tif", raster, band_names=["height"], tags={"A": "1"}, in_memory=0)
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "c.tif").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tif", "b.tif", "c.tif"]
    back = read_raster(tmp_path / "a.tif")
    np.testing.assert_array_equal(back.data, raster.data)
    assert back.grid.matches(GRID) and back.unit == "m"
    assert back.mask.sum() == 20 * 700


def test_a_truncated_raster_is_an_error_not_nodata(tmp_path):
    write_cog(tmp_path / "a.tif", heights())
    whole = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "cut.tif").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FormatError):
        read_raster(tmp_path / "cut.tif")


@pytest.mark.parametrize("text", ["<VRTDataset rasterXSize='1' rasterYSize='1'/>", "<GDAL_WMS></GDAL_WMS>", "", "plain"])
def test_another_format_in_a_tif_name_is_refused(tmp_path, text):
    (tmp_path / "x.tif").write_text(text)
    with pytest.raises(FormatError):
        read_raster(tmp_path / "x.tif")


def test_a_raster_is_read_only_and_fits_its_grid():
    with pytest.raises(ValueError):
        heights().data[0, 0, 0] = 1
    with pytest.raises(ValueError):
        Raster(data=np.zeros((1, 2, 3)), grid=GRID)


@pytest.mark.parametrize(
    ("lon", "lat", "code"),
    [(114.3, 30.5, 4547), (121.47, 31.2, 4549), (91.1, 29.6, 4539), (-91.99, 46.8, 32615), (20.0, -30.0, 32734)],
)
def test_the_report_crs_follows_the_place(lon, lat, code):
    assert report_crs(lon, lat).to_epsg() == code


def test_a_central_meridian_is_within_one_and_a_half_degrees():
    for lon in np.linspace(73.6, 136.4, 200):
        meridian = report_crs(float(lon), 30.0).coordinate_operation.params[1].value
        assert abs(meridian - lon) <= 1.5 + 1e-9


def test_geometry_moves_and_comes_back():
    point = {"type": "Point", "coordinates": [114.3, 30.5]}
    there = transform_geometry(point, CRS.from_epsg(4490), CRS.from_epsg(4547))
    back = transform_geometry(there, CRS.from_epsg(4547), CRS.from_epsg(4490))
    assert back["coordinates"] == pytest.approx(point["coordinates"], abs=1e-9)  # 0.1 mm
    assert "EPSG:4547" in crs_label(CRS.from_epsg(4547))


def test_unknown_or_impossible_places_are_refused():
    with pytest.raises(CrsError):
        parse_crs("EPSG:1")
    with pytest.raises(CrsError):
        report_crs(200.0, 10.0)
