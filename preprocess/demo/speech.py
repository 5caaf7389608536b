"""Speech from a source-filter model with the mouth track that belongs to it, and a vocoder that forges it.

A voice is a glottal pulse train with jitter, shimmer and breath, shaped by four formants per vowel; syllables
contain fricatives and bursts. `revoice` re-synthesises any waveform the way a parametric vocoder does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from preprocess.demo.geometry import Floats, Floats32

Spectra = npt.NDArray[np.complex128]  # (S, WINDOW // 2 + 1)
SAMPLE_RATE_HZ = 16_000  # as VoxCeleb2, from which FakeAVCeleb takes its genuine clips
HOP = 80  # samples between frames of analysis and synthesis: 5 ms
WINDOW = 512
TRACK_HZ = SAMPLE_RATE_HZ / HOP
HERTZ = np.fft.rfftfreq(WINDOW, 1 / SAMPLE_RATE_HZ)  # of a spectrum's values

# vowels of an adult man: first three formants in Hz, how far the mouth opens, how much the lips are rounded
VOWELS = (
    ((730, 1090, 2440), 1.0, 0.0),  # a
    ((530, 1840, 2480), 0.62, 0.0),  # e
    ((300, 2250, 2950), 0.28, 0.0),  # i
    ((570, 880, 2410), 0.7, 0.7),  # o
    ((320, 870, 2240), 0.25, 1.0),  # u
    ((500, 1500, 2450), 0.45, 0.1),  # schwa
    ((660, 1720, 2410), 0.85, 0.0),  # ae
)
# consonants: centre and width of the noise in Hz (None = closure or no consonant), duration in s, level
CONSONANTS = (
    ((5800, 1500), 0.09, 0.35),  # s
    ((3400, 1200), 0.09, 0.35),  # sh
    ((4500, 3000), 0.07, 0.12),  # f
    ((2500, 2500), 0.03, 0.5),  # t, after a closure
    ((1500, 1000), 0.03, 0.45),  # k
    (None, 0.05, 0.0),  # b
    (None, 0.0, 0.0),  # no consonant
)


@dataclass(frozen=True)
class Voice:
    """A speaker: pitch, length of the vocal tract, glottal habits."""

    pitch_hz: float
    liveliness: float  # spread of the pitch, in octaves
    tract: float  # formants are multiplied by this
    breath: float  # aspiration noise relative to the pulses
    jitter: float  # cycle-to-cycle spread of the period
    shimmer: float  # cycle-to-cycle spread of the strength
    tilt: float  # exponent of the pulses' spectral fall
    rate: float  # syllables per second


@dataclass(frozen=True)
class Utterance:
    """A spoken clip: the sound, and the movement of the mouth at TRACK_HZ."""

    waveform: Floats32  # (N,), not yet levelled
    opening: Floats  # (S,) 0..1
    rounding: Floats  # (S,) 0..1

    def mouth(self, fps: float, num_frames: int) -> tuple[Floats, Floats]:
        """Opening (T,) and rounding (T,) in the middle of each frame."""
        places = (np.arange(num_frames) + 0.5) / fps * TRACK_HZ
        steps = np.arange(len(self.opening))
        return np.interp(places, steps, self.opening), np.interp(places, steps, self.rounding)

    def spoken_from(self, start_s: float, end_s: float) -> Utterance:
        """The same, turned round so that its most spoken part of that length lies there."""
        length = round((end_s - start_s) * TRACK_HZ)
        spoken = int(np.convolve(self.opening, np.ones(length), mode="valid").argmax())
        shift = round(start_s * TRACK_HZ) - spoken
        return Utterance(
            np.roll(self.waveform, shift * HOP), np.roll(self.opening, shift), np.roll(self.rounding, shift)
        )


def draw_voice(rng: np.random.Generator, *, female: bool) -> Voice:
    """Draw a genuine voice."""
    return Voice(
        pitch_hz=float(rng.uniform(165, 250) if female else rng.uniform(85, 150)),
        liveliness=float(rng.uniform(0.1, 0.22)),
        tract=float(rng.uniform(1.08, 1.22) if female else rng.uniform(0.9, 1.06)),
        breath=float(rng.uniform(0.05, 0.3)),
        jitter=float(rng.uniform(0.008, 0.025)),
        shimmer=float(rng.uniform(0.06, 0.2)),
        tilt=float(rng.uniform(0.9, 1.5)),
        rate=float(rng.uniform(3.4, 5.0)),
    )


def speak(voice: Voice, rng: np.random.Generator, *, duration_s: float, onset_s: float) -> Utterance:
    """Random syllables from `onset_s` on, with pauses of about 0.3 s between phrases."""
    steps = round(duration_s * TRACK_HZ)
    voiced, noise, target_open, target_round = np.zeros((4, steps))
    centre, width = np.full(steps, 3000.0), np.full(steps, 2000.0)
    formants = np.tile(np.array(VOWELS[5][0], float), (steps, 1))
    now, left = onset_s, int(rng.integers(3, 7))
    while now < duration_s - 0.12:
        shape, length, level = CONSONANTS[int(rng.integers(len(CONSONANTS)))]
        length *= rng.uniform(0.8, 1.3)
        if shape is not None:
            part = slice(round(now * TRACK_HZ), round((now + length) * TRACK_HZ))
            noise[part] = level * rng.uniform(0.7, 1.3)
            centre[part], width[part] = shape
        now += length
        vowel, openness, rounded = VOWELS[int(rng.integers(len(VOWELS)))]
        length = rng.uniform(0.75, 1.35) / voice.rate * 0.75
        part = slice(round(now * TRACK_HZ), round((now + length) * TRACK_HZ))
        stress = rng.uniform(0.65, 1.0)
        voiced[part] = stress * (0.35 + 0.65 * openness)
        formants[part.start :] = np.array(vowel) * rng.normal(1, 0.03, 3)
        target_open[part], target_round[part] = stress * openness, rounded
        now += length
        left -= 1
        if left == 0:
            now += 0.3 * rng.uniform(0.7, 1.3)
            left = int(rng.integers(3, 7))
    excitation = _excite(voice, _smooth(voiced, 4), rng)
    formants = np.stack([_smooth(column, 6, edge=True) for column in formants.T], -1) * voice.tract
    waveform = _shape(excitation, formants, voice, [_smooth(noise, 1.5), centre, width], rng)
    waveform = waveform[: round(duration_s * SAMPLE_RATE_HZ)].astype(np.float32)
    return Utterance(waveform, opening=_smooth(target_open, 7), rounding=_smooth(target_round, 9))


def _smooth(values: Floats, width: float, *, edge: bool = False) -> Floats:
    """`values` smoothed by a Gaussian of `width` steps."""
    radius = int(3 * width) + 1
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / width) ** 2)
    padded = np.pad(values, radius, mode="edge" if edge else "constant")
    return np.convolve(padded, kernel / kernel.sum(), mode="valid")


def _per_sample(track: Floats, samples: int) -> Floats:
    """A track (S,) interpolated at every sample: (N,)."""
    return np.interp(np.arange(samples) / HOP, np.arange(len(track)), track)


def _excite(voice: Voice, envelope: Floats, rng: np.random.Generator) -> Floats:
    """Pulses and breath (N,) at the voice's wandering pitch, as loud as the syllables: `envelope` (S,)."""
    steps = len(envelope)
    wander = np.interp(np.arange(steps), np.linspace(0, steps, 9), rng.standard_normal(9)) + 0.5 * envelope
    fall = -0.4 * np.linspace(0, 1, steps)
    pitch = voice.pitch_hz * 2 ** (voice.liveliness * (wander + fall))
    samples = steps * HOP
    loud, tone = _per_sample(envelope, samples), _per_sample(pitch, samples)
    pulses, flow = np.zeros(samples + 2), np.zeros(samples)
    position = 0.0
    while position < samples:
        index = int(position)
        period = SAMPLE_RATE_HZ / tone[index] * max(1 + voice.jitter * rng.standard_normal(), 0.5)
        strength = max(1 + voice.shimmer * rng.standard_normal(), 0.1) * loud[index] * np.sqrt(period)
        share = position - index
        pulses[index] += strength * (1 - share)
        pulses[index + 1] += strength * share
        # breath is strongest while the glottis is open, the first part of a cycle
        flow[index : index + int(0.6 * period)] = 1
        position += period
    breath = rng.standard_normal(samples) * loud * (0.35 + 0.65 * flow) * voice.breath
    return pulses[:samples] + breath


