"""Pictures, PDFs and texts of a task: what the model gets, and that the next task gets none."""

from __future__ import annotations

import base64
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from agent_pool import Attachment, ConfigError, Submitted, TaskEvent, TaskRequest
from agent_pool.loopback import ModelRequest
from agent_pool.models import MAX_ATTACHED_BYTES, MAX_ATTACHMENTS
from support.model_scripts import as_text, user_messages
from support.pool_harness import PoolHarness, TaskOutcome
from support.variants import later

PDF = b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF"


def png(width: int = 8, height: int = 8) -> bytes:
    """Make a red picture."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress((b"\0" + b"\xff\0\0" * width) * height)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


HEADS = {
    "image/png": png(),
    "image/jpeg": b"\xff\xd8\xff\xe0 picture",
    "image/gif": b"GIF89a picture",
    "image/webp": b"RIFF\0\0\0\0WEBPVP8 picture",
    "application/pdf": PDF,
    "text/plain": "Grüße".encode(),
}


def blocks_with_data(request: ModelRequest) -> list[dict[str, Any]]:
    """Return the blocks of a request that are pictures or documents."""
    found = []
    for message in user_messages(request):
        if isinstance(message["content"], list):
            found += [one for one in message["content"] if one["type"] in ("image", "document")]
    return found


@pytest.fixture(scope="module", params=["auto", later("clear")])
def harness(
    open_harness: Callable[..., PoolHarness], request: pytest.FixtureRequest
) -> PoolHarness:
    return open_harness(reset=request.param, max_workers=1)


async def ask(harness: PoolHarness, *given: Attachment, task: str = "") -> TaskOutcome:
    """Give `tester` a task with attachments, and wait until its worker has forgotten it."""
    outcome = await harness.ask(task or harness.plan("seen"), attachments=given)
    await harness.wait_until_idle()
    return outcome


# What the model gets


def test_pictures_and_files_reach_the_model_before_the_task(
    harness: PoolHarness, tmp_path: Path
) -> None:
    for name, content in (("red.png", png()), ("a.pdf", PDF), ("notes.txt", b"some notes")):
        (tmp_path / name).write_bytes(content)
    given = [Attachment.from_file(tmp_path / name) for name in ("red.png", "a.pdf", "notes.txt")]

    async def main() -> None:
        task = harness.plan("seen")
        outcome = await ask(harness, *given, task=task)
        assert outcome.text == "seen"
        picture, pdf, text = blocks_with_data(outcome.requests[0])
        assert picture["source"] == {
            **{"type": "base64", "media_type": "image/png"},
            "data": base64.b64encode(png()).decode(),
        }
        assert (pdf["title"], base64.b64decode(pdf["source"]["data"])) == ("a.pdf", PDF)
        assert (text["title"], text["source"]["data"]) == ("notes.txt", "some notes")
        content = user_messages(outcome.requests[0])[-1]["content"]
        at = [block.get("text", "").strip() for block in content].index(task)
        assert [block["type"] for block in content[at - 3 : at]] == [
            "image",
            "document",
            "document",
        ]

    harness.run(main())


def test_a_task_behind_a_picture_is_never_a_command(harness: PoolHarness) -> None:
    async def main() -> None:
        harness.plan_for("/clear", "only words")
        for _ in range(3):
            outcome = await ask(harness, Attachment.from_bytes(png()), task="/clear the table")
            assert outcome.text == "only words"
            assert len(blocks_with_data(outcome.requests[0])) == 1

    harness.run(main())


def test_the_next_task_gets_no_attachment_of_the_last(harness: PoolHarness) -> None:
    async def main() -> None:
        pids = set()
        for number in range(3):
            secret = f"attached-words-{number}"
            pictured = await ask(
                harness, Attachment.from_bytes(png()), Attachment.from_bytes(secret.encode())
            )
            plain = await ask(harness)
            pids |= {pictured.pid, plain.pid}
            assert secret in as_text(pictured.requests[0])
            assert blocks_with_data(plain.requests[0]) == []
            assert secret not in as_text(plain.requests[0])
        assert len(pids) == 1

    harness.run(main())


def test_a_conversation_remembers_the_pictures_of_its_tasks(harness: PoolHarness) -> None:
    async def main() -> None:
        for expected in (1, 2):
            outcome = await harness.ask(
                harness.plan("seen", "seen", "seen"),
                conversation="album",
                attachments=[Attachment.from_bytes(png())],
            )
            assert len(blocks_with_data(outcome.requests[-1])) == expected
        await harness.pool.end_conversation("tester", "album")
        await harness.wait_until_idle()
        assert blocks_with_data((await ask(harness)).requests[0]) == []

    harness.run(main())


def test_the_largest_attachments_arrive_and_their_memory_goes_back(harness: PoolHarness) -> None:
    filler = b"\n%" + os.urandom(MAX_ATTACHED_BYTES - len(PDF) - 2)
    large = Attachment.from_bytes(PDF + filler, "large.pdf")

    async def main() -> None:
        grown: list[int] = []
        for _ in range(3):
            outcome = await ask(harness, large)
            (block,) = blocks_with_data(outcome.requests[0])
            assert len(block["source"]["data"]) == len(large.data)
            for _ in range(3):  # the CLI collects its garbage as it works
                after = await ask(harness)
            grown.append(psutil.Process(after.pid).memory_info().rss)
            harness.api.requests.clear()
        assert after.pid == outcome.pid
        # Each task brought 28 MB in base64, which the CLI holds several times while it sends it.
        for _ in range(10):  # on a busy machine it collects later
            if grown[-1] - grown[0] < 100 << 20:
                break
            await ask(harness)
            grown.append(psutil.Process(after.pid).memory_info().rss)
        assert grown[-1] - grown[0] < 100 << 20

    harness.run(main())


# Events and lists


def test_events_name_attachments_without_their_content(harness: PoolHarness) -> None:
    async def main() -> None:
        events: list[TaskEvent] = []
        given = Attachment.from_bytes(png(), "red.png")
        request = TaskRequest("tester", harness.plan("seen"), attachments=(given,))
        handle = await harness.pool.submit(request, on_event=events.append)
        await handle.result()
        assert isinstance(events[0], Submitted)
        assert events[0].request.attachments == (Attachment("image/png", "", "red.png"),)
        assert all(given.data not in str(event.as_json()) for event in events)
        assert given.data not in repr(request)
        assert TaskRequest.from_json(request.as_json()) == request

    harness.run(main())


# Reading files


@pytest.mark.parametrize("kind", HEADS)
def test_the_content_of_a_file_decides_its_type(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "file.with-a-wrong-name.mp3"
    path.write_bytes(HEADS[kind])
    found = Attachment.from_file(path)
    assert (found.media_type, found.name) == (kind, path.name)
    assert found.size == len(HEADS[kind])
    assert (
        found.data == "Grüße"
        if kind == "text/plain"
        else base64.b64decode(found.data) == HEADS[kind]
    )


def test_a_file_that_cannot_be_attached_is_refused_in_words(tmp_path: Path) -> None:
    cases = {
        "none.png": (None, "cannot be read"),
        "empty.txt": (b"", "it is empty"),
        "sound.mp3": (b"ID3\0\0\xff", "expected a picture .PNG, JPEG, GIF, WebP., a PDF or text"),
        "latin.txt": ("Grüße".encode("latin-1"), "expected a picture"),
        "large.txt": (b"x" * (MAX_ATTACHED_BYTES + 1), "more than 20,971,520 bytes"),
    }
    for name, (content, words) in cases.items():
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(ConfigError, match=words) as caught:
            Attachment.from_file(path)
        assert name in str(caught.value)


# The check of a request

PICTURE = Attachment.from_bytes(png())


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("x", "expected a list of Attachment"),
        (("x",), "expected a list of Attachment"),
        ((PICTURE,) * (MAX_ATTACHMENTS + 1), "21 of them, at most 20"),
        ((Attachment("image/bmp", "Qk0=", "a.bmp"),), r"attachment 1 \('a.bmp'\): its type"),
        ((PICTURE, Attachment("image/png", "")), "attachment 2: it has no content"),
        ((Attachment("image/png", "no base64!"),), "is not base64"),
        ((Attachment("image/png", "Grüße"),), "is not base64"),
        ((Attachment("image/png", "Qk0="),), "its content is of no known type"),
        ((Attachment("image/jpeg", PICTURE.data),), "is image/jpeg, but its content is image/png"),
        ((Attachment("text/plain", " \n"),), "it has no content"),
        ((Attachment("text/plain", "\ud800"),), "half a surrogate pair"),
        ((Attachment("text/plain", "x", "n" * 256),), "a name of at most 255 characters"),
        (
            (Attachment("text/plain", "x" * (11 << 20)),) * 2,
            "they have 23,068,672 bytes together, at most 20,971,520",
        ),
    ],
)
def test_a_wrong_attachment_is_refused_before_a_worker_starts(
    harness: PoolHarness, given: Any, words: str
) -> None:
    async def main() -> None:
        with pytest.raises(ConfigError, match=words):
            await harness.pool.invoke("tester", "look", attachments=given)

    harness.run(main())
