"""Resumable uploads into a workspace: the tus 1.0.0 protocol over files on disk.

Duty: take bytes in pieces, lose none, hold no more than one network chunk in memory. An upload is a folder
`uploads/<case id>/<upload id>/` with `info.json` (name and length, written once) and `data`. **The offset is the
size of `data`**: there is no second record of it that could disagree after a crash.
Nothing here is evidence yet: a finished upload becomes an item when the case ingests it (`staged`), and only then
leaves this folder. Unfinished ones are swept after a week; finished ones never are.
Extensions: creation, termination. Knows no streamlit.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import os
import re
import secrets
import shutil
import time
import unicodedata
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from anyio import to_thread
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from geoevidence.custody import name_problem
from geoevidence.errors import FormatError, GeoEvidenceError, InputError
from geoevidence.messages import render

TUS = "1.0.0"
_ID = re.compile(r"[0-9a-f]{32}")
_CASE = re.compile(r"C-[0-9a-f]{10}")


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadConfig:
    """Limits of the upload route.

    max_size: largest file, bytes.
    reserve: space that stays free on the disk, bytes.
    idle_seconds: a connection that sends nothing for so long is dropped, so that the client can resume.
    keep_seconds: an unfinished upload untouched for so long is swept.
    """

    max_size: int = 64 * 2**30
    reserve: int = 2**30
    idle_seconds: float = 15.0
    keep_seconds: float = 7 * 86400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """One upload. name: relative POSIX path as the sender gave it; size: bytes promised; received: bytes on disk."""

    id: str
    name: str
    size: int
    received: int

    @property
    def is_finished(self) -> bool:
        return self.received == self.size


def safe_name(text: str) -> str:
    """`text` as a relative POSIX path in NFC. Raises InputError for a name that ingest would not take.

    What is refused here is refused before a byte is sent; a finished upload is never dropped for its name.
    """
    name = unicodedata.normalize("NFC", text).replace("\\", "/")
    # `staged` may put a folder of its own around it
    if name_problem(name) is not None or name_problem(f"{'0' * 32}/{name}") is not None:
        raise InputError("app.upload_bad_name", name=repr(text))
    return name


def parse_metadata(header: str) -> dict[str, str]:
    """Key -> text of an `Upload-Metadata` header. Raises FormatError."""
    values: dict[str, str] = {}
    for pair in filter(None, (part.strip() for part in header.split(","))):
        key, _, encoded = pair.partition(" ")
        try:
            values[key] = base64.b64decode(encoded, validate=True).decode("utf-8")
        except (binascii.Error, UnicodeDecodeError) as error:
            raise FormatError("app.upload_bad_metadata", field=key) from error
    return values


class UploadArea:
    """The uploads of one workspace folder."""

    def __init__(self, workspace: Path, *, config: UploadConfig | None = None) -> None:
        self.root = workspace / "uploads"
        self.config = config or UploadConfig()

    def _folder(self, case: str, upload: str) -> Path:
        if not _CASE.fullmatch(case) or not _ID.fullmatch(upload):
            raise InputError("app.upload_unknown", upload=upload)
        return self.root / case / upload

    def create(self, case: str, *, name: str, size: int) -> Upload:
        """A new, empty upload. Raises InputError for a bad name, a wrong size or a full disk."""
        made = Upload(id=secrets.token_hex(16), name=safe_name(name), size=size, received=0)
        if not 0 <= size <= self.config.max_size:
            raise InputError("app.upload_too_large", name=made.name, limit=f"{self.config.max_size:,}", found=f"{size:,}")
        folder = self._folder(case, made.id)
        folder.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder.parent).free
        if free < size + self.config.reserve:
            raise InputError("app.upload_disk_full", name=made.name, found=f"{free:,}", needed=f"{size + self.config.reserve:,}")
        folder.mkdir()
        (folder / "data").touch()
        part = folder / "info.part"
        part.write_text(json.dumps({"name": made.name, "size": size}), encoding="utf-8")
        os.replace(part, folder / "info.json")
        return made

    def get(self, case: str, upload: str) -> Upload:
        """The upload as it stands on disk. Raises InputError when there is none."""
        folder = self._folder(case, upload)
        try:
            info = json.loads((folder / "info.json").read_text(encoding="utf-8"))
            received = (folder / "data").stat().st_size
        except FileNotFoundError as error:
            raise InputError("app.upload_unknown", upload=upload) from error
        return Upload(id=upload, name=info["name"], size=info["size"], received=received)

    def data_path(self, case: str, upload: str) -> Path:
        return self._folder(case, upload) / "data"

    def list(self, case: str) -> tuple[Upload, ...]:
        """All uploads of a case, finished or not, sorted by name and id."""
        if not _CASE.fullmatch(case):
            raise InputError("app.upload_unknown", upload=case)
        found = []
        for folder in (self.root / case).glob("*"):
            if _ID.fullmatch(folder.name):
                with suppress(InputError):  # swept or staged while we look
                    found.append(self.get(case, folder.name))
        return tuple(sorted(found, key=lambda upload: (upload.name, upload.id)))

    def remove(self, case: str, upload: str) -> None:
        shutil.rmtree(self._folder(case, upload), ignore_errors=True)

    def sweep(self, *, now: float) -> int:
        """Remove unfinished uploads that nobody touched for `keep_seconds`; `now` in seconds since 1970. Returns how many."""
        swept = 0
        for case in self.root.glob("C-*"):
            for upload in self.list(case.name):
                data = self.data_path(case.name, upload.id)
                if not upload.is_finished and now - data.stat().st_mtime > self.config.keep_seconds:
                    self.remove(case.name, upload.id)
                    swept += 1
        return swept

    @contextmanager
    def staged(self, case: str, *, kept: Collection[str] = ()) -> Iterator[Path]:
        """A folder with the finished uploads of a case under their own names; they leave the area when the block ends well.

        kept: looked at then; what lies in the folder under these names stays in the area, as it did not come into custody.
        Of two files that would be one, or of which one has the name of the other's folder, the second gets a folder of its own.
        Raises InputError when nothing is finished.
        """
        finished = [upload for upload in self.list(case) if upload.is_finished]
        if not finished:
            raise InputError("app.upload_nothing_finished")
        folder = self.root / case / f"staged-{secrets.token_hex(4)}"
        files: set[str] = set()
        folders: set[str] = set()
        names: dict[str, str] = {}
        try:
            for upload in finished:
                key = unicodedata.normalize("NFC", upload.name.casefold())
                above = {key.rsplit("/", n)[0] for n in range(1, key.count("/") + 1)}
                # no file hides another, and none has the name of another's folder
                is_free = key not in files | folders and not above & files
                target = folder / (upload.name if is_free else f"{upload.id}/{upload.name}")
                if is_free:
                    files.add(key)
                    folders |= above
                names[upload.id] = target.relative_to(folder).as_posix()
                target.parent.mkdir(parents=True, exist_ok=True)
                try:
                    os.link(self.data_path(case, upload.id), target)
                except OSError:  # file systems without hard links
                    shutil.copyfile(self.data_path(case, upload.id), target)
            yield folder
            for upload in finished:
                if names[upload.id] not in kept:
                    self.remove(case, upload.id)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


class _Refusal(Exception):
    def __init__(self, status: int, text: str = "") -> None:
        self.status, self.text = status, text


def upload_routes(area: UploadArea, *, case_exists: Callable[[str], bool], now: Callable[[], float] = time.time) -> list[Route]:
    """The tus routes under `/uploads/<case id>`. `case_exists` decides which cases take files; `now` in seconds since 1970."""
    busy: set[str] = set()

    async def receive(request: Request, case: str, upload: Upload) -> int:
        """Append the body to the upload; returns the new offset. A broken connection keeps what arrived."""
        chunks = request.stream().__aiter__()
        received = upload.received
        with area.data_path(case, upload.id).open("ab") as data:
            try:
                while True:
                    try:
                        chunk = await asyncio.wait_for(chunks.__anext__(), area.config.idle_seconds)
                    except StopAsyncIteration:
                        break
                    if received + len(chunk) > upload.size:
                        raise _Refusal(413, "Upload-Length exceeded")
                    await to_thread.run_sync(data.write, chunk)
                    received += len(chunk)
            except TimeoutError as error:
                raise _Refusal(408, "idle") from error
            finally:
                data.flush()
                os.fsync(data.fileno())
        return received

    async def collection(request: Request) -> Response:
        case = request.path_params["case"]
        if request.method == "OPTIONS":
            extra = {"Tus-Version": TUS, "Tus-Extension": "creation,termination", "Tus-Max-Size": str(area.config.max_size)}
            return Response(status_code=204, headers=extra)
        if not _CASE.fullmatch(case) or not await to_thread.run_sync(case_exists, case):
            raise _Refusal(404, "case")
        length = request.headers.get("upload-length", "")
        if not re.fullmatch(r"[0-9]{1,15}", length):
            raise _Refusal(400, "Upload-Length")
        name = parse_metadata(request.headers.get("upload-metadata", "")).get("filename", "")
        await to_thread.run_sync(lambda: area.sweep(now=now()))
        made = await to_thread.run_sync(lambda: area.create(case, name=name, size=int(length)))
        return Response(status_code=201, headers={"Location": f"/uploads/{case}/{made.id}", "Upload-Offset": "0"})

    async def single(request: Request) -> Response:
        case, name = request.path_params["case"], request.path_params["upload"]
        try:
            upload = area.get(case, name)
        except InputError as error:
            raise _Refusal(404, error.render(_lang(request))) from error
        if request.method == "HEAD":
            headers = {"Upload-Offset": str(upload.received), "Upload-Length": str(upload.size), "Cache-Control": "no-store"}
            return Response(status_code=200, headers=headers)
        if name in busy:  # one writer at a time; the client tries again
            raise _Refusal(423, "busy")
        busy.add(name)
        try:
            if request.method == "DELETE":
                area.remove(case, name)
                return Response(status_code=204)
            if request.headers.get("content-type") != "application/offset+octet-stream":
                raise _Refusal(415, "Content-Type")
            upload = area.get(case, name)
            if request.headers.get("upload-offset") != str(upload.received):
                raise _Refusal(409, "Upload-Offset")
            offset = await receive(request, case, upload)
        finally:
            busy.discard(name)
        return Response(status_code=204, headers={"Upload-Offset": str(offset)})

    def guarded(handler: Callable[[Request], object]) -> Callable[[Request], object]:
        async def run(request: Request) -> Response:
            try:
                if request.method != "OPTIONS" and request.headers.get("tus-resumable") != TUS:
                    raise _Refusal(412, "Tus-Resumable")
                response: Response = await handler(request)  # type: ignore[misc]
            except _Refusal as refusal:
                response = Response(refusal.text, status_code=refusal.status)
            except GeoEvidenceError as error:
                response = Response(error.render(_lang(request)), status_code=400)
            except ClientDisconnect:
                response = Response(status_code=499)  # nobody reads it; what arrived is on disk
            except OSError as error:
                text = render("app.upload_write_failed", {"reason": error.strerror or str(error)}, _lang(request))
                response = Response(text, status_code=507)
            response.headers["Tus-Resumable"] = TUS
            return response

        return run

    return [
        Route("/uploads/{case}", guarded(collection), methods=["POST", "OPTIONS"]),
        Route("/uploads/{case}/{upload}", guarded(single), methods=["HEAD", "PATCH", "DELETE"]),
    ]


def _lang(request: Request) -> str:
    return "en" if request.headers.get("accept-language", "").lower().startswith("en") else "zh"
