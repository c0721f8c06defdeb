"""Videos, read back by the libraries that others would read them with."""

import sys

import av
import numpy as np
import pytest
from PIL import Image

from pipeline.errors import BadInputError
from pipeline.video import check_video, write_video


def colours(count, height=20, width=30):
    """Frames of one colour each, red to blue, and the row of the frame's number white."""
    for i in range(count):
        frame = np.zeros((height, width, 3), np.uint8)
        frame[:] = [255 - 20 * i, 30, 20 * i]
        frame[i] = 255
        yield frame


def read_mp4(path):
    with av.open(path) as container:
        stream = container.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        return frames, stream.average_rate, stream.codec_context


def test_mp4_has_every_frame_in_its_colours_at_the_rate(tmp_path):
    write_video(tmp_path / "a.mp4", colours(8), 15.0)
    frames, rate, codec = read_mp4(tmp_path / "a.mp4")
    assert (len(frames), rate) == (8, 15)
    assert (codec.name, codec.pix_fmt) == ("h264", "yuv420p")
    for i, (got, sent) in enumerate(zip(frames, colours(8), strict=True)):
        assert got.shape == (20, 30, 3)
        assert np.abs(got[-5:].astype(int) - sent[-5:]).max() < 12
        assert got[i].mean() > 200


def test_odd_sizes_are_made_even_by_a_second_last_row_and_column(tmp_path):
    write_video(tmp_path / "a.mp4", colours(2, 21, 31), 29.97)
    frames, rate, _ = read_mp4(tmp_path / "a.mp4")
    assert frames[0].shape == (22, 32, 3)
    assert float(rate) == pytest.approx(29.97)
    assert np.abs(frames[0][-1].astype(int) - [255, 30, 0]).max() < 12


def test_gif_keeps_colours_exactly_and_the_whole_time(tmp_path):
    write_video(tmp_path / "a.gif", colours(8), 15.0)
    with Image.open(tmp_path / "a.gif") as gif:
        durations = []
        for i, sent in enumerate(colours(8)):
            gif.seek(i)
            durations.append(gif.info["duration"])
            np.testing.assert_array_equal(np.asarray(gif.convert("RGB")), sent)
        assert gif.n_frames == 8
    assert sum(durations) == 530  # 8/15 s, in hundredths
    assert set(durations) == {60, 70}


@pytest.mark.parametrize("name", ["a.mp4", "a.gif"])
def test_frames_that_fail_leave_what_was_there_and_nothing_else(name, tmp_path):
    def failing():
        yield from colours(3)
        raise RuntimeError("the emulator is gone")

    (tmp_path / name).write_bytes(b"before")
    with pytest.raises(RuntimeError, match="the emulator is gone"):
        write_video(tmp_path / name, failing(), 15.0)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == b"before"


def test_mp4_without_its_library_is_refused_with_two_ways_out(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(BadInputError, match=r"pip install 'outerloop\[video\]'.*\.gif"):
        check_video(tmp_path / "a.mp4")
    check_video(tmp_path / "a.gif")
    write_video(tmp_path / "a.gif", colours(2), 15.0)


def test_other_places_and_suffixes_are_refused(tmp_path):
    with pytest.raises(BadInputError, match=r"end in \.mp4 or \.gif"):
        check_video(tmp_path / "a.avi")
    with pytest.raises(BadInputError, match="there is no folder"):
        check_video(tmp_path / "absent" / "a.gif")
    (tmp_path / "folder.gif").mkdir()
    with pytest.raises(BadInputError, match="expected the name of a video's file"):
        check_video(tmp_path / "folder.gif")
