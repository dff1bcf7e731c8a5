"""The demonstration model: conversations of our own, a tokenizer, a small Llama, and its examination.

`python -m training.demo` runs the whole recipe; `README.md` in this folder says how and how long.
"""
