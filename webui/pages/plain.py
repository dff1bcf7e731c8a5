"""Pages without Gradio: the one to sign in, and what is said where there is no page."""

from __future__ import annotations

from html import escape
from typing import Final

# The colours of look.py and style.css.
_STYLE: Final = """
:root { color-scheme: light dark; --ground: #f6f7f9; --box: #fff; --text: #1f2937; --line: #8794a3; --accent: #0f766e;
  --wrong: #b42318; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #0f141a; --box: #171e27; --text: #f1f5f9; --line: #66788c; --accent: #0f766e; --wrong: #ff9d94; }
}
body { margin: 0; padding: 12vh 16px 32px; background: var(--ground); color: var(--text);
  font: 16px/1.5 "IBM Plex Sans", system-ui, sans-serif; }
main { box-sizing: border-box; max-width: 24rem; margin: auto; padding: 24px; background: var(--box);
  border-radius: 10px; }
h1 { margin: 0 0 8px; font-size: 1.3rem; }
label { display: block; margin-top: 12px; font-weight: 700; }
input, button { box-sizing: border-box; width: 100%; margin-top: 4px; padding: 10px; font: inherit; color: inherit;
  background: var(--ground); border: 1px solid var(--line); border-radius: 8px; }
button { margin-top: 20px; border: 0; background: var(--accent); color: #fff; font-weight: 700; cursor: pointer; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
a { color: inherit; }
[role=alert] { color: var(--wrong); }
"""


def plain(title: str, body: str) -> str:
    """A whole document. `body` is HTML."""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head>'
        f"<body><main><h1>{escape(title)}</h1>{body}</main></body></html>"
    )
