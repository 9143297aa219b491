"""Indications: nothing is found in an untouched flight, and each thing put into one is found, by name and with its strength."""

from __future__ import annotations

import io
import struct
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from drone.appearance import Appearance, appearance_of, distance
from drone.authenticity import Indication, estimate_lag, examine, examine_reconstruction
from drone.georeference import attitude_rotation, positions_of
from drone.metadata import Look, _thumbnail, look_through, read_flight
from drone.strips import convergence, strips_of
from drone.types import AccuracyReport, Flight, Pose, Reconstruction
from tests.drone.paper_flight import Shot, changed, plan, write


def looked(folder: Path, shots: list[Shot]) -> tuple[Flight, dict[str, Appearance]]:
    return look_through(write(folder, shots), appearance_of)


def found(indications: tuple[Indication, ...]) -> dict[str, Indication]:
    """Message id -> indication, of what was found; every text is complete in both languages."""
    for indication in indications:
        for message in (indication.statement, indication.reason):
            if message is not None:
                assert all("{" not in message.render(lang) and "drone." not in message.render(lang) for lang in ("zh", "en"))
        assert (indication.strength is None) == (indication.outcome != "found")
    return {i.statement.id.removeprefix("drone.auth_"): i for i in indications if i.outcome == "found"}


def test_an_untouched_flight_gives_no_indication(tmp_path: Path) -> None:
    flight, looks = looked(tmp_path, plan())
    indications = examine(flight, looks)
    assert found(indications) == {}
    outcome = {i.test: i.outcome for i in indications}
    assert outcome.pop("velocity") == outcome.pop("thumbnails") == "not_checked"  # the photos have neither
    assert set(outcome.values()) == {"nothing_found"} and len(outcome) == 11
    assert [i.test for i in indications] == [i.test for i in examine(flight, looks)]


def again(data: bytes) -> bytes:
    """Saved anew by a program, metadata kept: begins with JFIF."""
    with Image.open(io.BytesIO(data)) as image:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=60, exif=image.info["exif"], xmp=image.info["xmp"])
    return buffer.getvalue()


CASES = {
    "saved_again": ((3, 7), {"file": again}, "strong"),
    "editor_named": ((2,), {"software": "Adobe Photoshop 25.1"}, "strong"),
    "size_changed": ((4,), {"stated_width": 400}, "strong"),
    "no_maker_note": ((5,), {"maker_note": False}, "moderate"),
    "bodies": ((1,), {"serial": "CAM-2"}, "weak"),
    "clock_jumps": ((6,), {"clock": timedelta(seconds=55)}, "moderate"),
    "two_positions": ((8,), {"exif_east": 500.0}, "moderate"),
    "too_fast": ((9,), {"told_east": 3000.0, "exif_east": 3000.0}, "strong"),
}


@pytest.mark.parametrize("case", sorted(CASES))
def test_what_is_put_in_is_found(tmp_path: Path, case: str) -> None:
    which, values, strength = CASES[case]
    flight, looks = looked(tmp_path, changed(plan(), which, **values))
    indication = found(examine(flight, looks))[case]
    assert indication.strength == strength
    put = {f"DJI_{k + 1:04d}.JPG" for k in which}
    # A speed lies between two photos; the rest names what was changed, and nothing else.
    assert put <= set(indication.photos) if case == "too_fast" else set(indication.photos) == put


def test_other_tables_of_one_camera(tmp_path: Path) -> None:
    write(tmp_path, plan())
    write(tmp_path, [s for k, s in enumerate(plan()) if k == 11], quality=70)
    flight, looks = look_through(tmp_path, appearance_of)
    indication = found(examine(flight, looks))["other_tables"]
    assert (indication.photos, indication.strength) == (("DJI_0012.JPG",), "moderate")


def test_missing_numbers_and_counts(tmp_path: Path) -> None:
    flight, looks = looked(tmp_path, [s for k, s in enumerate(plan()) if k not in (5, 6)])
    result = found(examine(flight, looks))
    assert result["numbers_missing"].photos == ("DJI_0005.JPG", "DJI_0008.JPG")
    assert result["numbers_missing"].statement.values["missing"] == 2
    assert result["shutter_skipped"].strength == result["numbers_missing"].strength == "weak"


