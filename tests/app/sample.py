"""A workspace with one analysed demonstration case, made through the public API: real items, events and pictures."""

from __future__ import annotations

import io
from datetime import date, timedelta
from pathlib import Path

import numpy as np
from affine import Affine
from pyproj import CRS

from app.tools import create_workspace
from geoevidence import figures
from geoevidence.custody import Case, Workspace
from geoevidence.raster import Grid, Raster, write_cog
from geoevidence.types import Finding, Message, ProcessResult, Product, Quantity

GRID = Grid(shape=(400, 500), transform=Affine(0.5, 0, 403500, 0, -0.5, 3320500), crs=CRS.from_epsg(4547))
COG = "image/tiff; application=geotiff; profile=cloud-optimized"
SQUARES = {"S-001": (403560.0, 3320400.0, 60.0), "S-002": (403660.0, 3320360.0, 40.0)}
"""Finding -> west, south, side in m of its square."""


def outline(name: str) -> dict[str, object]:
    west, south, side = SQUARES[name]
    ring = [[west, south], [west + side, south], [west + side, south + side], [west, south + side], [west, south]]
    return {"type": "Polygon", "coordinates": [ring]}


def make_workspace(path: Path) -> Workspace:
    """Needs GEOEVIDENCE_KEYS to name a folder for the keys."""
    workspace = create_workspace(path)
    case = workspace.new_case("演示-001", fields={"commissioner": "某县人民检察院", "place": "河心洲 *北端*"}, demonstration=True)
    photos = path.parent / "card"
    photos.mkdir()
    for number in range(3):
        (photos / f"DJI_{number:04d}.txt").write_bytes(bytes([number]) * (1000 + number))
    analyse(case, case.ingest(photos, label="存储卡 SN-1207").items)
    return workspace


def analyse(case: Case, items: tuple) -> None:
    """One `satellite.monitor` result with an orthomosaic, a break map and two findings."""
    rng = np.random.default_rng(5)
    rows, cols = GRID.shape
    before = np.clip(rng.normal((70, 110, 60), 8, (rows, cols, 3)), 0, 255)
    after = before.copy()
    magnitude = np.full((rows, cols), np.nan, np.float32)
    for name in SQUARES:
        west, south, side = SQUARES[name]
        left, top = ~GRID.transform @ (west, south + side)
        window = np.s_[int(top) : int(top + side / 0.5), int(left) : int(left + side / 0.5)]
        after[window] = np.clip(rng.normal((190, 170, 130), 8, after[window].shape), 0, 255)
        magnitude[window] = rng.normal(-0.35, 0.03, magnitude[window].shape)
    with case.derivation(process="satellite.monitor", inputs=items, parameters={"order": 3}, seed=5) as run:
        products = [
            _raster(run.out, "orthomosaic.tif", "orthomosaic", after),
            _raster(run.out, "magnitude.tif", "magnitude", magnitude),
        ]
        findings = []
        for name in SQUARES:
            findings.append(
                _finding(name, run.out, before, after, products, sources=tuple(f"sha256:{item.sha256}" for item in items))
            )
        result = ProcessResult(
            process="satellite.monitor",
            parameters={"order": 3, "history_start": "2020-01-01"},
            seed=5,
            products=tuple(sorted(products, key=lambda product: product.path)),
            findings=tuple(findings),
            gaps=(Message(id="2025-08-24 的影像读取失败。"),),
            synthetic=True,
        )
        run.commit(result)


def _raster(out: Path, name: str, kind: str, values: np.ndarray) -> Product:
    if values.ndim == 3:
        alpha = np.full((1, *GRID.shape), 255, np.uint8)
        alpha[:, :40, :40] = 0
        raster = Raster(data=np.concatenate([values.transpose(2, 0, 1).astype(np.uint8), alpha]), grid=GRID, nodata=None, unit="")
    else:
        raster = Raster(data=values[None], grid=GRID, nodata=float("nan"), unit="1")
    write_cog(out / name, raster)
    title = {"orthomosaic": "正射影像", "magnitude": "变化幅度"}[kind]
    return Product(path=name, kind=kind, media_type=COG, title=Message(id=title))


def _finding(
    name: str, out: Path, before: np.ndarray, after: np.ndarray, products: list[Product], *, sources: tuple[str, ...]
) -> Finding:
    made = []
    for kind, picture, day in (("chip_before", before, "2025-08-14"), ("chip_after", after, "2025-09-03")):
        image, _ = figures.stretch(picture.transpose(2, 0, 1), ((0.0, 255.0),) * 3)
        title = "变化前" if kind == "chip_before" else "变化后"
        figures.map_picture(
            out / f"{name}-{kind}.png", image, GRID, title=title, date_text=day, outlines=(outline(name),), synthetic=True
        )
        made.append(Product(path=f"{name}-{kind}.png", kind=kind, media_type="image/png", title=Message(id=f"{title} {day}")))
    days = [date(2024, 1, 5) + timedelta(days=16 * n) for n in range(44)]
    values = [
        0.6 + 0.15 * float(np.sin(n / 23 * 2 * np.pi)) - (0.35 if day > date(2025, 8, 20) else 0.0) for n, day in enumerate(days)
    ]
    figures.series_plot(
        out / f"{name}-series.png",
        series={"NDVI": (days, values, [True] * len(days))},
        interval=(date(2025, 8, 14), date(2025, 9, 3)),
        y_label="NDVI",
        title=f"{name} 的时间序列",
        synthetic=True,
    )
    made.append(
        Product(path=f"{name}-series.png", kind="series_plot", media_type="image/png", title=Message(id=f"{name} 的时间序列"))
    )
    table = io.StringIO()
    table.write("date,ndvi\n")
    for day, value in zip(days, values, strict=True):
        table.write(f"{day.isoformat()},{value:.4f}\n")
    (out / f"{name}-series.csv").write_text(table.getvalue(), encoding="utf-8")
    made.append(Product(path=f"{name}-series.csv", kind="series", media_type="text/csv", title=Message(id="时间序列数据（CSV）")))
    products += made
    side = SQUARES[name][2]
    return Finding(
        id=name,
        message=Message(id=f"{name}：地表由植被变为裸地"),
        quantity=Quantity(value=side * side, unit="m2", standard_uncertainty=side * 0.5, propagation="边界按半个像元计"),
        geometry=outline(name),
        crs="EPSG:4547",
        period=(date(2025, 8, 14), date(2025, 9, 3)),
        method=Message(id="谐波模型残差检验。依据：Zhu, Woodcock (2014)"),
        sources=sources,
        limitations=(Message(id="不能证明何人所为。"), Message(id="小于 4 个像元的变化看不见。")),
        products=tuple(sorted(product.path for product in made)),
        synthetic=True,
    )
