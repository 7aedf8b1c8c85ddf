"""Measure the emoji family: every figure of the model cards, and the contact sheet.

Needs the pictures (``data.py``). Quality is judged by ``emoji-judge``, which nothing was trained or
selected with, and the Frechet distance by emoji-CLIP too. The pictures of two guiders share prompts
and seeds, and intervals are 95 % bootstraps over pictures (or captions, where a caption is drawn
several times). Parts are kept in ``report.json`` one by one: name those to measure again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from data import Emoji
from guiders import APG, CFG, Adaptive, Guider, Match, WeakModel, guided, models
from guiders.evals import (
    Estimate,
    Moments,
    bootstrap,
    clipped,
    contrast,
    frechet_distance,
    image_features,
    saturation,
    text_features,
)
from guiders.pipelines.generation.grid import layout
from names import measure as nearest_names
from torch import Tensor
from torch.nn.functional import normalize
from tqdm import tqdm

SHEET = [
    "red heart", "soccer ball", "grinning face", "dog face", "rocket", "key", "red apple",
    "airplane", "cat face", "umbrella", "banana", "sun", "crown", "pizza", "octopus", "fire",
]  # fmt: skip
BATCH = 64
STYLES = ["noto", "noto blob", "twemoji", "emojione", "fluent", "fluent flat"]


class Family:
    """The models and the pictures, loaded once."""

    def __init__(self, data: Path, dtype: torch.dtype) -> None:
        self.emoji = Emoji.load(data)
        self.held_out = self.emoji.held_out()
        self.dtype = dtype
        self.pipe = models.load("emoji", dtype=dtype)
        self.pipe.set_progress_bar_config(disable=True)
        self.judge, self.clip = models.load("emoji-judge"), models.load("emoji-clip")
        self.words = models.tokenizer("emoji-judge")

    def draw(
        self, guider: Guider, prompts: list[str], steps: int, seeds: list[int] | None = None
    ) -> tuple[list, float]:
        """One picture of each prompt and the mean evaluations of a picture."""
        seeds = list(range(len(prompts))) if seeds is None else seeds
        pictures, spent = [], 0
        for start in tqdm(range(0, len(prompts), BATCH), desc=str(guider), leave=False):
            rows = slice(start, start + BATCH)
            with guided(self.pipe, guider, quiet=True) as run:
                pictures += self.pipe(
                    prompts[rows], num_inference_steps=steps,
                    generator=[torch.Generator().manual_seed(seed) for seed in seeds[rows]],
                ).images  # fmt: skip
            spent += sum(run.last.evaluations)
        return pictures, spent / len(prompts)

    def judged(self, pictures: Any) -> Tensor:
        """(N, D) unit features of pictures."""
        return normalize(image_features(self.judge, pictures), dim=1)

    def read(self, texts: list[str]) -> Tensor:
        """(N, D) unit features of texts."""
        return normalize(text_features(self.judge, self.words, texts), dim=1)

    def choose(self, held_out: bool, count: int) -> np.ndarray:
        """Rows of ``count`` pictures at random with different names."""
        rows = np.random.default_rng(0).permutation(np.flatnonzero(self.held_out == held_out))
        first = {self.emoji.names[row]: row for row in rows[::-1]}
        return np.array(list(first.values()))[:count]


def colour(family: Family) -> dict:
    """Saturation, contrast and clipping over the scales, at training captions."""
    rows = family.choose(held_out=False, count=128)
    prompts = [family.emoji.caption(i) for i in rows]
    matched = APG(Match(CFG(8)))  # of the same mean effective scale, by the profile that ships
    guiders = [
        CFG(1), CFG(2), CFG(4), CFG(8), CFG(12), APG(8), APG(12), matched, CFG(Adaptive(4)),
    ]  # fmt: skip

    def figures(pictures: Any) -> dict[str, np.ndarray]:
        return {
            "saturation": saturation(pictures),
            "saturation of ink": saturation(pictures, skip_white=True),
            "contrast": contrast(pictures),
            "clipped": clipped(pictures),
            "clipped of ink": clipped(pictures, skip_white=True),
        }

    table, values = {}, {}
    for guider in [None, *guiders]:
        name = str(guider) if guider else "real pictures"
        if guider:
            pictures, evaluations = family.draw(guider, prompts, 20)
        else:
            pictures, evaluations = family.emoji.images[rows], 0.0
        values[name] = figures(pictures)
        table[name] = {key: bootstrap(value) for key, value in values[name].items()}
        table[name]["evaluations"] = evaluations
    strong = values[str(CFG(8))]

    def minus(high: dict[str, np.ndarray], low: dict[str, np.ndarray]) -> dict[str, Estimate]:
        return {key: bootstrap(high[key] - low[key]) for key in high}

    return {
        "pictures": len(rows), "steps": 20, "table": table,
        "CFG 8 minus unguided": minus(strong, values[str(CFG(1))]),
        "CFG 8 minus real pictures": minus(strong, values["real pictures"]),
        "APG at the effective scale of CFG 8, minus it": minus(values[str(matched)], strong),
    }  # fmt: skip


def retrieval(family: Family) -> dict:
    """Does the judge find the right name among 500, and is a picture of an unseen pair a copy?"""
    result: dict[str, Any] = {}
    seen = family.judged(family.emoji.images[~family.held_out])
    for held_out in (False, True):
        rows = family.choose(held_out, 500)
        names = family.read([family.emoji.names[i] for i in rows])
        real = family.judged(family.emoji.images[rows])
        pictures, _ = family.draw(CFG(4), [family.emoji.caption(i) for i in rows], 30)
        made = family.judged(pictures)
        part = {}
        for label, features in (("drawn", made), ("real", real)):
            scores = features @ names.T
            rank = (scores > scores.diagonal()[:, None]).sum(dim=1).numpy()
            part[label] = {f"top {k}": bootstrap(rank < k) for k in (1, 5)}
        if held_out:
            new = (made * real).sum(dim=1) > (made @ seen.T).max(dim=1).values
            part["nearer to the unseen target than to any training picture"] = bootstrap(
                new.numpy()
            )
        result["held-out pairs" if held_out else "training captions"] = part
    return {"captions": 500, "steps": 30, "guider": str(CFG(4)), **result}


def guidance(family: Family, seeds: int = 8) -> dict:
    """Diversity and alignment of captions that leave room, over the scales."""
    names = [family.emoji.names[i] for i in family.choose(held_out=False, count=39)]
    captions = names + sorted(set(filter(None, family.emoji.categories)))
    texts = family.read(captions)
    prompts = [caption for caption in captions for _ in range(seeds)]
    values = {}
    for scale in (1, 2, 4, 8):
        pictures, _ = family.draw(CFG(scale), prompts, 20)
        features = family.judged(pictures).view(len(captions), seeds, -1)
        pairs = (features @ features.mT).sum(dim=(1, 2)) - seeds
        values[scale] = {
            "diversity": (1 - pairs / (seeds * (seeds - 1))).numpy(),
            "alignment": torch.einsum("csd,cd->c", features, texts).div(seeds).numpy(),
        }
    return {
        "captions": f"{len(names)} names and {len(captions) - len(names)} categories",
        "seeds": seeds,
        "steps": 20,
        "table": {
            f"CFG {scale}": {key: bootstrap(value) for key, value in row.items()}
            for scale, row in values.items()
        },
        "CFG 8 minus unguided": {
            key: bootstrap(values[8][key] - values[1][key]) for key in ("diversity", "alignment")
        },
    }  # fmt: skip


def frechet(family: Family, count: int = 2048) -> dict:
    """Frechet distances to the training pictures, over CFG's scales and autoguidance's."""
    generator = np.random.default_rng(0)
    rows = generator.choice(np.flatnonzero(~family.held_out), count, replace=False)
    prompts = [family.emoji.caption(i) for i in rows]
    weak = WeakModel(models.load("emoji-weak", dtype=family.dtype))
    guiders = {
        **{("unguided" if s == 1 else f"CFG {s}"): CFG(s) for s in (1, 2, 4, 8, 12)},
        **{f"autoguidance {s}": CFG(s, reference=weak) for s in (1.5, 2, 3)},
    }
    networks = {"emoji-clip": family.clip, "emoji-judge": family.judge}
    reference = {name: Moments.load(models.statistics(name)) for name in networks}

    def distances(pictures: Any) -> dict[str, Estimate]:
        result = {}
        for name, network in networks.items():
            features = image_features(network, pictures).numpy()

            def distance(x: np.ndarray, name: str = name) -> float:
                return frechet_distance(Moments.of(x), reference[name])

            result[name] = bootstrap(features, distance, samples=200, centred=True)
        return result

    table = {"held-out real pictures": distances(family.emoji.images[family.held_out])}
    for name, guider in guiders.items():
        table[name] = distances(family.draw(guider, prompts, 20)[0])
        print(name, *(f"{k} {v}" for k, v in table[name].items()), sep="  ", flush=True)
    return {
        "pictures": count, "steps": 20, "held-out pictures": int(family.held_out.sum()),
        "table": table,
    }  # fmt: skip


@torch.no_grad()
def networks(family: Family) -> dict:
    """The judges on real pictures, the classifier and the autoencoder."""
    emoji, classifier = family.emoji, models.load("emoji-classifier")
    labels = classifier.config.label2id
    rows = np.array([i for i in np.flatnonzero(family.held_out) if emoji.categories[i]])
    pictures = emoji.pixels()
    seen = models.judged(pictures[rows])
    parts = [classifier(x).logits.softmax(dim=1) for x in seen.split(256)]
    confidence, guess = torch.cat(parts).max(dim=1)
    right = (guess == torch.tensor([labels[emoji.categories[i]] for i in rows])).float()
    bins = (confidence * 10).long().clamp(max=9)
    error = sum(
        abs((right - confidence)[bins == b].sum().item()) for b in range(10)
    ) / len(rows)  # fmt: skip
    target = pictures[family.held_out]
    vae = models.load("emoji").vae
    output = torch.cat([vae(x).sample for x in target.split(128)])
    result = {
        "classifier": {
            "held-out accuracy": bootstrap(right.numpy()),
            "expected calibration error": error,
            "temperature": classifier.config.calibration_temperature,
        },
        "autoencoder, L1 on held-out pictures": (output - target).abs().mean().item(),
    }
    chosen = family.choose(held_out=True, count=500)
    for name in ("emoji-clip", "emoji-judge"):
        model, tokens = models.load(name), models.tokenizer(name)
        images = normalize(image_features(model, emoji.images[chosen]), dim=1)
        texts = normalize(text_features(model, tokens, [emoji.names[i] for i in chosen]), dim=1)
        scores = images @ texts.T
        rank = (scores > scores.diagonal()[:, None]).sum(dim=1).numpy()
        words = normalize(text_features(model, tokens, list(labels)), dim=1)
        every = normalize(image_features(model, emoji.images[rows]), dim=1)
        zero_shot = (every @ words.T).argmax(dim=1).numpy()
        truth = np.array([list(labels).index(emoji.categories[i]) for i in rows])
        result[name] = {
            "right name of 500 held-out pairs, top 1": bootstrap(rank < 1),
            "right name of 500 held-out pairs, top 5": bootstrap(rank < 5),
            "category of held-out pictures by its word": bootstrap(zero_shot == truth),
        }
    return result


def speed(family: Family) -> dict:
    """Four pictures of 30 steps at CFG 4, on the machine at hand."""
    family.draw(CFG(4), ["red heart"] * 4, 2)
    started = time.monotonic()
    family.draw(CFG(4), ["red heart"] * 4, 30)
    return {"seconds": time.monotonic() - started, "threads": torch.get_num_threads()}


def sheet(family: Family, out: Path) -> None:
    """Sixteen names in six styles at CFG 4 and 30 steps, seeds that count up."""
    captions = [f"{name}, {style} style" for name in SHEET for style in STYLES]
    pictures, _ = family.draw(CFG(4), captions, 30)
    held = {family.emoji.caption(i) for i in np.flatnonzero(family.held_out)}
    notes = ["held out" if caption in held else "" for caption in captions]
    half, n = len(captions) // 2, len(STYLES)  # two names in a row

    def rows_of(cells: list) -> list[list]:
        return [cells[i : i + n] + cells[half + i : half + i + n] for i in range(0, half, n)]

    labels = [f"{SHEET[i]} / {SHEET[i + len(SHEET) // 2]}" for i in range(len(SHEET) // 2)]
    layout(rows_of(pictures), rows_of(notes), STYLES * 2, labels).save(
        out / "contact-sheet.png", optimize=True
    )


def names(family: Family) -> dict:
    """Is the nearest real picture one of the name asked for? See ``names.py``."""
    return nearest_names(family.pipe, family.emoji, CFG(3), 30)


PARTS: dict[str, Callable[[Family], dict]] = {
    "networks": networks, "speed": speed, "names": names, "retrieval": retrieval,
    "guidance": guidance, "colour": colour, "frechet": frechet,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}, sheet; all by default")
    parser.add_argument("--data", type=Path, default=Path("build/emoji.npz"))
    parser.add_argument("--out", type=Path, default=Path("build/report"))
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    args = parser.parse_args()
    family = Family(args.data, getattr(torch, args.dtype))
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / "report.json"
    report = json.loads(file.read_text()) if file.exists() else {}
    for name in args.parts or [*PARTS, "sheet"]:
        if name == "sheet":
            sheet(family, args.out)
            continue
        report[name] = {"dtype": args.dtype, **PARTS[name](family)}
        file.write_text(json.dumps(report, indent=1) + "\n")
        print(json.dumps({name: report[name]}, indent=1), flush=True)


if __name__ == "__main__":
    main()
