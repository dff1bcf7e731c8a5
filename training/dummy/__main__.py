"""`python -m training.dummy`: write the conversations again."""

from __future__ import annotations

import json

from training.dummy import FILE, conversations

if __name__ == "__main__":
    lines = [json.dumps(conversation) + "\n" for conversation in conversations()]
    FILE.write_text("".join(lines), encoding="utf-8")
