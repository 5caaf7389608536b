"""Checkpoints and configurations of runs: what test.py, train.py and models.load_detector are given."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import pickle
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.fuzz.cases import PROCESSED, REFUSED, BrokenPromiseError, Recipe
from tests.fuzz.mutate import damage, flip_bits, mutate_json, nasty_value, pick, truncate

FILES = ("best.pt", "bare.pth", "model.safetensors", "config.json")
RAN = "CODE_RAN"  # written to the working folder by code in a checkpoint
TINY = (
    "--image_size 32 --video_channels 4 8 --audio_channels 8 8 8 --feature_dim 16 --feedforward_dim 16 "
    "--stream_layers 1 --classifier_hidden_dim 16 --window_s 0.4 --batch_size 4 --device cpu --data_root x"
).split()


class Runs:
    """A pickle of it calls a function when it is loaded."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def build(base: Path) -> None:
    """A run's checkpoint with random weights, a bare state_dict, a safetensors file and a config.json."""
    import torch

    import train
    from models import MODELS
    from utils.checkpoint.export import write_export
    from utils.checkpoint.files import load_checkpoint, save_checkpoint
    from utils.evaluation.decision import Decision, HeadDecision

    base.mkdir(parents=True, exist_ok=True)
    config = train.parse_args(TINY)
    torch.manual_seed(0)
    model = MODELS["beyond_masking"](config.model)
    head = HeadDecision(
        temperature=2.0,
        threshold=0.0,
        acquittal_threshold=0.0,
        num_reals=9,
        num_fakes=9,
        num_reals_accused=0,
        num_fakes_acquitted=0,
        false_positive_bound=0.3,
        false_negative_bound=0.3,
    )
    decision = Decision(rate=0.01, clip=head).as_plain()
    plain = config.as_plain()
    state = {"model": model.state_dict(), "config": plain, "split_checksums": {}, "decision": decision}
    save_checkpoint(base / "best.pt", state)
    torch.save(model.state_dict(), base / "bare.pth")
    write_export(load_checkpoint(base / "best.pt"), base / "best.pt", base / "model.safetensors")
    (base / "config.json").write_text(json.dumps({"config": plain, "command": "train.py", "versions": {}}))


def _copy(base: Path, folder: Path, name: str) -> Path:
    path = folder / name
    path.write_bytes((base / name).read_bytes())
    return path


def untouched(name: str) -> Callable[..., None]:
    def make(rng: np.random.Generator, base: Path, folder: Path) -> None:
        _copy(base, folder, name)

    return make


def damaged(name: str) -> Callable[..., str]:
    def make(rng: np.random.Generator, base: Path, folder: Path) -> str:
        path = _copy(base, folder, name)
        data, what = damage(rng, path.read_bytes())
        path.write_bytes(data)
        return what

    return make


