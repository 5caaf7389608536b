"""The generated demo set: FakeAVCeleb's layout, faces that are found, lips that follow the sound, no
shortcuts.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from preprocess.demo import speech
from preprocess.demo.animation import MAX_OPENING, Puppet, draw_background, draw_motion, render
from preprocess.demo.dataset import MANIFEST_NAME, make_demo_set
from preprocess.demo.forgeries import resynthesise_mouth, swap_faces
from preprocess.demo.geometry import CHIN, NOSE_BASE, face_height, lip_opening, smoothstep, spline_map
from preprocess.demo.identities import CANVAS, MEASURED, make_identity, photos, placing
from preprocess.demo.layouts import plan_clips
from preprocess.demo.plan import FPS, DemoConfig, draw_scene
from preprocess.faces.backends import new_face_mesh
from preprocess.faces.solutions import import_mediapipe, quiet_native_code
from tests.environment import needs_solutions
from utils.clip.face_regions import FACE_OVAL
from utils.errors import DatasetError
from utils.files import file_sha256
from utils.media.sound import iterate_audio
from utils.media.video import iterate_frames

DURATION_S = 1.6


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return DemoConfig(
        output=tmp_path_factory.mktemp("demo") / "set", num_identities=2, duration_s=DURATION_S, num_workers=1
    )


@pytest.fixture(scope="module")
def root(config):
    return make_demo_set(config)


@pytest.fixture(scope="module")
def rows(root):
    with (root / "meta_data.csv").open(newline="") as file:
        return list(csv.reader(file))


def clip_path(root, row):
    return root / row[9].removeprefix("FakeAVCeleb/") / row[8]


@pytest.fixture(scope="module")
def clips(root, rows):
    """Per metadata row: frames, waveform, and the landmarks that the face mesh finds (None: no face)."""
    found = []
    for row in rows[1:]:
        path = clip_path(root, row)
        frames = np.stack([frame for _, frame in iterate_frames(path)])
        waveform = np.concatenate([piece for _, piece in iterate_audio(path, speech.SAMPLE_RATE_HZ)])
        mesh, size = new_face_mesh(), frames.shape[1]
        shares = [mesh(frame) for frame in frames]
        points = [None if seen is None else size * seen for seen in shares]
        found.append((row, frames, waveform, points))
    return found


SMALL = {"layout": "ffpp", "num_identities": 2, "duration_s": 1.0, "frame_size": 192}


@pytest.fixture(scope="module")
def small_root(tmp_path_factory):
    """A set of separate sound files, made by one process."""
    return make_demo_set(DemoConfig(output=tmp_path_factory.mktemp("demo") / "small", num_workers=1, **SMALL))


def files_of(root):
    return json.loads((root / MANIFEST_NAME).read_text())["files"]


def test_the_number_of_workers_does_not_change_a_byte(small_root, tmp_path):
    together = make_demo_set(DemoConfig(output=tmp_path / "together", num_workers=2, **SMALL))
    assert files_of(together) == files_of(small_root)
    assert len(list(together.rglob("*.mp4"))) == 10  # 2 persons, 4 kinds of fakes of each


def test_metadata_is_in_the_form_of_the_real_data_set(rows, root):
    assert ",".join(rows[0]) == "source,target1,target2,method,category,type,race,gender,path,"
    letters = {"A": "RealVideo-RealAudio", "B": "RealVideo-FakeAudio"}
    letters |= {"C": "FakeVideo-RealAudio", "D": "FakeVideo-FakeAudio"}
    for row in rows[1:]:
        assert len(row) == 10
        source, donor, _, method, letter, category, race, gender, _, folder = row
        assert letters[letter] == category
        assert folder == f"FakeAVCeleb/{category}/{race}/{gender}/{source}"
        assert clip_path(root, row).is_file()
        assert donor != source
        assert (donor != "-") == method.startswith("faceswap") or method == "wav2lip"
    on_disk = {path.relative_to(root) for path in root.rglob("*.mp4")}
    assert on_disk == {clip_path(root, row).relative_to(root) for row in rows[1:]}


def test_an_interrupted_set_is_completed_and_a_damaged_file_replaced(config, root, rows):
    files = files_of(root)
    assert len(files) == 17  # 2 x 8 clips and the metadata
    lost, damaged, kept = (clip_path(root, row) for row in (rows[1], rows[2], rows[9]))
    lost.unlink()
    damaged.write_bytes(damaged.read_bytes()[:1000])
    before = kept.stat().st_mtime_ns
    make_demo_set(config)
    assert files_of(root) == files
    assert lost.is_file()
    assert kept.stat().st_mtime_ns == before
    assert not list(root.rglob("*.partial*"))


def test_a_damaged_sound_file_is_replaced(small_root):
    files = files_of(small_root)
    (sound, _) = sorted(small_root.rglob("*.wav"))
    sound.write_bytes(sound.read_bytes()[:1000])
    make_demo_set(DemoConfig(output=small_root, **SMALL))
    assert files_of(small_root) == files
    assert file_sha256(sound) == files[sound.relative_to(small_root).as_posix()]


def test_another_set_in_the_same_folder_is_refused(root, tmp_path):
    with pytest.raises(DatasetError, match="other settings"):
        make_demo_set(DemoConfig(output=root, num_identities=2, duration_s=DURATION_S, seed=1))
    (tmp_path / "holiday.txt").write_text("mine")
    with pytest.raises(DatasetError, match="not a demo set"):
        make_demo_set(DemoConfig(output=tmp_path))


def test_face_mesh_finds_the_faces(clips):
    found = [points is not None for _, _, _, track in clips for points in track]
    assert np.mean(found) > 0.99


def lip_sound_correlation(waveform, track):
    """Correlation of the measured lip gap with the loudness around each frame."""
    gaps = np.array([lip_opening(points) for points in track])
    samples = speech.SAMPLE_RATE_HZ // FPS
    power = np.convolve(waveform**2, np.hanning(3 * samples), mode="same")
    loudness = np.sqrt(power[samples // 2 :: samples][: len(gaps)])
    return np.corrcoef(gaps[: len(loudness)], loudness)[0, 1]


def test_lips_follow_the_sound_where_they_should(clips):
    by_kind = {}
    for row, _, waveform, track in clips:
        by_kind.setdefault((row[5], row[3]), []).append(lip_sound_correlation(waveform, track))
    genuine = np.mean(by_kind["RealVideo-RealAudio", "real"])
    assert genuine > 0.6
    assert np.mean(by_kind["FakeVideo-FakeAudio", "wav2lip"]) > 0.5
    assert np.mean(by_kind["RealVideo-FakeAudio", "rtvc"]) < genuine - 0.25
    assert np.mean(by_kind["FakeVideo-RealAudio", "wav2lip"]) < genuine - 0.25


def test_all_clips_have_one_length_and_the_loudness_of_their_scene(clips, config):
    planned = {Path(clip.path).name: clip for clip in plan_clips(config)}
    for row, frames, waveform, _ in clips:
        clip = planned[row[8]]
        scene = draw_scene(config, clip.identity, clip.scene)
        assert len(frames) == round(DURATION_S * FPS)
        assert abs(len(waveform) - DURATION_S * speech.SAMPLE_RATE_HZ) <= 1024  # one AAC frame
        assert np.sqrt((waveform**2).mean()) == pytest.approx(scene.recording.rms, rel=0.06)
        # AAC overshoots where the limiter has clipped
        assert np.abs(waveform).max() < 1.7 * scene.recording.rms * scene.recording.crest
    assert len({len(waveform) for _, _, waveform, _ in clips}) == 1


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_property_of_a_scene_tells_a_category_from_genuine(seed, tmp_path):
    config = DemoConfig(output=tmp_path, seed=seed)
    clips = plan_clips(config)
    scenes = [draw_scene(config, clip.identity, clip.scene) for clip in clips]
    rules = {
        "crf": [scene.crf for scene in scenes],
        "noise": [scene.noise for scene in scenes],
        "blur": [scene.blur for scene in scenes],
        "gain": [scene.gain[0] for scene in scenes],
        "face": [scene.face_scale for scene in scenes],
        "rms": [scene.recording.rms for scene in scenes],
        "crest": [scene.recording.crest for scene in scenes],
        "hiss": [scene.recording.noise_db for scene in scenes],
    }
    fake = np.array([clip.kind.is_fake for clip in clips])
    kinds = np.array([f"{clip.kind.category} {clip.kind.method}" for clip in clips])
    for name, values in rules.items():
        assert len(set(values)) > 1, f"{name} does not vary"
        for kind in sorted(set(kinds[fake])):
            part = ~fake | (kinds == kind)
            auc = roc_auc_score(fake[part], np.asarray(values, float)[part])
            assert auc == pytest.approx(0.5), f"{name} tells {kind}"
    for name, values in (
        ("onset", [scene.onset_s for scene in scenes]),
        ("scene", [clip.scene for clip in clips]),
    ):
        assert 0.42 < roc_auc_score(fake, values) < 0.58, name


def test_default_plan_has_distinct_files_identities_and_donors(tmp_path):
    clips = plan_clips(DemoConfig(output=tmp_path))
    paths = [clip.path for clip in clips]
    assert len(set(paths)) == len(clips) == 40 * 8
    assert all(clip.donor != clip.identity for clip in clips)
    assert len({path.split("/", 1)[1].rsplit("/", 2)[0] for path in paths}) >= 4


@pytest.fixture(scope="module")
def scene():
    """One second of a talking face with its true landmarks, and three pictures of somebody else."""
    opening = 0.5 - 0.5 * np.cos(np.arange(25) / 25 * 4 * np.pi)
    rendered = []
    for number, track in ((0, opening), (1, np.array([0.0, 0.5, 1.0]))):
        rng = np.random.default_rng(number)
        motion = draw_motion(track, np.zeros(len(track)), rng, size=320, fps=25, scale=1.0)
        rendered += render(Puppet(make_identity(rng)), motion, draw_background(rng, 320))
    return rendered


def outside_hull(landmarks, grow):
    """(T, 320, 320) bool: pixels outside the ellipse-like face oval, enlarged by `grow`."""
    import cv2

    masks = []
    for points in landmarks:
        oval = points[list(FACE_OVAL)]
        hull = cv2.convexHull(((oval - oval.mean(0)) * grow + oval.mean(0)).astype(np.float32))
        mask = np.zeros((320, 320), np.uint8)
        cv2.fillConvexPoly(mask, hull.round().astype(np.int32), 1)
        masks.append(mask == 0)
    return np.stack(masks)


def test_rendered_landmarks_lie_where_face_mesh_sees_them(scene):
    frames, landmarks = scene[:2]
    mesh = new_face_mesh()
    for frame, truth in zip(frames[::6], landmarks[::6], strict=True):
        assert np.linalg.norm(320 * mesh(frame) - truth, axis=1).mean() < 0.03 * face_height(truth)


def test_a_face_swap_changes_the_face_and_nothing_else(scene):
    frames, landmarks, donor_frames, donor_landmarks = scene
    forged = swap_faces(frames, landmarks, donor_frames, donor_landmarks, np.random.default_rng(0))
    change = np.abs(forged.astype(int) - frames).max(-1)
    outside = outside_hull(landmarks, 1.08)
    assert change[outside].max() == 0
    assert change[~outside_hull(landmarks, 0.6)].mean() > 8
    again = swap_faces(frames, landmarks, donor_frames, donor_landmarks, np.random.default_rng(0))
    np.testing.assert_array_equal(forged, again)


def test_a_resynthesised_mouth_follows_the_wanted_openings(scene):
    frames, landmarks = scene[:2]
    wanted = MAX_OPENING * (0.5 + 0.5 * np.cos(np.arange(25) / 25 * 6 * np.pi))
    forged = resynthesise_mouth(frames, landmarks, wanted, np.random.default_rng(0))
    change = np.abs(forged.astype(int) - frames).max(-1)
    assert change[outside_hull(landmarks, 1.08)].max() == 0
    for index, points in enumerate(landmarks):
        rows = int(points[NOSE_BASE, 1] - 0.3 * (points[CHIN, 1] - points[NOSE_BASE, 1]))
        assert change[index, : rows - 20].max() == 0
    mesh = new_face_mesh()
    gaps = lip_opening(np.stack([mesh(frame) for frame in forged]))
    assert np.corrcoef(gaps, wanted)[0, 1] > 0.85
    assert np.corrcoef(gaps, lip_opening(landmarks))[0, 1] < 0.5


def test_frames_without_a_face_stay_as_they_are(scene):
    frames, landmarks, donor_frames, donor_landmarks = scene
    gaps = landmarks.copy()
    gaps[3] = np.nan
    for forged in (
        swap_faces(frames, gaps, donor_frames, donor_landmarks, np.random.default_rng(0)),
        resynthesise_mouth(frames, gaps, np.zeros(25), np.random.default_rng(0)),
    ):
        np.testing.assert_array_equal(forged[3], frames[3])
        assert (forged[4] != frames[4]).any()
    with pytest.raises(ValueError, match="24 openings"):
        resynthesise_mouth(frames, landmarks, np.zeros(24), np.random.default_rng(0))


def main_pitch_hz(waveform, sample_rate_hz):
    spectrum = np.abs(np.fft.rfft(waveform * np.hanning(len(waveform)), 4 * len(waveform))) ** 2
    correlation = np.fft.irfft(spectrum)
    low, high = sample_rate_hz // 400, sample_rate_hz // 70
    return sample_rate_hz / (low + correlation[low:high].argmax())


@pytest.mark.parametrize("sample_rate_hz", [16_000, 48_000])
def test_revoice_keeps_the_words_and_changes_the_voice(sample_rate_hz):
    times = np.arange(sample_rate_hz) / sample_rate_hz
    tone = sum(np.cos(2 * np.pi * 120 * k * times) / k for k in range(1, 20))
    syllables = 0.05 + np.sin(2 * np.pi * 2 * times) ** 2
    waveform = (0.1 * tone * syllables).astype(np.float32)
    forged = speech.revoice(
        waveform, sample_rate_hz, np.random.default_rng(0), pitch_factor=1.25, tract_factor=1.0
    )
    assert forged.shape == waveform.shape
    assert main_pitch_hz(forged, sample_rate_hz) == pytest.approx(150, rel=0.03)
    frame = sample_rate_hz // 50
    loudness = [np.sqrt((x[: 49 * frame].reshape(49, frame) ** 2).mean(1)) for x in (waveform, forged)]
    assert np.corrcoef(loudness)[0, 1] > 0.9
    repeated = speech.revoice(
        waveform, sample_rate_hz, np.random.default_rng(0), pitch_factor=1.25, tract_factor=1.0
    )
    np.testing.assert_array_equal(forged, repeated)


def test_limit_sets_rms_and_peak_of_any_sound():
    rng = np.random.default_rng(0)
    for sound in (rng.standard_normal(8000), np.eye(1, 8000, 100)[0] + 0.05 * rng.standard_normal(8000)):
        levelled = speech.limit(sound, rms=0.08, crest=4.0)
        assert np.sqrt((levelled.astype(float) ** 2).mean()) == pytest.approx(0.08, rel=0.01)
        assert np.abs(levelled).max() <= 0.3201


def test_spline_map_reads_the_source_at_each_knot():
    rng = np.random.default_rng(0)
    target = rng.uniform(20, 100, (12, 2)).round()
    source = target + rng.uniform(-5, 5, (12, 2))
    positions = spline_map(target, source, (10, 10, 100, 100), step=1)
    for knot, place in zip(target.astype(int), source, strict=True):
        np.testing.assert_allclose(positions[knot[1] - 10, knot[0] - 10], place, atol=0.1)


@needs_solutions
def test_what_is_stored_of_the_portraits_is_what_mediapipe_measures():
    solutions = import_mediapipe().solutions
    with (
        np.load(MEASURED) as measured,
        quiet_native_code(),
        solutions.face_mesh.FaceMesh(static_image_mode=True, refine_landmarks=True) as mesh,
        solutions.selfie_segmentation.SelfieSegmentation(model_selection=0) as segmenter,
    ):
        for photo, landmarks, alpha in zip(photos(), measured["landmarks"], measured["alpha"], strict=True):
            found = mesh.process(photo).multi_face_landmarks[0].landmark
            np.testing.assert_allclose(landmarks, [(p.x, p.y, p.z) for p in found], atol=1e-4)
            matrix, _ = placing(landmarks * (photo.shape[1], photo.shape[0], photo.shape[1]))
            mask = segmenter.process(photo).segmentation_mask
            mask = cv2.warpAffine(mask, matrix, (CANVAS, CANVAS), borderMode=cv2.BORDER_REPLICATE)
            # the segmentation's soft rim shows the old background: its inner part is kept
            rim = smoothstep(cv2.erode(mask, np.ones((3, 3), np.uint8)), 0.35, 0.95)
            rim[:8] = 0
            np.testing.assert_allclose(alpha, rim, atol=1e-3)
