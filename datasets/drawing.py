"""Drawing with numpy, to the bit the same on every machine (see embedded.py): strokes, textures, changes of an image.

Images are float64 in [0, 1], (H, W) or (H, W, 3); points are (x, y) in pixels, with (0, 0) the corner of the first
pixel. Random numbers are uniform ones of a RandomState, and no sums over arrays, logarithms or sines are taken, whose
last bits differ between libraries.
"""

import numpy as np

Random = np.random.RandomState


def uniform(random: Random, low: float, high: float) -> float:
    """A uniform random number in [low, high)."""
    return low + (high - low) * float(random.random_sample())


def below(random: Random, n: int) -> int:
    """A random whole number from 0 to n - 1; `RandomState.randint` differs between systems."""
    return int(random.random_sample() * n)


def turned(half_tangent: float) -> np.ndarray:
    """The matrix (2, 2) that turns by 2 atan(t), which needs no sine."""
    square = half_tangent * half_tangent
    cos, sin = (1 - square) / (1 + square), 2 * half_tangent / (1 + square)
    return np.array([[cos, -sin], [sin, cos]])


def handwritten_matrix(random: Random, strength: float = 1.0) -> np.ndarray:
    """(2, 2): turned, slanted and stretched as handwriting is, by at most 14 degrees, 0.35 and 18 %."""
    turn = turned(strength * uniform(random, -0.12, 0.12))
    slant = np.array([[1.0, strength * uniform(random, -0.35, 0.35)], [0.0, 1.0]])
    stretch = np.array([1 + strength * uniform(random, -0.18, 0.18), 1 + strength * uniform(random, -0.18, 0.18)])
    return product(turn, slant) * stretch


def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(N, 2) or (2, 2) times (2, 2), written out: the order of a library's additions varies."""
    return np.stack([a[:, 0] * b[0, i] + a[:, 1] * b[1, i] for i in (0, 1)], 1)


def bilinear(image: np.ndarray, x: np.ndarray, y: np.ndarray, outside: float = 0.0) -> np.ndarray:
    """The values of an image (H, W) at points of any shape, linear between the centres of pixels."""
    padded = np.pad(image, (1, 2), constant_values=outside)
    x, y = np.clip(x + 0.5, 0.0, image.shape[1] + 1.0), np.clip(y + 0.5, 0.0, image.shape[0] + 1.0)
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    right, low = x - left, y - top
    upper = padded[top, left] * (1 - right) + padded[top, left + 1] * right
    lower = padded[top + 1, left] * (1 - right) + padded[top + 1, left + 1] * right
    return upper * (1 - low) + lower * low


def centres(size: int) -> tuple[np.ndarray, np.ndarray]:
    """x and y of the centres of the pixels of a square image, (size, size) each."""
    y, x = np.mgrid[:size, :size] + 0.5
    return x, y


def placed(image: np.ndarray, size: int, matrix: np.ndarray, centre: tuple[float, float]) -> np.ndarray:
    """An image (H, W) on an empty square one.

    Args:
        matrix: (2, 2), from pixels of the square, relative to `centre`, to pixels of the image, relative to its middle.
    """
    x, y = centres(size)
    points = product(np.stack([(x - centre[0]).ravel(), (y - centre[1]).ravel()], 1), matrix.T)
    across, down = points[:, 0] + image.shape[1] / 2, points[:, 1] + image.shape[0] / 2
    return bilinear(image, across, down).reshape(size, size)


def strokes(lines: np.ndarray, width: float, size: int) -> np.ndarray:
    """Line segments (L, 2, 2), as of a round pen: how much of each pixel is inked, (size, size)."""
    all_x, all_y = centres(size)
    reach = width / 2 + 1
    ink = np.zeros((size, size))
    for (x0, y0), (x1, y1) in lines:
        left, top = (max(0, int(min(ends) - reach)) for ends in ((x0, x1), (y0, y1)))
        right, bottom = (max(0, int(max(ends) + reach) + 1) for ends in ((x0, x1), (y0, y1)))
        near = slice(top, bottom), slice(left, right)
        x, y, dx, dy = all_x[near], all_y[near], x1 - x0, y1 - y0
        length = dx * dx + dy * dy
        along = np.clip(((x - x0) * dx + (y - y0) * dy) / length, 0.0, 1.0) if length else 0.0
        across, down = x - (x0 + along * dx), y - (y0 + along * dy)
        distance = np.sqrt(across * across + down * down)
        ink[near] = np.maximum(ink[near], np.clip(width / 2 + 0.5 - distance, 0.0, 1.0))
    return ink


def noise(random: Random, size: int, cells: int) -> np.ndarray:
    """Smooth random values in [0, 1), (size, size): `cells` random numbers along each side, linear between them."""
    x, y = centres(size)
    grid = random.random_sample((cells + 1, cells + 1))
    return bilinear(grid, 0.5 + x * (cells / size), 0.5 + y * (cells / size))


def texture(random: Random, size: int) -> np.ndarray:
    """A pattern in [0, 1], (size, size): clouds, stripes, checks or grain, at random."""
    kind = below(random, 4)
    if kind == 0:
        return 0.6 * noise(random, size, 3) + 0.4 * noise(random, size, 11)
    if kind == 3:
        return noise(random, size, size // 2)
    x, y = centres(size)
    turn = turned(uniform(random, -1.0, 1.0))
    period = uniform(random, 6.0, 20.0)
    across = (x * turn[0, 0] + y * turn[0, 1]) / period
    down = (x * turn[1, 0] + y * turn[1, 1]) / period
    if kind == 1:
        return 2 * np.abs(across - np.floor(across) - 0.5)
    return np.abs((np.floor(across) + np.floor(down)) % 2) * 0.8 + 0.2 * noise(random, size, 5)


def blurred(image: np.ndarray, times: int) -> np.ndarray:
    """Averaged with the neighbours, weights 1 2 1 along both sides, several times: (H, W)."""
    for _ in range(times):
        for axis in (0, 1):
            wide = np.pad(image, [(1, 1) if i == axis else (0, 0) for i in (0, 1)], mode="edge")
            before, after = (np.take(wide, range(k, k + image.shape[axis]), axis) for k in (0, 2))
            image = (before + after + 2 * image) / 4
    return image


def as_bytes(image: np.ndarray) -> np.ndarray:
    """[0, 1] -> uint8."""
    return (np.clip(image, 0.0, 1.0) * 255).round().astype(np.uint8)
