"""Video files of every kind: the right frames, and a reason where there are none."""

import av
import numpy as np
import pytest
from small_videos import decode_all, numbered, numbers_in, remux, write_sound, write_video

from hpm_jax.data.decoding import BrokenImage
from hpm_jax.data.video import BrokenVideo, Video

B_FRAMES = {"bf": "3", "g": "12"}
FAST = {"deadline": "realtime", "cpu-used": "8", "g": "15"}
# frames just before a keyframe are stored behind it, predicted from both sides
OPEN = "open-gop=1:keyint=10:min-keyint=10:scenecut=0:bframes=3:b-adapt=0"
FILES = {
    "h264 in mp4": ("a.mp4", {}),
    "h264 in mov at 24 fps": ("a.mov", {"rate": 24}),
    "h264 in mkv at 30 fps": ("a.mkv", {"rate": 30, "options": B_FRAMES}),
    "h264 in mp4 with B-frames": ("a.mp4", {"options": B_FRAMES}),
    "h264 without B-frames": ("a.mp4", {"options": {"bf": "0", "g": "12"}}),
    "h264 in open groups": ("a.mp4", {"options": {"x264-params": OPEN}}),
    "h265 in open groups": (
        "a.mp4",
        {"codec": "libx265", "options": {"x265-params": f"{OPEN}:log-level=none"}},
    ),
    "h264 with B-frames in avi": ("a.avi", {"options": B_FRAMES}),
    "vp9 in webm": ("a.webm", {"codec": "libvpx-vp9", "options": FAST}),
    "vp8 in webm": ("a.webm", {"codec": "libvpx", "options": FAST}),
    "mpeg4 in avi": ("a.avi", {"codec": "mpeg4"}),
    "mpeg4 in avi with B-frames": ("a.avi", {"codec": "mpeg4", "options": {"bf": "2", "g": "12"}}),
    "odd sides": ("a.mp4", {"size": (35, 51), "pixels": "yuv444p"}),
    "odd sides of vp9": ("a.webm", {"size": (35, 51), "codec": "libvpx-vp9", "options": FAST}),
    "odd sides of mpeg4": ("a.avi", {"size": (35, 51), "codec": "mpeg4"}),
}


@pytest.mark.parametrize("name", FILES)
def test_frames_are_those_that_were_asked_for(tmp_path, name):
    """Bit for bit those of a decoder that reads all, and the numbers that were painted on them."""
    file, options = FILES[name]
    path = write_video(tmp_path / file, count=40, **options)
    everything = decode_all(path)
    rng = np.random.default_rng(0)
    asked = [[39], [0], [38, 39], np.arange(40), [20, 3, 20, 37], [[5, 9], [13, 9]]]
    asked += [rng.integers(0, 40, 5) for _ in range(10)]
    with Video(path.read_bytes()) as video:
        assert len(video) == 40
        assert (video.height, video.width) == everything.shape[1:3] == options.get("size", (64, 96))
        for indices in asked:
            frames = video.read(np.array(indices))
            np.testing.assert_array_equal(numbers_in(frames), indices)
            np.testing.assert_array_equal(frames, everything[np.array(indices)])


def test_frames_come_once_and_in_order(tmp_path):
    path = write_video(tmp_path / "a.mp4", options=B_FRAMES)
    with Video(path) as video:
        assert [n for n, _ in video.frames(np.array([[30, 2], [2, 17]]))] == [2, 17, 30]


def test_no_more_is_decoded_than_needed(tmp_path, monkeypatch):
    """Keyframes at 0, 12, 24, 36: 14 and 37 need neither the other groups nor most B-frames."""
    path = write_video(tmp_path / "a.mp4", options=B_FRAMES | {"sc_threshold": "0"})
    fed, came = [], []
    decode = Video._decode

    def watched(self, packets, wanted):
        fed.append([round(float(p.pts * p.time_base) * 25) for p in packets])
        for frame in decode(self, packets, wanted):
            came.append(frame)
            yield frame

    with Video(path) as video:
        monkeypatch.setattr(Video, "_decode", watched)
        np.testing.assert_array_equal(numbers_in(video.read(np.array([37, 14]))), [37, 14])
        assert [numbers[0] for numbers in fed] == [12, 36]
        # decoding runs ahead of showing, by no more than the B-frames
        assert all(len(numbers) <= 6 for numbers in fed)
        fed.clear(), came.clear()
        video.read(np.array([35]))
        assert fed[0][0] == 24 and len(came) < len(fed[0]), "B-frames on the way are left out"
        fed.clear()
        video.read(np.array([24]))
        assert fed == [[24]]


def test_frames_of_a_variable_rate_are_counted(tmp_path):
    """Frame i is the i-th, whenever it is shown; `seconds` says when."""
    gaps = np.random.default_rng(0).choice([20, 40, 40, 160, 400], 40)
    times = np.cumsum(gaps) - gaps[0]
    for file in ("a.mp4", "a.mkv"):
        path = write_video(tmp_path / file, times=times.tolist(), options=B_FRAMES)
        with Video(path) as video:
            np.testing.assert_allclose(video.seconds, times / 1000, atol=1e-3)
            np.testing.assert_array_equal(numbers_in(video.read(np.arange(40))), np.arange(40))
            np.testing.assert_array_equal(numbers_in(video.read(np.array([31, 7]))), [31, 7])


MATRICES = [
    (a, b, c, d) for p in (1, -1) for q in (1, -1) for a, b, c, d in [(p, 0, 0, q), (0, p, q, 0)]
]


