"""`mesh data`: tools that take files of conversations and leave better ones.

Each tool is one dataclass of options with a `step`: a function from a conversation to conversations and to what was
dropped, with the reason (`tool.py`). `runner.py` runs steps over streams, in several processes. `tools.py` is the
table.
"""
