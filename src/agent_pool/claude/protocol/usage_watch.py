"""When the CLI is asked what its turn has used, and what it answered."""

from __future__ import annotations

from typing import Final

from agent_pool.claude.protocol.frames import Frame, mapping_of, number_of, text_of
from agent_pool.claude.protocol.results import Spend

CAPABILITY: Final = "get_usage_detached_v1"
"""The capability of versions that report the usage of a turn while it runs, without holding up the
requests behind that (2.1.330 and 2.1.332; not 2.1.300)."""


_PROMPT_KEYS: Final = (*("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens"),)


class UsageWatch:
    """The requests for the usage of a turn: at most one is open, and the last answer is not old.

    Attributes:
        is_possible: the CLI can be asked.
        spent: what the turn has used so far, as last reported.
        context: the tokens of the agent's last request, and those that the context window of its
            model has room for; 0 if they are not known.
        model: the model of the session, as `system/init` names it.
    """

    def __init__(self) -> None:
        self.is_possible = False
        self.spent = Spend()
        self.context = (0, 0)
        self.model = ""
        self._answered_by, self._prompt = "", 0
        self._request_id = ""
        self._is_wanted = False  # the request is to be made
        self._is_old = False  # the API has answered since the request

    def begin_turn(self) -> None:
        """Forget the turn before."""
        self.end_turn()
        self.spent = Spend()
        self.context = (0, 0)
        self._answered_by, self._prompt = "", 0

    def note_request(self, message: Frame) -> None:
        """Note a message of the main agent: its model, and how large its prompt was.

        Its usage is that of the beginning of the message, where the prompt is exact (2.1.332).
        """
        usage = mapping_of(message, "usage")
        if tokens := sum(int(number_of(usage, key)) for key in _PROMPT_KEYS):
            self._answered_by, self._prompt = text_of(message, "model"), tokens

    def note_windows(self, answer: Frame) -> None:
        """Take the size of the context window from an answer to `get_usage`."""
        models = mapping_of(mapping_of(answer, "session"), "model_usage")
        # A message leaves out the suffix of `claude-sonnet-4-6[1m]`; `init` and the answer have it,
        # and the same model without it has a smaller window (2.1.332).
        is_own = self.model.partition("[")[0] == self._answered_by
        name = self.model if is_own else self._answered_by
        window = int(number_of(mapping_of(models, name), "contextWindow"))
        self.context = (self._prompt, window) if window else (0, 0)

    def end_turn(self) -> None:
        """Take no answer any more: the result has the whole turn."""
        self._request_id = ""
        self._is_wanted = self._is_old = False

    def note_growth(self) -> bool:
        """Note that the API has answered; return whether the CLI is to be asked now."""
        if self._request_id:
            self._is_old = True
            return False
        was_wanted, self._is_wanted = self._is_wanted, self.is_possible
        return self._is_wanted and not was_wanted

    def ask(self, request_id: str) -> None:
        """Note the request that is sent."""
        self._request_id, self._is_wanted = request_id, False

    def is_open(self, request_id: object) -> bool:
        """Check whether an answer belongs to the open request."""
        return bool(self._request_id) and request_id == self._request_id

    def close(self) -> bool:
        """Note the answer; return whether it can be old, so that the CLI is to be asked again."""
        was_old = self._is_old
        self.end_turn()
        return was_old
