"""KoDF in its two distributions: AI-Hub's with Korean names (composed or decomposed) and tables in UTF-8 or
cp949, the international one without tables.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from pathlib import Path

from tests.trees.base import RawTree
from tests.trees.media import Media

TOP = "003.딥페이크"
REAL_HEADER = "영상ID,UUID,촬영일자,인물성별,감정"
FAKE_HEADER = "영상ID,타겟영상,타겟UUID,변조모델,인물성별"
METHODS = ("dfl", "dffs", "fsgan", "fo", "audio-driven")  # in the order of their codes
PARTS = {  # folder, prefix of its folders, word in its tables, our split, persons
    "1.Training": ("train", "training", "train", range(6)),
    "2.Validation": ("validate", "validation", "test", range(6, 9)),
}


def person_id(index: int) -> str:
    """20 hexadecimal digits, or six decimal ones."""
    return f"{0xFACE0000 + 7919 * index:020x}" if index % 2 else f"{1000 + 7 * index:06d}"


def fake_name(target: int, source: int, method: str, number: int = 1) -> str:
    return f"{person_id(target)}_{person_id(source)}_{METHODS.index(method) + 1}_{number:04d}"


def write_kodf(
    root: Path,
    media: Media,
    *,
    parts: tuple[str, ...] = tuple(PARTS),
    form: str = "NFD",
    encodings: tuple[str, str] = ("utf-8-sig", "cp949"),
) -> RawTree:
    """AI-Hub's distribution. `form` is the Unicode form of all names on disk, `encodings` are those of the
    tables of real clips and of fakes. Each person has a real clip and two fakes, one of them with the face of
    the next person of the same part.
    """

    def path(*names: str) -> Path:
        return root / unicodedata.normalize(form, "/".join((TOP, *names)))

    counts: Counter[tuple[str, str, str]] = Counter()
    for part in parts:
        prefix, word, split, persons = PARTS[part]
        split = split if len(parts) == 2 else ""
        clips, tables = path(part, "원천데이터"), path(part, "라벨링데이터", f"{prefix}_meta_data")
        clips.mkdir(parents=True)
        tables.mkdir(parents=True)
        rows = {"원본영상": [REAL_HEADER], "변조영상": [FAKE_HEADER]}
        for index in persons:
            person, sex = person_id(index), "여성" if index % 2 else "남성"
            real = f"{person}_001.mp4"
            place = path(part, "원천데이터", f"{prefix}_원본", f"원본{1 + index % 2}", person, real)
            media.video(place, index)
            rows["원본영상"].append(f"{real},{person},2020-11-{index + 1:02d},{sex},중립")
            counts[split, "real", "real"] += 1
            donor = persons[(index - persons[0] + 1) % len(persons)]
            for method in (METHODS[index % 5], METHODS[(index + 2) % 5]):
                name = f"{fake_name(index, donor, method)}.mp4"
                place = path(part, "원천데이터", f"{prefix}_변조", f"{method}{1 + index % 2}", person, name)
                media.video(place, index, fake_video=True, silent=method == "fsgan")
                rows["변조영상"].append(f"{name},{real},{person},{method},{sex}")
                counts[split, method, method] += 1
        for (name, lines), encoding in zip(rows.items(), encodings, strict=True):
            table = path(part, "라벨링데이터", f"{prefix}_meta_data", f"{name}_{word}_메타데이터.csv")
            table.write_bytes(("\r\n".join(lines) + "\r\n").encode(encoding))
        perturbed = path(part, "원천데이터", f"{prefix}_탐지방해", "원본영상", "01_noise", real)
        perturbed.parent.mkdir(parents=True)
        perturbed.touch()
    return RawTree(
        dataset="kodf",
        source=root,
        counts=counts,
        prepare_flags=("--allow_silent",),
        has_own_split=len(parts) == 2,
    )


def write_international(root: Path, media: Media, *, num_persons: int = 6) -> RawTree:
    """The distribution by form: no table, everything is in the names."""
    counts: Counter[tuple[str, str, str]] = Counter()
    for index in range(num_persons):
        person = person_id(index)
        media.video(root / f"KoDF/original_videos/{person}/{person}_001.mp4", index)
        counts["", "real", "real"] += 1
        method = METHODS[index % 5]
        name = fake_name(index, (index + 1) % num_persons, method)
        place = root / f"KoDF/synthesized_videos/{method}/20201103/{person}/{name}.mp4"
        media.video(place, index, fake_video=True, silent=method == "fsgan")
        counts["", method, method] += 1
    return RawTree(dataset="kodf", source=root, counts=counts, prepare_flags=("--allow_silent",))