def flipped(name: str) -> Callable[..., str]:
    def make(rng: np.random.Generator, base: Path, folder: Path) -> str:
        """Also in the middle: a checkpoint's pickle and directory lie at its ends, its weights between."""
        path = _copy(base, folder, name)
        data, count = path.read_bytes(), int(2 ** rng.integers(0, 8))
        start = int(pick(rng, (0, len(data) // 2, max(0, len(data) - 4096))))
        path.write_bytes(flip_bits(rng, data, start, start + 4096, count))
        return f"{count} bits from {start} on"

    return make


def cut(name: str, tenths: int) -> Callable[..., None]:
    def make(rng: np.random.Generator, base: Path, folder: Path) -> None:
        path = _copy(base, folder, name)
        path.write_bytes(truncate(path.read_bytes(), tenths))

    return make


# --- files that are no checkpoints


def _archive(data: bytes, **records: bytes) -> bytes:
    """A file as torch.save writes one, with `data` as its pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as file:
        file.writestr(zipfile.ZipInfo("archive/data.pkl"), data)
        file.writestr(zipfile.ZipInfo("archive/version"), "3\n")
        file.writestr(zipfile.ZipInfo("archive/byteorder"), "little")
        for name, content in records.items():
            file.writestr(zipfile.ZipInfo(f"archive/data/{name.removeprefix('_')}"), content)
    return buffer.getvalue()


def _pickled(value: Any) -> bytes:
    return pickle.dumps(value, protocol=2)


def _laughs() -> bytes:
    """Lists of lists of lists ...: little in the file, 10^9 when it is looked through."""
    value: list[Any] = ["ha"] * 10
    for _ in range(8):
        value = [value] * 10
    return _pickled(
        {"model": value, "format": "beyond-masking-checkpoint-1", "config": value, "split_checksums": {}}
    )


def _tensor_pickle(
    shape: tuple[int, ...], stride: tuple[int, ...], num_elements: int, kind: str = "FloatStorage"
) -> bytes:
    """The pickle of {"weight": tensor}, with whatever shape and storage."""

    def text(value: str) -> bytes:
        return b"X" + struct.pack("<I", len(value)) + value.encode()

    def integer(value: int) -> bytes:
        data = value.to_bytes((value.bit_length() + 8) // 8, "little", signed=True)
        return b"\x8a" + bytes([len(data)]) + data

    def several(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(map(integer, values)) + b"t"

    storage = (
        b"("
        + text("storage")
        + b"ctorch\n"
        + kind.encode()
        + b"\n"
        + text("0")
        + text("cpu")
        + integer(num_elements)
        + b"tQ"
    )
    tensor = (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + storage
        + integer(0)
        + several(shape)
        + several(stride)
        + b"\x89"
    )
    return b"\x80\x02}" + text("weight") + tensor + b"ccollections\nOrderedDict\n)RtRs."


def _compressed_zeros() -> bytes:
    """An archive whose storage is 256 MB of zeros; the file holds one megabyte of it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        file.writestr(zipfile.ZipInfo("archive/data.pkl"), _tensor_pickle((2**26,), (1,), 2**26))
        file.writestr(zipfile.ZipInfo("archive/version"), "3\n")
        entry = zipfile.ZipInfo("archive/data/0")
        entry.compress_type = zipfile.ZIP_DEFLATED
        with file.open(entry, "w") as record:
            for _ in range(256):
                record.write(bytes(1 << 20))
    return buffer.getvalue()


OTHER: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "text": lambda: b"weights\n" * 1000,
    "a pickle that runs a program": lambda: _pickled(Runs(os.system, f"touch {RAN}")),
    "an archive whose pickle runs a program": lambda: _archive(_pickled(Runs(os.system, f"touch {RAN}"))),
    "an archive whose pickle evaluates": lambda: _archive(_pickled(Runs(eval, f"open({RAN!r}, 'w')"))),
    "weights that run a program": lambda: _archive(_pickled({"a": Runs(os.system, f"touch {RAN}")})),
    "a pickle that opens a file": lambda: _pickled(Runs(open, RAN, "w")),
    "a pickle that imports": lambda: _archive(_pickled(Runs(__import__, "antigravity"))),
    "a pickle of a getattr": lambda: _archive(b"\x80\x02c__builtin__\ngetattr\n(cos\npath\nU\x06existstR."),
    "a pickle that exits": lambda: _archive(_pickled(Runs(sys.exit, 0))),
    "a million laughs": lambda: _archive(_laughs()),
    "a pickle of 10^9 letters": lambda: _archive(b"\x80\x02X" + struct.pack("<I", 10**9) + b"abc."),
    "a pickle of 2^63 bytes": lambda: _archive(b"\x80\x04\x8e" + struct.pack("<Q", 2**63) + b"abc."),
    "a memo of 2^31 places": lambda: _archive(b"\x80\x02Nr" + struct.pack("<I", 2**31 - 1) + b"."),
    "a number of 10^6 bytes": lambda: _archive(
        b"\x80\x02\x8b" + struct.pack("<i", 10**6) + b"\x7f" * 10**6 + b"."
    ),
    "100,000 lists in each other": lambda: _archive(b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."),
    "a frame of 2^60 bytes": lambda: _archive(b"\x80\x04\x95" + struct.pack("<Q", 2**60) + b"N."),
    "no stop": lambda: _archive(b"\x80\x02N"),
    "an empty stack": lambda: _archive(b"\x80\x02."),
    "unhashable keys": lambda: _archive(b"\x80\x02}]Ns."),
    "a shape of 10^12": lambda: _archive(_tensor_pickle((10**12,), (1,), 10**12), _0=bytes(64)),
    "a shape beyond its storage": lambda: _archive(_tensor_pickle((10**9,), (1,), 16), _0=bytes(64)),
    "a shape of 10^9 with stride 0": lambda: _archive(_tensor_pickle((10**9,), (0,), 16), _0=bytes(64)),
    "a negative shape": lambda: _archive(_tensor_pickle((-4,), (1,), 16), _0=bytes(64)),
    "a negative stride": lambda: _archive(_tensor_pickle((4,), (-1,), 16), _0=bytes(64)),
    "a storage of -1": lambda: _archive(_tensor_pickle((4,), (1,), -1), _0=bytes(64)),
    "a storage that is not there": lambda: _archive(_tensor_pickle((4,), (1,), 16)),
    "a storage of another type": lambda: _archive(_tensor_pickle((4,), (1,), 16, "Spam"), _0=bytes(64)),
    "a storage of records": lambda: _archive(_tensor_pickle((4,), (1,), 16, "load"), _0=bytes(64)),
    "64 dimensions": lambda: _archive(_tensor_pickle((1,) * 64, (1,) * 64, 16), _0=bytes(64)),
    "1,000 dimensions": lambda: _archive(_tensor_pickle((2,) * 1000, (0,) * 1000, 16), _0=bytes(64)),
    "a zip of zeros": _compressed_zeros,
    "an archive of other files": lambda: _zip_of({"a/b.txt": b"x"}),
    "an archive with paths outside": lambda: _zip_of(
        {f"../../{RAN}": b"x", "archive/data.pkl": b"\x80\x02}."}
    ),
    "an archive without a pickle": lambda: _zip_of({"archive/version": b"3\n"}),
    "a directory of 2^32 entries": lambda: _archive(b"\x80\x02}.")[:-12] + b"\xff" * 12,
    "a tar file of old": lambda: (
        _pickled(0x1950A86A20F9469CFC6C) + _pickled(1001) + _pickled({}) + b"\x80\x02}."
    ),
    "an HDF5 file's head": lambda: b"\x89HDF\r\n\x1a\n" + bytes(1000),
    "an ELF file's head": lambda: b"\x7fELF" + bytes(1000),
    "a TorchScript archive": lambda: _zip_of(
        {"a/data.pkl": b"\x80\x02}.", "a/code/x.py": b"print(1)", "a/constants.pkl": b"N."}
    ),
}


def _zip_of(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in files.items():
            file.writestr(zipfile.ZipInfo(name), content)
    return buffer.getvalue()


def other(content: Callable[[], bytes]) -> Callable[..., None]:
    def make(rng: np.random.Generator, base: Path, folder: Path) -> None:
        (folder / "best.pt").write_bytes(content())

    return make


# --- checkpoints that are whole, but not what they should be


def _change(content: dict[str, Any], *path: str, value: Any) -> None:
    for name in path[:-1]:
        content = content[name]
    content[path[-1]] = value


def _nan(content: dict[str, Any]) -> None:
    next(tensor for tensor in content["model"].values() if tensor.is_floating_point()).view(-1)[0] = float(
        "nan"
    )


def _infinite(content: dict[str, Any]) -> None:
    [tensor for tensor in content["model"].values() if tensor.is_floating_point()][-1].fill_(float("inf"))


def _transposed(content: dict[str, Any]) -> None:
    name = next(name for name, tensor in content["model"].items() if tensor.ndim == 2)
    content["model"][name] = content["model"][name].T.contiguous()[:1]


def _other_types(content: dict[str, Any]) -> None:
    content["model"] = {
        name: tensor.to(dtype=__import__("torch").complex64) for name, tensor in content["model"].items()
    }


def _wide(content: dict[str, Any]) -> None:
    import torch

    content["model"] = {name: torch.zeros(1).expand(10**9) for name in content["model"]}


def _sparse(content: dict[str, Any]) -> None:
    content["model"] = {
        name: tensor.to_sparse() if tensor.ndim else tensor for name, tensor in content["model"].items()
    }


CHANGES: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "a NaN among the weights": (_nan, REFUSED),
    "infinite weights": (_infinite, REFUSED),
    "a weight of another shape": (_transposed, REFUSED),
    "complex weights": (_other_types, ""),
    "weights of 10^9 that share one number": (_wide, REFUSED),
    "sparse weights": (_sparse, ""),
    "no weights": (lambda c: _change(c, "model", value={}), REFUSED),
    "weights that are a list": (lambda c: _change(c, "model", value=[1, 2]), REFUSED),
    "weights that are numbers": (lambda c: _change(c, "model", value=dict.fromkeys(c["model"], 1)), REFUSED),
    "weights under numbers": (
        lambda c: _change(c, "model", value=dict(enumerate(c["model"].values()))),
        REFUSED,
    ),
    "a name too many": (lambda c: c["model"].update(extra=next(iter(c["model"].values()))), REFUSED),
    "no configuration": (lambda c: c.pop("config"), REFUSED),
    "a configuration that is a list": (lambda c: _change(c, "config", value=[]), REFUSED),
    "sections that are lists": (
        lambda c: _change(c, "config", value=dict.fromkeys(c["config"], [1])),
        REFUSED,
    ),
    "no section of the model": (lambda c: c["config"].pop("model"), REFUSED),
    "no section of the training": (lambda c: c["config"].pop("train"), REFUSED),
    "a model of 10^12 features": (
        lambda c: _change(c, "config", "model", "feature_dim", value=10**12),
        REFUSED,
    ),
    "a model of 10^6 features": (
        lambda c: _change(c, "config", "model", "feature_dim", value=10**6),
        REFUSED,
    ),
    "a model of 10^9 layers": (
        lambda c: _change(c, "config", "model", "stream_layers", value=10**9),
        REFUSED,
    ),
    "a model of 10^400 features": (
        lambda c: _change(c, "config", "model", "feature_dim", value=10**400),
        REFUSED,
    ),
    "no heads": (lambda c: _change(c, "config", "model", "transformer_nhead", value=0), REFUSED),
    "a million channels": (
        lambda c: _change(c, "config", "model", "video_channels", value=[10**6] * 2),
        REFUSED,
    ),
    "an unknown method": (lambda c: _change(c, "config", "train", "model", value="../../x"), REFUSED),
    "a method that is a list": (lambda c: _change(c, "config", "train", "model", value=["a"]), REFUSED),
    "an unknown field": (lambda c: _change(c, "config", "model", "surprise", value=1), ""),
    "a window of 10^12 s": (lambda c: _change(c, "config", "data", "window_s", value=10.0**12), ""),
    "a window of NaN": (lambda c: _change(c, "config", "data", "window_s", value=float("nan")), REFUSED),
    "a data root with NUL": (lambda c: _change(c, "config", "train", "data_root", value=["\x00"]), ""),
    "a decision that is text": (lambda c: _change(c, "decision", value="fake"), REFUSED),
    "a decision of NaN": (lambda c: _change(c, "decision", "clip", "threshold", value=float("nan")), REFUSED),
    "a decision of 10^400": (lambda c: _change(c, "decision", "clip", "threshold", value=10**400), REFUSED),
    "a temperature of 0": (lambda c: _change(c, "decision", "clip", "temperature", value=0), REFUSED),
    "checksums that are text": (lambda c: _change(c, "split_checksums", value="x"), REFUSED),
    "checksums that are numbers": (
        lambda c: _change(c, "split_checksums", value={"fakeavceleb": 1}),
        REFUSED,
    ),
    "another format": (lambda c: _change(c, "format", value="beyond-masking-checkpoint-999"), REFUSED),
    "a format that is a list": (lambda c: _change(c, "format", value=[]), REFUSED),
}


def changed(change: Callable[[dict[str, Any]], None]) -> Callable[..., None]:
    def make(rng: np.random.Generator, base: Path, folder: Path) -> None:
        _rewrite(base, folder, change)

    return make


def _rewrite(base: Path, folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """A checkpoint that was changed and signed by somebody who knows how; unsigned where that is refused."""
    import torch

    from utils.checkpoint.files import save_checkpoint

    content = torch.load(base / "best.pt", weights_only=True)
    content.pop("checksum", None)
    change(content)
    sys.setrecursionlimit(100_000)  # of a child that makes this case: some values nest deep
    try:
        if change is _wide:  # whose checksum would take hours
            raise ValueError
        save_checkpoint(folder / "best.pt", content)
    except (ValueError, TypeError, RuntimeError, AttributeError):
        torch.save(content, folder / "best.pt")
    finally:
        sys.setrecursionlimit(1000)


def any_value(rng: np.random.Generator, base: Path, folder: Path) -> str:
    """A checkpoint with some value of its configuration replaced."""
    drawn = []

    def change(content: dict[str, Any]) -> None:
        section = pick(rng, sorted(content["config"]))
        name = pick(rng, sorted(content["config"][section]))
        value = nasty_value(rng)
        content["config"][section][name] = value
        drawn.append(f"{section}.{name} is {str(value)[:40]!r}")

    _rewrite(base, folder, change)
    return drawn[0]


def config(rng: np.random.Generator, base: Path, folder: Path) -> str:
    path = _copy(base, folder, "config.json")
    data, what = mutate_json(rng, path.read_bytes())
    path.write_bytes(data)
    return what


def _safetensors(
    header: object, body: bytes = bytes(64), announced: int | None = None
) -> Callable[[], bytes]:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return lambda: struct.pack("<Q", len(text) if announced is None else announced) + text + body


def _entry(shape: object = (4, 4), place: object = (0, 64), kind: object = "F32") -> dict[str, object]:
    return {"dtype": kind, "shape": shape, "data_offsets": place}


SAFETENSORS: dict[str, Callable[[], bytes]] = {
    "header beyond the file": _safetensors({}, announced=2**62),
    "header of 2^64": _safetensors({}, announced=2**64 - 1),
    "header that is no JSON": _safetensors(b"spam"),
    "header that nests deep": _safetensors(b"[" * 100_000),
    "shape beyond the file": _safetensors({"a": _entry((10**9, 10**9))}),
    "place beyond the file": _safetensors({"a": _entry(place=(0, 2**60))}),
    "place that runs back": _safetensors({"a": _entry(place=(64, 0))}),
    "two in one place": _safetensors({"a": _entry(), "b": _entry()}),
    "negative shape": _safetensors({"a": _entry((-4, -4))}),
    "unknown type": _safetensors({"a": _entry(kind="F9")}),
    "other weights": _safetensors({"a": _entry()}),
}


def export(rng: np.random.Generator, base: Path, folder: Path) -> str:
    """An exported model that says other things of itself."""
    data = (base / "model.safetensors").read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    about, what = mutate_json(rng, header["__metadata__"]["about"].encode())
    header["__metadata__"]["about"] = about.decode(errors="replace")
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size :])
    return what


def safetensors(content: Callable[[], bytes]) -> Callable[..., None]:
    def make(rng: np.random.Generator, base: Path, folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(content())

    return make


RECIPES = [
    Recipe("best.pt: untouched", untouched("best.pt"), PROCESSED),
    Recipe("config.json: untouched", untouched("config.json"), PROCESSED),
    Recipe("model.safetensors: untouched", untouched("model.safetensors"), PROCESSED),
    *(Recipe("model.safetensors: another description", export) for _ in range(12)),
    Recipe("bare.pth: untouched", untouched("bare.pth")),
    *(Recipe(f"best.pt: {name}", other(content), REFUSED) for name, content in OTHER.items()),
    *(Recipe(f"best.pt: {name}", changed(change), expected) for name, (change, expected) in CHANGES.items()),
    *(
        Recipe(f"model.safetensors: {name}", safetensors(content), REFUSED)
        for name, content in SAFETENSORS.items()
    ),
    *(
        Recipe(f"{name}: cut off at {tenths}/10", cut(name, tenths), REFUSED)
        for name in FILES
        for tenths in range(1, 10)
    ),
    *(Recipe(f"{name}: damaged", damaged(name)) for name in FILES for _ in range(5)),
    *(Recipe(f"{name}: bits flipped", flipped(name)) for name in FILES for _ in range(5)),
    *(Recipe("best.pt: another value", any_value) for _ in range(24)),
    *(Recipe("config.json: another value", config) for _ in range(24)),
]


def exercise(folder: Path, output: Path) -> str:
    """What the commands do with a checkpoint, or with a config.json, before they look at any data."""
    import train
    from utils.errors import FrameworkError

    path = next(folder / name for name in FILES if (folder / name).exists())
    reason = ""
    try:
        if path.suffix == ".json":
            train.parse_args(["--config", str(path), "--data_root", "x", "--run_dir", str(output / "run")])
        else:
            _restore(path)
    except FrameworkError as error:
        reason = f"{type(error).__name__}: {error}"
    if Path(RAN).exists():
        raise BrokenPromiseError("code in a checkpoint ran")
    return reason


def preload() -> Any:
    """test.py as a module: it is a script, and the standard library has a package of its name."""
    import train

    if "test_script" not in sys.modules:
        place = Path(train.__file__).with_name("test.py")
        spec = importlib.util.spec_from_file_location("test_script", place)
        module = sys.modules["test_script"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules["test_script"]


def _restore(path: Path) -> None:
    from models import load_detector
    from utils.checkpoint.files import load_checkpoint

    if "released" in load_checkpoint(path):
        preload().parse_args(["--checkpoint", str(path), "--data_root", "x", "--preset", "released"])
        return
    load_detector(path, device="cpu")
    preload().parse_args(["--checkpoint", str(path), "--data_root", "x"])
