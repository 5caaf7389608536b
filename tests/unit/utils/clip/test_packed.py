"""A pack's index, read by several threads."""

import sqlite3
from concurrent.futures import ThreadPoolExecutor

from utils.clip.packed import SCHEMA, Pack

CLIPS = 20_000


def test_threads_that_read_one_index_get_their_own_rows(tmp_path):
    database = sqlite3.connect(tmp_path / "pack.sqlite")
    with database:
        database.executescript(SCHEMA)
        database.executemany("INSERT INTO about VALUES (?, ?)", [("format", "1"), ("shards", "")])
        database.execute("INSERT INTO shards VALUES (0, 'a.tar', 1)")
        rows = ((f"f{number}", f"{number}.wav", number) for number in range(CLIPS))
        database.executemany("INSERT INTO files VALUES (?, ?, 0, 0, ?)", rows)
    database.close()
    pack = Pack(tmp_path)

    def found(number):
        return [(name, member.size) for name, member in pack.members(f"f{number}").items()]

    with ThreadPoolExecutor(16) as threads:
        for number, files in enumerate(threads.map(found, range(CLIPS))):
            assert files == [(f"{number}.wav", number)]
