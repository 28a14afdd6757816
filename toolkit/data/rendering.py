"""Pictures of synthetic objects: sphere-traced solids, shaded, over 1/f noise.

A solid is its signed distance function (or a bound of it): negative inside, and never larger than
the distance to the surface, so that a ray may advance by it without passing through (Hart 1996,
"Sphere tracing"). Formulas for the primitives follow the common closed forms (I. Quilez,
"Distance functions").
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce

import numpy as np
from PIL import Image

# Part of a synthetic data set's digest: raise it when the same parameters give other pixels.
RENDER_VERSION = 1

Solid = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(3, n) points and three aspect numbers in [0, 1] → (n,) distances. Fits in the unit sphere."""

_N_ROUNDS, _STEPS_A_ROUND = 8, 4
_HIT_DISTANCE = 8e-3
_NORMAL_OFFSET = 4e-3
_TETRAHEDRON = np.array([[1, -1, -1], [-1, -1, 1], [-1, 1, -1], [1, 1, 1]], dtype=np.float32).T
_AMBIENT, _DIFFUSE, _SPECULAR, _SHININESS = 0.25, 0.85, 0.35, 24
_BACKGROUND_MEAN, _BACKGROUND_TINT = 0.45, 0.2


@dataclass(frozen=True)
class ObjectLook:
    """What makes an object itself: shape within its category, colour and surface pattern.

    ``aspect`` (3,) in [0, 1]; ``colour`` (3,) RGB in [0, 1]; ``pattern`` (3,) spatial frequency
    of its stripes in radians per object radius.
    """

    solid: Solid
    aspect: np.ndarray
    colour: np.ndarray
    pattern: np.ndarray


@dataclass(frozen=True)
class Scene:
    """How an object is seen.

    Position is that of its centre, in half image widths from the middle (x to the right, y
    upwards); radius likewise; angles in radians; brightness scales its colour; contrast is the
    background's standard deviation of luminance.
    """

    x: float
    y: float
    radius: float
    roll: float
    yaw: float
    pitch: float
    light: float
    brightness: float
    contrast: float


