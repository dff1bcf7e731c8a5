"""The tokens of a batch: those of its answers, whose APIs count them under two sets of names."""

from __future__ import annotations

import msgspec


class InputDetails(msgspec.Struct):
    """Of the tokens of prompts, those that came from the prefix cache."""

    cached_tokens: int = 0


class OutputDetails(msgspec.Struct):
    """Of the tokens of answers, those of reasoning."""

    reasoning_tokens: int = 0


class BatchUsage(msgspec.Struct):
    """The tokens of all answers so far."""

    input_tokens: int = 0
    input_tokens_details: InputDetails = msgspec.field(default_factory=InputDetails)
    output_tokens: int = 0
    output_tokens_details: OutputDetails = msgspec.field(default_factory=OutputDetails)
    total_tokens: int = 0

    def add(self, other: BatchUsage) -> None:
        """Count those of another one, too."""
        self.input_tokens += other.input_tokens
        self.input_tokens_details.cached_tokens += other.input_tokens_details.cached_tokens
        self.output_tokens += other.output_tokens
        self.output_tokens_details.reasoning_tokens += other.output_tokens_details.reasoning_tokens
        self.total_tokens += other.total_tokens


class _Usage(msgspec.Struct):
    """Of an answer: the names of responses, and those of the other APIs."""

    input_tokens: int = 0
    input_tokens_details: InputDetails | None = None
    output_tokens: int = 0
    output_tokens_details: OutputDetails | None = None
    prompt_tokens: int = 0
    prompt_tokens_details: InputDetails | None = None
    completion_tokens: int = 0
    completion_tokens_details: OutputDetails | None = None


class _Answer(msgspec.Struct):
    usage: _Usage | None = None


_answers = msgspec.json.Decoder(_Answer)


def spent_on(answer: bytes) -> BatchUsage:
    """The tokens of an answer; none of one that does not tell them, such as moderations and errors."""
    usage = (_answers.decode(answer).usage if answer else None) or _Usage()
    given, made = usage.input_tokens + usage.prompt_tokens, usage.output_tokens + usage.completion_tokens
    return BatchUsage(
        given,
        usage.input_tokens_details or usage.prompt_tokens_details or InputDetails(),
        made,
        usage.output_tokens_details or usage.completion_tokens_details or OutputDetails(),
        given + made,
    )
