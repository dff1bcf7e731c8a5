"""Engines: what turns prompts into tokens. See base.py for the interface that all of them implement."""
