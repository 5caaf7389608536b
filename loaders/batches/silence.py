"""The silence with which a clip begins: one definition for the audit and for `--trim_silence`.

Fakes of some data sets begin with a few hundredths of a second of silence that genuine clips do not have
(arXiv 2412.00175): a detector that hears it needs nothing else.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import numpy.typing as npt

from utils.clip.files import SAMPLE_RATE_HZ
from utils.clip.sound import read_waveform

BLOCK_S = 0.01  # the level is measured in blocks of this length
LOUD_PERCENTILE = 95  # the level that is reached in this share of the blocks is the sound's loud part
BELOW_LOUD_DB = 40.0  # quieter than the loud part by more than this: silence
DIGITAL_SILENCE_DB = -80.0  # relative to full scale: about three steps of 16 bits
# what papers trim by since arXiv 2412.00175: the first sample of the sound at this rate beyond this value
TRIM_AMPLITUDE, TRIM_RATE_HZ = 0.0005, 16_000
TRIM_RULES = ("level", "amplitude")


def block_levels_db(waveform: npt.NDArray[np.float32], sample_rate_hz: int) -> npt.NDArray[np.float64]:
    """RMS level of each block of 10 ms, (num_blocks,) dB relative to full scale; an incomplete last block is
    left out, a sound of zeros has -120 dB.
    """
    size = max(1, round(BLOCK_S * sample_rate_hz))
    blocks = waveform[: len(waveform) // size * size].reshape(-1, size).astype(np.float64)
    return 10 * np.log10(np.maximum((blocks**2).mean(axis=1), 1e-12))


def leading_silence_s(levels_db: npt.NDArray[np.float64]) -> float:
    """Seconds before the first block that comes within 40 dB of the loud part, in steps of 10 ms.

    0 for a sound that is silent throughout: it has no leading part, and nothing would be left of it.
    """
    if not len(levels_db):
        return 0.0
    loud_db = np.percentile(levels_db, LOUD_PERCENTILE)
    if loud_db <= DIGITAL_SILENCE_DB:
        return 0.0
    return float(np.argmax(levels_db > loud_db - BELOW_LOUD_DB)) * BLOCK_S


def leading_digital_silence_s(levels_db: npt.NDArray[np.float64]) -> float:
    """Seconds before the first block above -80 dB of full scale: what an encoder or a tool put there."""
    heard = levels_db > DIGITAL_SILENCE_DB
    return float(np.argmax(heard)) * BLOCK_S if heard.any() else 0.0


def leading_quiet_s(waveform: npt.NDArray[np.float32], sample_rate_hz: int) -> float:
    """Seconds before the first of (N,) samples that is beyond TRIM_AMPLITUDE; 0 if no sample is."""
    heard = np.abs(waveform) > TRIM_AMPLITUDE
    return float(np.argmax(heard)) / sample_rate_hz if heard.any() else 0.0


@functools.lru_cache(maxsize=100_000)
def clip_leading_silence_s(audio_path: Path, rule: str = "level") -> float:
    """`leading_silence_s` of a sound file, or `leading_quiet_s` by the rule "amplitude".

    Reads it whole, once per process.
    """
    if rule == "amplitude":
        return leading_quiet_s(read_waveform(audio_path, TRIM_RATE_HZ), TRIM_RATE_HZ)
    waveform = read_waveform(audio_path, SAMPLE_RATE_HZ)
    return leading_silence_s(block_levels_db(waveform, SAMPLE_RATE_HZ))
