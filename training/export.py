"""Put a trained pipeline into the package: half precision, safetensors, with its word list.

python training/export.py build/emoji/pipeline models/emoji
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    args = parser.parse_args()
    pipe = StableDiffusionPipeline.from_pretrained(args.source, dtype=torch.float32)
    pipe.to(dtype=torch.float16).save_pretrained(args.target)
    # Diffusers loads in float32 unless told otherwise, Transformers in what the config says.
    config = args.target / "text_encoder" / "config.json"
    text = json.loads(config.read_text()) | {"dtype": "float32"}
    config.write_text(json.dumps(text, indent=2) + "\n")
    shutil.copy(args.source / "words.txt", args.target / "words.txt")
    for path in sorted(args.target.rglob("*.safetensors")):
        path.chmod(0o644)
        print(f"{path}  {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
