"""Whether ground points lie where the photos show them, before anything is reconstructed.

In: a `Flight` with marked points, positions, attitudes and heights above take-off. Out: messages that name points or marks that are off by more
than attitudes, heights and receivers explain: a coordinate shift common to all (another datum, GCJ-02), names of two points mixed up,
a mark in the wrong photo. Ground is taken as level; nothing is left out or changed because of it.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from drone.camera import rays
from drone.georeference import attitude_rotation, positions_of
from drone.strips import convergence
from drone.types import Flight
from geoevidence.types import Message

_SHARE_OF_HEIGHT, _FLOOR_M = 0.25, 5.0
"""What attitudes (5 degrees of the gimbal, 10 of the compass near the rim) and terrain (a third of the height) make of a place."""


def shown_places(flight: Flight) -> dict[tuple[str, str], tuple[NDArray[np.float64], float]]:
    """(point, photo) -> surveyed less shown place (E, N) in m, and how far that may be off for harmless reasons, m."""
    places = positions_of(flight)
    photos = {photo.name: photo for photo in flight.photos}
    found = {}
    for point in flight.ground_points:
        for name, pixel in point.observations.items():
            photo = photos[name]
            height = photo.relative_altitude
            if name not in places or photo.position is None or photo.attitude is None or height is None or height < 5:
                continue
            camera = flight.cameras[photo.camera_id]
            if camera.focal_prior is None:
                continue
            turn = convergence(flight.crs, photo.position[0], photo.position[1])
            attitude = (photo.attitude[0] - turn, photo.attitude[1], photo.attitude[2])
            ray = (rays(camera, np.array([pixel], float)) @ attitude_rotation(attitude))[0]
            if ray[2] > -0.5 * np.linalg.norm(ray):  # more than 60 degrees from the vertical: small errors reach far
                continue
            shown = places[name][:2] + ray[:2] / -ray[2] * height
            allowed = _SHARE_OF_HEIGHT * height + 3 * math.hypot(*photo.position_sd[:2]) + _FLOOR_M
            found[point.name, name] = (np.array(point.position[:2]) - shown, allowed)
    return found


def misplaced(flight: Flight) -> list[Message]:
    """What is to be said of points and marks that lie elsewhere than the photos show them; empty where all is well or nothing is known.

    A shift common to the points of a flight is told first; single points and marks are judged after it is taken off.
    """
    shown = shown_places(flight)
    names = sorted({point for point, _ in shown})
    if not names:
        return []
    of_point = {name: np.median([d for (point, _), (d, _) in shown.items() if point == name], axis=0) for name in names}
    allowed = float(np.median([limit for _, limit in shown.values()]))
    common = np.median(list(of_point.values()), axis=0) if len(names) >= 3 else np.zeros(2)
    said = []
    if float(np.hypot(*common)) > allowed:
        azimuth = math.degrees(math.atan2(common[0], common[1])) % 360
        values = {"distance": f"{float(np.hypot(*common)):.0f}", "azimuth": f"{azimuth:.0f}", "count": len(names)}
        said.append(Message(id="drone.points_shifted", values=values))
    else:
        common = np.zeros(2)
    for name in names:
        off = float(np.hypot(*(of_point[name] - common)))
        if off > allowed:
            said.append(Message(id="drone.point_misplaced", values={"name": name, "distance": f"{off:.0f}"}))
    for (name, photo), (d, limit) in sorted(shown.items()):
        off = float(np.hypot(*(d - of_point[name])))
        if off > limit:
            said.append(Message(id="drone.mark_misplaced", values={"name": name, "photo": photo, "distance": f"{off:.0f}"}))
    return said
