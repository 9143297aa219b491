"""Uploads that are replayed, cut, reordered, misnamed or too long: what was received stays as it was, nothing else is written."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.testclient import TestClient

from app.uploads import UploadArea, UploadConfig, safe_name, upload_routes
from geoevidence.errors import InputError

CASE = "C-0123456789"
TUS = {"Tus-Resumable": "1.0.0"}
CONTENT = bytes(range(256)) * 8


@pytest.fixture
def area(tmp_path: Path) -> UploadArea:
    return UploadArea(tmp_path, config=UploadConfig(max_size=1 << 20, reserve=0))


@pytest.fixture
def client(area: UploadArea) -> Iterator[TestClient]:
    app = Starlette(routes=upload_routes(area, case_exists=lambda case: case == CASE, now=lambda: 0.0))
    with TestClient(app) as made:
        yield made


def start(client: TestClient, *, name: str = "a.bin", size: int = len(CONTENT)) -> str:
    metadata = f"filename {base64.b64encode(name.encode('utf-8', 'surrogatepass')).decode()}"
    answer = client.post(f"/uploads/{CASE}", headers={**TUS, "Upload-Metadata": metadata, "Upload-Length": str(size)})
    assert answer.status_code == 201, answer.text
    return str(answer.headers["location"])


def send(client: TestClient, address: str, offset: object, body: bytes, **headers: str) -> int:
    fields = {**TUS, "Upload-Offset": str(offset), "Content-Type": "application/offset+octet-stream", **headers}
    return client.patch(address, headers=fields, content=body).status_code


def stored(area: UploadArea, address: str) -> bytes:
    return area.data_path(CASE, address.rpartition("/")[2]).read_bytes()


def test_a_chunk_sent_again_changes_nothing(client: TestClient, area: UploadArea) -> None:
    address = start(client)
    assert send(client, address, 0, CONTENT[:500]) == 204
    for replay in (CONTENT[:500], b"x" * 500, b"", CONTENT):
        assert send(client, address, 0, replay) == 409
        assert stored(area, address) == CONTENT[:500]
    assert send(client, address, 500, CONTENT[500:]) == 204
    for offset in (0, 500, len(CONTENT) - 1):
        assert send(client, address, offset, CONTENT[offset:]) == 409
    assert stored(area, address) == CONTENT


def test_chunks_out_of_order_are_refused(client: TestClient, area: UploadArea) -> None:
    address = start(client)
    assert send(client, address, 1000, CONTENT[1000:]) == 409
    assert send(client, address, 0, CONTENT[:1000]) == 204
    assert send(client, address, 1500, CONTENT[1500:]) == 409
    assert send(client, address, 1000, CONTENT[1000:1500]) == 204
    assert send(client, address, 1500, CONTENT[1500:]) == 204
    assert hashlib.sha256(stored(area, address)).digest() == hashlib.sha256(CONTENT).digest()


@pytest.mark.parametrize("offset", ["", "-1", "+0", "0x0", "00", " 0 1", "1e3", "9" * 400, "０"])
def test_an_offset_that_is_no_number_is_refused(client: TestClient, area: UploadArea, offset: str) -> None:
    address = start(client)
    fields = [*TUS.items(), ("Content-Type", "application/offset+octet-stream"), ("Upload-Offset", offset.encode())]
    assert client.patch(address, headers=fields, content=CONTENT).status_code == 409
    assert stored(area, address) == b""


def test_a_cut_upload_is_not_staged_and_goes_on(client: TestClient, area: UploadArea) -> None:
    """A sender that stops: what arrived is kept and told, and the case gets nothing of it before it is whole."""
    address = start(client)

    def cut() -> Iterator[bytes]:
        yield CONTENT[:700]
        yield CONTENT[700:900]

    assert (
        client.patch(
            address, headers={**TUS, "Upload-Offset": "0", "Content-Type": "application/offset+octet-stream"}, content=cut()
        ).status_code
        == 204
    )
    assert client.head(address, headers=TUS).headers["upload-offset"] == "900"
    with pytest.raises(InputError), area.staged(CASE):
        pass
    assert send(client, address, 900, CONTENT[900:]) == 204
    with area.staged(CASE) as folder:
        assert (folder / "a.bin").read_bytes() == CONTENT


def test_more_than_promised_is_refused_and_the_rest_kept(client: TestClient, area: UploadArea) -> None:
    address = start(client, size=100)
    assert send(client, address, 0, b"x" * 101) == 413
    assert len(stored(area, address)) <= 100
    offset = int(client.head(address, headers=TUS).headers["upload-offset"])
    assert send(client, address, offset, b"y" * (100 - offset)) == 204
    assert send(client, address, 100, b"z") == 413
    assert len(stored(area, address)) == 100


@pytest.mark.parametrize(
    "headers",
    [{"Content-Type": "text/plain"}, {"Content-Type": "multipart/form-data"}, {"Tus-Resumable": "0.2.2"}],
)
def test_another_protocol_is_refused(client: TestClient, area: UploadArea, headers: dict[str, str]) -> None:
    address = start(client)
    assert send(client, address, 0, CONTENT, **headers) in (412, 415)
    assert stored(area, address) == b""


@pytest.mark.parametrize(
    "name",
    [
        "../x", "a/../../x", "/x", "\\\\host\\x", "..\\x", "C:/x", "a\x00b", "a\u202egpj.exe", "a\u200bb", "CON", "aux.txt", "a.", "a ",
        "COM1", "a:b", "a//b", "./a", "", "x" * 300, "a/" * 400 + "b",
    ],
)  # fmt: skip
def test_a_name_that_ingest_would_skip_is_refused_before_a_byte_is_sent(
    client: TestClient, area: UploadArea, tmp_path: Path, name: str
) -> None:
    with pytest.raises(InputError):
        safe_name(name)
    before = sorted(tmp_path.rglob("*"))
    metadata = f"filename {base64.b64encode(name.encode()).decode()}"
    answer = client.post(f"/uploads/{CASE}", headers={**TUS, "Upload-Metadata": metadata, "Upload-Length": "1"})
    assert answer.status_code == 400
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "address",
    [f"/uploads/{CASE}/{'0' * 31}", f"/uploads/{CASE}/..%2f..%2fx", "/uploads/C-0/..", f"/uploads/..%2f{CASE}/{'0' * 32}"],
)
def test_addresses_that_lead_elsewhere_are_unknown(client: TestClient, tmp_path: Path, address: str) -> None:
    before = sorted(tmp_path.rglob("*"))
    for method in ("HEAD", "PATCH", "DELETE"):
        assert client.request(method, address, headers={**TUS, "Upload-Offset": "0"}).status_code in (400, 404, 405)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "names", [("a", "a/b"), ("a/b", "a"), ("a/b/c", "A/B"), ("x.jpg", "X.JPG"), ("ss/a", "ß"), ("a", "a", "a/b", "A/B/c")]
)
def test_names_that_collide_are_all_kept(area: UploadArea, names: tuple[str, ...]) -> None:
    """A file named like another's folder would stop every later upload of the case."""
    for number, name in enumerate(names):
        upload = area.create(CASE, name=name, size=1)
        area.data_path(CASE, upload.id).write_bytes(bytes([number]))
    with area.staged(CASE) as folder:
        kept = sorted(path.read_bytes()[0] for path in folder.rglob("*") if path.is_file())
    assert kept == list(range(len(names)))
    assert area.list(CASE) == ()


def test_an_archive_is_kept_as_it_came(client: TestClient, area: UploadArea) -> None:
    """Nothing unpacks what is uploaded."""
    import io
    import zipfile

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("../../evil.txt", b"x")
    address = start(client, name="a.zip", size=len(buffer.getvalue()))
    assert send(client, address, 0, buffer.getvalue()) == 204
    with area.staged(CASE) as folder:
        assert [path.name for path in folder.rglob("*")] == ["a.zip"]
        assert (folder / "a.zip").read_bytes() == buffer.getvalue()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pieces=st.lists(st.tuples(st.integers(0, 2100), st.integers(0, 700)), max_size=12))
def test_any_order_of_pieces_gives_a_beginning_of_the_file(
    client: TestClient, area: UploadArea, pieces: list[tuple[int, int]]
) -> None:
    """Whatever offsets and lengths arrive, what is on disk is a prefix of what was sent."""
    address = start(client)
    for offset, length in pieces:
        received = len(stored(area, address))
        status = send(client, address, offset, CONTENT[offset : offset + length])
        assert status == (204 if offset == received else 409)
        assert stored(area, address) == CONTENT[: len(stored(area, address))]
    client.delete(address, headers=TUS)
