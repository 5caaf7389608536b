"""DeepSpeak: flat names in folders of zip parts, ids written as int, float and text, donors across parts."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tests.trees.base import RawTree
from tests.trees.media import Media

FAKE_HEADER = (
    "video-file,kind,engine,identity-source,identity-target,recording-source,recording-target,"
    "audio-config,gen-config,gesture-type,script-type"
)


def write_deepspeak(
    root: Path, media: Media, *, version: str = "v2", num_train: int = 6, num_test: int = 2
) -> RawTree:
    """Per person a real clip, a face swap from the next person of the list and a lip-sync of their own; one
    avatar. The last person's donor, and that of the last one in the training part, are in the other part.
    """
    top = root / f"deepspeak_{version}"
    persons = [10 + 3 * index for index in range(num_train + num_test)]
    real, fake, split = ["video-file,identity,script-type"], [FAKE_HEADER], [",identity,split"]
    counts: Counter[tuple[str, str, str]] = Counter()

    def add_fake(index: int, kind: str, engine: str, source: int, voice: str) -> None:
        own, other = 100 + index, 100 + source
        name = (
            f"{engine}-{other}-{own}-{voice or 'real'}.mp4"
            if version == "v2"
            else f"{engine}--{persons[source]}-{persons[index]}--{other}-{own}--0.mp4"
        )
        # pandas writes ids as floats where a column has gaps
        fake.append(
            f"{name},{kind},{engine},{persons[source]}.0,{persons[index]},{other}.0,{own},{voice},,none,scripted"
        )
        media.video(
            top / f"part-{index % 3}/fake/{name}", index, fake_video=True, fake_audio=voice == "elevenlabs"
        )
        counts[part, kind, engine] += 1

    for index, person in enumerate(persons):
        part = "train" if index < num_train else "test"
        split.append(f"{index},{person}.0,{part}")
        real.append(f"{person}-{100 + index}.mp4,{person},scripted")
        media.video(top / f"part-{index % 3}/real/{person}-{100 + index}.mp4", index)
        counts[part, "real", "real"] += 1
        add_fake(index, "face-swap", "facefusion", (index + 1) % len(persons), "")
        lip_sync, voices = ("diff2lip", ("elevenlabs", "real")) if version == "v2" else ("wav2lip", ("", ""))
        add_fake(index, "lip-sync", lip_sync, index, voices[index % 2])
        if index == 0 and version == "v2":
            add_fake(index, "avatar", "memo", index, "elevenlabs")
    for name, lines in (("real", real), ("fake", fake), ("split-def", split)):
        (top / f"annotations-{name}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return RawTree(dataset="deepspeak", source=root, counts=counts, has_own_split=True)
