"""The flags of test.py --serve."""

from __future__ import annotations

import dataclasses
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from models.judging.config import JudgeConfig
from utils.config import opt, require_above, require_at_least
from utils.run.device import device_flag, precision_flag


@dataclass(frozen=True, kw_only=True)
class ServeConfig(JudgeConfig):
    """models/judging/serving/config.py: where the page is, what it takes and how long it keeps."""

    serve: bool = opt(True, "judge the videos that people drop on a local page")
    checkpoint: Path = opt(dataclasses.MISSING, "best.pt of a run")
    host: str = opt(
        "127.0.0.1",
        "IPv4 address to listen on; others see anything but the default, without password or encryption",
    )
    port: int = opt(8000, "port to listen on; 0 = any free one, which the log names")
    max_upload_mb: int = opt(500, "refuse larger files, in MB")
    max_queue: int = opt(64, "refuse files while this many are being sent, wait, or are judged")
    max_queue_session: int = opt(10, "the same of one browser, whose page sends the others later")
    max_queue_address: int = opt(32, "the same of one address, whatever its browsers")
    max_duration_s: float = opt(600.0, "refuse files that last longer, in s; 0 = no limit")
    job_timeout_s: float = opt(1800.0, "give up a video that takes longer, in s")
    keep_s: float = opt(600.0, "delete a verdict after this time, in s")
    gone_s: float = opt(
        180.0,
        "drop the videos of a page that has not asked for them for this time, in s: it was closed. Browsers "
        "let a page in the background ask once a minute",
    )
    work_dir: Path | None = opt(
        None, "folder for uploads while they are judged; default: the system's for temporary files"
    )
    no_thumbnails: bool = opt(False, "show no face in verdict pages")
    precision: str = precision_flag("auto = fp32: the probes need smaller steps than those of bf16")
    device: str = device_flag()

    def __post_init__(self) -> None:
        JudgeConfig.__post_init__(self)
        require_above(self, 0, "max_upload_mb", "max_queue", "max_queue_session", "max_queue_address")
        require_above(self, 0, "job_timeout_s", "keep_s", "gone_s")
        require_at_least(self, 0, "port")
        if not self.serve:
            raise ValueError("serve is false: nothing is left to do")
        if ipaddress.IPv4Address(self.host).is_unspecified:
            raise ValueError("host must be one address: requests that name another one are refused")