def test_photos_put_in_another_order(tmp_path: Path) -> None:
    shots = plan()
    names = [s.name for s in shots]
    for a, b in ((2, 9), (4, 12)):
        names[a], names[b] = names[b], names[a]
    shots = [changed([s], (0,), name=n)[0] for s, n in zip(shots, names, strict=True)]
    flight, looks = looked(tmp_path, shots)
    assert found(examine(flight, looks))["numbers_disordered"].strength == "moderate"
    # A counter that starts again is one step back and no other order.
    shots = [changed([s], (0,), name=f"DJI_{(9990 + k - 1) % 9999 + 1:04d}.JPG")[0] for k, s in enumerate(plan())]
    flight, looks = looked(tmp_path / "wrapped", shots)
    assert "numbers_disordered" not in found(examine(flight, looks))


def test_a_count_that_runs_back(tmp_path: Path) -> None:
    flight, looks = looked(tmp_path, changed(plan(), (7,), count=100))
    assert "DJI_0008.JPG" in found(examine(flight, looks))["shutter_back"].photos


def test_two_flights_in_one_folder(tmp_path: Path) -> None:
    shots = [changed([s], (0,), time=s.time + timedelta(hours=26 * (k >= 10)))[0] for k, s in enumerate(plan())]
    flight, looks = looked(tmp_path, shots)
    indication = found(examine(flight, looks))["sessions"]
    assert (indication.statement.values["parts"], indication.photos) == (2, ("DJI_0001.JPG", "DJI_0011.JPG"))


def test_one_picture_in_two_files(tmp_path: Path) -> None:
    write(tmp_path, plan())
    data = {p.name: p for p in tmp_path.iterdir()}

    def picture_of(source: str, target: str, turned: bool) -> None:
        """Saves the picture of one photo with the metadata of another, at a lower quality."""
        with Image.open(data[source]) as one, Image.open(data[target]) as other:
            image = one.transpose(Image.Transpose.ROTATE_180) if turned else one
            extra = {"exif": other.info["exif"], "xmp": other.info["xmp"]}
            image.save(data[target], "JPEG", quality=60, **extra)

    picture_of("DJI_0002.JPG", "DJI_0013.JPG", turned=False)
    picture_of("DJI_0005.JPG", "DJI_0009.JPG", turned=True)
    result = found(examine(*look_through(tmp_path, appearance_of)))
    assert result["same_picture_elsewhere"].photos == ("DJI_0002.JPG", "DJI_0013.JPG")
    assert result["same_picture_turned"].photos == ("DJI_0005.JPG", "DJI_0009.JPG")
    assert {result[k].strength for k in ("same_picture_elsewhere", "same_picture_turned")} == {"strong"}


def test_copies_of_a_file(tmp_path: Path) -> None:
    write(tmp_path, plan())
    (tmp_path / "DJI_0099.JPG").write_bytes((tmp_path / "DJI_0002.JPG").read_bytes())
    result = found(examine(*look_through(tmp_path, appearance_of)))
    assert result["same_bytes"].photos == ("DJI_0002.JPG", "DJI_0099.JPG") and result["same_bytes"].strength == "weak"


def test_fingerprints_of_other_photos_are_far_apart(tmp_path: Path) -> None:
    _, looks = looked(tmp_path, plan())
    names = sorted(looks)
    apart = [distance(looks[a], looks[b]) for i, a in enumerate(names) for b in names[i + 1 :]]
    assert min(apart) > 60  # of 256; the bound for one picture is 35


