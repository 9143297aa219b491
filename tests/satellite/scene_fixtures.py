"""Small products on disk, written by code after the product specifications; no real product comes with the repository.

Sentinel-2: names, folders, elements and attributes as in ESA's Sentinel-2 Products Specification Document (level 2A, SAFE
compact format, 14.6 for offsets and 15 for checksums): a root element with a namespace over a body without, band_id/bandId
pairs, B1 for B01 in the spectral list, image paths without ending, 10/20/60 m copies, losslessly coded JPEG 2000.
Landsat: groups and keys as in USGS LSDS-1619 and LSDS-1618, where the Level-1 groups repeat names with other values.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray

CORNER = (500000.0, 3300000.0)
ROLES = ("blue", "green", "red", "nir", "swir1", "swir2")
S2_BANDS = {"blue": "B02", "green": "B03", "red": "B04", "nir": "B08", "swir1": "B11", "swir2": "B12"}
S2_SIZES = {"B02": (10, 20), "B03": (10, 20), "B04": (10, 20), "B08": (10,), "B11": (20,), "B12": (20,), "SCL": (20, 60)}
LEVEL = {"blue": 0.04, "green": 0.07, "red": 0.06, "nir": 0.30, "swir1": 0.20, "swir2": 0.12}
"""Reflectance of the plain ground of a fixture."""


def write_image(
    path: Path,
    data: NDArray[Any],
    *,
    cell: float,
    corner: tuple[float, float] = CORNER,
    epsg: int = 32650,
    nodata: float | None = None,
    driver: str = "GTiff",
    **options: Any,
) -> Path:
    """One image of the bands (band, y, x) or (y, x)."""
    data = data if data.ndim == 3 else data[None]
    if driver == "JP2OpenJPEG":
        # Both together make the coding lossless; a class number must stay what it is.
        options = {"REVERSIBLE": "YES", "QUALITY": "100", **options}
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path,
        "w",
        driver=driver,
        count=len(data),
        height=data.shape[1],
        width=data.shape[2],
        dtype=data.dtype,
        crs=f"EPSG:{epsg}",
        transform=Affine(cell, 0, corner[0], 0, -cell, corner[1]),
        nodata=nodata,
        **options,
    ) as target:
        target.write(data)
    return path


def plain(role: str, shape: tuple[int, int]) -> NDArray[np.float64]:
    """Reflectance (y, x) that differs from cell to cell by less than 0.01."""
    rows, cols = np.indices(shape)
    return LEVEL[role] + 0.0001 * ((7 * rows + 3 * cols) % 97)


def write_safe(
    folder: Path,
    day: str,
    *,
    baseline: str = "04.00",
    offset: int = -1000,
    size: int = 60,
    tile: str = "50RKU",
    corner: tuple[float, float] = CORNER,
    scl: int = 4,
    reflectance: Mapping[str, NDArray[np.float64]] | None = None,
    offsets_listed: bool = True,
    level: str = "Level-2A",
    omit: tuple[str, ...] = (),
    checksums: bool = True,
    **options: Any,
) -> Path:
    """A Sentinel-2 product of a day (YYYYMMDD) with 10 m bands of `size` cells; returns its folder.

    reflectance: role -> (y, x) at the finest cell of the band; else `plain`. omit: bands whose images are not written.
    """
    number = baseline.replace(".", "")
    name = f"S2A_MSIL2A_{day}T025541_N{number}_R032_T{tile}_{day}T063000.SAFE"
    product = folder / name
    granule = f"GRANULE/L2A_T{tile}_A012345_{day}T030000/IMG_DATA"
    images, sums = [], []
    for band, sizes in S2_SIZES.items():
        role = next((key for key, value in S2_BANDS.items() if value == band), "")
        for cell in sizes:
            image = f"{granule}/R{cell}m/T{tile}_{day}T025541_{band}_{cell}m"
            images.append(image)
            if band in omit:
                continue
            shape = (size * 10 // cell, size * 10 // cell)
            if band == "SCL":
                data = np.full(shape, scl, np.uint8)
            else:
                given = (reflectance or {}).get(role)
                values = given if given is not None and given.shape == shape else plain(role, shape)
                data = np.clip(np.rint(values * 10000) - offset, 1, 65535).astype(np.uint16)
            path = write_image(product / f"{image}.jp2", data, cell=cell, corner=corner, driver="JP2OpenJPEG", **options)
            digest = hashlib.sha3_256(path.read_bytes()).hexdigest()
            sums.append(
                f'<dataObject ID="{band}_{cell}m"><byteStream mimeType="application/octet-stream" size="1">'
                f'<fileLocation locatorType="URL" href="./{image}.jp2"/><checksum checksumName="SHA3-256">{digest}</checksum>'
                "</byteStream></dataObject>"
            )
    spectral = "".join(f'<Spectral_Information bandId="{i}" physicalBand="{b}"/>' for i, b in enumerate(_PHYSICAL))
    listed = "".join(f'<BOA_ADD_OFFSET band_id="{i}">{offset}</BOA_ADD_OFFSET>' for i in range(13))
    listed = f"<BOA_ADD_OFFSET_VALUES_LIST>{listed}</BOA_ADD_OFFSET_VALUES_LIST>" if offsets_listed else ""
    files = "".join(f"<IMAGE_FILE>{image}</IMAGE_FILE>" for image in images)
    iso = f"{day[:4]}-{day[4:6]}-{day[6:]}"
    (product / "MTD_MSIL2A.xml").write_text(
        f"""<?xml version="1.0" encoding="UTF-8" standalone="no"?>
