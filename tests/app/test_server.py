"""Our routes without Streamlit: same origin, items by id, tiles, resumable uploads."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.testclient import TestClient

from app.server import LOOPBACK, SameOrigin, is_loopback, routes, serve
from app.tools import open_workspace
from app.uploads import UploadArea, UploadConfig, safe_name
from geoevidence.custody import Case, Workspace
from geoevidence.errors import ConfigError, CustodyError, InputError

TUS = {"Tus-Resumable": "1.0.0"}


@pytest.fixture(scope="module")
def client(sample_workspace: Workspace) -> Iterator[TestClient]:
    path = sample_workspace.path
    app = Starlette(
        routes=routes(path, open_workspace=lambda: open_workspace(path)), middleware=[Middleware(SameOrigin, hosts=LOOPBACK)]
    )
    with TestClient(app, base_url="http://127.0.0.1:8501") as test_client:
        yield test_client


def item_of(case: Case, name: str) -> str:
    return next(item.id for item in case.items() if item.path.endswith(name))


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 404),
        ({"Origin": "http://127.0.0.1:8501"}, 404),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Host": "evil.example"}, 403),
        ({"Host": "localhost:8501"}, 404),
    ],
)
def test_requests_of_other_sites_are_refused(client: TestClient, headers: dict[str, str], status: int) -> None:
    assert client.get("/files/C-0000000000/E-1-1-1", headers=headers).status_code == status


@pytest.mark.parametrize(
    ("host", "expected"), [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("evil.example", False)]
)
def test_is_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_a_file_comes_back_as_it_was_recorded(client: TestClient, sample_case: Case) -> None:
    item = next(item for item in sample_case.items() if item.path.endswith("S-001-series.csv"))
    answer = client.get(f"/files/{sample_case.id}/{item.id}")
    assert answer.status_code == 200
    assert hashlib.sha256(answer.content).hexdigest() == item.sha256
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in answer.headers["content-security-policy"]


def test_an_unknown_item_is_not_found(client: TestClient, sample_case: Case) -> None:
    assert client.get(f"/files/{sample_case.id}/E-00000000-1-1").status_code == 404
    assert client.get(f"/files/{sample_case.id}/..%2F..%2Fworkspace.json").status_code == 404
    assert client.get("/assets/map/..%2F..%2Fserver.py").status_code == 404


def tile_of(lon: float, lat: float, zoom: int) -> tuple[int, int]:
    """Column and row of the Web Mercator tile that holds a point (degrees)."""
    n = 2**zoom
    return int((lon + 180) / 360 * n), int((1 - np.arcsinh(np.tan(np.radians(lat))) / np.pi) / 2 * n)


def test_a_tile_shows_the_orthomosaic_where_it_lies(client: TestClient, sample_case: Case) -> None:
    from app.tiles import TileSource

    item = next(item for item in sample_case.items() if item.path.endswith("orthomosaic.tif"))
    source = TileSource.open(sample_case.path_of(item))
    west, south, east, north = source.bounds
    assert 17 <= source.maxzoom <= 19  # 0.5 m pixels: 2 pi 6378137 / 256 / 2^z = 0.5 / cos(30 deg) at z = 18.05
    x, y = tile_of((west + east) / 2, (south + north) / 2, source.maxzoom)
    answer = client.get(f"/tiles/{sample_case.id}/{item.id}/{source.maxzoom}/{x}/{y}.png")
    assert answer.status_code == 200
    pixels = np.asarray(Image.open(io.BytesIO(answer.content)).convert("RGBA"))
    assert pixels.shape == (256, 256, 4)
    assert (pixels[..., 3] == 255).mean() > 0.9
    # vegetation of the sample: (70, 110, 60) with a standard deviation of 8
    assert np.allclose(np.median(pixels[..., :3].reshape(-1, 3), axis=0), (70, 110, 60), atol=4)
    assert client.get(f"/tiles/{sample_case.id}/{item.id}/{source.maxzoom}/0/0.png").status_code == 204


def test_a_single_band_is_coloured_and_its_missing_pixels_are_transparent(client: TestClient, sample_case: Case) -> None:
    from app.tiles import TileSource

    item = next(item for item in sample_case.items() if item.path.endswith("magnitude.tif"))
    source = TileSource.open(sample_case.path_of(item))
    assert source.stretch is not None
    assert -0.45 < source.stretch[0] < source.stretch[1] < -0.25
    west, south, east, north = source.bounds
    x, y = tile_of((west + east) / 2, (south + north) / 2, source.minzoom)
    pixels = np.asarray(
        Image.open(io.BytesIO(client.get(f"/tiles/{sample_case.id}/{item.id}/{source.minzoom}/{x}/{y}.png").content)).convert(
            "RGBA"
        )
    )
    shown = pixels[..., 3] > 0
    assert 0.001 < shown.mean() < 0.3


def test_a_file_that_is_no_raster_has_no_tiles(client: TestClient, sample_case: Case) -> None:
    assert client.get(f"/tiles/{sample_case.id}/{item_of(sample_case, 'S-001-series.csv')}/1/0/0.png").status_code == 404


def test_a_report_may_be_shown_by_the_reader_of_the_browser(
    client: TestClient, sample_workspace: Workspace, tmp_path: Path
) -> None:
    case = sample_workspace.new_case("报告-1", fields={})
    (tmp_path / "r.pdf").write_bytes(b"%PDF-1.7\n")
    item = case.attach_report(tmp_path / "r.pdf", lang="zh", inputs=case.items(role="record"))
    answer = client.get(f"/files/{case.id}/{item.id}")
    assert answer.headers["content-type"] == "application/pdf"
    assert "sandbox" not in answer.headers["content-security-policy"]
    assert answer.headers["content-disposition"].startswith("inline")


def test_serving_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        serve(tmp_path, port=0)
    with pytest.raises(CustodyError):
        serve(tmp_path / "none")


# ---------------------------------------------------------------- uploads


def metadata(name: str) -> dict[str, str]:
    return {
        "Upload-Metadata": f"filename {base64.b64encode(name.encode()).decode()},filetype {base64.b64encode(b'image/jpeg').decode()}"
    }


def start(client: TestClient, case: Case, name: str, size: int) -> str:
    answer = client.post(f"/uploads/{case.id}", headers={**TUS, **metadata(name), "Upload-Length": str(size)})
    assert answer.status_code == 201, answer.text
    return answer.headers["location"]


def send(client: TestClient, address: str, offset: int, body: bytes) -> tuple[int, str | None]:
    headers = {**TUS, "Upload-Offset": str(offset), "Content-Type": "application/offset+octet-stream"}
    answer = client.patch(address, headers=headers, content=body)
    return answer.status_code, answer.headers.get("upload-offset")


def test_an_upload_goes_on_where_it_stopped(client: TestClient, sample_workspace: Workspace) -> None:
    case = sample_workspace.new_case("上传-1", fields={})
    content = bytes(range(256)) * 40
    address = start(client, case, "DCIM/图 1.jpg", len(content))
    assert send(client, address, 0, content[:3000]) == (204, "3000")
    assert send(client, address, 0, content[:3000])[0] == 409  # a wrong offset changes nothing
    assert client.head(address, headers=TUS).headers["upload-offset"] == "3000"
    assert send(client, address, 3000, content[3000:]) == (204, str(len(content)))
    assert send(client, address, len(content), b"x")[0] == 413
    area = UploadArea(sample_workspace.path)
    with area.staged(case.id) as folder:
        assert (folder / "DCIM" / "图 1.jpg").read_bytes() == content
        done = case.ingest(folder, label="网页上传", kind="received")
    assert area.list(case.id) == ()
    assert [item.sha256 for item in done.items] == [hashlib.sha256(content).hexdigest()]
    assert case.events()[-1].type == "received"
    assert done.short_code


@pytest.mark.parametrize("name", ["", "../x", "a//b", "/etc/passwd", "a/./b", "x\ny", "C:\\x", "a" * 300])
def test_a_bad_name_is_refused(client: TestClient, sample_case: Case, name: str) -> None:
    answer = client.post(f"/uploads/{sample_case.id}", headers={**TUS, **metadata(name), "Upload-Length": "1"})
    assert answer.status_code == 400
    assert "app." not in answer.text


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Upload-Length": "5"}, 412),
        ({**TUS}, 400),
        ({**TUS, "Upload-Length": "-1"}, 400),
        ({**TUS, "Upload-Length": "9" * 15}, 400),
    ],
)
def test_a_bad_creation_is_refused(client: TestClient, sample_case: Case, headers: dict[str, str], status: int) -> None:
    assert client.post(f"/uploads/{sample_case.id}", headers={**metadata("a.jpg"), **headers}).status_code == status


def test_no_upload_into_an_unknown_case(client: TestClient) -> None:
    headers = {**TUS, **metadata("a.jpg"), "Upload-Length": "1"}
    assert client.post("/uploads/C-0000000000", headers=headers).status_code == 404
    assert client.head(f"/uploads/C-0000000000/{'0' * 32}", headers=TUS).status_code == 404


def test_termination_removes_the_upload(client: TestClient, sample_case: Case) -> None:
    address = start(client, sample_case, "b.jpg", 10)
    assert client.delete(address, headers=TUS).status_code == 204
    assert client.head(address, headers=TUS).status_code == 404


def test_two_files_of_one_name_are_both_kept(tmp_path: Path) -> None:
    area = UploadArea(tmp_path)
    case = "C-0123456789"
    for content in (b"one", b"two"):
        upload = area.create(case, name="A.jpg" if content == b"one" else "a.JPG", size=3)
        area.data_path(case, upload.id).write_bytes(content)
    with area.staged(case) as folder:
        assert sorted(path.read_bytes() for path in folder.rglob("*") if path.is_file()) == [b"one", b"two"]


def test_what_did_not_come_into_custody_stays(tmp_path: Path) -> None:
    """A file that the disk would not give back while it was registered must not be swept away with the others."""
    area = UploadArea(tmp_path)
    case = "C-0123456789"
    for name in ("a.jpg", "DCIM/b.jpg"):
        upload = area.create(case, name=name, size=3)
        area.data_path(case, upload.id).write_bytes(b"one")
    skipped: set[str] = set()
    with area.staged(case, kept=skipped):
        skipped.add("DCIM/b.jpg")
    assert [upload.name for upload in area.list(case)] == ["DCIM/b.jpg"]


def test_a_failed_registration_keeps_the_upload(tmp_path: Path) -> None:
    area = UploadArea(tmp_path)
    upload = area.create("C-0123456789", name="a", size=0)
    with pytest.raises(InputError), area.staged("C-0123456789"):
        raise InputError("core.no_crs", path="a")
    assert [kept.id for kept in area.list("C-0123456789")] == [upload.id]
    assert [entry.name for entry in (tmp_path / "uploads" / "C-0123456789").iterdir()] == [upload.id]


def test_the_sweep_takes_old_partials_only(tmp_path: Path) -> None:
    area = UploadArea(tmp_path, config=UploadConfig(keep_seconds=100.0))
    partial, finished = area.create("C-0123456789", name="a", size=5), area.create("C-0123456789", name="b", size=0)
    touched = area.data_path("C-0123456789", partial.id).stat().st_mtime
    assert area.sweep(now=touched + 99) == 0
    assert area.sweep(now=touched + 101) == 1
    assert [kept.id for kept in area.list("C-0123456789")] == [finished.id]


def test_a_name_in_another_normal_form_is_the_same_name() -> None:
    assert safe_name("e\u0301.jpg") == "\u00e9.jpg"
    assert safe_name("a\\b.jpg") == "a/b.jpg"
