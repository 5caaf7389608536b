"""Checkpoints: plain tensors and plain values, written beside and renamed, read as nothing but that.

    python -m utils.checkpoint show   saved_models/X/best.pt
    python -m utils.checkpoint export saved_models/X/best.pt model.safetensors

A checkpoint is a zip file as torch.save writes it, with a checksum over all that it holds. It may come from
strangers: no code in it runs, and what does not fit (a size that the file cannot have, numbers that are not
finite) is refused with a reason. `export` writes weights and configuration for others: a .safetensors file,
which test.py takes like a best.pt, and a model card beside it.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from utils.checkpoint.files import load_checkpoint
from utils.errors import run_command


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m utils.checkpoint",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(dest="command", required=True)
    show = commands.add_parser("show", help="print what a checkpoint says of itself, as JSON")
    show.add_argument("checkpoint", type=Path)
    export = commands.add_parser("export", help="write weights and configuration, and a model card")
    export.add_argument("checkpoint", type=Path, help="best.pt of a run")
    export.add_argument("target", type=Path, help="the file to write, NAME.safetensors; the card is NAME.md")
    args = parser.parse_args()
    content = load_checkpoint(args.checkpoint)
    if args.command == "export":
        from utils.checkpoint.export import write_export

        card = write_export(content, args.checkpoint, args.target)
        sys.stdout.write(f"written: {args.target}, and what it is: {card}\n")
        return 0
    weights = content.get("model", content.get("released"))
    about = {
        name: value
        for name, value in content.items()
        if name not in ("model", "released", "criterion", "optimizer", "scheduler", "random")
    }
    about |= {"tensors": len(weights), "parameters": sum(value.numel() for value in weights.values())}
    sys.stdout.write(json.dumps(about, indent=1, ensure_ascii=False) + "\n")
    return 0


if __name__ == "__main__":
    run_command(main)
