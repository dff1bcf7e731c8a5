"""Chat templates for model families whose checkpoints bring none.

Each is a jinja file in this folder, to be found by its name (`mesh templates` prints them). A template file, a built-in
one or a user's, may begin with a comment that holds TOML after the word `mesh`:

    {# mesh
    about = "What the models are, in one line"
    stop = ["</s>", "### Human:"]    # end an answer, those that are tokens of the tokenizer as such
    tokens = ["<|im_start|>"]        # the tokenizer must have them, else the model was not made for this template
    names = ["vicuna"]               # regular expressions: which models it is for, by their names in lower case
    model_types = ["gpt_oss"]        # which models it is for, by `model_type` of their config.json
    aliases = ["guanaco"]            # more names of the template
    #}
"""

from __future__ import annotations

import functools
import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from mesh.errors import invalid

_FOLDER: Final = Path(__file__).parent
_HEADER: Final = re.compile(r"\A\s*\{#-?\s*mesh\b(.*?)-?#\}", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Template:
    """A chat template: jinja text, and what its header says (see the module)."""

    name: str
    text: str
    about: str = ""
    stop: tuple[str, ...] = ()
    tokens: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    model_types: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()


def parse(name: str, text: str) -> Template:
    """A template from jinja text. Raises invalid_request for a header that is not as the module describes it."""
    header = _HEADER.match(text)
    if header is None:
        return Template(name, text)
    try:
        fields = tomllib.loads(header[1])
    except tomllib.TOMLDecodeError as error:
        raise invalid("chat_template", f"the header of chat template '{name}' is not TOML: {error}") from None
    about = fields.pop("about", "")
    if not isinstance(about, str):
        raise invalid("chat_template", f"'about' of chat template '{name}' must be a text")
    return Template(name, text, about, **{key: _texts(name, key, value) for key, value in fields.items()})


def _texts(name: str, key: str, value: Any) -> tuple[str, ...]:
    if key not in ("stop", "tokens", "names", "model_types", "aliases"):
        raise invalid("chat_template", f"the header of chat template '{name}' has an unknown key '{key}'")
    texts = tuple(cast(list[Any], value)) if isinstance(value, list) else ()
    if not texts or not all(isinstance(text, str) and text for text in texts):
        raise invalid("chat_template", f"'{key}' of chat template '{name}' must be a list of texts")
    return texts


@functools.cache
def builtin() -> dict[str, Template]:
    """The built-in templates by name, in order of their names."""
    files = sorted(_FOLDER.glob("*.jinja"), key=lambda file: file.stem)
    return {file.stem: parse(file.stem, file.read_text(encoding="utf-8")) for file in files}


def find(name: str) -> Template | None:
    """A built-in template by its name or one of its aliases, in any case."""
    name = name.lower().replace("_", "-")
    return next((found for found in builtin().values() if name == found.name or name in found.aliases), None)


def guess(names: Iterable[str], model_type: str) -> tuple[Template, str] | None:
    """The built-in template for a model, and why; None if nothing says so.

    `names` are what the model is called, the most telling first. Among the expressions that a name matches, the one
    that covers most of it wins, so that `stable-vicuna` is not taken for `vicuna`.
    """
    for name in names:
        plain = name.lower().replace("_", "-")
        matches = [
            (len(match[0]), template)
            for template in builtin().values()
            for pattern in template.names
            if (match := re.search(rf"(?<![a-z0-9]){pattern}", plain))
        ]
        if matches:
            return max(matches, key=lambda match: match[0])[1], f"the model's name '{name}'"
    for template in builtin().values():
        if model_type in template.model_types:
            return template, f"the model type '{model_type}'"
    return None
