"""FakeAVCeleb v1.2: ten values under nine names, spaces and parentheses in folders, a row listed twice."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tests.trees.base import RawTree
from tests.trees.media import Media

CLIPS = (  # letter, type, method, ending of the file name
    ("A", "RealVideo-RealAudio", "real", ""),
    ("B", "RealVideo-FakeAudio", "rtvc", "_fake"),
    ("C", "FakeVideo-RealAudio", "wav2lip", "_0_{donor}_wavtolip"),
    ("D", "FakeVideo-FakeAudio", "wav2lip", "_1_{donor}_wavtolip"),
)


def write_fakeavceleb(root: Path, media: Media, *, num_identities: int = 8) -> RawTree:
    """One clip per person and category."""
    rows = ["source,target1,target2,method,category,type,race,gender,path,"]
    persons = [f"id{100 + 7 * index:05d}" for index in range(num_identities)]
    counts: Counter[tuple[str, str, str]] = Counter()
    for index, person in enumerate(persons):
        donor = persons[(index + 1) % num_identities]
        race, gender = ("Asian (East)", "African")[index % 2], ("men", "women")[index // 2 % 2]
        for letter, kind, method, ending in CLIPS:
            name = f"{index:05d}{ending.format(donor=donor)}.mp4"
            folder = f"{kind}/{race}/{gender}/{person}"
            media.video(
                root / "FakeAVCeleb_v1.2" / folder / name,
                index,
                fake_video=kind.startswith("Fake"),
                fake_audio=kind.endswith("FakeAudio"),
            )
            target = donor if "donor" in ending else "-"
            row = (person, target, "-", method, letter, kind, race, gender, name, f"FakeAVCeleb/{folder}")
            rows.append(",".join(row))
            if letter == "D" and index == 0:  # listed again under another method: the first row counts
                rows.append(rows[-1].replace("wav2lip,D", "faceswap-wav2lip,D"))
            counts["", kind, method] += 1
    (root / "FakeAVCeleb_v1.2" / "meta_data.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return RawTree(dataset="fakeavceleb", source=root, counts=counts)
