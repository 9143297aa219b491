"""Photos -> tie points -> free model -> adjusted block.

`reconstruct` finds features (SIFT, Lowe 2004), matches pairs that may overlap, grows the model photo by photo
(COLMAP: Schoenberger and Frahm 2016) and hands it to `drone.georeference`. Every photo left out is named with the
reason. pycolmap is used here only. The same photos and settings give the same block, whatever the number of threads:
the mapper runs on one thread with a fixed seed. Writes inside `workdir` only; a finished model there is used
again if photos, settings and version are the same.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from drone.georeference import AdjustConfig, FreeModel, attitude_rotation, convergence_deg, georeference, positions_of
from drone.tiepoints import TieConfig, refine_ties
from drone.types import Camera, Flight, Photo, Reconstruction, parameters_of
from geoevidence.errors import ReconstructionError
from geoevidence.types import Message, Progress, no_progress

_FEW_FEATURES = 100
_LAYOUT = 2  # of what stands in workdir; raised when an older folder could not be read


@dataclass(frozen=True, slots=True, kw_only=True)
class SfmConfig:
    """Features, matching, mapping.

    image_size: px, longer side at which features are sought; finer finds more, slower.
    first_octave: 0 starts at that size; -1 at twice it, three times slower, for photos with little texture.
    features: at most this many a photo, largest first; and no more than features_per_mp times its megapixels, but 5000.
    neighbours: photos matched with each photo, nearest by position: at 80 % forward and 70 %
        side overlap those that share a third or more; photos without one are matched with all.
    all_pairs_up_to: flights of at most this many photos are matched each with each.
    min_matches: verified matches that a pair needs.
    max_error_px: epipolar error of a verified match at full size.
    min_photos: smallest block that counts as one.
    seed: of every random choice.
    threads: processor threads of features and matching; results do not depend on it.
    ties: settings of the matching of tie points. adjust: settings of the adjustment.
    """

    image_size: int = 4000
    first_octave: int = 0
    features: int = 14000
    features_per_mp: int = 5000
    neighbours: int = 12
    all_pairs_up_to: int = 12
    min_matches: int = 15
    max_error_px: float = 4.0
    min_photos: int = 2
    seed: int = 0
    threads: int = 2
    ties: TieConfig = field(default_factory=TieConfig)
    adjust: AdjustConfig = field(default_factory=AdjustConfig)


def reconstruct(
    flight: Flight, *, config: SfmConfig = SfmConfig(), workdir: Path, progress: Progress = no_progress
) -> Reconstruction:
    """The adjusted block of a flight, in the flight's CRS.

    Args:
        workdir: an existing folder of its own for the features, matches and the free model.

    Raises:
        ReconstructionError: fewer than two photos, or no two overlap enough; names what was found.
    """
    if len(flight.photos) < 2:
        raise ReconstructionError("drone.too_few_photos", photos=len(flight.photos))
    parameters = parameters_of(config)
    parameters.pop("threads")
    model, unregistered = _free_model(flight, config, Path(workdir), progress)
    model = refine_ties(
        model, flight, config=config.ties, threads=config.threads, progress=lambda part: progress("drone.stage_ties", part)
    )
    block = georeference(model, flight, config=config.adjust, unregistered=unregistered, progress=progress)
    return _with_parameters(block, parameters)


def _with_parameters(block: Reconstruction, parameters: Mapping[str, Any]) -> Reconstruction:
    values = {name: getattr(block, name) for name in Reconstruction.__slots__}
    return Reconstruction(**(values | {"parameters": dict(parameters)}))


def _free_model(flight: Flight, config: SfmConfig, workdir: Path, progress: Progress) -> tuple[FreeModel, dict[str, Message]]:
    import pycolmap

    pycolmap.logging.minloglevel = 3  # what it complains of is counted and named below instead
    database, sparse, stamp = workdir / "features.db", workdir / "sparse", workdir / "sfm.json"
    key = _key(flight, config, pycolmap.__version__)
    if not (stamp.is_file() and stamp.read_text("utf-8") == key):
        stamp.unlink(missing_ok=True)
        shutil.rmtree(sparse, ignore_errors=True)
        for leftover in workdir.glob("features.db*"):
            leftover.unlink()
        sparse.mkdir(parents=True)
        _match(flight, config, database, progress)
        _map(flight, config, database, sparse, progress)
        stamp.write_text(key, "utf-8")
    models = [pycolmap.Reconstruction(folder) for folder in sorted(sparse.iterdir(), key=lambda p: int(p.name))]
    models = [model for model in models if model.num_reg_images() >= 2 and model.num_points3D() > 0]
    if not models:
        raise ReconstructionError("drone.no_overlap_at_all", photos=len(flight.photos), matched=_matched_pairs(database))
    # The largest block; of equal ones that with more tie points, then the first.
    models.sort(key=lambda model: (-model.num_reg_images(), -model.num_points3D()))
    return _model_of(models[0], flight), _left_out(flight, models, database)


def _key(flight: Flight, config: SfmConfig, version: str) -> str:
    """What the free model depends on, as text."""
    parameters = parameters_of(config)
    del parameters["threads"], parameters["ties"], parameters["adjust"]
    parameters["focal_is_held"] = _focal_is_held(flight, config)
    photos = [
        [p.name, p.sha256, "" if p.position is None else repr(p.position), repr(flight.cameras[p.camera_id].params)]
        for p in flight.photos
    ]
    digest = hashlib.sha256(json.dumps(photos).encode()).hexdigest()
    return json.dumps(
        {"photos": digest, "crs": flight.crs.to_wkt(), "parameters": parameters, "pycolmap": version, "layout": _LAYOUT},
        sort_keys=True,
    )


def _linked(flight: Flight, folder: Path) -> list[str]:
    """Names in `folder` that stand for the photos, in their order. pycolmap's lists of pairs cannot hold names with blanks."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    names = []
    for index, photo in enumerate(flight.photos):
        name = f"{index:06d}.jpg"
        try:
            os.symlink(photo.path.resolve(), folder / name)
        except OSError:  # Windows asks for a privilege
            shutil.copyfile(photo.path, folder / name)
        names.append(name)
    return names


