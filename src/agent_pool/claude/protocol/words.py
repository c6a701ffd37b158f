"""The words of an agent in one turn, piece by piece, and what the CLI took back of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from agent_pool.claude.protocol.frames import Frame, blocks_of, mapping_of, text_of, texts_of

SYNTHETIC: Final = "<synthetic>"
"""The model of a message that the CLI wrote itself, such as "API Error: …" (2.1.332)."""

_RESUME: Final = "Resume directly"
"""Part of the prompts by which the CLI has a cut answer continued, in mid-sentence (2.1.332)."""


@dataclass(frozen=True, slots=True)
class _Piece:
    text: str
    uuid: str
    message: str  # the API's id of the message
    request: str  # the API's id of the request
    step: int  # grows with each tool call
    continues: bool  # the piece before breaks off where this one begins


class TurnWords:
    """Everything that the main agent has said in one turn.

    Attributes:
        models: the models that answered, sub-agents' too, in the order of their first answers.
    """

    def __init__(self) -> None:
        self.models: list[str] = []
        self._pieces: list[_Piece] = []
        self._messages: set[str] = set()
        self._step = 0
        self._resumes = False

    @property
    def requests(self) -> int:
        """Return how many requests the API has answered with a message."""
        return len(self._messages)

    @property
    def answer(self) -> str:
        """Return what the agent has said since its last tool call."""
        return _joined(piece for piece in self._pieces if piece.step == self._step)

    @property
    def all(self) -> str:
        """Return what the agent has said in the whole turn."""
        return _joined(self._pieces)

    def count(self, frame: Frame) -> None:
        """Count the message of an `assistant` frame, of the main agent or of a sub-agent."""
        if is_written_by_cli(frame):
            return
        message = mapping_of(frame, "message")
        # The CLI sends a frame for each block of a message, all with the message's id.
        self._messages.add(text_of(message, "id"))
        model = text_of(message, "model")
        if model and model not in self.models:
            self.models.append(model)

    def add(self, frame: Frame, text: str) -> None:
        """Add a text block of an `assistant` frame of the main agent."""
        message = text_of(mapping_of(frame, "message"), "id")
        last = self._pieces[-1] if self._pieces else None
        # The API splits one text into blocks, for example at a citation.
        same_message = last is not None and bool(message) and last.message == message
        self._pieces.append(
            _Piece(
                text,
                uuid=text_of(frame, "uuid"),
                message=message,
                request=text_of(frame, "request_id"),
                step=self._step,
                continues=self._resumes or same_message,
            )
        )
        self._resumes = False

    def note_tool_call(self) -> None:
        """Note that the agent called a tool: what it said before is not its last answer."""
        self._step += 1

    def note_user_frame(self, frame: Frame) -> str:
        """Note a `user` frame of the CLI's own (`isSynthetic`); return the words taken back."""
        if frame.get("isSynthetic") is not True:
            return ""
        self._resumes = any(_RESUME in text_of(block, "text") for block in blocks_of(frame))
        # After a stop by a safety check the answer begins anew (2.1.332).
        return self._take_back(frame, message=text_of(frame, "refused_message_id"))

    def take_back(self, frame: Frame) -> str:
        """Remove the words that a frame names as replaced or refused, and return them."""
        return self._take_back(frame, request=text_of(frame, "request_id"))

    def replace(self, frame: Frame) -> str:
        """Remove the words that an `assistant` frame replaces, and return them."""
        return self._take_back(frame)

    def _take_back(self, frame: Frame, message: str = "", request: str = "") -> str:
        uuids = {*texts_of(frame, "supersedes"), *texts_of(frame, "retracted_message_uuids")}

        def is_meant(piece: _Piece) -> bool:
            by_message = bool(message) and piece.message == message
            by_request = bool(request) and piece.request == request
            return piece.uuid in uuids or by_message or by_request

        return self._remove(is_meant)

    def _remove(self, is_meant: Callable[[_Piece], bool]) -> str:
        removed = [piece for piece in self._pieces if is_meant(piece)]
        self._pieces = [piece for piece in self._pieces if not is_meant(piece)]
        return _joined(removed)


def is_written_by_cli(frame: Frame) -> bool:
    """Check whether the CLI wrote an `assistant` frame itself, instead of a model."""
    is_synthetic = mapping_of(frame, "message").get("model") == SYNTHETIC
    return is_synthetic or frame.get("is_api_error_message") is True


def _joined(pieces: Iterable[_Piece]) -> str:
    text = ""
    for piece in pieces:
        text += piece.text if piece.continues or not text else f"\n\n{piece.text}"
    return text