<n1:Level-2A_User_Product xmlns:n1="https://psd-14.sentinel2.eo.esa.int/PSD/User_Product_Level-2A.xsd">
  <n1:General_Info>
    <Product_Info>
      <PRODUCT_START_TIME>{iso}T02:55:41.024Z</PRODUCT_START_TIME>
      <PRODUCT_STOP_TIME>{iso}T02:55:41.024Z</PRODUCT_STOP_TIME>
      <PRODUCT_URI>{name}</PRODUCT_URI>
      <PROCESSING_LEVEL>{level}</PROCESSING_LEVEL>
      <PRODUCT_TYPE>S2MSI2A</PRODUCT_TYPE>
      <PROCESSING_BASELINE>{baseline}</PROCESSING_BASELINE>
      <Datatake datatakeIdentifier="GS2A_{day}T025541_012345_N{baseline}"><SPACECRAFT_NAME>Sentinel-2A</SPACECRAFT_NAME></Datatake>
      <Product_Organisation><Granule_List><Granule granuleIdentifier="G" imageFormat="JPEG2000">{files}</Granule></Granule_List>
      </Product_Organisation>
    </Product_Info>
    <Product_Image_Characteristics>
      <Special_Values><SPECIAL_VALUE_TEXT>NODATA</SPECIAL_VALUE_TEXT><SPECIAL_VALUE_INDEX>0</SPECIAL_VALUE_INDEX></Special_Values>
      <Special_Values><SPECIAL_VALUE_TEXT>SATURATED</SPECIAL_VALUE_TEXT><SPECIAL_VALUE_INDEX>65535</SPECIAL_VALUE_INDEX>
      </Special_Values>
      <QUANTIFICATION_VALUES_LIST><BOA_QUANTIFICATION_VALUE unit="none">10000</BOA_QUANTIFICATION_VALUE>
        <AOT_QUANTIFICATION_VALUE unit="none">1000.0</AOT_QUANTIFICATION_VALUE></QUANTIFICATION_VALUES_LIST>
      {listed}
      <Spectral_Information_List>{spectral}</Spectral_Information_List>
    </Product_Image_Characteristics>
  </n1:General_Info>
