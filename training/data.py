"""Emoji with English names: fetch the six icon packages, draw them, and caption them.

The pictures come from npm packages of the Iconify project (licences in ``NOTICE``); ``npm pack``
brings them and resvg draws them, at four times the size and averaged down, on white. Everything is
kept in one ``emoji.npz`` so that training needs neither the network nor npm again.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import re
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

# package -> the style word of its captions. Versions are pinned: a caption must keep its picture.
PACKAGES = {
    "noto": ("1.2.9", "noto"),
    "noto-v1": ("1.2.5", "noto blob"),
    "twemoji": ("1.2.5", "twemoji"),
    "emojione": ("1.2.3", "emojione"),
    "fluent-emoji": ("1.2.7", "fluent"),
    "fluent-emoji-flat": ("1.2.6", "fluent flat"),
}

# The sets disagree on how they name categories; these nine are what captions use.
CATEGORIES = {
    "Activities": "activities",
    "Animals & Nature": "nature",
    "Component": "",
    "Flags": "flags",
    "Food": "food",
    "Food & Drink": "food",
    "Modifiers": "",
    "Nature": "nature",
    "Objects": "objects",
    "People": "people",
    "People & Body": "people",
    "Smileys & Emotion": "smileys",
    "Symbols": "symbols",
    "Travel": "travel",
    "Travel & Places": "travel",
}

HELD_OUT_PERCENT = 10

# How much a caption says. With an exact caption for every picture, a model that has learnt its data
# draws the same thing at every guidance scale and guidance has nothing to do.
CAPTION_SHARES = {
    "name, style": 0.80,
    "name": 0.08,
    "category, style": 0.02,
    "category": 0.02,
    "style": 0.01,
    "": 0.07,
}


@dataclass
class Emoji:
    """``images`` (N, size, size, 3) uint8; the other fields are N strings each."""

    images: np.ndarray
    names: list[str]
    styles: list[str]
    categories: list[str]

    @classmethod
    def load(cls, path: str | Path) -> Emoji:
        with np.load(path) as data:
            text = (data[key].tolist() for key in ("names", "styles", "categories"))
            return cls(data["images"], *text)

    def __len__(self) -> int:
        return len(self.names)

    def pixels(self) -> torch.Tensor:
        """(N, 3, size, size) float in [-1, 1]."""
        return (
            torch.from_numpy(self.images).permute(0, 3, 1, 2).float().div(127.5).sub(1).contiguous()
        )

    def caption(self, index: int) -> str:
        """The full caption, ``red heart, noto style``."""
        return f"{self.names[index]}, {self.styles[index]} style"

    def held_out(self) -> np.ndarray:
        """(N,) bool: the (name, style) pairs that training never sees."""
        pairs = zip(self.names, self.styles, strict=True)
        return np.array([is_held_out(name, style) for name, style in pairs])


def is_held_out(name: str, style: str) -> bool:
    """The fixed rule: the SHA-256 of ``name|style``, modulo 100, is below ten."""
    digest = hashlib.sha256(f"{name}|{style}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % 100 < HELD_OUT_PERCENT


def captions(name: str, style: str, category: str) -> list[str]:
    """One caption of each granularity of ``CAPTION_SHARES``, in its order."""
    parts = {"name": name, "style": f"{style} style", "category": category}
    kinds = ([parts[part] for part in kind.split(", ") if part] for kind in CAPTION_SHARES)
    return [", ".join(word for word in words if word) for words in kinds]


def is_skin_tone(name: str, everything: set[str]) -> bool:
    """Is this icon a skin-tone variant of another one? The sets write them in three ways."""
    base = re.sub(r"(-(medium-light|medium-dark|light|medium|dark))+$", "", name)
    return (
        "skin-tone" in name
        or bool(re.search(r"-tone\d", name))
        or (base != name and base in everything)
    )


def fetch(package: str, version: str, folder: Path) -> Path:
    """Download ``@iconify-json/<package>`` with npm unless it is there; return the tarball."""
    path = folder / f"iconify-json-{package}-{version}.tgz"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        name = f"@iconify-json/{package}@{version}"
        subprocess.run(["npm", "pack", "--silent", name], cwd=folder, check=True)
    return path


def read_package(path: Path) -> tuple[dict, dict[str, str]]:
    """The icon set and, where the package says, the category of each icon."""
    with tarfile.open(path) as tar:
        icons = json.load(tar.extractfile("package/icons.json"))
        try:
            metadata = json.load(tar.extractfile("package/metadata.json"))
        except KeyError:
            metadata = {}
    groups = metadata.get("categories", {})
    return icons, {icon: CATEGORIES[group] for group, names in groups.items() for icon in names}


def draw(icon: dict, width: int, height: int, size: int) -> np.ndarray:
    """(size, size, 3) uint8 on white, box-filtered from four times the size."""
    import resvg_py
    from PIL import Image

    left, top = icon.get("left", 0), icon.get("top", 0)
    width, height = icon.get("width", width), icon.get("height", height)
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{left} {top} {width} {height}">{icon["body"]}</svg>'
    )
    png = resvg_py.svg_to_bytes(svg_string=svg, width=4 * size, height=4 * size)
    picture = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
    canvas = Image.new("RGBA", (4 * size, 4 * size), "white")
    offset = ((4 * size - picture.width) // 2, (4 * size - picture.height) // 2)
    canvas.alpha_composite(picture, offset)
    return np.asarray(canvas.convert("RGB").reduce(4))


def build(downloads: Path, size: int) -> Emoji:
    """Draw every icon of every package but the skin-tone variants."""
    sets = {p: read_package(fetch(p, v, downloads)) for p, (v, _) in PACKAGES.items()}
    known: dict[
        str, str
    ] = {}  # some sets carry no categories: a name means the same in all of them
    for _, categories in sets.values():
        for name, category in categories.items():
            known.setdefault(name, category)
    everything = {name for icons, _ in sets.values() for name in icons["icons"]}
    images, names, styles, groups = [], [], [], []
    for package, (icons, categories) in sets.items():
        style = PACKAGES[package][1]
        chosen = {k: v for k, v in icons["icons"].items() if not is_skin_tone(k, everything)}
        for name, icon in tqdm(chosen.items(), desc=f"drawing {package}"):
            images.append(draw(icon, icons.get("width", 16), icons.get("height", 16), size))
            names.append(name.removeprefix("flag-for-").replace("-", " "))
            styles.append(style)
            groups.append(
                "flags"
                if name.startswith("flag-for-")
                else categories.get(name, known.get(name, ""))
            )
    return Emoji(np.stack(images), names, styles, groups)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--downloads", type=Path, default=Path("build/downloads"))
    parser.add_argument("--size", type=int, default=64, help="pixels")
    parser.add_argument("--out", type=Path, default=Path("build/emoji.npz"))
    args = parser.parse_args()
    emoji = build(args.downloads, args.size)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        args.out,
        images=emoji.images,
        names=np.array(emoji.names),
        styles=np.array(emoji.styles),
        categories=np.array(emoji.categories),
    )
    held = int(emoji.held_out().sum())
    print(f"{len(emoji)} pictures, {held} of them held out -> {args.out}")


if __name__ == "__main__":
    main()