def _match(flight: Flight, config: SfmConfig, database: Path, progress: Progress) -> None:
    """Features and verified matches into `database`."""
    import pycolmap

    folder = database.with_name("photos")
    linked = _linked(flight, folder)
    pycolmap.Database.open(database).close()
    progress("drone.stage_features", 0.0)
    extraction = pycolmap.FeatureExtractionOptions()
    extraction.use_gpu = False
    extraction.max_image_size = config.image_size
    extraction.num_threads = config.threads
    extraction.sift.first_octave = config.first_octave
    # So many in the largest photo; a small one has not the texture for as many that differ.
    pixels = max(camera.size[0] * camera.size[1] for camera in flight.cameras.values())
    extraction.sift.max_num_features = min(config.features, max(5000, round(config.features_per_mp * pixels / 1e6)))
    for key in sorted(flight.cameras):
        # Cameras one by one, photos in order of name: ids, and with them all later choices, are then fixed.
        camera = flight.cameras[key]
        names = [name for name, photo in zip(linked, flight.photos, strict=True) if photo.camera_id == key]
        if not names:
            continue
        reader = pycolmap.ImageReaderOptions()
        reader.camera_model = camera.model
        reader.camera_params = ",".join(repr(value) for value in camera.params)
        pycolmap.import_images(database, folder, pycolmap.CameraMode.SINGLE, names, reader)
    for done in range(0, len(linked), 8):
        progress("drone.stage_features", done / len(linked))
        pycolmap.extract_features(
            database, folder, linked[done : done + 8], extraction_options=extraction, device=pycolmap.Device.cpu
        )
    progress("drone.stage_matches", 0.0)
    matching = pycolmap.FeatureMatchingOptions()
    matching.use_gpu = False
    matching.num_threads = config.threads
    verification = pycolmap.TwoViewGeometryOptions()
    verification.min_num_inliers = config.min_matches
    verification.ransac.max_error = config.max_error_px
    verification.ransac.random_seed = config.seed
    pairing = pycolmap.ImportedPairingOptions()
    pairing.match_list_path = database.with_name("features.db.pairs")
    lines = [f"{linked[i]} {linked[j]}\n" for i, j in pairs_to_match(flight, config)]
    pairing.match_list_path.write_text("".join(lines), "utf-8")
    pycolmap.match_image_pairs(database, matching, pairing, verification, pycolmap.Device.cpu)
    progress("drone.stage_matches", 1.0)


def pairs_to_match(flight: Flight, config: SfmConfig) -> list[tuple[int, int]]:
    """Pairs (i, j), i < j, of indices into `flight.photos` that may overlap, sorted."""
    count = len(flight.photos)
    if count <= config.all_pairs_up_to:
        return [(i, j) for i in range(count) for j in range(i + 1, count)]
    placed = positions_of(flight)
    known = [i for i, photo in enumerate(flight.photos) if photo.name in placed]
    pairs: set[tuple[int, int]] = set()
    if known:
        places = np.array([placed[flight.photos[i].name][:2] for i in known])
        _, near = cKDTree(places).query(places, k=min(config.neighbours + 1, len(known)))
        for i, row in zip(known, np.asarray(near).reshape(len(known), -1), strict=True):
            pairs.update((min(i, known[j]), max(i, known[j])) for j in row if known[j] != i)
    for i in sorted(set(range(count)) - set(known)):
        pairs.update((min(i, j), max(i, j)) for j in range(count) if j != i)
    return sorted(pairs)


