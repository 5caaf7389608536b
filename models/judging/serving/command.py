"""test.py --serve: a page on this machine that judges the videos which people drop on it.

    python test.py --serve --checkpoint saved_models/X/best.pt
    python test.py --serve --checkpoint saved_models/X/best.pt --port 8080 --max_upload_mb 200

Open http://127.0.0.1:8000/ in a browser. Videos wait in a queue and are judged one at a time, in a process of
its own; decoding has the limits of --video. An upload is deleted as soon as it is judged, its verdict page
is held in memory for --keep_s seconds. From another machine: ssh -L 8000:127.0.0.1:8000 HOST.
"""

from __future__ import annotations

from models.judging.serving.config import ServeConfig
from utils.config import parse_command
from utils.errors import require_packages
from utils.run.progress import configure_logging


def main() -> int:
    config = parse_command(ServeConfig, __doc__)
    configure_logging()
    require_packages(["flask"], "--serve")
    from models.judging.serving.server import serve  # Flask, which no other mode of test.py needs

    serve(config)
    return 0
