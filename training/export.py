"""Put what was trained into the package: half precision, safetensors, checksums.

python training/export.py emoji build/emoji/pipeline
python training/export.py emoji-clip build/clip/model
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file

MODELS = Path("models")


def halve(folder: Path) -> None:
    """Store every safetensors file below in half precision.

    Diffusers loads in float32 unless told otherwise, Transformers in what the config says.
    """
    for path in folder.rglob("*.safetensors"):
        tensors = load_file(path)
        floats = {k: v.half() if v.is_floating_point() else v for k, v in tensors.items()}
        save_file(floats, path, metadata={"format": "pt"})
        path.chmod(0o644)
        config = path.with_name("config.json")
        text = json.loads(config.read_text())
        if "_class_name" not in text:
            config.write_text(json.dumps(text | {"dtype": "float32"}, indent=2) + "\n")


def checksums() -> None:
    """Write ``SHA256SUMS`` of every binary file, for ``sha256sum --check`` in its folder."""
    files = sorted(p for p in MODELS.rglob("*") if p.suffix in (".safetensors", ".npz"))
    lines = [
        f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.relative_to(MODELS).as_posix()}"
        for p in files
    ]
    (MODELS / "SHA256SUMS").write_text("\n".join(lines) + "\n")
    for path in files:
        print(f"{path}  {path.stat().st_size / 1e6:.1f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", help="of the model in the package")
    parser.add_argument("source", type=Path, help="a folder that save_pretrained wrote")
    args = parser.parse_args()
    target = MODELS / args.name
    if (args.source / "model_index.json").exists():
        pipe = StableDiffusionPipeline.from_pretrained(args.source, dtype=torch.float32)
        pipe.save_pretrained(target)
        shutil.copy(args.source / "words.txt", target / "words.txt")
    else:
        shutil.copytree(args.source, target, dirs_exist_ok=True)
    halve(target)
    checksums()


if __name__ == "__main__":
    main()
