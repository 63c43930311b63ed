"""Token by token to text that is safe to send: whole characters only, and nothing that may begin a stop string.

One per sequence, pushed by the engine's owner of that sequence. Invariant: what `push` and `finish` have returned, put
together, is a prefix of the text of all tokens; it ends before the first stop string and never splits a character.
Control tokens have no text here, as in llama-server.
"""

import codecs
from collections.abc import Sequence

from worker.text.tokenizer import Tokenizer


class Detokenizer:
    stop_string: str | None  # set once one was found: the text before it has been released, the rest never is

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str], resume: Sequence[int] = ()) -> None:
        """`resume` are tokens whose text, as far as it was safe, has been sent before."""
        self.stop_string = None
        self._tokenizer = tokenizer
        self._stops = [text for text in stop if text]
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        for token in resume:
            self.push(token)

    def push(self, token: int) -> str:
        """The text that can be sent now that `token` is known."""
        if self.stop_string is not None:
            return ""
        return self._release(self._decoder.decode(self._tokenizer.piece(token, special=False)))

    def finish(self) -> str:
        """What was held back. Bytes that never became a character are U+FFFD."""
        if self.stop_string is not None:
            return ""
        text = self._release(self._decoder.decode(b"", final=True)) + self._held
        self._held = ""
        return text

    def _release(self, text: str) -> str:
        text = self._held + text
        matches = [(text.find(stop), place) for place, stop in enumerate(self._stops) if stop in text]
        if matches:
            begin, place = min(matches)
            self.stop_string = self._stops[place]
            self._held = ""
            return text[:begin]
        keep = len(text) - max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[keep:]
        return text[:keep]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that `stop` begins with."""
    longest = min(len(stop) - 1, len(text))
    return next((length for length in range(longest, 0, -1) if text.endswith(stop[:length])), 0)