def render(look: ObjectLook, scene: Scene, image_px: int, rng: np.random.Generator) -> Image.Image:
    """Draw one object over a random background.

    Parameters
    ----------
    look, scene
        What is seen, and how.
    image_px
        Width and height.
    rng
        Decides the background.

    Returns
    -------
    PIL.Image.Image
        Mode RGB, ``image_px`` square.
    """
    picture = _pink_background(image_px, scene.contrast, rng)
    axis = (np.arange(image_px, dtype=np.float32) + 0.5) * (2 / image_px) - 1
    columns = np.flatnonzero(np.abs(axis - scene.x) < scene.radius)
    rows = np.flatnonzero(np.abs(axis + scene.y) < scene.radius)
    if columns.size and rows.size:
        right = np.tile((axis[columns] - scene.x) / scene.radius, rows.size)
        up = np.repeat((-axis[rows] - scene.y) / scene.radius, columns.size)
        pixel_size = 2 / (image_px * scene.radius)
        colour, coverage = _trace(look, scene, right, up, pixel_size)
        window = picture[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        alpha = coverage.reshape(rows.size, columns.size, 1)
        window += alpha * (colour.T.reshape(window.shape) - window)
    return Image.fromarray(np.round(np.clip(picture, 0, 1) * 255).astype(np.uint8))


def _trace(
    look: ObjectLook, scene: Scene, right: np.ndarray, up: np.ndarray, pixel_size: float
) -> tuple[np.ndarray, np.ndarray]:
    """Colour (3, n) and coverage (n,) of parallel rays at (right, up), in object radii."""
    # A rotation's transpose turns view coordinates into the object's own.
    to_object = _rotation(scene.roll, scene.yaw, scene.pitch).T
    points = to_object @ np.stack([right, up, np.ones_like(right)])
    forward = -to_object[:, 2]
    nearest = np.full(right.shape, np.inf, dtype=np.float32)
    # All solids lie in the unit sphere, so rays that miss it need no tracing.
    travelling = np.flatnonzero(np.hypot(right, up) < 1)
    for _ in range(_N_ROUNDS):
        if not travelling.size:
            break
        ends, closest, distance = _advance(look, points[:, travelling], forward)
        points[:, travelling] = ends
        nearest[travelling] = np.minimum(nearest[travelling], closest)
        inside_reach = forward @ ends < 1
        travelling = travelling[(distance > _HIT_DISTANCE) & inside_reach]
    # A ray that misses by less than a pixel covers its pixel in part: smooth outlines.
    coverage = np.clip(1 - (nearest - _HIT_DISTANCE) / pixel_size, 0, 1)
    colour = np.zeros_like(points)
    seen = np.flatnonzero(coverage)
    colour[:, seen] = _shade(look, scene, points[:, seen], to_object)
    return colour, coverage


def _advance(
    look: ObjectLook, points: np.ndarray, forward: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """March some steps: where the rays end, the least distance on the way, and the last one."""
    nearest = np.full(points.shape[1], np.inf, dtype=np.float32)
    distance = nearest
    for _ in range(_STEPS_A_ROUND):
        distance = look.solid(points, look.aspect)
        np.minimum(nearest, distance, out=nearest)
        points += forward[:, None] * distance
    return points, nearest, distance


def _shade(look: ObjectLook, scene: Scene, points: np.ndarray, to_object: np.ndarray) -> np.ndarray:
    """Lambert and Blinn-Phong shading of surface points (3, n), one light, in RGB."""
    normals = np.zeros_like(points)
    for offset in _TETRAHEDRON.T[:, :, None]:
        normals += offset * look.solid(points + _NORMAL_OFFSET * offset, look.aspect)
    normals /= np.linalg.norm(normals, axis=0) + np.float32(1e-9)
    towards_light = np.array(
        [0.7 * np.sin(scene.light), 0.7 * np.cos(scene.light), 0.714], dtype=np.float32
    )
    halfway = towards_light + np.array([0, 0, 1], dtype=np.float32)
    diffuse = np.maximum((to_object @ towards_light) @ normals, 0)
    highlight = np.maximum((to_object @ (halfway / np.linalg.norm(halfway))) @ normals, 0)
    stripes = 1 + 0.2 * np.sin(look.pattern @ points)
    surface = scene.brightness * stripes * (_AMBIENT + _DIFFUSE * diffuse)
    return look.colour[:, None] * surface + _SPECULAR * highlight**_SHININESS


def _rotation(roll: float, yaw: float, pitch: float) -> np.ndarray:
    """Turn by pitch about x, then yaw about y, then roll about the line of sight z; (3, 3)."""
    (cr, cy, cp), (sr, sy, sp) = np.cos([roll, yaw, pitch]), np.sin([roll, yaw, pitch])
    about_x = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return (about_z @ about_y @ about_x).astype(np.float32)


def _pink_background(image_px: int, contrast: float, rng: np.random.Generator) -> np.ndarray:
    """Coloured noise whose amplitude falls as 1/frequency, float32 (px, px, 3).

    Natural images have about this spectrum (Field 1987, J. Opt. Soc. Am. A 4:2379).
    """
    frequency = np.hypot(np.fft.fftfreq(image_px)[:, None], np.fft.rfftfreq(image_px)[None, :])
    frequency[0, 0] = np.inf
    spectrum = rng.standard_normal((3, *frequency.shape, 2), dtype=np.float32).view(np.complex64)
    noise = np.fft.irfft2(spectrum[..., 0] / frequency.astype(np.float32), s=(image_px, image_px))
    noise /= noise.std(axis=(1, 2), keepdims=True)
    luminance, tint = noise[0], _BACKGROUND_TINT * noise[1:]
    channels = [luminance + tint[0], luminance - (tint[0] + tint[1]) / 2, luminance + tint[1]]
    return (_BACKGROUND_MEAN + contrast * np.stack(channels, axis=-1)).astype(np.float32)


def _length(vectors: np.ndarray) -> np.ndarray:
    return np.sqrt(np.einsum("in,in->n", vectors, vectors))


def _greatest(rows: np.ndarray) -> np.ndarray:
    return reduce(np.maximum, rows)  # several times faster than rows.max(axis=0)


def _rounded_box(points: np.ndarray, half_sides: np.ndarray, rounding: float) -> np.ndarray:
    beyond = np.abs(points) - (half_sides - rounding)[:, None]
    return _length(np.maximum(beyond, 0)) + np.minimum(_greatest(beyond), 0) - rounding


def _ellipsoid(points: np.ndarray, aspect: np.ndarray) -> np.ndarray:
    radii = np.array([0.5, 0.95, 0.6], dtype=np.float32) + aspect * np.array(
        [0.2, 0.05, 0.2], np.float32
    )
    # Bound rather than distance: scaled to the unit sphere and back by the smallest radius.
    return (_length(points / radii[:, None]) - 1) * radii.min()


def _box(points: np.ndarray, aspect: np.ndarray) -> np.ndarray:
    half_sides = np.array([0.35, 0.6, 0.45], dtype=np.float32) + aspect * np.float32(0.12)
    return _rounded_box(points, half_sides, 0.04)


def _cylinder(points: np.ndarray, aspect: np.ndarray) -> np.ndarray:
    radius, half_height = 0.35 + 0.2 * aspect[0], 0.65 + 0.15 * aspect[1]
    beyond = np.stack([_length(points[[0, 2]]) - radius, np.abs(points[1]) - half_height])
    return _length(np.maximum(beyond, 0)) + np.minimum(_greatest(beyond), 0)


def _cone(points: np.ndarray, aspect: np.ndarray) -> np.ndarray:
    """Cone of revolution about y, as the intersection of its flank and its base."""
    base, apex, half_width = -0.6, 0.9, 0.5 + 0.25 * aspect[0]
    slope = np.hypot(apex - base, half_width)
    flank = ((apex - base) * _length(points[[0, 2]]) + half_width * (points[1] - apex)) / slope
    return np.maximum(flank, base - points[1])


def _torus(points: np.ndarray, aspect: np.ndarray) -> np.ndarray:
    tube = 0.18 + 0.12 * aspect[0]
    ring = _length(points[:2]) - (0.95 - tube)
    return np.hypot(ring, points[2]) - tube


def _octahedron(points: np.ndarray, aspect: np.ndarray) -> np.ndarray:
    semi_axes = np.array([0.6, 0.95, 0.6], dtype=np.float32) + aspect * np.array(
        [0.25, 0, 0.25], np.float32
    )
    planes = 1 / semi_axes
    return (planes @ np.abs(points) - 1) / np.linalg.norm(planes)


def _jack(points: np.ndarray, aspect: np.ndarray) -> np.ndarray:
    """Three crossed bars."""
    thickness = 0.14 + 0.08 * aspect[0]
    bars = np.full((3, 3), thickness, dtype=np.float32)
    np.fill_diagonal(bars, [0.55 + 0.2 * aspect[1], 0.9, 0.55 + 0.2 * aspect[2]])
    # The largest excess over a half side is a bound of the distance to a box.
    away = np.abs(points)
    return reduce(np.minimum, (_greatest(away - bar[:, None]) for bar in bars))


def _blob(points: np.ndarray, aspect: np.ndarray) -> np.ndarray:
    """Bumpy ball."""
    frequency = (4 + 2 * aspect)[:, None].astype(np.float32)
    bumps = np.sin(frequency * points + 3 * aspect[:, None]).prod(axis=0)
    # Its gradient reaches 1 + 0.18 * 6 = 2.08, so this fraction of it is a safe step.
    return 0.48 * (_length(points) - 0.75 - 0.18 * bumps)


SOLIDS: dict[str, Solid] = {
    "ellipsoid": _ellipsoid,
    "box": _box,
    "torus": _torus,
    "cone": _cone,
    "jack": _jack,
    "blob": _blob,
    "octahedron": _octahedron,
    "cylinder": _cylinder,
}
"""Category → its solid; a data set of k categories has the first k."""
