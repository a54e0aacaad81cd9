"""Guards of a workdir: other data, a second process, lines of an earlier run; links and pipes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import PurePosixPath
from typing import ClassVar

import numpy as np
import pytest

from hpm_jax.data.fingerprint import check_data, fingerprint
from hpm_jax.data.folders import class_folders, regular_files, scan_folder
from hpm_jax.data.records import Arrays, DataError, Splits, Subset
from hpm_jax.run import lock
from hpm_jax.run.lock import WorkdirInUse, hold
from hpm_jax.run.metrics import MetricsWriter

HOLD = """
import sys, time
from pathlib import Path
from hpm_jax.run.lock import hold
hold(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def images(tmp_path):
    for name in ("cat/1.png", "cat/2.png", "dog/1.png"):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return tmp_path / "images"


def splits_of(folder):
    files, classes = scan_folder(folder, None, "images", (".png",))
    return Splits(files, Subset(files, np.arange(1)), classes)


def test_a_run_notices_that_its_data_has_changed(images, tmp_path):
    check_data(tmp_path, splits_of(images), accept=False)
    check_data(tmp_path, splits_of(images), accept=False)
    (images / "dog" / "1.png").write_bytes(b"another size")
    with pytest.raises(DataError, match="other names, sizes or labels among the 3 train"):
        check_data(tmp_path, splits_of(images), accept=False)
    (images / "dog" / "1.png").unlink()
    (images / "eel").mkdir()
    (images / "eel" / "1.png").write_bytes(b"x")
    (images / "eel" / "2.png").write_bytes(b"x")
    with pytest.raises(DataError) as refusal:
        check_data(tmp_path, splits_of(images), accept=False)
    for words in ("3 train examples then, 4 now", "without dog and with eel", "accept_new_data"):
        assert words in str(refusal.value)
    check_data(tmp_path, splits_of(images), accept=True)
    check_data(tmp_path, splits_of(images), accept=False)


def test_a_folder_may_move_and_arrays_may_not_change(images, tmp_path):
    before = fingerprint(splits_of(images))
    images.rename(tmp_path / "elsewhere")
    assert fingerprint(splits_of(tmp_path / "elsewhere")) == before
    pixels, labels = np.zeros((3, 4, 4, 1), np.uint8), np.arange(3)
    one = Splits(Arrays(pixels, labels), Arrays(pixels, labels), ())
    other = one._replace(train=Arrays(pixels + 1, labels))
    swapped = one._replace(train=Arrays(pixels, labels[::-1]))
    digests = {fingerprint(each)["train"]["digest"] for each in (one, other, swapped)}
    assert len(digests) == 3


def test_links_give_no_file_twice_and_pipes_none(images):
    (images / "cat" / "loop").symlink_to(images)
    (images / "eel").symlink_to(images / "cat")
    (images / ".hidden").mkdir()
    (images / ".hidden" / "3.png").write_bytes(b"x")
    os.mkfifo(images / "cat" / "pipe.png")
    (images / "gone.png").symlink_to(images / "nothing.png")
    found = sorted(os.path.relpath(path, images) for path in regular_files(str(images), (".png",)))
    assert found == ["cat/1.png", "cat/2.png", "dog/1.png"]
    files, classes = scan_folder(images, None, "images", (".png",))
    assert len(files) == 3 and classes == ("cat", "dog")


def test_a_link_to_a_folder_elsewhere_is_followed(images, tmp_path):
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "7.png").write_bytes(b"x")
    (images / "eel").symlink_to(tmp_path / "more")
    files, classes = scan_folder(images, None, "images", (".png",))
    assert classes == ("cat", "dog", "eel") and files.name(3).endswith("eel/7.png")


def test_a_second_process_is_refused_until_the_first_has_ended(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert first.stdout.readline() == "held\n"
    with pytest.raises(WorkdirInUse, match=f"in use by process {first.pid} on .*another --workdir"):
        hold(tmp_path)
    first.send_signal(signal.SIGKILL)
    first.wait()
    hold(tmp_path)
    hold(tmp_path)  # the same process again, as in a notebook


class Bucket(PurePosixPath):
    """As much of a bucket as a lease needs."""

    objects: ClassVar[dict[str, str]] = {}

    def exists(self):
        return str(self) in self.objects

    def read_text(self):
        return self.objects[str(self)]

    def write_text(self, text):
        self.objects[str(self)] = text

    def unlink(self, missing_ok=False):
        self.objects.pop(str(self), None)


def test_in_a_bucket_a_lease_that_is_not_renewed_ends(monkeypatch):
    workdir = Bucket("gs/run")
    monkeypatch.setattr(Bucket, "objects", {})
    monkeypatch.setattr(lock, "_held", {})
    other = {"host": "another", "process": 7, "time": time.time()}
    Bucket.objects["gs/run/.lock"] = json.dumps(other)
    with pytest.raises(WorkdirInUse, match="in use by process 7 on another"):
        hold(workdir)
    late = other | {"time": time.time() - 2 * lock.STALE}
    Bucket.objects["gs/run/.lock"] = json.dumps(late)
    hold(workdir)
    assert str(os.getpid()) in Bucket.objects["gs/run/.lock"]
    lock.release_all()  # the next process need not wait until it is stale
    assert "gs/run/.lock" not in Bucket.objects


def test_lines_of_a_run_whose_checkpoints_are_gone_are_kept_aside(tmp_path):
    for _ in range(2):
        writer = MetricsWriter(tmp_path)
        writer.write(1, {"loss": 2.0})
        writer.close()
    assert (tmp_path / "metrics.jsonl").read_text() == (tmp_path / "metrics.1.jsonl").read_text()
    writer = MetricsWriter(tmp_path, step=1)
    writer.close()
    assert not (tmp_path / "metrics.2.jsonl").exists()


def test_a_folder_without_images_says_so(tmp_path):
    class Data:
        path, train_split, test_split, holdout = str(tmp_path), "train", "test", 0.1

    with pytest.raises(DataError, match="holds no images"):
        class_folders(Data(), "images", (".png",))