def _map(flight: Flight, config: SfmConfig, database: Path, sparse: Path, progress: Progress) -> None:
    """Models 0, 1 ... into folders of `sparse`."""
    import pycolmap

    pycolmap.set_random_seed(config.seed)
    options = pycolmap.IncrementalPipelineOptions()
    options.num_threads = options.mapper.num_threads = 1
    options.random_seed = options.mapper.random_seed = options.triangulation.random_seed = config.seed
    options.min_num_matches = config.min_matches
    options.min_model_size = config.min_photos
    options.extract_colors = False
    options.ba_refine_focal_length = not _focal_is_held(flight, config)
    # Matches in two photos only are checked along the epipolar line alone; small flights have nothing better.
    options.triangulation.ignore_two_view_tracks = len(flight.photos) > 3
    done = [0]

    def photo_added() -> None:
        done[0] += 1
        progress("drone.stage_mapping", min(done[0] / len(flight.photos), 1.0))

    progress("drone.stage_mapping", 0.0)
    pycolmap.incremental_mapping(database, database.with_name("photos"), sparse, options, next_image_callback=photo_added)


def _focal_is_held(flight: Flight, config: SfmConfig) -> bool:
    """True when cameras state their focal length and, by their attitudes, look nearly the same way."""
    if any(camera.focal_prior is None for camera in flight.cameras.values()):
        return False
    if any(photo.attitude is None for photo in flight.photos):
        return False
    turns = np.stack([attitude_rotation(photo.attitude) for photo in flight.photos if photo.attitude is not None])
    return convergence_deg(turns) < config.adjust.convergence_deg


def _photo_of(image: Any, flight: Flight) -> Photo:
    return flight.photos[int(Path(image.name).stem)]


def _model_of(model: Any, flight: Flight) -> FreeModel:
    """pycolmap's reconstruction as arrays."""
    images = {_photo_of(image, flight).name: image for image in model.images.values() if image.has_pose}
    names = tuple(sorted(images))
    poses = [images[name].cam_from_world() for name in names]
    rotations = np.array([pose.rotation.matrix() for pose in poses])
    centres = np.array([-r.T @ pose.translation for r, pose in zip(rotations, poses, strict=True)])
    point_ids = sorted(model.point3D_ids())
    row_of = {identity: row for row, identity in enumerate(point_ids)}
    photo, point, pixel = [], [], []
    for index, name in enumerate(names):
        for mark in images[name].points2D:
            if mark.has_point3D():
                photo.append(index)
                point.append(row_of[mark.point3D_id])
                pixel.append(mark.xy)
    cameras: dict[str, Camera] = {}
    photos = {p.name: p for p in flight.photos}
    for name in names:
        key = photos[name].camera_id
        found = model.cameras[images[name].camera_id]
        known = flight.cameras[key]
        cameras[key] = Camera(
            id=key,
            model=found.model.name,
            params=tuple(float(value) for value in found.params),
            size=known.size,
            make_model=known.make_model,
            focal_prior=known.focal_prior,
            focal_prior_sd=known.focal_prior_sd,
        )
    return FreeModel(
        names=names,
        R=rotations,
        C=centres,
        cameras=cameras,
        points=np.array([model.points3D[identity].xyz for identity in point_ids]),
        obs_photo=np.array(photo, np.int64),
        obs_point=np.array(point, np.int64),
        obs_pixel=np.array(pixel, float).reshape(-1, 2),
    )


def _matched_pairs(database: Path) -> int:
    """Pairs with verified matches."""
    import pycolmap

    with pycolmap.Database.open(database) as db:
        _, counts = db.read_two_view_geometry_num_inliers()
    return sum(count > 0 for count in counts)


def _left_out(flight: Flight, models: list[Any], database: Path) -> dict[str, Message]:
    """Photo name -> why it is not in the largest block `models[0]`."""
    import pycolmap

    kept = {_photo_of(image, flight).name for image in models[0].images.values() if image.has_pose}
    elsewhere: dict[str, int] = {}
    for model in models[1:]:
        for image in model.images.values():
            if image.has_pose:
                elsewhere.setdefault(_photo_of(image, flight).name, model.num_reg_images())
    reasons: dict[str, Message] = {}
    with pycolmap.Database.open(database) as db:
        ids = {_photo_of(image, flight).name: image.image_id for image in db.read_all_images()}
        best: dict[int, int] = {}
        pairs, counts = db.read_two_view_geometry_num_inliers()
        for pair, count in zip(pairs, counts, strict=True):
            for identity in pycolmap.pair_id_to_image_pair(pair) if not isinstance(pair, tuple) else pair:
                best[identity] = max(best.get(identity, 0), count)
        for photo in flight.photos:
            if photo.name in kept:
                continue
            features = db.num_keypoints_for_image(ids[photo.name]) if photo.name in ids else 0
            matches = best.get(ids.get(photo.name, -1), 0)
            values: dict[str, Any] = {"photo": photo.name}
            if photo.name in elsewhere:
                reasons[photo.name] = Message(id="drone.left_out_other_block", values=values | {"photos": elsewhere[photo.name]})
            elif features < _FEW_FEATURES:
                reasons[photo.name] = Message(id="drone.left_out_few_features", values=values | {"features": features})
            elif matches == 0:
                reasons[photo.name] = Message(id="drone.left_out_no_overlap", values=values)
            else:
                reasons[photo.name] = Message(id="drone.left_out_few_matches", values=values | {"matches": matches})
    return reasons