def exif_with_thumbnail(thumbnail: bytes) -> bytes:
    """The smallest EXIF block with a second directory that points at a JPEG (TIFF 6.0; Exif 2.32, 4.6.3)."""
    empty = struct.pack("<H", 0) + struct.pack("<I", 14)
    start = 14 + 2 + 2 * 12 + 4
    second = struct.pack("<H", 2) + struct.pack("<HHII", 0x0201, 4, 1, start)
    second += struct.pack("<HHII", 0x0202, 4, 1, len(thumbnail)) + struct.pack("<I", 0)
    return b"Exif\0\0" + b"II*\0" + struct.pack("<I", 8) + empty + second + thumbnail


def test_thumbnails_are_compared_with_their_bars(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    picture = np.kron(rng.integers(40, 200, (9, 16)), np.ones((40, 40))).astype(np.uint8)
    small = np.zeros((120, 160), np.uint8)
    small[15:105] = np.asarray(Image.fromarray(picture).resize((160, 90), Image.Resampling.BOX))
    for turn, upright in ((1, True), (-1, False)):
        buffer = io.BytesIO()
        Image.fromarray(small[::turn, ::turn]).save(buffer, "JPEG", quality=85)
        block = exif_with_thumbnail(buffer.getvalue())
        read = _thumbnail(block, {0x0201: 44, 0x0202: len(buffer.getvalue())})
        assert read is not None and read.shape == (120, 160)
        look = appearance_of(Look(picture, read))
        assert look.thumbnail is not None and look.thumbnail_turned is not None
        assert (look.thumbnail > 0.95) == upright and (look.thumbnail_turned > 0.95) == (not upright)
    assert _thumbnail(b"Exif\0\0II*\0", {0x0201: 44, 0x0202: 300_000}) is None
    assert _thumbnail(block, {0x0201: 44, 0x0202: 50}) is None


# --------------------------------------------------------------------------------------------------------------------
# Against the reconstruction


def block_of(
    flight: Flight, shift: np.ndarray, *, turned: tuple[str, ...] = (), control: str = "ground_points"
) -> Reconstruction:
    """A block whose cameras stand `shift` (N, 3) m from the positions told, in the order of the names."""
    given = positions_of(flight)
    poses = {}
    for k, photo in enumerate(flight.photos):
        assert photo.attitude is not None and photo.position is not None
        yaw = photo.attitude[0] - convergence(flight.crs, *photo.position[:2]) + 180 * (photo.name in turned)
        poses[photo.name] = Pose(R=attitude_rotation((yaw, *photo.attitude[1:])), C=given[photo.name] + shift[k])
    report = AccuracyReport(
        reprojection_rmse=0.5,
        gsd=0.02,
        ground_points=(),
        check_rmse_horizontal=None,
        check_rmse_vertical=None,
        gps_rmse_horizontal=None,
        gps_rmse_vertical=None,
        control=control,  # type: ignore[arg-type]
        position_sd=(0.02, 0.02, 0.03),
        scale_sd=0.0,
    )
    return Reconstruction(
        flight=flight,
        poses=poses,
        cameras=flight.cameras,
        points=np.zeros((0, 3)),
        track_offsets=np.zeros(1, np.int64),
        track_photos=np.zeros(0, np.int32),
        track_pixels=np.zeros((0, 2), np.float32),
        unregistered={},
        accuracy=report,
    )


@pytest.fixture(scope="module")
def long_flight(tmp_path_factory: pytest.TempPathFactory) -> Flight:
    return read_flight(write(tmp_path_factory.mktemp("long"), plan(4, 8)))


def directions(flight: Flight) -> np.ndarray:
    """Unit vector of the flight at each photo, by the strips' headings."""
    heading = {name: strip.heading for strip in strips_of(flight) for name in strip.photos}
    angle = np.radians([heading[photo.name] or 0.0 for photo in flight.photos])
    return np.column_stack([np.sin(angle), np.cos(angle), 0 * angle])


@pytest.mark.parametrize("seconds", [-0.4, 0.15, 3.0])
def test_a_lag_is_estimated_with_its_error(long_flight: Flight, seconds: float) -> None:
    rng = np.random.default_rng(round(100 + 10 * seconds))
    u = directions(long_flight)
    # Strips are 98 m long and take 14 s: 7 m/s. A lag puts the camera ahead of the position told.
    shift = 7 * seconds * u + [0.5, -0.3, 1.0] + rng.normal(0, 0.1, u.shape)
    block = block_of(long_flight, shift)
    lag = estimate_lag(block)
    assert lag is not None and lag.seconds is not None and lag.seconds_sd is not None
    # 0.1 m over the root of 64 equations, along half of which the flight goes; some is lost to shift, turn and scale.
    assert 0.1 / 7 / np.sqrt(64) < lag.seconds_sd < 2.5 * 0.1 / 7 / np.sqrt(32)
    assert abs(lag.seconds - seconds) < 4 * lag.seconds_sd
    indication = found(examine_reconstruction(block))["lag_s"]
    assert indication.strength == ("moderate" if abs(seconds) > 2 else "weak")


@pytest.mark.parametrize("memory", [0.0, 0.7])
def test_without_a_lag_the_test_stays_quiet(long_flight: Flight, memory: float) -> None:
    """White errors, and errors that go on from photo to photo as a receiver's do."""
    rng = np.random.default_rng(77)
    still = block_of(long_flight, np.zeros((32, 3)))
    called, tries = 0, 200
    inside = 0
    for _ in range(tries):
        noise = rng.normal(0, 0.5, (32, 3))
        for k in range(1, 32):
            noise[k] = memory * noise[k - 1] + np.sqrt(1 - memory**2) * noise[k]
        poses = {name: replace(pose, C=pose.C + off) for (name, pose), off in zip(still.poses.items(), noise, strict=True)}
        lag = estimate_lag(replace(still, poses=poses))
        assert lag is not None
        called += lag.probability < 0.05
        inside += abs(lag.offset) < 2 * lag.offset_sd
    # Nominal 5 %; 200 tries give it to 1.6 %: three sigma. A share far below would mean that the error is stated too large.
    assert 0.005 < called / tries < 0.05 + 3 * 0.016
    assert inside / tries > 0.95 - 3 * 0.016


def test_one_direction_tells_no_lag(tmp_path: Path) -> None:
    flight = read_flight(write(tmp_path, plan(1, 8)))
    block = block_of(flight, np.random.default_rng(1).normal(0, 0.1, (8, 3)))
    assert estimate_lag(block) is None
    (lag,) = [i for i in examine_reconstruction(block) if i.test == "lag"]
    assert lag.outcome == "not_checked"


def test_turned_pictures_and_wrong_positions(long_flight: Flight) -> None:
    shift = np.random.default_rng(2).normal(0, 0.1, (32, 3))
    shift[20, 0] += 40.0
    result = found(examine_reconstruction(block_of(long_flight, shift, turned=("DJI_0004.JPG", "DJI_0005.JPG"))))
    assert result["turned"].photos == ("DJI_0004.JPG", "DJI_0005.JPG") and result["turned"].strength == "strong"
    assert result["turned"].statement.values["angle"] == "180"
    assert result["misfit"].photos == ("DJI_0021.JPG",)
    clean = examine_reconstruction(block_of(long_flight, np.random.default_rng(3).normal(0, 0.1, (32, 3))))
    assert set(found(clean)) <= {"lag_s"}
    free = {i.test: i.outcome for i in examine_reconstruction(block_of(long_flight, shift, control="none"))}
    assert free["turned"] == free["misfits"] == "not_checked"


def test_real_photos_that_were_saved_again(shared: Path) -> None:
    """The middle strip of brighton_beach was opened, turned and saved in Windows' photo viewer; the others are as on the card."""
    flight, looks = look_through(shared / "data" / "drone" / "brighton_beach" / "images", appearance_of)
    result = found(examine(flight, looks))
    middle = tuple(f"DJI_00{n}.JPG" for n in range(24, 30))
    assert set(result) == {"saved_again", "editor_named", "changed_later"}
    assert {indication.photos for indication in result.values()} == {middle}
    assert all(look.thumbnail is not None and look.thumbnail > 0.9 for look in looks.values())
