import asyncio
import contextlib
import os
import resource

import pytest

from nanohook import errors, storage

BAD_KEYS = [
    "",
    "/a",
    "a/",
    "a//b",
    "..",
    "../a",
    "a/../b",
    "a/..",
    "./a",
    "a/./b",
    ".hidden",
    "-a",
    "a b",
    "a#1",
    "a\\b",
    "a\x00",
    "a\n",
    "é",
    "a%2fb",
    "a" * 201,
    "/".join(["a" * 100] * 6),
]


@pytest.fixture
def root(tmp_path):
    return tmp_path / "deep" / "media"


@pytest.fixture
def store(root):
    return storage.Storage(root)


@contextlib.contextmanager
def file_size_limit(limit_bytes):
    """The disk is full, as far as this process can tell: a write stops in the middle of a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def files(root):
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


async def test_what_was_put_is_got_back(store, root):
    await store.put("job/1/0.jpg", b"picture")
    assert await store.get("job/1/0.jpg") == b"picture"
    assert type(await store.get("job/1/0.jpg")) is bytes
    assert await store.exists("job/1/0.jpg")
    assert store.path("job/1/0.jpg") == root / "job" / "1" / "0.jpg"
    assert files(root) == ["job/1/0.jpg"]


async def test_a_second_put_replaces_the_first(store):
    await store.put("a.jpg", b"first")
    await store.put("a.jpg", b"")
    assert await store.get("a.jpg") == b""


async def test_a_large_file_is_one_file(store, root):
    body = os.urandom(7 * 1024 * 1024)  # obstore would send more than 5 MiB in parts
    await store.put("large.png", body)
    assert await store.get("large.png") == body
    assert files(root) == ["large.png"]


async def test_a_missing_file_is_told(store):
    with pytest.raises(errors.NotFound):
        await store.get("a.jpg")
    assert not await store.exists("a.jpg")
    assert store.path("a.jpg") is None


async def test_a_folder_is_not_a_file(store):
    await store.put("a/b.jpg", b"x")
    with pytest.raises(errors.NotFound):
        await store.get("a")
    assert not await store.exists("a")
    assert store.path("a") is None


async def test_deleting_is_final_and_may_be_repeated(store):
    await store.put("a/b.jpg", b"x")
    await store.delete("a/b.jpg")
    await store.delete("a/b.jpg")
    assert not await store.exists("a/b.jpg")
    await store.put("a/b.jpg", b"y")
    assert await store.get("a/b.jpg") == b"y"


@pytest.mark.parametrize("key", BAD_KEYS)
async def test_a_malformed_key_is_no_file(store, root, key):
    for act in (store.get, store.exists, store.delete):
        with pytest.raises(errors.NotFound):
            await act(key)
    with pytest.raises(errors.NotFound):
        store.path(key)
    with pytest.raises(errors.StorageFailed):
        await store.put(key, b"x")
    assert files(root.parent) == []


async def test_keys_may_have_512_characters_and_segments_200(store):
    long = "/".join(["a" * 200, "b" * 200, "c" * 110])
    assert len(long) == 512
    await store.put(long, b"x")
    assert await store.get(long) == b"x"
    with pytest.raises(errors.NotFound):
        await store.get(long + "c")


@pytest.mark.parametrize("size", [5_000, 6_000_000])
async def test_a_full_disk_is_told_and_leaves_what_was_there(store, root, size):
    await store.put("a.jpg", b"before")
    with file_size_limit(1_000), pytest.raises(errors.StorageFailed, match=r"could not keep a\.jpg"):
        await store.put("a.jpg", bytes(size))
    assert await store.get("a.jpg") == b"before"
    assert files(root) == ["a.jpg"]


async def test_a_file_in_place_of_a_folder_is_told(store):
    await store.put("a", b"x")
    for act in (store.put("a/b.jpg", b"y"), store.get("a/b.jpg"), store.delete("a/b.jpg")):
        with pytest.raises(errors.StorageFailed):
            await act
    assert store.path("a/b.jpg") is None
    assert await store.get("a") == b"x"


async def test_a_folder_in_place_of_a_file_is_told(store):
    await store.put("a/b.jpg", b"x")
    with pytest.raises(errors.StorageFailed):
        await store.put("a", b"y")
    assert await store.get("a/b.jpg") == b"x"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
async def test_a_read_only_folder_is_told(store, root):
    root.chmod(0o500)
    try:
        with pytest.raises(errors.StorageFailed):
            await store.put("a.jpg", b"x")
        with pytest.raises(errors.StorageFailed):
            await store.put("a/b.jpg", b"x")
    finally:
        root.chmod(0o700)


def test_a_root_that_cannot_be_a_folder_is_told(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    for root in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(errors.StorageFailed):
            storage.Storage(root)


async def test_an_existing_root_keeps_its_files(store, root):
    await store.put("a.jpg", b"x")
    assert await storage.Storage(root).get("a.jpg") == b"x"


@pytest.fixture
def synced(monkeypatch):
    """What was synced, in order; the disk still is."""
    paths, sync = [], storage.sync

    def note(path):
        paths.append(path)
        sync(path)

    monkeypatch.setattr(storage, "sync", note)
    return paths


async def test_a_put_syncs_the_file_and_every_new_entry_that_leads_to_it(root, synced):
    store = storage.Storage(root)
    assert synced == [root.parent, root.parent.parent]
    synced.clear()
    await store.put("a/b/c.jpg", b"x")
    assert synced == [root / "a/b/c.jpg", root / "a", root, root / "a/b"]
    synced.clear()
    await store.put("a/b/d.jpg", b"x")
    assert synced == [root / "a/b/d.jpg", root / "a/b"]
    synced.clear()
    await store.put("e.jpg", b"x")
    assert synced == [root / "e.jpg", root]


async def test_a_folder_that_a_twin_made_is_synced_all_the_same(store, root, synced):
    (root / "a").mkdir()
    await store.put("a/b.jpg", b"x")
    assert synced == [root / "a/b.jpg", root, root / "a"]


async def test_a_sync_that_fails_is_told(store, monkeypatch):
    def refuse(path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage, "sync", refuse)
    with pytest.raises(errors.StorageFailed, match="No space left"):
        await store.put("a.jpg", b"x")


async def test_4096_folders_are_remembered(store, monkeypatch):
    assert storage.MOST_SYNCED_FOLDERS == 4_096
    monkeypatch.setattr(storage, "MOST_SYNCED_FOLDERS", 3)
    for number in range(10):
        await store.put(f"{number}/a.jpg", b"x")
        assert len(store._synced) <= 3


async def test_a_reader_never_sees_a_part(store):
    bodies = {bytes([n]) * 200_000 for n in range(4)}
    await store.put("a.jpg", bytes(200_000))

    async def write():
        for body in bodies:
            await store.put("a.jpg", body)

    async def read():
        for _ in range(20):
            assert await store.get("a.jpg") in bodies

    await asyncio.gather(write(), write(), read(), read())


def test_free_bytes_are_what_the_disk_says(store, root):
    stat = os.statvfs(root)
    assert abs(store.free_bytes() - stat.f_bavail * stat.f_frsize) < 2**30


def test_a_disk_that_went_away_is_told(store, root):
    root.rmdir()
    with pytest.raises(errors.StorageFailed):
        store.free_bytes()


async def test_whatever_lies_in_the_folder_is_walked_by_a_few_at_a_time(store, root, monkeypatch):
    monkeypatch.setattr(storage, "WALKED_AT_ONCE", 2)
    for key in ("a.png", "b/c.png", "b/d/e.png", "f.png"):
        await store.put(key, b"picture")
    (root / "f.png#1").write_bytes(b"half")
    (root / "link").symlink_to(root.parent)
    (root / "empty").mkdir()
    walked = [found async for found in store.walk()]
    assert [len(found) for found in walked] == [2, 2, 1]
    told = {file.name: file for found in walked for file in found}
    assert set(told) == {"a.png", "b/c.png", "b/d/e.png", "f.png", "f.png#1"}
    for name, file in told.items():
        assert file.modified_at == (root / name).stat().st_mtime_ns // 1_000
    assert storage.Found("\udcff", 1).shown == "\\udcff"


async def test_nothing_is_walked_where_there_is_no_folder(tmp_path):
    assert [found async for found in storage.walk(tmp_path / "none")] == []
    (tmp_path / "file").touch()
    with pytest.raises(errors.StorageFailed, match="could not read"):
        [found async for found in storage.walk(tmp_path / "file")]


async def test_a_stray_is_not_removed_if_somebody_has_written_to_it_since(store, root):
    await store.put("a.png", b"picture")
    [[found]] = [found async for found in store.walk()]
    assert not await store.remove_stray(found, before_us=found.modified_at)
    assert files(root) == ["a.png"]
    assert await store.remove_stray(found, before_us=found.modified_at + 1)
    assert not await store.remove_stray(found, before_us=found.modified_at + 1)
    assert files(root) == []
    (root / "folder").mkdir()
    with pytest.raises(errors.StorageFailed, match="could not remove folder"):
        await store.remove_stray(storage.Found("folder", 1), before_us=2**62)


async def test_several_files_are_kept_on_the_callers_own_thread(store, root):
    store.put_now({"a/x": b"one", "a/y": b"two", "b/z": b"three"})
    assert files(root) == ["a/x", "a/y", "b/z"]
    assert await store.get("a/y") == b"two"


async def test_if_one_of_several_is_refused_all_have_ended(store, root):
    with file_size_limit(1_000), pytest.raises(errors.StorageFailed, match="a/small, a/large"):
        store.put_now({"a/small": b"x", "a/large": bytes(100_000)})
    for key in ("a/small", "a/large"):
        await store.delete(key)
    assert files(root) == []
    with pytest.raises(errors.StorageFailed):
        store.put_now({"a/x": b"one", "../a": b"two"})
