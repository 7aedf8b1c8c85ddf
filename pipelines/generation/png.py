"""Settings in a PNG, and back: A1111's ``parameters`` text for other tools, JSON for this one."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

from ...guidance.engine.config import reject
from ...guidance.engine.files import write

KEY = "guiders"


def info(settings: dict[str, Any], guider: str, sampler: str) -> PngImagePlugin.PngInfo:
    """The text chunks of a picture made with ``settings`` (see ``generate.Settings``)."""
    text = PngImagePlugin.PngInfo()
    fields = {
        "Steps": settings["num_inference_steps"],
        "Sampler": sampler,
        "Seed": settings["seed"],
        "Size": f"{settings['width']}x{settings['height']}",
        "Model": settings["model"],
        "Guider": guider,
    }
    for name in ("skip", "lora"):
        if settings.get(name):
            fields[name.capitalize()] = settings[name]
    scale = _first_scale(settings["guider"])
    if scale is not None:
        fields["CFG scale"] = scale
    lines = [settings["prompt"]]
    if settings["negative_prompt"]:
        lines.append(f"Negative prompt: {settings['negative_prompt']}")
    lines.append(", ".join(f"{key}: {_quoted(value)}" for key, value in fields.items()))
    text.add_text("parameters", "\n".join(lines))
    text.add_text(KEY, json.dumps(settings))
    return text


def grid_info(cells: list[dict[str, Any]]) -> PngImagePlugin.PngInfo:
    """The text chunk of a grid: the settings of its cells, row by row, as JSON."""
    text = PngImagePlugin.PngInfo()
    text.add_text(f"{KEY}-grid", json.dumps(cells))
    return text


def save(
    path: Path, picture: Image.Image, text: PngImagePlugin.PngInfo | None = None, *,
    new: bool = False,
) -> None:  # fmt: skip
    """Write a picture, whole or not at all; see ``guidance.files.write``."""
    write(path, lambda file: picture.save(file, "PNG", pnginfo=text), new=new)


def read(path: str | Path) -> dict[str, Any]:
    """The settings stored in a picture of ours, or those of A1111's text that mean something here.

    Raises:
        ValueError: the file is not a picture or carries no settings.
    """
    try:
        with Image.open(path) as picture:
            chunks = dict(picture.info)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise reject("", "params-from", str(path), f"a readable picture ({error})") from None
    try:
        if KEY in chunks:
            settings = json.loads(chunks[KEY])
            if not isinstance(settings, dict) or "prompt" not in settings:
                raise ValueError("not the settings of a picture")
            return settings
        if "parameters" in chunks:
            return _from_text(chunks["parameters"])
    except (ValueError, TypeError, RecursionError) as error:
        expected = f"a PNG whose settings can be read ({error})"
        raise reject("", "params-from", str(path), expected) from None
    raise reject("", "params-from", str(path), "a PNG with stored settings")


def _from_text(text: str) -> dict[str, Any]:
    """Prompt, negative prompt, steps, seed and scale of A1111's text.

    The line that begins with ``Steps:`` holds the settings; what they call model, sampler and size
    belongs to another model and is not taken.
    """
    lines = text.split("\n")
    steps = [i for i, line in enumerate(lines) if line.startswith("Steps: ")]
    head = lines[: steps[-1]] if steps else lines
    negative = [i for i, line in enumerate(head) if line.startswith("Negative prompt: ")]
    cut = negative[0] if negative else len(head)
    found: dict[str, Any] = {
        "prompt": "\n".join(head[:cut]),
        "negative_prompt": "\n".join(head[cut:]).removeprefix("Negative prompt: "),
    }
    if steps:
        pairs = re.findall(r'([\w ]+): ("(?:[^"\\]|\\.)*"|[^,]*)', lines[steps[-1]])
        fields = {key.strip(): value for key, value in pairs}
        for name, key, kind in (
            ("num_inference_steps", "Steps", int),
            ("seed", "Seed", int),
            ("guidance_scale", "CFG scale", float),
        ):
            if key in fields:
                found[name] = kind(fields[key])
    return found


def _quoted(value: object) -> str:
    text = str(value)
    return json.dumps(text) if re.search(r"[,:\n]", text) else text


def _first_scale(guider: Any) -> Any:
    """The scale of the first method, where it is a plain number."""
    while isinstance(guider, dict):
        guider = guider.get("scale", (guider.get("parts") or [None])[0])
    return guider
