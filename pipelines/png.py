"""Settings in a PNG, and back: A1111's ``parameters`` text for other tools, JSON for this one."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

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


def read(path: str | Path) -> dict[str, Any]:
    """The settings stored in a picture of ours, or those of A1111's text that mean something here.

    Raises:
        ValueError: the file is not a picture or carries no settings.
    """
    try:
        with Image.open(path) as picture:
            chunks = dict(picture.info)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"params-from is {str(path)!r}; allowed is a readable picture ({error})"
        ) from None
    try:
        if KEY in chunks:
            return dict(json.loads(chunks[KEY]))
        if "parameters" in chunks:
            return _from_text(chunks["parameters"])
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"params-from is {str(path)!r}; its settings cannot be read ({error})"
        ) from None
    raise ValueError(f"params-from is {str(path)!r}; allowed is a PNG with stored settings")


def _from_text(text: str) -> dict[str, Any]:
    """Prompt, negative prompt, steps, seed and scale of A1111's three lines."""
    head, _, tail = text.rpartition("\n")
    prompt, _, negative = head.partition("\nNegative prompt: ")
    fields = dict(re.findall(r'([\w ]+): ("(?:[^"\\]|\\.)*"|[^,]*)', tail))
    fields = {key.strip(): value for key, value in fields.items()}
    found: dict[str, Any] = {"prompt": prompt, "negative_prompt": negative}
    if "Steps" in fields:
        found["num_inference_steps"] = int(fields["Steps"])
    if "Seed" in fields:
        found["seed"] = int(fields["Seed"])
    if "CFG scale" in fields:
        found["guidance_scale"] = float(fields["CFG scale"])
    return found


def _quoted(value: Any) -> str:
    text = str(value)
    return json.dumps(text) if re.search(r"[,:\n]", text) else text


def _first_scale(guider: Any) -> Any:
    """The scale of the first method, where it is a plain number."""
    while isinstance(guider, dict):
        guider = guider.get("scale", (guider.get("parts") or [None])[0])
    return guider
