"""The language of a prompt, among those that many people write."""

from __future__ import annotations

from functools import cache
from typing import Final, cast

from py3langid.langid import MODEL_FILE, LanguageIdentifier

from webui.traits.text import without_code

UNKNOWN: Final = "unknown"
LANGUAGES: Final = """
ar bg ca cs da de el en es fa fi fr he hi hu id it ja ko lt lv ms nl no pl pt ro ru sk sl sr sv th tr uk vi zh
""".split()
# Below this probability among the languages above it is a guess: a formula, a name, a line of code.
_SURE: Final = 0.3
# The beginning tells the language of a text, however long it is.
_LOOKED_AT: Final = 2000


def language(text: str) -> str:
    """The ISO 639-1 code of the language, or `unknown`."""
    looked_at = without_code(text)[:_LOOKED_AT].strip()
    if not any(character.isalpha() for character in looked_at):
        return UNKNOWN
    code, probability = cast("tuple[str, float]", _identifier().classify(looked_at))
    return code if probability >= _SURE else UNKNOWN


@cache
def _identifier() -> LanguageIdentifier:
    # The model takes a second to load: with the first vote, not with the first page.
    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    identifier.set_languages(LANGUAGES)
    return identifier