@pytest.mark.parametrize("matrix", MATRICES)
def test_videos_that_a_camera_held_otherwise(tmp_path, matrix):
    """Eight ways to hold it, in the matrix of the track header (ISO 14496-12, 6.2.2 and 8.3.2)."""
    path = write_video(tmp_path / "a.mp4", count=3)
    lying = decode_all(path)
    data = bytearray(path.read_bytes())
    place = data.index(b"tkhd") + 44
    a, b, c, d = matrix
    data[place : place + 36] = np.array(
        [a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30], ">i4"
    ).tobytes()
    # a point (x, y) is shown at (a x + c y, b x + d y), moved to where the picture begins
    y, x = np.mgrid[:64, :96]
    right, down = a * x + c * y, b * x + d * y
    right, down = right - right.min(), down - down.min()
    expected = np.empty((3, down.max() + 1, right.max() + 1, 3), np.uint8)
    expected[:, down, right] = lying
    with Video(bytes(data)) as video:
        assert (video.height, video.width) == expected.shape[1:3]
        np.testing.assert_array_equal(video.read(np.arange(3)), expected)


def test_frames_before_the_start_of_an_edit_list(tmp_path):
    path = write_video(tmp_path / "whole.mp4", options={"bf": "0", "g": "12"})

    def earlier(packet, number, part):
        packet.pts -= 10 * 512
        packet.dts -= 10 * 512
        return packet

    options = {"avoid_negative_ts": "disabled"}
    with Video(remux([path], tmp_path / "cut.mp4", earlier, options)) as video:
        assert len(video) == 30
        np.testing.assert_array_equal(numbers_in(video.read(np.arange(30))), np.arange(10, 40))


def test_frames_of_vp8_that_only_predict_others(tmp_path):
    path = write_video(tmp_path / "a.webm", codec="libvpx", options=FAST)

    def hidden(packet, number, part):
        data = bytearray(bytes(packet))
        data[0] &= ~0x10 if number == 20 else 0xFF
        new = av.Packet(bytes(data))
        new.pts, new.dts, new.time_base = packet.pts, packet.dts, packet.time_base
        new.is_keyframe = packet.is_keyframe
        return new

    with Video(remux([path], tmp_path / "hidden.webm", hidden)) as video:
        shown = [*range(20), *range(21, 40)]
        np.testing.assert_array_equal(numbers_in(video.read(np.arange(39))), shown)


def test_a_video_that_changes_its_size(tmp_path):
    """All frames come at the size of the first."""
    parts = [
        write_video(tmp_path / f"{height}.webm", 10, "libvpx-vp9", (height, width), options=FAST)
        for height, width in ((64, 96), (32, 48))
    ]

    def later(packet, number, part):
        packet.pts = packet.dts = packet.pts + 400 * part
        return packet

    with Video(remux(parts, tmp_path / "both.webm", later)) as video:
        frames = video.read(np.arange(20))
        assert frames.shape == (20, 64, 96, 3)
        np.testing.assert_array_equal(numbers_in(frames), [*range(10)] * 2)


# --- what is broken


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Bytes of whole files, by their endings; "fast.mp4" has its index in front."""
    folder = tmp_path_factory.mktemp("whole")
    options = {"mp4": {}, "avi": {"codec": "mpeg4"}, "mkv": {}}
    options["webm"] = {"codec": "libvpx-vp9", "options": FAST}
    paths = {end: write_video(folder / f"a.{end}", **options[end]) for end in options}
    paths["fast.mp4"] = remux(
        [paths["mp4"]], folder / "fast.mp4", options={"movflags": "faststart"}
    )
    return {name: path.read_bytes() for name, path in paths.items()}


@pytest.mark.parametrize("share", [0.02, 0.5, 0.85])
@pytest.mark.parametrize("name", ["mp4", "fast.mp4", "avi", "mkv", "webm"])
def test_a_truncated_file(whole, name, share):
    data = whole[name]
    Video(data).__exit__()
    with pytest.raises(BrokenVideo) as error:
        Video(data[: int(share * len(data))])
    assert str(error.value), "with a reason"


def test_a_damaged_file(tmp_path):
    """The decoder patches what is damaged, and says so: such a frame is refused, others are not."""
    noise = np.random.default_rng(0).integers(0, 256, (12, 64, 96, 3), dtype=np.uint8)
    options = {"g": "4", "bf": "0", "sc_threshold": "0"}
    path = write_video(tmp_path / "a.mp4", 12, frames=noise, options=options)
    data = bytearray(path.read_bytes())
    everything = decode_all(path)
    with Video(path) as video:
        packet = video._packets[6]
        middle, end = packet.pos + packet.size // 2, packet.pos + packet.size
        data[middle:end] = bytes(end - middle)
    with Video(bytes(data)) as video:
        for first in (0, 8):
            read = video.read(np.arange(first, first + 4))
            np.testing.assert_array_equal(read, everything[first : first + 4])
        for wanted in ([6], [7], [0, 11, 6]):
            with pytest.raises(BrokenVideo, match="damaged"):
                video.read(np.array(wanted))


def test_no_video_at_all(tmp_path):
    for data in (b"", b"not a video" * 500, numbered(3).tobytes()):
        with pytest.raises(BrokenVideo):
            Video(data)
    with pytest.raises(BrokenVideo, match="no video in it"):
        Video(write_sound(tmp_path / "a.m4a"))
    with pytest.raises(OSError):
        Video(tmp_path / "nowhere.mp4")
    assert issubclass(BrokenVideo, BrokenImage), "so that the pipeline knows what to do"


def test_a_video_of_one_frame(tmp_path):
    with pytest.raises(BrokenVideo, match=r"too short: 1 frame"):
        Video(write_video(tmp_path / "a.mp4", count=1))
