"""A chat that goes on: the conversation, whom it is with, how it is shown."""

from __future__ import annotations

import contextlib
import copy
from typing import Any

from mesh.cli.answering.endpoint import Answer, Endpoint, Piece, sentence
from mesh.cli.chat.conversation import Conversation
from mesh.cli.chat.display import STOPPED, Display
from mesh.cli.chat.keyboard import no_interrupts
from mesh.cli.chat.parameters import Value
from mesh.cli.chat.statistics import Statistics
from mesh.errors import MeshError


class Chat:
    """Asks and keeps what was said. `images` are parts that go with the next message. Without `history` each message is
    answered by itself."""

    def __init__(
        self,
        endpoint: Endpoint,
        display: Display,
        model: str,
        conversation: Conversation,
        parameters: dict[str, Value],
        *,
        history: bool = True,
    ) -> None:
        self.endpoint = endpoint
        self.display = display
        self.model = model
        self.conversation = conversation
        self.parameters = parameters
        self._history = history
        self.images: list[dict[str, Any]] = []
        self.statistics = Statistics()
        self.stopped = False  # whether Ctrl-C ended the last answer

    def say(self, text: str) -> bool:
        """Send a message with the images that wait, and show the answer; returns whether it came to its end."""
        content: Any = [*self.images, {"type": "text", "text": text}] if self.images else text
        before = copy.copy(self.conversation.messages)
        if not self._history:
            self.conversation.reset()
        self.conversation.ask(content)
        answer, problem = self._answer()
        if answer.text:
            self.images = []
        else:
            # An exchange without an answer is forgotten, its images wait on: it can be sent again.
            self.conversation.messages = before
        return problem is None

    def regenerate(self) -> bool:
        """Have the last message answered anew. The old answer stays if nothing comes. Raises MeshError."""
        before = self.conversation
        self.conversation = before.unanswered()
        answer, problem = self._answer()
        if not answer.text:
            self.conversation = before
        return problem is None

    def _answer(self) -> tuple[Answer, str | None]:
        """Ask for an answer and keep what comes, also what came before Ctrl-C; and why it is not complete."""
        answer, problem = Answer(), None
        try:
            with no_interrupts(deliver=True):
                self.display.begin()
            with contextlib.closing(self.endpoint.answer(self._body())) as events:
                for event in events:
                    with no_interrupts(deliver=True):
                        answer.take(event)
                        if isinstance(event, Piece):
                            self.display.piece(event)
        except KeyboardInterrupt:
            problem = STOPPED
        except (MeshError, OSError) as error:
            problem = sentence(error)
        self.stopped = problem == STOPPED
        with no_interrupts(deliver=False):  # a second Ctrl-C means the same answer
            self.display.finish(answer, problem)
        if answer.text:
            self.conversation.answer(answer.text, answer.reasoning)
        if answer.tokens:
            self.statistics.add(answer)
        return answer, problem

    def _body(self) -> dict[str, Any]:
        return {"model": self.model, "messages": self.conversation.all_messages(), **self.parameters}
