"""WAV files of every kind give the same pictures of the same sound; what can't be read is named."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
import pytest
from scipy.io import wavfile

from metaad_zoo.data.read.account import Account
from metaad_zoo.data.read.audio import RATE, AudioSource, mel_picture, read_wav, resampled

SHAPES = {"audio": (1, 32, 24)}


def tone(hertz=440.0, rate=RATE, seconds=0.5, size=0.5):
    return size * np.sin(2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate)


def write_pcm(path, sound, width, rate=RATE):
    """By the standard library, one byte after the other."""
    whole = np.round(sound * (2 ** (8 * width - 1) - 1)).astype(np.int64)
    if width == 1:
        whole = whole + 128
    data = (whole & (256**width - 1)).astype("<u8")
    octets = data[..., None].view(np.uint8).reshape(*data.shape, 8)[..., :width]
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1 if sound.ndim == 1 else sound.shape[1])
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(octets.tobytes())


def source(path, account=None, below=False):
    return AudioSource(path, SHAPES, account=account, below=below)


def pictures(path, account=None):
    (block,) = source(path, account).blocks()
    return block.samples["audio"].numpy()


@pytest.mark.parametrize(("width", "steps"), [(1, 2**-7), (2, 2**-15), (3, 2**-23), (4, 2**-31)])
def test_pcm_of_every_width_is_the_same_sound(tmp_path, width, steps):
    write_pcm(tmp_path / "a.wav", tone(), width)
    sound, rate, channels = read_wav(tmp_path / "a.wav")
    assert (rate, channels) == (RATE, 1)
    np.testing.assert_allclose(sound, tone(), atol=1.01 * steps)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_floats_are_taken_as_they_are(tmp_path, kind):
    wavfile.write(tmp_path / "a.wav", RATE, tone().astype(kind))
    np.testing.assert_allclose(read_wav(tmp_path / "a.wav")[0], tone(), atol=1e-7)


def test_channels_are_averaged_and_told(tmp_path):
    account = Account()
    write_pcm(tmp_path / "a.wav", np.stack([tone(), np.zeros_like(tone())], 1), 2)
    sound, _, channels = read_wav(tmp_path / "a.wav")
    assert channels == 2
    np.testing.assert_allclose(sound, tone() / 2, atol=2**-14)
    pictures(tmp_path / "a.wav", account)
    assert list(account) == [f"{tmp_path}: 'a.wav' changed: 2 channels averaged to one"]


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_a_sound_at_another_rate_is_resampled_and_told(tmp_path, rate):
    account = Account()
    whole, other = tone(), tone(rate=rate)
    middle = slice(400, -400)  # a filter rings at both ends
    np.testing.assert_allclose(resampled(other, rate)[: len(whole)][middle], whole[middle], atol=5e-3)
    write_pcm(tmp_path / "a.wav", other, 2, rate)
    write_pcm(tmp_path / "b.wav", whole, 2)
    x = pictures(tmp_path, account)
    assert np.abs(x[0] - x[1])[0, :, 2:-2].max() < 0.05
    assert list(account) == [f"{tmp_path}: 'a.wav' changed: resampled from {rate} to {RATE} samples a second"]


def test_a_picture_shows_pitch_upwards_and_loudness_in_decibels():
    rows = [int(mel_picture(tone(hertz), 64, 16)[0].mean(1).argmax()) for hertz in (300, 600, 1200, 2400, 4800)]
    assert rows == sorted(rows, reverse=True), "high bands are at the top"
    loud, quiet = (mel_picture(tone(1000, size=size), 64, 16)[0].max() for size in (0.5, 0.05))
    assert 0.8 < loud <= 1
    assert loud - quiet == pytest.approx(20 / 60, abs=0.01), "a tenth of the amplitude is 20 of 60 dB"
    assert mel_picture(np.zeros(RATE), 64, 16).max() == 0


@pytest.mark.parametrize("seconds", [0.01, 0.1, 0.5, 3.0])
def test_a_recording_of_any_length_fills_the_picture(seconds):
    x = mel_picture(tone(1000, seconds=seconds), 32, 24)
    assert x.shape == (1, 32, 24)
    assert x.dtype == np.float32
    assert len(set(x[0].argmax(0).tolist())) == 1, "the tone's band in every column"
    assert (x[0].max(0) > 0.3).all()


def test_time_runs_to_the_right():
    sound = np.concatenate([np.zeros(RATE), tone(1000, seconds=1.0)])
    x = mel_picture(sound, 32, 24)[0].max(0)
    assert (x[:11] == 0).all()
    assert (x[13:] > 0.8).all()


def test_folders_are_read_directly_or_below_and_told(tmp_path):
    for name in ("b.wav", "A.WAV", "notes.txt", "inside/c.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_pcm(tmp_path / name, tone(), 2)
    account = Account()
    assert [f.name for f in source(tmp_path, account).files] == ["A.WAV", "b.wav"]
    assert f"{tmp_path}: 'inside' left out: folders beside recordings" in list(account)
    assert f"{tmp_path}: 'notes.txt' left out: files of other kinds" in list(account)
    (tmp_path / "b.wav").unlink()
    (tmp_path / "A.WAV").unlink()
    assert [f.name for f in source(tmp_path, below=True).files] == ["c.wav"]
    with pytest.raises(ValueError, match=r"no recordings .* directly in it, but in folders such as .*inside"):
        source(tmp_path)
    with pytest.raises(ValueError, match="does not exist"):
        source(tmp_path / "nowhere")


def test_all_damaged_files_are_named(tmp_path):
    write_pcm(tmp_path / "good.wav", tone(), 2)
    (tmp_path / "text.wav").write_text("no sound")
    (tmp_path / "cut.wav").write_bytes((tmp_path / "good.wav").read_bytes()[:30])
    (tmp_path / "half.wav").write_bytes((tmp_path / "good.wav").read_bytes()[:5000])
    (tmp_path / "nothing.wav").write_bytes(b"")
    wavfile.write(tmp_path / "nan.wav", RATE, np.full(100, np.nan, np.float32))
    wavfile.write(tmp_path / "empty.wav", RATE, np.zeros(0, np.int16))
    with pytest.raises(ValueError, match=r"text\.wav") as error:
        pictures(tmp_path)
    assert all(f"{name}.wav" in str(error.value) for name in ("text", "cut", "half", "nothing", "nan", "empty"))
    assert "good.wav" not in str(error.value)
    account = Account()
    (block,) = AudioSource(tmp_path, SHAPES, account=account, damaged="empty").blocks()
    empty = [np.isnan(x).all() for x in block.samples["audio"].numpy()]
    assert [Path(name).name for name, gone in zip(block.names, empty, strict=True) if not gone] == ["good.wav"]
    assert len(account.damaged) == sum(empty) == 6


def test_pictures_of_several_channels_are_refused(tmp_path):
    write_pcm(tmp_path / "a.wav", tone(), 2)
    with pytest.raises(ValueError, match="mixed to one channel"):
        list(AudioSource(tmp_path, {"audio": (3, 16, 16)}).blocks())
