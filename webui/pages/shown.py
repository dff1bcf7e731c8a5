"""A battle as the pages show it: the messages of a side, who a side is, and what to say when."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, Final

from webui.battle import Exchange, LiveBattle, Phase, side_name
from webui.gateway import GONE
from webui.records import Answer, ModelCard, Picture

_WAITING: Final = '<span class="waiting dots">…</span>'
# By the gateway's code. No sentence names a model: the codes come from both sides of battles.
_FAILURES: Final[Mapping[str, str]] = {
    GONE: "The mesh cannot be reached just now. Try again in a moment.",
    "no_worker": "No worker of this model is up just now. Try again in a moment.",
    "overloaded": "This model has too much to do just now. Try again in a moment.",
    "rate_limited": "Too many requests reach this model just now. Try again in a moment.",
    "model_not_found": "This model has left the mesh. Start anew.",
    "context_length_exceeded": "This conversation has become too long for this model. Start anew.",
    "deadline_exceeded": "The answer took too long. Try again.",
    "worker_lost": "The connection to this model broke. Try again.",
}
_OTHER_FAILURE: Final = "This model could not answer. Try again."
_VERDICTS: Final = {"a": "A is better", "b": "B is better", "tie": "it is a tie", "both_bad": "both are bad"}


def failure(code: str) -> str:
    """What to tell of a failure of the gateway with that code."""
    return _FAILURES.get(code, _OTHER_FAILURE)


def messages(battle: LiveBattle | None, side: int, folder: Path) -> list[dict[str, Any]]:
    """The messages of a side for gr.Chatbot. Pictures are served from the folder."""
    return [message for exchange in battle.seen(side) for message in exchanged(exchange, folder)] if battle else []


def exchanged(exchange: Exchange, folder: Path) -> list[dict[str, Any]]:
    """The messages of one turn of a side."""
    shown: list[dict[str, Any]] = [
        {"role": "user", "content": {"path": str(picture_file(picture, folder)), "alt_text": "The image that was sent"}}
        for picture in exchange.pictures
    ]
    shown.append({"role": "user", "content": _text(exchange.prompt)})
    if exchange.reasoning:
        title = {"title": "Reasoning", "status": "done" if exchange.text else "pending"}
        shown.append({"role": "assistant", "content": _text(exchange.reasoning), "metadata": title})
    shown.append({"role": "assistant", "content": _text(_answer(exchange.text, exchange.answer))})
    return shown


def _text(text: str) -> dict[str, str]:
    """As it is. Of a plain string Gradio would take the indentation away, and make spaces of tabs."""
    return {"type": "text", "text": text}


def turn_at(exchanges: Sequence[Exchange], index: int) -> int | None:
    """Which turn the message of that index in `messages` belongs to, if its answer has ended."""
    for number, exchange in enumerate(exchanges, 1):
        index -= len(exchange.pictures) + 2 + bool(exchange.reasoning)
        if index < 0:
            return number if exchange.answer else None
    return None


def _answer(text: str, answer: Answer | None) -> str:
    if answer is None:
        return text or _WAITING
    if answer.finish == "error":
        return "\n\n".join(filter(None, [text, f"⚠ {failure(answer.error)}"]))
    if answer.finish == "stopped":
        return "\n\n".join(filter(None, [text, "*Stopped.*"]))
    if answer.finish == "length":
        return f"{text}\n\n*Cut off at the limit of tokens.*"
    return text or "*An empty answer.*"


def picture_file(picture: Picture, folder: Path) -> Path:
    """The file of a picture, written if it is not there. Its name tells no more than its content does."""
    path = folder / f"{picture.key}.{picture.media_type.removeprefix('image/')}"
    try:
        os.utime(path)  # it is shown, and so kept for an hour more
    except FileNotFoundError:
        path.write_bytes(picture.data)
    return path


def head(battle: LiveBattle | None, side: int, cards: Mapping[str, ModelCard]) -> str:
    """HTML of who a side is: a letter, and once that may be told a name and how fast it was."""
    letter = side_name(side)
    who, facts = f"Model {letter}", ""
    if battle is not None and battle.revealed:
        model = battle.record.models[side]
        card = cards.get(model, ModelCard(name=model))
        who = model_name(card)
        facts = " · ".join(filter(None, [escape(card.organization), escape(card.license), speed(battle, side)]))
    badge = f'<span class="letter">{letter}</span>'
    return (
        f'<div class="side-head side-{letter.lower()}">{badge}<span class="who">{who}</span>'
        f'<span class="facts">{facts}</span></div>'
    )


def model_name(card: ModelCard) -> str:
    """HTML of a model's name, with its link if that is one."""
    name = escape(card.name)
    if not card.link.startswith(("https://", "http://")):
        return name
    return f'<a href="{escape(card.link)}" target="_blank" rel="noopener noreferrer">{name}</a>'


def speed(battle: LiveBattle, side: int) -> str:
    """How fast the last answer of a side was."""
    answer = battle.turns[-1].answers[side] if battle.turns else None
    if answer is None or answer.first_token is None or answer.duration is None:
        return ""
    told = [f"first token after {answer.first_token:.2f} s"]
    if answer.completion_tokens and answer.completion_tokens > 1 and answer.duration > answer.first_token:
        rate = (answer.completion_tokens - 1) / (answer.duration - answer.first_token)
        told.append(f"{rate:.0f} tokens/s" if rate >= 10 else f"{rate:.1f} tokens/s")
    return " · ".join(told)


def status(battle: LiveBattle | None) -> str:
    """A sentence on what may be done now."""
    if battle is None:
        return ""
    match battle.phase:
        case Phase.EMPTY:
            return ""
        case Phase.ANSWERING:
            return "Answering …"
        case Phase.ANSWERED:
            return "" if battle.record.mode == "direct" else "Which answer is better? Vote, or go on with the talk."
        case Phase.STOPPED:
            again = "Ask on, or have it answered again."
            return again if battle.record.mode == "direct" else f"Stopped: there is no vote on half an answer. {again}"
        case Phase.BROKEN:
            if battle.record.mode == "direct":
                return "There was no whole answer: try again."
            return "A side failed, so this does not count: try again, or start anew with another pair."
        case Phase.VOTED:
            return _thanks(battle)


def too_few(count: int, enough: int) -> str:
    """HTML of a page that needs more models than there are."""
    if not count:
        return "<p>The mesh serves no model just now. This page goes on by itself when one has come.</p>"
    return (
        f"<p>A battle needs {enough} models, and the mesh serves one. Start a worker with another one, for example</p>"
        "<pre>mesh-worker --model-path Qwen/Qwen3-0.6B --etcd 127.0.0.1:12379</pre>"
        '<p>and this page goes on by itself. Meanwhile you can <a href="./direct">talk with one model</a>.</p>'
    )


def permalink(key: str) -> str:
    """HTML of the link to a shared conversation."""
    path = f"./shared?key={escape(key)}"
    return f'<a href="{path}" target="_blank">Link to this conversation</a>: whoever has it can read it.'


def verdict(battle: LiveBattle) -> str:
    """What somebody voted on a conversation that was shared."""
    return f"Whoever shared this says that {_VERDICTS[battle.vote.choice]}." if battle.vote else ""


def _thanks(battle: LiveBattle) -> str:
    assert battle.vote is not None
    counted = "" if battle.record.mode == "battle" else " Votes on models with names are kept, but do not count."
    return f"Thanks! You said that {_VERDICTS[battle.vote.choice]}.{counted}"
