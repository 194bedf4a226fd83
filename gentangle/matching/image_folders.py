"""DomainBed's image sets, ``<root>/<set>/<domain>/<class>/<image>``: files that are decoded when they are drawn."""

import os
import warnings
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from hashlib import sha256
from math import log, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from gentangle.errors import InputError

#: What counts as an image, by the end of its name; other files are not looked at, as in torchvision's ImageFolder.
ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
#: ImageNet's mean and standard deviation of red, green and blue.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """Files that stand for images, a tensor of shape (n, 3, size, size); rows are taken of it as of a tensor.

    Args:
        files: their paths, an array of shape (n,).
        size: pixels a side that each is resized to, whatever its own form.
        augment: change the images of a training minibatch at random, see :meth:`floats`.
    """

    files: np.ndarray
    size: int
    augment: bool = False

    def __len__(self) -> int:
        return len(self.files)

    @property
    def shape(self) -> torch.Size:
        """(n, 3, size, size)."""
        return torch.Size((len(self), 3, self.size, self.size))

    def __getitem__(self, rows: torch.Tensor | slice) -> "ImageFiles":
        return replace(self, files=self.files[rows if isinstance(rows, slice) else rows.numpy()])

    def split(self, count: int) -> "list[ImageFiles]":
        """In parts of ``count``, the last one of what is left."""
        return [self[i : i + count] for i in range(0, len(self), count)]

    def floats(self, generator: torch.Generator | None = None) -> torch.Tensor:
        """The pixels, shape (n, 3, size, size), less ImageNet's mean and divided by its standard deviation.

        Args:
            generator: decides how images are changed, where they are to be; None leaves them as they are.

        Raises:
            InputError: an image that cannot be read (which).
        """
        from PIL import Image

        seeds: list[int | None] = [None] * len(self)
        if self.augment and generator is not None:
            seeds = torch.randint(2**31, (len(self),), generator=generator).tolist()
        with warnings.catch_warnings(), ThreadPoolExecutor() as pool:
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            pixels = [*pool.map(self._pixels, self.files, seeds)]
        x = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 255
        mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in (MEAN, STD))
        return ((x - mean) / std).contiguous()

    def _pixels(self, file: Path, seed: int | None) -> np.ndarray:
        from PIL import Image

        try:
            with Image.open(file) as opened:
                image = opened.convert("RGB")
        except (
            OSError,
            SyntaxError,
            ValueError,
            Image.DecompressionBombError,
            Image.DecompressionBombWarning,
        ) as error:
            raise _unreadable(file, error) from error
        if seed is None:
            return np.asarray(image.resize((self.size, self.size), Image.Resampling.BILINEAR))
        return np.asarray(augmented(image, self.size, np.random.default_rng(seed)))


def _unreadable(file: Path, error: Exception) -> InputError:
    return InputError(f"Cannot read the image {file} ({error}): fetch it anew, or take it away.")


def augmented(image: Any, size: int, rng: np.random.Generator) -> Any:
    """A PIL image cropped, mirrored and coloured at random by DomainBed's settings, and resized.

    70 to 100 % of the area at a ratio of 3/4 to 4/3; every other one mirrored; brightness, contrast, saturation and hue
    moved by up to .3, in random order; one of ten in grey.
    """
    from PIL import Image, ImageEnhance, ImageOps

    area, ratio = image.width * image.height * rng.uniform(0.7, 1), np.exp(rng.uniform(-1, 1) * log(4 / 3))
    width, height = min(image.width, sqrt(area * ratio)), min(image.height, sqrt(area / ratio))
    left, top = rng.uniform(0, image.width - width), rng.uniform(0, image.height - height)
    box = (left, top, left + width, top + height)
    image = image.resize((size, size), Image.Resampling.BILINEAR, box=box)
    image = ImageOps.mirror(image) if rng.random() < 0.5 else image
    enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    for number in rng.permutation(4):
        if number < len(enhancers):
            image = enhancers[number](image).enhance(rng.uniform(0.7, 1.3))
            continue
        hue, *others = image.convert("HSV").split()
        turn = round(256 * rng.uniform(-0.3, 0.3))
        turned = hue.point([(value + turn) % 256 for value in range(256)])
        image = Image.merge("HSV", (turned, *others)).convert("RGB")
    return image.convert("L").convert("RGB") if rng.random() < 0.1 else image


#: Images and labels by domain.
ImageParts = Mapping[str, tuple[ImageFiles, torch.Tensor]]


def image_folders(root: Path | None, folder: str, size: int, augment: bool = False) -> ImageParts:
    """Images and labels of each domain of ``<root>/<folder>``, in the order of the names; nothing is decoded.

    A label is the place of its class among all classes' names in order.

    Args:
        root: folder that holds the set's folder.
        folder: the set's, by DomainBed's name: PACS, VLCS, office_home, terra_incognita, domain_net, or one's own.
        size, augment: see :class:`ImageFiles`.

    Raises:
        InputError: no root or no such folder, one without domains, a domain that lacks a class (both are named), or a
            size that is no positive number.
    """
    if not isinstance(size, int) or size < 1:
        raise InputError(f"The images' size is {size!r}, expected pixels a side, as 224.")
    parts = {}
    for domain, classes in _listing(root, folder).items():
        y = torch.tensor([label for label, files in enumerate(classes.values()) for _ in files])
        paths = np.array([file for files in classes.values() for file in files], dtype=object)
        parts[domain] = ImageFiles(paths, size, augment), y
    return parts


def files_hash(parts: ImageParts) -> str:
    """SHA-256 over the domain, class, name and size in bytes of every image: a set that was moved keeps it."""
    digest = sha256()
    for file in (file for images, _ in parts.values() for file in images.files):
        try:
            size = file.stat().st_size
        except OSError as error:
            raise _unreadable(file, error) from error
        digest.update(os.fsencode(f"{'/'.join(file.parts[-3:])} {size}\n"))
    return digest.hexdigest()


def read_all(parts: ImageParts) -> None:
    """Decode every image once, before hours of training come to one that cannot be: minutes for half a million.

    Raises:
        InputError: the first that cannot be read.
    """
    for domain, (images, _) in parts.items():
        for batch in tqdm(images.split(500), desc=domain, disable=None):
            batch.floats()


def _listing(root: Path | None, folder: str) -> dict[str, dict[str, list[Path]]]:
    """Domain -> class -> files, each in order."""
    if root is None:
        raise InputError(f"The images of {folder} need --root DIR, the folder that holds the folder {folder}.")
    top = root / folder
    found = {domain.name: {own.name: _images(own) for own in _folders(domain)} for domain in _folders(top)}
    if not found:
        held = ", ".join(path.name for path in _folders(root)) or "no folder"
        raise InputError(
            f"There is no folder {top} with a folder for each domain ({root} holds {held}): give as --root the folder "
            f"that holds {folder}, or try a small one, `gentangle image-fixture {folder} {root}`."
        )
    names = sorted({name for classes in found.values() for name in classes})
    for domain, classes in found.items():
        if missing := [name for name in names if not classes.get(name)]:
            raise InputError(
                f"The domain {domain} in {top} has no image of the class {missing[0]!r}, one of {len(missing)} that it "
                "lacks: every domain has a folder of images for every class."
            )
    return {domain: {name: classes[name] for name in names} for domain, classes in found.items()}


def _folders(path: Path) -> list[Path]:
    return sorted(p for p in path.iterdir() if p.is_dir() and p.name[0] != ".") if path.is_dir() else []


def _images(path: Path) -> list[Path]:
    return sorted(file for file in path.iterdir() if file.suffix.lower() in ENDINGS and file.name[0] != ".")
