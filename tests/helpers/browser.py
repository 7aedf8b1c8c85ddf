"""A page in headless Chromium, without a network: what it shows and what is wrong with it."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

NAMES = ("chromium", "chromium-browser", "google-chrome")
PROGRAM = next(filter(None, map(shutil.which, NAMES)), None)
needed = pytest.mark.skipif(
    PROGRAM is None, reason="no browser is found; `make browser` installs Debian's chromium"
)
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
    "--no-first-run", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
    "--disable-dev-shm-usage", "--host-resolver-rules=MAP * ~NOTFOUND",
)  # fmt: skip
PROBE = """<script>
const found = {errors: [], broken: [], fetched: []};
addEventListener("error", e => found.errors.push(String(e.message || e.target.src)), true);
addEventListener("load", () => {
  found.broken = [...document.images].filter(i => !i.naturalWidth).map(i => i.alt || i.src);
  found.images = document.images.length;
  found.fetched = performance.getEntriesByType("resource").map(r => r.name)
    .filter(n => !n.startsWith("data:"));
  found.charts = [...document.querySelectorAll("figure svg")]
    .map(s => s.getBoundingClientRect()).filter(r => r.width > 100 && r.height > 100).length;
  found.wider = document.documentElement.scrollWidth - innerWidth;
  const seen = document.createElement("pre");
  seen.id = "found"; seen.textContent = JSON.stringify(found); document.body.append(seen);
});
</script>"""


def run(profile: Path, *arguments: str) -> str:
    command = [PROGRAM, *FLAGS, f"--user-data-dir={profile}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def inspect(page: Path, folder: Path) -> dict[str, Any]:
    """What a script added to a copy of the page finds: broken pictures, errors, requests."""
    copy = folder / "probed.html"
    copy.write_text(page.read_text().replace("<head>", "<head>" + PROBE, 1))
    dom = run(folder / "profile", "--window-size=1200,900", "--dump-dom", copy.as_uri())
    found = re.search(r'<pre id="found">(.*?)</pre>', dom, re.S)
    assert found, dom[-2000:]
    return json.loads(html.unescape(found[1]))


def screenshot(page: Path, folder: Path, dark: bool = False, size: str = "1200,900") -> np.ndarray:
    """(H, W, 3) of the top of the page."""
    picture = folder / f"shot-{dark}.png"
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    run(
        folder / "profile",
        scheme,
        f"--window-size={size}",
        f"--screenshot={picture}",
        page.as_uri(),
    )
    return np.asarray(Image.open(picture).convert("RGB"))
