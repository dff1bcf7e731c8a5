"""Scripted answers under a grammar: the script as far as the grammar allows it, then the shortest way to an end."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from mesh.dialects import REASONING, Dialect
from mesh.dialects.harmony import CHANNEL
from mesh.engine.base import Chat, Constraint, Request
from mesh.engine.constraint import Grammars
from mesh.engine.script import END, VOCAB_SIZE, Script, ScriptCodec, ScriptOfIds

# What ends something goes first, what begins something or fills it up goes last.
_FIRST: Final = (END, *b'"}],:0123456789')
_LAST: Final = (*b"{[ \t\r\n\\",)
_WAY_OUT: Final = (*_FIRST, *(set(range(VOCAB_SIZE)).difference(_FIRST, _LAST)), *_LAST)
# An object needs no members but those that it must have. A string that may hold any text holds the script's beginning:
# applications take an empty one for none.
_BRACE, _QUOTE = b'{"'
_AFTER_BRACE: Final = (*b"}", *_WAY_OUT)
_ANY_TEXT: Final = frozenset(b"aZ0 &\xc3\xe4")
_TEXT_TOKENS: Final = 64
_HARMONY_BEGIN: Final = f"{CHANNEL}analysis"


class ScriptGrammars:
    """What the scripted engine knows of grammars. Any thread may ask."""

    def __init__(self, codec: ScriptCodec, dialect: Dialect) -> None:
        self._grammars = Grammars(codec, VOCAB_SIZE, [END])
        self._dialect = dialect

    def constraint(self, request: Request, prompt_ids: list[int]) -> Constraint:
        """What the answer must keep to: the request's constraint, or what it demands of the calls."""
        if request.constraint is not None:
            return self._grammars.after_reasoning(request.constraint, self._dialect, prompt_ids)
        assert isinstance(request.prompt, Chat), "only chats demand calls"
        return self._grammars.of_calls(request.prompt, self._dialect, prompt_ids)

    def _reasons(self, script: Script) -> bool:
        style = REASONING.get(self._dialect.reasoning)
        begin = _HARMONY_BEGIN if style is None else style.begin
        ids = [script.token(place) for place in range(len(begin))]
        return ids == list(begin.encode())

    def hold(self, script: Script, constraint: Constraint, limit: int) -> Script:
        """The script under a constraint, of at most `limit` tokens. Raises invalid_request like Grammars.compile.

        Only a script that reasons does so before what the constraint says.
        """
        if constraint.around and not self._reasons(script):
            constraint = replace(constraint, around="")
        matcher = self._grammars.compile(constraint)
        ids: list[int] = []
        wanted = map(script.token, range(limit))
        while len(ids) < limit:
            allowed = matcher.allowed(VOCAB_SIZE)
            token_id = next(wanted, None)
            if token_id not in allowed and ids[-1:] == [_QUOTE] and allowed >= _ANY_TEXT:
                wanted = map(script.token, range(_TEXT_TOKENS))
                token_id = next(wanted)
            if token_id not in allowed:
                way_out = _AFTER_BRACE if ids[-1:] == [_BRACE] else _WAY_OUT
                token_id = next(filter(allowed.__contains__, way_out), END)
                wanted = map(script.token, range(0))
            if token_id == END:
                break
            if not matcher.accept(token_id):
                raise matcher.error
            ids.append(token_id)
        return ScriptOfIds(script, ids)
