"""Three forms of point files give the same points, and what is wrong in one is named with its line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import CRS

from drone.metadata import MetadataConfig, read_flight
from drone.types import Flight, GroundPoint
from geoevidence.crs import transformer
from geoevidence.errors import CrsError, FormatError, GeoEvidenceError
from tests.drone.test_metadata import GK, LAT, LON, photo

X, Y = transformer(CRS.from_epsg(4326), GK).transform(LON, LAT)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("points")
    for name in ("a.jpg", "b.jpg"):
        photo(folder / name)
    return folder


def read(photos: Path, path: Path, text: str, **options: Any) -> Flight:
    path.write_text(text, "utf-8")
    return read_flight(photos, gcp=path, **options)


def facts(points: tuple[GroundPoint, ...]) -> list[tuple[Any, ...]]:
    return [(p.name, p.role, p.sd, p.position, dict(p.observations)) for p in points]


ODM = f"EPSG:4547\n{X!r} {Y!r} 24.5 10.5 20.25 a.jpg P1\n{X!r} {Y!r} 24.5 30 40 b.jpg P1\n{X + 9!r} {Y!r} 25 11 12 a.jpg P2\n"


def test_the_three_forms_say_the_same(photos: Path, tmp_path: Path) -> None:
    config = MetadataConfig(control_sd=(0.02, 0.02, 0.04))
    odm = read(photos, tmp_path / "gcp_list.txt", ODM, config=config)
    table = read(
        photos,
        tmp_path / "points.csv",
        "# EPSG:4547\n点名,东坐标,北坐标,高程,照片,列,行,类型,sd_xy,sd_z\n"
        f"P1,{X!r},{Y!r},24.5,a.jpg,10.5,20.25,控制点,0.02,0.04\nP1,{X!r},{Y!r},24.5,b.jpg,30,40,控制点,0.02,0.04\n"
        f"P2,{X + 9!r},{Y!r},25,a.jpg,11,12,控制点,0.02,0.04\n",
    )
    (tmp_path / "pix_marks.csv").write_text("a.jpg,P1,10.5,20.25,1.0\nP1,b.jpg,30,40\na.jpg,P2,11,12\n")
    (tmp_path / "pix.prj").write_text(GK.to_wkt("WKT1_ESRI"))
    pix4d = read(photos, tmp_path / "pix.txt", f"P1,{X!r},{Y!r},24.5,0.02,0.04\nP2,{X + 9!r},{Y!r},25,0.02,0.04\n")
    assert facts(odm.ground_points) == facts(table.ground_points)
    assert [f[:3] for f in facts(pix4d.ground_points)] == [f[:3] for f in facts(odm.ground_points)]
    for a, b in zip(pix4d.ground_points, odm.ground_points, strict=True):
        assert a.position == pytest.approx(b.position, abs=1e-4)  # ESRI's names of the same datum
        assert dict(a.observations) == dict(b.observations)
    assert not odm.gaps and not table.gaps


def test_roles_by_line_and_by_name(photos: Path, tmp_path: Path) -> None:
    text = (
        "name;x;y;z;photo;col;row;role;crs\n"
        f"P1;{X};{Y};24;a.jpg;1;2;control;EPSG:4547\nP2;{X};{Y + 1};24;a.jpg;5;6;check;EPSG:4547\n"
        f"CHK-3;{X};{Y + 2};24;b.jpg;5;6;;EPSG:4547\n"
    )
    flight = read(photos, tmp_path / "t.csv", text)
    assert {p.name: p.role for p in flight.ground_points} == {"P1": "control", "P2": "check", "CHK-3": "check"}
    with pytest.raises(FormatError) as caught:
        read_flight(photos, checks=tmp_path / "t.csv")
    assert (caught.value.message_id, caught.value.values["line"]) == ("drone.gcp_control_among_checks", 2)


def test_longitude_and_latitude(photos: Path, tmp_path: Path) -> None:
    flight = read(
        photos, tmp_path / "t.csv", f"# CRS: EPSG:4490\nname,lon,lat,height,photo,col,row\nP,{LON},{LAT},24,a.jpg,1,2\n", crs=GK
    )
    assert flight.ground_points[0].position == pytest.approx((X, Y, 24.0), abs=1e-4)


def test_a_file_without_a_reference_system_is_read_in_the_flights_and_says_so(photos: Path, tmp_path: Path) -> None:
    flight = read(photos, tmp_path / "p.csv", f"P1,{X!r},{Y!r},24.5\n")
    assert flight.ground_points[0].position == pytest.approx((X, Y, 24.5))
    assert [gap.id for gap in flight.gaps] == ["drone.gcp_crs_assumed", "drone.gcp_unmarked"]


@pytest.mark.parametrize(
    ("head", "x", "y", "message", "likely"),
    [
        ("EPSG:4548", X, Y, "drone.gcp_other_crs", "EPSG:4547"),  # the neighbouring zone
        ("EPSG:4526", X, Y, "drone.gcp_other_crs", "EPSG:4547"),  # with and without zone number
        ("EPSG:32650", X, Y, "drone.gcp_other_crs", "EPSG:4547"),
        ("EPSG:4547", LON, LAT, "drone.gcp_other_crs", "EPSG:4490"),
        ("EPSG:4548", Y, X, "drone.gcp_other_crs_swapped", "EPSG:4547"),
        ("EPSG:4547", Y, X, "drone.gcp_axes_swapped", None),
        ("EPSG:4547", X + 90_000, Y, "drone.gcp_far_away", None),
    ],
)
def test_the_wrong_reference_system_is_named(
    photos: Path, tmp_path: Path, head: str, x: float, y: float, message: str, likely: str | None
) -> None:
    with pytest.raises(CrsError) as caught:
        read(photos, tmp_path / "gcp.txt", f"{head}\n{x!r} {y!r} 24 1 2 a.jpg P\n", crs=GK)
    assert caught.value.message_id == message
    assert likely is None or likely in str(caught.value.values["likely"])
    assert all("{" not in caught.value.render(lang) for lang in ("zh", "en"))


def test_heights_of_two_kinds_are_noticed(photos: Path, tmp_path: Path) -> None:
    def heights(*values: float) -> list[str]:
        rows = "".join(f"{X + k} {Y} {z} {k} 2 a.jpg P{k}\n" for k, z in enumerate(values))
        return [gap.id for gap in read(photos, tmp_path / "gcp.txt", "EPSG:4547\n" + rows).gaps]

    assert heights(24.1, 25.0, 23.7, 39.0, 39.9) == ["drone.gcp_height_groups"]
    assert heights(24.1, 25.0, 23.7, 27.0, 26.0) == []
    assert heights(10.0, 20.0, 30.0, 40.0, 50.0) == []  # a slope


@pytest.mark.parametrize(
    ("text", "expected", "line"),
    [
        ("name,x,y,z,photo\nP,1,2,3,a.jpg\n", "drone.gcp_bad_cell", 2),
        ("name,x,y,z\nP,1,2,\n", "drone.gcp_bad_cell", 2),
        ("name,x,y,z,role\nP,1,2,3,tie\n", "drone.gcp_bad_cell", 2),
        ("name,x,y,z,sd_xy\nP,1,2,3,0.1\n", "drone.gcp_bad_sd", 2),
        ("name,x,y,z,sd_xy,sd_z\nP,1,2,3,0.1,-1\n", "drone.gcp_bad_sd", 2),
        ("P,1,2,3\nQ,1,2\n", "drone.gcp_bad_pix4d", 2),
        ("P,1,2,3,0,0.1\n", "drone.gcp_bad_sd", 1),
        ("name,x,y,z,crs\nP,1,2,3,EPSG:4547\nQ,1,2,3,EPSG:4548\n", "drone.gcp_several_crs", None),
        ("name,x,y,z,crs\nP,1,2,3,4711000\n", "drone.gcp_unknown_crs", None),
        (f"EPSG:4547\nP,{X},{Y},24\nP,{X},{Y},25\n", "drone.gcp_two_positions", 3),
        ("name,x,y,z\n", "drone.gcp_empty", None),
        ("name,x,y,z,photo,col,row\nP,1,2,3,c.jpg,1,2\n", "drone.gcp_unknown_photo", 2),
    ],
)
def test_faults_are_named_with_their_line(photos: Path, tmp_path: Path, text: str, expected: str, line: int | None) -> None:
    with pytest.raises(GeoEvidenceError) as caught:
        read(photos, tmp_path / "p.csv", text)
    assert caught.value.message_id == expected
    assert line is None or caught.value.values["line"] == line
    assert all("{" not in caught.value.render(lang) for lang in ("zh", "en"))


@pytest.mark.parametrize(
    ("marks", "expected"),
    [
        ("a.jpg,Q,1,2\n", "drone.gcp_unknown_label"),
        ("a.jpg,P,1\n", "drone.gcp_bad_mark"),
        ("a.jpg,P,1,2\na.jpg,P,3,4\n", "drone.gcp_seen_twice"),
        ("a.jpg,P,100,2\n", "drone.gcp_outside_photo"),
    ],
)
def test_faulty_marks(photos: Path, tmp_path: Path, marks: str, expected: str) -> None:
    (tmp_path / "p_marks.txt").write_text("image,label,x,y\n" + marks)
    with pytest.raises(FormatError) as caught:
        read(photos, tmp_path / "p.csv", f"EPSG:4547\nP,{X},{Y},24\n")
    assert caught.value.message_id == expected


@settings(max_examples=40, deadline=None)
@given(st.text(alphabet="P1,;\t .-#xyzEPSG:4547\nname照片", max_size=120))
def test_hostile_text_raises_only_our_errors(photos: Path, tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "hostile.csv"
    try:
        read(photos, path, text)
    except GeoEvidenceError as error:
        assert error.message_id.startswith(("drone.", "core."))


class TestMarks:
    """Points that lie elsewhere than the photos show them, on the demonstration flight."""

    @staticmethod
    def said(sample_data: Path, tmp_path: Path, change: Any) -> list[tuple[str, Any]]:
        folder = sample_data / "flight"
        head, *rows = (folder / "gcp_list.txt").read_text().splitlines()
        changed_rows = [" ".join(change(row.split())) for row in rows]
        (tmp_path / "gcp.txt").write_text("\n".join([head, *changed_rows]))
        flight = read_flight(folder, gcp=tmp_path / "gcp.txt")
        ours = ("drone.points_shifted", "drone.point_misplaced", "drone.mark_misplaced")
        return [(gap.id.removeprefix("drone."), dict(gap.values)) for gap in flight.gaps if gap.id in ours]

    def test_right_points_are_quiet(self, sample_data: Path, tmp_path: Path) -> None:
        assert self.said(sample_data, tmp_path, lambda cells: cells) == []

    def test_a_shift_of_all(self, sample_data: Path, tmp_path: Path) -> None:
        def shifted(cells: list[str]) -> list[str]:
            return [f"{float(cells[0]) + 400:.3f}", f"{float(cells[1]) - 300:.3f}", *cells[2:]]

        ((kind, values),) = self.said(sample_data, tmp_path, shifted)
        assert kind == "points_shifted"
        assert float(values["distance"]) == pytest.approx(500, abs=5)
        assert float(values["azimuth"]) == pytest.approx(127, abs=2)

    def test_two_names_mixed_up(self, sample_data: Path, tmp_path: Path) -> None:
        swap = {"G1": "G5", "G5": "G1"}
        rows = [row.split() for row in (sample_data / "flight" / "gcp_list.txt").read_text().splitlines()[1:]]
        places = {cells[6]: cells[:3] for cells in rows}
        said = self.said(sample_data, tmp_path, lambda c: [*places[swap.get(c[6], c[6])], *c[3:]])
        assert {(kind, values["name"]) for kind, values in said} == {("point_misplaced", "G1"), ("point_misplaced", "G5")}

    def test_a_mark_in_the_wrong_photo(self, sample_data: Path, tmp_path: Path) -> None:
        rows = [row.split() for row in (sample_data / "flight" / "gcp_list.txt").read_text().splitlines()[1:]]
        of_g1 = [cells[5] for cells in rows if cells[6] == "G1"]
        assert len(of_g1) >= 4
        # The mark of its first photo, written for a photo of the other end of the flight.
        other = "SYN_0024.JPG"
        assert other not in of_g1
        said = self.said(sample_data, tmp_path, lambda c: [*c[:5], other, c[6]] if (c[5], c[6]) == (of_g1[0], "G1") else c)
        assert [(kind, values.get("photo")) for kind, values in said] == [("mark_misplaced", other)]