</n1:Level-2A_User_Product>
""",
        encoding="utf-8",
    )
    if checksums:
        (product / "manifest.safe").write_text(
            '<?xml version="1.0"?><xfdu:XFDU xmlns:xfdu="urn:ccsds:schema:xfdu:1"><dataObjectSection>'
            f"{''.join(sums)}</dataObjectSection></xfdu:XFDU>",
            encoding="utf-8",
        )
    return product


_PHYSICAL = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B10", "B11", "B12")


def write_landsat(
    folder: Path,
    day: str,
    *,
    spacecraft: str = "LANDSAT_8",
    size: int = 20,
    kind: str = "json",
    level: str = "L2SP",
    qa: int = 21824,
    radsat: int = 0,
    epsg: int = 32650,
    corner: tuple[float, float] = CORNER,
    values: Mapping[str, int] | None = None,
) -> Path:
    """A Landsat Collection 2 Level-2 product of a day, 30 m; returns its folder. values: role -> stored number everywhere."""
    oli = spacecraft in ("LANDSAT_8", "LANDSAT_9")
    numbers = dict(zip(ROLES, (2, 3, 4, 5, 6, 7) if oli else (1, 2, 3, 4, 5, 7), strict=True))
    product = f"{'LC' if oli else 'LE'}0{spacecraft[-1]}_L2SP_123039_{day}_20230101_02_T1"
    place = folder / product
    contents = {"LANDSAT_PRODUCT_ID": product, "PROCESSING_LEVEL": level, "COLLECTION_NUMBER": "02"}
    parameters = {}
    for role, number in numbers.items():
        contents[f"FILE_NAME_BAND_{number}"] = f"{product}_SR_B{number}.TIF"
        parameters[f"REFLECTANCE_MULT_BAND_{number}"] = "2.75e-05"
        parameters[f"REFLECTANCE_ADD_BAND_{number}"] = "-0.2"
        stored = np.rint((plain(role, (size, size)) + 0.2) / 2.75e-5).astype(np.uint16)
        if values is not None:
            stored[:] = values[role]
        write_image(place / contents[f"FILE_NAME_BAND_{number}"], stored, cell=30, nodata=0, epsg=epsg, corner=corner)
    for key, token, stored, nodata in (
        ("FILE_NAME_QUALITY_L1_PIXEL", "QA_PIXEL", qa, 1),
        ("FILE_NAME_QUALITY_L1_RADIOMETRIC_SATURATION", "QA_RADSAT", radsat, None),
    ):
        contents[key] = f"{product}_{token}.TIF"
        image = np.full((size, size), stored, np.uint16)
        write_image(place / contents[key], image, cell=30, nodata=nodata, epsg=epsg, corner=corner)
    groups = {
        "PRODUCT_CONTENTS": contents,
        "IMAGE_ATTRIBUTES": {
            "SPACECRAFT_ID": spacecraft,
            "SENSOR_ID": "OLI_TIRS",
            "WRS_PATH": "123",
            "WRS_ROW": "39",
            "DATE_ACQUIRED": f"{day[:4]}-{day[4:6]}-{day[6:]}",
            "SCENE_CENTER_TIME": "02:52:30.4390740Z",
        },
        "LEVEL2_PROCESSING_RECORD": {"PROCESSING_SOFTWARE_VERSION": "LPGS_15.3.1c"},
        "LEVEL2_SURFACE_REFLECTANCE_PARAMETERS": parameters,
        "LEVEL1_PROCESSING_RECORD": {"PROCESSING_LEVEL": "L1TP", "PROCESSING_SOFTWARE_VERSION": "LPGS_0"},
        "LEVEL1_RADIOMETRIC_RESCALING": {key: "-0.1" if "ADD" in key else "2.0000E-05" for key in parameters},
    }
    path = place / f"{product}_MTL.{kind}"
    if kind == "json":
        path.write_text(json.dumps({"LANDSAT_METADATA_FILE": groups}), encoding="utf-8")
    elif kind == "xml":
        body = "".join(f"<{g}>{''.join(f'<{k}>{v}</{k}>' for k, v in e.items())}</{g}>" for g, e in groups.items())
        path.write_text(f"<LANDSAT_METADATA_FILE>{body}</LANDSAT_METADATA_FILE>", encoding="utf-8")
    else:
        lines = ["GROUP = LANDSAT_METADATA_FILE"]
        for name, entries in groups.items():
            lines += [f"  GROUP = {name}", *(f'    {k} = "{v}"' for k, v in entries.items()), f"  END_GROUP = {name}"]
        path.write_text("\n".join([*lines, "END_GROUP = LANDSAT_METADATA_FILE", "END", ""]), encoding="utf-8")
    return place


def write_item(folder: Path, identity: str, day: str, assets: Mapping[str, Mapping[str, Any]], **properties: Any) -> Path:
    """A STAC 1.0 item of a day (YYYY-MM-DD) in a folder of its own."""
    item = {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": identity,
        "geometry": None,
        "properties": {"datetime": f"{day}T02:55:41Z", **properties},
        "links": [],
        "assets": {key: dict(asset) for key, asset in assets.items()},
    }
    path = folder / identity / f"{identity}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(item), encoding="utf-8")
    return path


def write_catalogue(
    folder: Path, links: list[tuple[str, str]], *, kind: str = "Collection", name: str = "collection.json"
) -> Path:
    """A STAC catalogue or collection with links (rel, href)."""
    value = {
        "type": kind,
        "stac_version": "1.0.0",
        "id": folder.name,
        "links": [{"rel": "self", "href": "https://example.invalid/c.json"}, *({"rel": r, "href": h} for r, h in links)],
    }
    path = folder / name
    path.write_text(json.dumps(value), encoding="utf-8")
    return path
