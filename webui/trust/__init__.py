"""What is let into the arena, and what of it should not count.

gate.py         what the pages ask (`webui.records.Gate`)
limits.py       so much a minute, so much a day
images.py       pictures, decoded and encoded anew
identity.py     answers that say who gave them
moderation.py   a moderation endpoint, or a list of words
voters.py       the test for voters whose votes are no opinions
accounts.py     names with passwords, tries that are counted
"""
