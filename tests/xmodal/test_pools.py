"""Pools end at once when their user stops."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from pointcloud.datasets.safe_files import content_key, convert_all, load_pickle, load_pth
from xmodal.data.pools import process_pool
from xmodal.data.trouble import NotAFileError


def nap(seconds: float) -> None:
    time.sleep(seconds)


def test_ctrl_c_ends_a_preparation_at_once_and_says_how_to_go_on(capsys):
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's `&` leaves it ignored
    try:
        threading.Timer(1.0, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        assert convert_all(nap, [60.0] * 8, 2, "rooms", 0) == 130
    finally:
        signal.signal(signal.SIGINT, handler)
    assert "stopped; 0 of 8 rooms were looked at, the same command goes on" in capsys.readouterr().out


def test_an_error_of_the_caller_kills_the_workers():
    workers: list = []

    def stopped_early() -> None:
        with process_pool(1) as pool:
            pool.submit(nap, 60.0)
            workers.extend(pool._processes.values())
            raise KeyError("x")

    with pytest.raises(KeyError, match="x"):
        stopped_early()
    workers[0].join(5)
    assert not workers[0].is_alive()


@pytest.mark.parametrize("read", [load_pickle, load_pth, content_key])
def test_a_fifo_is_refused_before_it_is_opened(tmp_path: Path, read):
    os.mkfifo(tmp_path / "cloud.pth")
    with pytest.raises(NotAFileError, match="FIFO"):
        read(tmp_path / "cloud.pth")
