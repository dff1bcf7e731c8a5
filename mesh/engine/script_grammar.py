"""Scripted answers under a grammar: the script as far as the grammar allows it, then the shortest way to an end."""

from __future__ import annotations

from typing import Final

from mesh.dialects import Dialect
from mesh.engine.base import Chat, Constraint, Request
from mesh.engine.constraint import Grammars
from mesh.engine.script import END, VOCAB_SIZE, Script, ScriptCodec, ScriptOfIds
from mesh.errors import unsupported

# What ends something goes first, what begins something or fills it up goes last.
_FIRST: Final = (END, *b'"}],:0123456789')
_LAST: Final = (*b"{[ \t\r\n\\",)
_WAY_OUT: Final = (*_FIRST, *(set(range(VOCAB_SIZE)).difference(_FIRST, _LAST)), *_LAST)
_AFTER_BRACE: Final = (*b"}", *_WAY_OUT)  # an object needs no members but those that it must have


class ScriptGrammars:
    """What the scripted engine knows of grammars. Any thread may ask."""

    def __init__(self, codec: ScriptCodec, dialect: Dialect) -> None:
        self._grammars = Grammars(codec, VOCAB_SIZE, [END])
        self._dialect = dialect

    def constraint(self, request: Request, prompt_ids: list[int]) -> Constraint:
        """What the answer must keep to: the request's constraint, or what it demands of the calls."""
        if request.constraint is not None:
            return request.constraint
        assert isinstance(request.prompt, Chat), "only chats demand calls"
        return self._grammars.of_calls(request.prompt, self._dialect, prompt_ids)

    def hold(self, script: Script, constraint: Constraint, limit: int) -> Script:
        """The script under a constraint, of at most `limit` tokens. Raises invalid_request like Grammars.compile."""
        matcher = self._grammars.compile(constraint)
        ids: list[int] = []
        follows = True
        while len(ids) < limit:
            wanted = (script.token(len(ids)),) if follows else ()
            way_out = _AFTER_BRACE if ids[-1:] == [ord("{")] else _WAY_OUT
            token_id = next(matcher.allows((*wanted, *way_out)), None)
            if token_id is None:
                raise unsupported(
                    constraint.kind, f"'{constraint.kind}' asks for what the scripted engine cannot write"
                )
            if token_id == END:
                break
            if not matcher.accept(token_id):
                raise matcher.error
            follows = (token_id,) == wanted
            ids.append(token_id)
        return ScriptOfIds(script, ids)
