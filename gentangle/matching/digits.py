"""DomainBed's two digit sets, RotatedMNIST and ColoredMNIST, of scikit-learn's digits or of MNIST's files."""

import gzip
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from gentangle.errors import InputError
from gentangle.matching.environments import Examples

#: Degrees of RotatedMNIST's domains, and of ColoredMNIST the shares of colours that disagree with the label.
ANGLES = (0, 15, 30, 45, 60, 75)
DISAGREEMENTS = (0.1, 0.2, 0.9)
#: MNIST's files; each may end in .gz.
_IDX = ("train-{}-ubyte", "t10k-{}-ubyte")


def digits(folder: str | Path = "") -> tuple[np.ndarray, np.ndarray]:
    """Every digit: images (n, side, side) from 0 to 1, and labels 0 to 9.

    Args:
        folder: of MNIST's four files in IDX format (28 pixels, 70,000 digits); without one, scikit-learn's
            1,797 digits of 8 pixels, enlarged to 16.

    Raises:
        InputError: a file that is missing, cut short, or not in the format (which).
    """
    if folder:
        images, labels = (
            np.concatenate([read_idx(Path(folder), name.format(kind)) for name in _IDX])
            for kind in ("images-idx3", "labels-idx1")
        )
        if images.ndim != 3 or labels.shape != images.shape[:1]:
            raise InputError(f"{folder} has images {images.shape} and labels {labels.shape}: they do not fit.")
        return images / 255, labels.astype(np.int64)
    from scipy.ndimage import zoom
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return np.clip(zoom(images.reshape(-1, 8, 8) / 16, (1, 2, 2), order=1), 0, 1), labels


def rotated_digits(folder: str = "", *, seed: int) -> Mapping[str, Examples]:
    """RotatedMNIST: each digit in one of six domains, dealt out at random, turned by :data:`ANGLES` degrees.

    Source: DomainBed's construction (Gulrajani and Lopez-Paz, arXiv 2007.01434), after Ghifary et al. (2015).
    """
    from scipy.ndimage import rotate

    images, labels = digits(folder)
    order = np.random.default_rng(seed).permutation(len(labels))
    parts = {}
    for i, angle in enumerate(ANGLES):
        own = order[i :: len(ANGLES)]
        turned = np.clip(rotate(images[own], angle, axes=(2, 1), reshape=False, order=1), 0, 1)
        parts[f"{angle} degrees"] = _tensors(turned[:, None], labels[own])
    return parts


def colored_digits(folder: str = "", *, seed: int) -> Mapping[str, Examples]:
    """ColoredMNIST: is the digit below 5? A quarter of the answers is wrong, and the colour tells the rest.

    The label is [digit < 5], flipped for 25 %; the colour is the label, flipped for the share that names the domain
    (:data:`DISAGREEMENTS`). So the shape predicts 75 % everywhere, the colour 90, 80 and 10 %. Every other pixel is
    taken, as in DomainBed, where the side is 28.

    Returns:
        x of shape (n, 2, side, side): one channel is the digit, the other is 0.

    Source: Arjovsky et al., arXiv 1907.02893, as in DomainBed.
    """
    images, labels = digits(folder)
    images = images[:, ::2, ::2] if images.shape[1] > 16 else images
    random = np.random.default_rng(seed)
    order, parts = random.permutation(len(labels)), {}
    for i, share in enumerate(DISAGREEMENTS):
        own = order[i :: len(DISAGREEMENTS)]
        y = (labels[own] < 5) ^ (random.random(len(own)) < 0.25)
        colour = y ^ (random.random(len(own)) < share)
        channels = np.stack([~colour, colour], axis=1)[:, :, None, None] * images[own][:, None]
        parts[f"{share:.0%}"] = _tensors(channels, y)
    return parts


def read_idx(folder: Path, name: str) -> np.ndarray:
    """The array of bytes in an IDX file, plain or gzipped.

    Raises:
        InputError: no such file, not IDX, or cut short.
    """
    path = next((p for p in (folder / name, folder / f"{name}.gz") if p.exists()), None)
    if path is None:
        raise InputError(f"{folder / name} is missing, with or without .gz: the folder holds MNIST's four IDX files.")
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError) as error:
        raise InputError(f"Cannot read {path} ({error}): fetch the file again.") from error
    if data[:3] != b"\0\0\x08" or not 1 <= data[3:4][0] <= 3:
        raise InputError(f"{path} is not an IDX file of bytes: it begins with {data[:4].hex(' ')}.")
    start = 4 + 4 * data[3]
    shape = np.frombuffer(data[4:start], ">i4")
    if len(data) - start != shape.prod():
        raise InputError(f"{path} has {len(data) - start} bytes of data, expected {shape.prod()}: fetch it again.")
    return np.frombuffer(data[start:], np.uint8).reshape(shape)


def _tensors(x: np.ndarray, y: np.ndarray) -> Examples:
    return torch.tensor(x, dtype=torch.float32), torch.tensor(y, dtype=torch.int64)
