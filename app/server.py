"""The server of the viewer: Streamlit and our own routes in one process, on one port.

    /assets/<component>/<file>     bundles built by set-up, and the fonts
    /tiles/<case>/<item>/<z>/<x>/<y>.png   a raster item as Web Mercator tiles
    /files/<case>/<item>           a read-only object of the store under its media type
    /uploads/...                   resumable uploads (app/uploads.py)

An item is named by case and id, never by path or address. Requests that another site sends are refused, and while
the server listens on this machine only, so are requests under a foreign host name (DNS rebinding).
There is no sign-in yet: whoever can reach the port sees everything, hence the default address 127.0.0.1.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import threading
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from app.uploads import UploadArea, upload_routes
from geoevidence.errors import ConfigError, CustodyError, GeoEvidenceError, InputError
from geoevidence.messages import render

if TYPE_CHECKING:
    from streamlit import App

    from app.tiles import TileSource
    from geoevidence.types import EvidenceItem

_LOG = logging.getLogger(__name__)
HERE = Path(__file__).parent
FONTS = HERE.parent / "geoevidence" / "fonts"
OWN_ROUTES = ("/assets/", "/tiles/", "/files/", "/uploads/")
# What a browser may show inside its own window; everything else is saved to disk.
INLINE = {"image/png", "image/jpeg", "application/pdf", "text/csv", "application/json", "application/geo+json"}
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class SameOrigin:
    """ASGI middleware: refuses what another site sends, and foreign host names while the server is local.

    hosts: host names that may be asked for, or None for any.
    """

    def __init__(self, app: ASGIApp, *, hosts: frozenset[str] | None) -> None:
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or self._allowed(scope):
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await PlainTextResponse("cross-origin request refused", status_code=403)(scope, receive, send)

    def _allowed(self, scope: Scope) -> bool:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self.hosts is not None and (urlsplit(f"//{host}").hostname or "") not in self.hosts:
            return False
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            return False
        own = scope["path"].startswith(OWN_ROUTES)
        return not (own and headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"))


class Items:
    """Items of a workspace by case and id, with the file that holds their bytes.

    An item never changes, so what was found once is kept. One lock: the catalogue is opened once and shared.
    """

    def __init__(self, open_workspace: Callable[[], Any]) -> None:
        self._open = open_workspace
        self._lock = threading.Lock()
        self._known: dict[tuple[str, str], tuple[EvidenceItem, Path]] = {}

    def find(self, case: str, item: str) -> tuple[EvidenceItem, Path]:
        """The item and the file of its bytes. Raises InputError when the case has no such item."""
        with self._lock:
            if (case, item) not in self._known:
                opened = self._open().case(case)
                for found in opened.items():
                    self._known.setdefault((case, found.id), (found, opened.path_of(found)))
            if (case, item) not in self._known:
                raise InputError("app.no_such_item", case=case, item=item)
            return self._known[case, item]

    def case_exists(self, case: str) -> bool:
        with self._lock:
            try:
                return bool(self._open().case(case).id == case)
            except CustodyError:
                return False
            except InputError:
                return False


def _named(item: EvidenceItem, path: Path) -> FileResponse:
    """`path` as a response under the name and media type of the item; never a page that could run a script."""
    media_type = item.media_type.partition(";")[0].strip()
    inline = media_type in INLINE
    name = item.path.rpartition("/")[2]
    # A sandbox would also switch off the browser's own reader of PDF, which runs no script of the file.
    sandbox = "" if media_type == "application/pdf" else "; sandbox"
    return FileResponse(
        path,
        media_type=media_type if inline else "application/octet-stream",
        headers={
            "Content-Disposition": f"{'inline' if inline else 'attachment'}; filename*=UTF-8''{quote(name)}",
            "X-Content-Type-Options": "nosniff",
            "Content-Security-Policy": f"default-src 'none'; style-src 'unsafe-inline'{sandbox}",
            "Cache-Control": "private, max-age=31536000, immutable",
        },
    )


def routes(workspace: Path, *, open_workspace: Callable[[], Any]) -> list[Route]:
    """Our own routes over one workspace. `open_workspace` gives the custody workspace."""
    items = Items(open_workspace)
    area = UploadArea(workspace)
    area.sweep(now=time.time())

    def asset(request: Request) -> Response:
        folder, name = request.path_params["folder"], request.path_params["name"]
        root = FONTS if folder == "fonts" else HERE / "components" / folder / "dist"
        # The name is looked up in the listing, so that no path of the request ever reaches the disk.
        if not (folder.isidentifier() and root.is_dir() and name in {entry.name for entry in root.iterdir()}):
            return PlainTextResponse("not found", status_code=404)
        types = {".js": "text/javascript", ".mjs": "text/javascript", ".css": "text/css", ".ttf": "font/ttf"}
        media_type = types.get(Path(name).suffix, "text/plain; charset=utf-8")
        return FileResponse(root / name, media_type=media_type, headers={"Cache-Control": "max-age=86400"})

    def file(request: Request) -> Response:
        try:
            item, path = items.find(request.path_params["case"], request.path_params["item"])
        except GeoEvidenceError as error:
            return PlainTextResponse(error.render("zh"), status_code=404)
        return _named(item, path)

    @lru_cache(maxsize=64)
    def source(case: str, item: str) -> TileSource:
        from app.tiles import TileSource  # loads slowly: with the first tile, not with the server

        return TileSource.open(items.find(case, item)[1])

    def tile(request: Request) -> Response:
        p = request.path_params
        try:
            png = source(p["case"], p["item"]).tile(p["z"], p["x"], p["y"])
        except GeoEvidenceError as error:
            return PlainTextResponse(error.render("zh"), status_code=404)
        if png is None:  # outside the raster: nothing to show, which is not an error
            return Response(status_code=204)
        return Response(png, media_type="image/png", headers={"Cache-Control": "private, max-age=31536000, immutable"})

    return [
        Route("/assets/{folder}/{name}", asset),
        Route("/tiles/{case}/{item}/{z:int}/{x:int}/{y:int}.png", tile),
        Route("/files/{case}/{item}", file),
        *upload_routes(area, case_exists=items.case_exists),
    ]


def streamlit_options(host: str, port: int) -> dict[str, Any]:
    """What Streamlit is told: local fonts, no telemetry, no development tools."""
    faces = [
        {"family": "Noto Sans SC", "url": f"/assets/fonts/NotoSansSC-{w}.ttf", "weight": w, "style": "normal"} for w in (400, 700)
    ]
    return {
        "server.address": host,
        "server.port": port,
        "server.headless": True,
        "server.fileWatcherType": "none",
        "server.runOnSave": False,
        "server.maxUploadSize": 16,
        "server.enableXsrfProtection": True,
        "browser.gatherUsageStats": False,
        "client.toolbarMode": "minimal",
        "client.showErrorDetails": "type",
        "theme.base": "light",
        "theme.primaryColor": "#0050b3",
        "theme.font": "'Noto Sans SC', sans-serif",
        "theme.headingFont": "'Noto Sans SC', sans-serif",
        "theme.headingFontWeights": [700],
        "theme.fontFaces": faces,
        "theme.baseRadius": "small",
    }


def build_app(workspace: Path, *, host: str) -> App:
    """The ASGI application of the viewer on one workspace, as it is served at `host`."""
    import streamlit as st

    from app.tools import open_workspace

    os.environ["GEOEVIDENCE_WORKSPACE"] = str(workspace)  # the screens run in this process and read it
    return st.App(
        HERE / "main.py",
        routes=routes(workspace, open_workspace=lambda: open_workspace(workspace)),
        middleware=[Middleware(SameOrigin, hosts=LOOPBACK if is_loopback(host) else None)],
    )


def is_loopback(host: str) -> bool:
    """True when only this machine can reach `host`."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def serve(workspace: Path, *, host: str = "127.0.0.1", port: int = 8501) -> None:
    """Serve the viewer until it is stopped. Raises ConfigError for a bad port, CustodyError when there is no workspace."""
    from app.tools import open_workspace

    if not 0 < port < 65536:
        raise ConfigError("app.bad_port", found=port)
    workspace = workspace.resolve()
    if not is_loopback(host):
        _LOG.warning(render("app.open_to_network", {"host": host}, "zh"))
    open_workspace(workspace)  # a wrong folder is said here, not in every screen
    build_app(workspace, host=host).run(config=streamlit_options(host, port))
