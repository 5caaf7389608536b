"""Load one clip as the published Beyond-Masking code does: the baseline of the loader's benchmark.

It decodes and equalises every frame, converts all of them to float32, and then keeps 60; it takes the MFCC of
the whole sound and standardises the landmarks over the whole clip.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import librosa
import numpy as np
import torch

from utils.clip.files import LANDMARKS_NAME, VIDEO_NAME, find_audio

NUM_FRAMES = 60
NUM_COLUMNS = 600


def load_clip(folder: Path) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(3, 60, 224, 224) equalised frames in 0..1, (40, 600) MFCC, (60, 956) landmarks."""
    return load_video(folder / VIDEO_NAME), load_mfcc(find_audio(folder)), load_landmarks(folder)


def load_video(path: Path) -> torch.Tensor:
    """Equalise every frame in float32, then keep the middle 60."""
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    frames = []
    while True:
        there, frame = capture.read()
        if not there:
            break
        image = cv2.cvtColor(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), cv2.COLOR_RGB2YCrCb)
        image[..., 0] = cv2.equalizeHist(image[..., 0])
        frames.append(cv2.cvtColor(image, cv2.COLOR_YCrCb2RGB))
    capture.release()
    video = torch.from_numpy(np.array(frames)).permute(3, 0, 1, 2).float() / 255.0
    start = max(0, (video.shape[1] - NUM_FRAMES) // 2)
    video = video[:, start : start + NUM_FRAMES]
    if video.shape[1] < NUM_FRAMES:
        last = video[:, -1:].expand(-1, NUM_FRAMES - video.shape[1], -1, -1)
        video = torch.cat([video, last], dim=1)
    return video.contiguous()


def load_mfcc(path: Path) -> torch.Tensor:
    """MFCC of the whole sound; keeps the middle 600 columns."""
    waveform, rate = librosa.load(path, sr=48_000)
    mfcc = librosa.feature.mfcc(y=waveform, sr=rate, n_mfcc=40, n_fft=2048, hop_length=512)
    start = max(0, (mfcc.shape[1] - NUM_COLUMNS) // 2)
    mfcc = mfcc[:, start : start + NUM_COLUMNS]
    return torch.from_numpy(np.pad(mfcc, ((0, 0), (0, NUM_COLUMNS - mfcc.shape[1]))))


def load_landmarks(folder: Path) -> torch.Tensor:
    """Landmarks standardised over the clip; keeps the middle 60 frames."""
    landmarks = torch.from_numpy(np.load(folder / LANDMARKS_NAME)).flatten(1).float()
    landmarks = (landmarks - landmarks.mean(0)) / landmarks.std(0, unbiased=False).clamp_min(1e-6)
    start = max(0, (len(landmarks) - NUM_FRAMES) // 2)
    landmarks = landmarks[start : start + NUM_FRAMES]
    return torch.cat([landmarks, landmarks[-1:].expand(NUM_FRAMES - len(landmarks), -1)])
