"""Files of visitors: kept while somebody looks at them, removed after, and nothing else is touched."""

import os

import pytest

from pllava.apps.web.uploads import Uploads
from pllava.core.errors import PllavaError


@pytest.fixture
def uploads(tmp_path):
    uploads = Uploads(tmp_path / "uploads")
    uploads.open()
    return uploads


def put(uploads, name):
    path = uploads.root / f"hash-of-{name}" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(name.encode())
    return path


def test_a_new_clip_removes_the_old_one(uploads):
    first, second = put(uploads, "a.mp4"), put(uploads, "b.mp4")
    uploads.take("anna", first)
    uploads.take("anna", second)
    assert not first.parent.exists()
    assert second.exists()
    uploads.release("anna")
    assert list(uploads.files()) == []


def test_two_visitors_with_one_file_share_it_until_both_have_left(uploads):
    clip = put(uploads, "a.mp4")
    uploads.take("anna", clip)
    uploads.take("bert", clip)
    uploads.release("anna")
    assert clip.exists()
    uploads.discard(clip)
    assert clip.exists()
    uploads.release("bert")
    assert not clip.exists()


def test_a_file_that_two_programs_send_is_there_for_both(uploads):
    clip = put(uploads, "a.mp4")
    uploads.arrived(clip)
    uploads.arrived(clip)
    uploads.take("anna", clip, ours=True)  # a sample of the page with the same bytes
    uploads.answered(clip)
    uploads.release("anna")
    assert clip.is_file(), "the second question is waiting"
    uploads.answered(clip)
    assert list(uploads.files()) == []


def test_a_file_that_comes_in_while_another_visitor_lets_go_of_it_stays(uploads):
    clip = put(uploads, "a.mp4")
    uploads.arrived(clip)
    with uploads.receiving():  # the second one's bytes are there, its arrival is not yet said
        uploads.answered(clip)
        assert clip.exists()
        uploads.arrived(clip)
    assert clip.exists()
    uploads.answered(clip)
    assert list(uploads.files()) == []


def test_what_was_let_go_of_during_an_upload_is_removed_after_it(uploads):
    clip, other = put(uploads, "a.mp4"), put(uploads, "b.mp4")
    uploads.take("anna", clip)
    with uploads.receiving(), uploads.receiving():
        uploads.release("anna")
        uploads.take("bert", other)
        uploads.release("bert")
        uploads.take("carl", other)
        assert clip.exists()
    assert list(uploads.files()) == [other]


def test_nothing_outside_is_taken_or_removed(uploads, tmp_path):
    secret = tmp_path / "secret.mp4"
    secret.write_text("x")
    link = uploads.root / "link.mp4"
    link.symlink_to(secret)
    for path in (secret, link, uploads.root / "../../secret.mp4", "/etc/passwd", uploads.root):
        with pytest.raises(PllavaError, match="not among the uploaded files"):
            uploads.take("anna", path)
        uploads.discard(path)
    assert secret.exists()


def test_a_sample_is_copied_and_its_copy_removed(uploads, tmp_path):
    ours = tmp_path / "ours.mp4"
    ours.write_bytes(b"x")
    copy = uploads.copy("anna", ours)
    assert copy.is_relative_to(uploads.root)
    assert copy.read_bytes() == b"x"
    uploads.release("anna")
    assert ours.exists()
    assert not copy.exists()


def test_folders_of_ended_processes_are_removed_at_the_next_start(uploads, tmp_path):
    left = uploads.home / str(os.getppid()) / "hash" / "clip.mp4"  # a pid may be someone else's by now
    left.parent.mkdir(parents=True)
    left.write_bytes(b"x")
    Uploads(tmp_path / "uploads").open()
    assert not left.exists()
    assert uploads.root.exists()


def test_what_nobody_took_is_removed_after_a_while_but_not_the_pages_own(uploads):
    poster = put(uploads, "poster.webp")
    uploads.keep_what_is_there()
    forgotten, fresh, clip = put(uploads, "old.mp4"), put(uploads, "new.mp4"), put(uploads, "a.mp4")
    for path in (poster, forgotten):
        os.utime(path, (0, 0))
    uploads.take("anna", clip)
    assert poster.exists()
    assert fresh.exists()
    assert clip.exists()
    assert not forgotten.exists()
