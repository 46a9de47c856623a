"""How often a sample opens its video and decodes a frame."""

import av
import numpy as np
import pytest

from tests.video.videos import write_video
from video import upright
from video.datasets import VideoDataset
from video.decode import VideoFile


@pytest.fixture
def annotation(tmp_path):
    write_video(tmp_path / "a.mp4", frames=60)
    (tmp_path / "list.txt").write_text("a.mp4 0\n")
    return tmp_path / "list.txt"


@pytest.fixture
def counted(monkeypatch):
    """Openings of files, and times of the frames that are converted to pixels."""
    opened, shown = [], []
    open_file, to_rgb = av.open, upright.to_rgb

    def noted_open(*arguments, **options):
        opened.append(arguments)
        return open_file(*arguments, **options)

    def noted_rgb(frame):
        shown.append(frame.pts)
        return to_rgb(frame)

    monkeypatch.setattr(av, "open", noted_open)
    monkeypatch.setattr(upright, "to_rgb", noted_rgb)
    return opened, shown


@pytest.mark.parametrize("sampling", [{"type": "uniform"}, {"type": "dense", "stride": 6}])
def test_all_views_of_a_video_are_cut_from_frames_decoded_once(annotation, counted, sampling):
    opened, shown = counted
    views = {"temporal_views": 4, "spatial_views": 3}
    data = VideoDataset(annotation, num_frames=8, sampling=sampling, test_mode=True, size=32, **views)
    assert data[0]["clips"].shape == (12, 8, 3, 32, 32)
    wanted = np.unique(data.sampling.test(60, 4))
    assert len(opened) == 1
    assert len(shown) == len(set(shown)) == len(wanted)
    assert len(wanted) < 32 or sampling["type"] == "uniform", "dense views share frames"


def test_the_clips_of_a_training_sample_are_read_together(annotation, counted):
    opened, shown = counted
    sampling = {"type": "segments", "stride": 4, "segments": 2}
    clips = VideoDataset(annotation, num_frames=8, sampling=sampling, size=32, temporal_views=2)[0, 0]["clips"]
    assert clips.shape[:2] == (2, 8)
    assert (len(opened), len(shown)) == (1, len(set(shown)))


def test_a_later_read_opens_the_file_again_and_a_closed_one_is_let_go(annotation, counted):
    path, (opened, _) = annotation.parent / "a.mp4", counted
    video = VideoFile(path)
    first = video.read([5, 31])
    assert len(opened) == 1
    assert np.array_equal(video.read([5, 31]), first)
    assert len(opened) == 2
    with VideoFile(path) as other:
        container = other._backend._opened[1][0]
    with pytest.raises(AssertionError):  # of a container that is closed
        container.seek(0)
