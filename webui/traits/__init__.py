"""What a conversation is like, by rules: language, length, code, style of the answers, repetition, refusals.

Pure functions of text. They run when a vote comes in, and their results are kept with the vote, so that ratings by
category and style need no texts.
"""