def _spectra(waveform: Floats) -> Spectra:
    """Short-time spectra (S, WINDOW // 2 + 1) at a hop of HOP samples."""
    padded = np.pad(waveform, (WINDOW // 2, WINDOW))
    count = len(waveform) // HOP + 1
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP][:count]
    return np.fft.rfft(frames * np.hanning(WINDOW), axis=1)


def _overlap_add(spectra: Spectra, samples: int) -> Floats:
    """Inverse of `_spectra`: (N,)."""
    window = np.hanning(WINDOW)
    frames = np.fft.irfft(spectra, WINDOW, axis=1) * window
    total = np.zeros(len(spectra) * HOP + WINDOW)
    weight = np.zeros_like(total)
    for index, frame in enumerate(frames):
        total[index * HOP : index * HOP + WINDOW] += frame
        weight[index * HOP : index * HOP + WINDOW] += window**2
    part = slice(WINDOW // 2, WINDOW // 2 + samples)
    return total[part] / np.maximum(weight[part], 1e-3)


def _shape(
    excitation: Floats, formants: Floats, voice: Voice, consonants: list[Floats], rng: np.random.Generator
) -> Floats:
    """The source (N,) filtered by its formants, step by step, with the consonants' noise added.

    consonants: level (S,), centre and width in Hz of that noise.
    """
    level, centre, width = (track[:, None] for track in consonants)
    spectra = _spectra(excitation)[: len(formants)]
    tilt = (1 + (HERTZ / 350) ** 2) ** (-voice.tilt / 2)
    response = np.ones((len(formants), len(HERTZ)), complex)
    upper = np.full((len(formants), 1), 3500.0 * voice.tract)
    for index, column in enumerate(np.hstack([formants, upper]).T):
        middle = column[:, None]
        bandwidth = 60 + 40 * index + 0.02 * middle
        # a resonance of unit gain at 0 Hz
        response *= middle**2 / (middle**2 - HERTZ**2 + 1j * HERTZ * bandwidth)
    # resonances above the fourth keep up the top of the spectrum
    lift = (1 + (HERTZ / (3800 * voice.tract)) ** 2) ** 2.2
    hiss = _spectra(rng.standard_normal(len(excitation)))[: len(formants)]
    band = np.exp(-0.5 * ((HERTZ - centre) / width) ** 2)
    spectra = spectra * response * tilt * lift + 0.8 * hiss * band * level
    return _overlap_add(spectra, len(excitation))


def _mel_bands(count: int) -> Floats:
    """Triangular bands, evenly spaced in mel, each of unit area: (count, WINDOW // 2 + 1)."""
    mel = 2595 * np.log10(1 + HERTZ / 700)
    edges = np.linspace(0, mel[-1], count + 2)
    rise = (mel - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    fall = (edges[2:, None] - mel) / (edges[2:] - edges[1:-1])[:, None]
    bands = np.clip(np.minimum(rise, fall), 0, None) + 1e-6
    return bands / bands.sum(1, keepdims=True)


def _track_pitch(waveform: Floats, count: int) -> tuple[Floats, Floats]:
    """Pitch in Hz (S,), interpolated in unvoiced parts, and voicing (S,) 0..1, by autocorrelation."""
    length, lag_low, lag_high = 640, SAMPLE_RATE_HZ // 400, SAMPLE_RATE_HZ // 70
    padded = np.pad(waveform, (length // 2, length))
    frames = np.lib.stride_tricks.sliding_window_view(padded, length)[::HOP][:count]
    power = np.abs(np.fft.rfft(frames * np.hanning(length), 2 * length, axis=1)) ** 2
    correlation = np.fft.irfft(power, axis=1)[:, : lag_high + 1]
    correlation /= correlation[:, :1] + 1e-9
    window = np.fft.irfft(np.abs(np.fft.rfft(np.hanning(length), 2 * length)) ** 2)[: lag_high + 1]
    correlation /= window / window[0]
    # prefer the shorter of two nearly equal periods, or the pitch falls an octave
    best = lag_low + (correlation[:, lag_low:] - 0.0004 * np.arange(lag_low, lag_high + 1)).argmax(1)
    strength = correlation[np.arange(count), best]
    loud = (frames**2).mean(1)
    voiced = (strength > 0.5) & (loud > 0.003 * loud.max())
    pitch = np.full(count, 140.0)
    if voiced.any():
        steps = np.arange(count)
        pitch = np.interp(steps, steps[voiced], SAMPLE_RATE_HZ / best[voiced])
    return pitch, _smooth(voiced.astype(float), 1.5, edge=True)


def revoice(
    waveform: Floats,
    sample_rate_hz: int,
    rng: np.random.Generator,
    *,
    pitch_factor: float | None = None,
    tract_factor: float | None = None,
) -> Floats:
    """The recording (N,) at the same rate with a forged voice, as a parametric vocoder would make it.

    Of the spectral envelope, only 20 mel bands blurred over 25 ms remain (over-smoothing); the source is
    replaced by perfectly regular pulses of one phase (buzz) without breath; pitch steps are smoothed; nothing
    above 8 kHz is kept; and the phase is a fixed random curve that wanders by about 2.7 radians per 250 Hz.
    Pitch and tract length are multiplied by the factors; None draws them
    from `rng` (another speaker).
    """
    import soxr

    if pitch_factor is None:
        pitch_factor = float(rng.choice([0.8, 1.22]) * rng.uniform(0.95, 1.05))
    if tract_factor is None:
        tract_factor = float(rng.choice([0.93, 1.13]) * rng.uniform(0.98, 1.02))
    samples = np.asarray(waveform, np.float64)
    if sample_rate_hz != SAMPLE_RATE_HZ:
        samples = soxr.resample(samples, sample_rate_hz, SAMPLE_RATE_HZ)
    spectra = _spectra(samples)
    count = len(spectra)
    pitch, voicing = _track_pitch(samples, count)
    pitch = np.exp(_smooth(np.log(pitch), 8, edge=True)) * pitch_factor
    tone, gain = _per_sample(pitch, len(samples)), _per_sample(voicing, len(samples))
    turns = np.cumsum(tone) / SAMPLE_RATE_HZ + rng.random()
    pulses = np.diff(np.floor(turns), prepend=np.floor(turns[0]))
    source = pulses * np.sqrt(SAMPLE_RATE_HZ / tone) * gain + rng.standard_normal(len(samples)) * (1 - gain)
    mel = _mel_bands(20)
    centres = mel @ HERTZ

    def envelope(of: Spectra, width: float, stretch: float) -> Floats:
        levels = np.log((np.abs(of) ** 2) @ mel.T + 1e-10)
        levels = np.stack([_smooth(column, width, edge=True) for column in levels.T], -1)
        return np.stack([np.interp(HERTZ / stretch, centres, row) for row in levels])

    width = 0.025 * TRACK_HZ
    source_spectra = _spectra(source)
    shaping = np.exp(0.5 * (envelope(spectra, width, tract_factor) - envelope(source_spectra, width, 1.0)))
    # without the dispersion of a real vocal tract, all pulses would be spikes, which the peaks betray
    knots = np.cumsum(rng.normal(0, 2.7, 1 + WINDOW // 16))
    phase = np.interp(np.arange(len(HERTZ)), np.arange(len(knots)) * 8, knots)
    forged = _overlap_add(source_spectra * shaping * np.exp(1j * phase), len(samples))
    if sample_rate_hz != SAMPLE_RATE_HZ:
        forged = soxr.resample(forged, SAMPLE_RATE_HZ, sample_rate_hz)
    forged = np.pad(forged, (0, max(len(waveform) - len(forged), 0)))[: len(waveform)]
    return forged.astype(np.float32)


@dataclass(frozen=True)
class Recording:
    """Room and microphone of a clip, the same for every voice in it."""

    echo_s: float  # time constant of the room's decay
    echo_level: float
    tilt: float  # first-order emphasis of the microphone, -1..1
    polarity: float  # 1 or -1: how the microphone is connected
    noise_db: float  # background noise relative to the speech
    noise_tilt: float  # 0 = white, 1 = brown
    rms: float
    crest: float  # peak relative to rms


def draw_recording(rng: np.random.Generator) -> Recording:
    """Draw a room and a microphone."""
    return Recording(
        echo_s=float(rng.uniform(0.02, 0.09)),
        echo_level=float(rng.uniform(0.05, 0.35)),
        tilt=float(rng.uniform(-0.25, 0.35)),
        polarity=float(rng.choice([-1.0, 1.0])),
        noise_db=float(rng.uniform(-42, -24)),
        noise_tilt=float(rng.uniform(0, 0.95)),
        rms=float(rng.uniform(0.05, 0.12)),
        crest=float(rng.uniform(3.8, 4.6)),
    )


def record(waveform: Floats, recording: Recording, rng: np.random.Generator) -> Floats32:
    """A voice (N,) in a room: (N,) with exactly the recording's rms and peak."""
    from scipy.signal import fftconvolve, lfilter

    length = round(6 * recording.echo_s * SAMPLE_RATE_HZ)
    decay = np.exp(-np.arange(length) / (recording.echo_s * SAMPLE_RATE_HZ)) * rng.standard_normal(length)
    response = recording.echo_level * decay / np.sqrt((decay**2).sum())
    response[0] = 1
    wet = fftconvolve(waveform, response)[: len(waveform)]
    wet = lfilter([1, -recording.tilt], [1], wet)
    noise = lfilter([1], [1, -recording.noise_tilt], rng.standard_normal(len(wet)))
    noise *= np.sqrt((wet**2).mean() / (noise**2).mean()) * 10 ** (recording.noise_db / 20)
    # a recorder's automatic gain: loud syllables are turned down, so that there is little to clip
    power = fftconvolve((wet + noise) ** 2, np.hanning(1600) / 800, mode="same").clip(0)
    gain = (power + 0.02 * power.mean()) ** -0.25
    return limit((wet + noise) * gain * recording.polarity, rms=recording.rms, crest=recording.crest)


def limit(waveform: Floats, *, rms: float, crest: float) -> Floats32:
    """`waveform` (N,), scaled and clipped to the root mean square `rms` and a peak <= `crest` times that."""
    unit = waveform / np.sqrt((waveform**2).mean() + 1e-20)
    gain = 1.0
    for _ in range(12):
        clipped = np.clip(unit * gain, -crest, crest)
        gain /= np.sqrt((clipped**2).mean())
    return (rms * np.clip(unit * gain, -crest, crest)).astype(np.float32)


def replace_part(waveform: Floats32, other: Floats32, start_s: float, end_s: float) -> Floats32:
    """`waveform` (N,) with a part of `other` (N,), faded in and out over 5 ms within it."""
    times = np.arange(len(waveform)) / SAMPLE_RATE_HZ
    share = (np.minimum(times - start_s, end_s - times) / 0.005).clip(0, 1)
    return (waveform + share * (other - waveform)).astype(np.float32)
