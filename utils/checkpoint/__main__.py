"""Show what a checkpoint holds, or export it for others.

    python -m utils.checkpoint show   saved_models/X/best.pt
    python -m utils.checkpoint export saved_models/X/best.pt model.safetensors
    python -m utils.checkpoint export saved_models/X/best.pt model.onnx --data_root PREPARED

`show` prints all but the weights, as JSON. `export` writes weights and configuration to a .safetensors file,
which test.py accepts like a best.pt, or the network with its front end as .onnx or .pt2 (torch.export), once
it gives the framework's scores of the clips in PREPARED; a model card lies next to it. No code in a
checkpoint is run.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from utils.checkpoint.files import load_checkpoint
from utils.errors import UsageError, run_command


def export_network(content: dict[str, Any], args: argparse.Namespace) -> int:
    """Write the network itself, which the code of its method makes."""
    from models.export import command

    if args.data_root is None:
        raise UsageError(f"{args.target.suffix} needs --data_root: prepared clips to check the network on")
    card, parity = command.export_network(content, args.checkpoint, args.target, args.data_root)
    count, largest = parity["num_clips"], parity["largest_difference"]
    sys.stdout.write(f"largest difference of a logit on {count} clips: {largest:.2g}\n")
    sys.stdout.write(f"written: {args.target} and its model card {card}\n")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m utils.checkpoint",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(dest="command", required=True)
    show = commands.add_parser("show", help="print a checkpoint's configuration and metrics, as JSON")
    show.add_argument("checkpoint", type=Path)
    export = commands.add_parser("export", help="write weights, configuration and a model card for others")
    export.add_argument("checkpoint", type=Path, help="best.pt of a run")
    export.add_argument(
        "target",
        type=Path,
        help="NAME.safetensors with the card NAME.md; NAME.onnx or NAME.pt2 with NAME.json",
    )
    export.add_argument(
        "--data_root", type=Path, help="for .onnx and .pt2: prepared clips, 20 of which are scored both ways"
    )
    args = parser.parse_args()
    content = load_checkpoint(args.checkpoint)
    if args.command == "export" and args.target.suffix in (".onnx", ".pt2"):
        return export_network(content, args)
    if args.command == "export":
        from utils.checkpoint.export import write_export

        card = write_export(content, args.checkpoint, args.target)
        sys.stdout.write(f"written: {args.target} and its model card {card}\n")
        return 0
    weights = content["model"] if "model" in content else content["released"]
    state = {"model", "released", "criterion", "optimizer", "scheduler", "random"}
    about = {name: value for name, value in content.items() if name not in state}
    about |= {"tensors": len(weights), "parameters": sum(value.numel() for value in weights.values())}
    sys.stdout.write(json.dumps(about, indent=1, ensure_ascii=False) + "\n")
    return 0


if __name__ == "__main__":
    run_command(main)
