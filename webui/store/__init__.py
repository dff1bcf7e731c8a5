"""What the arena keeps: battles, turns, votes, reactions and flags, in SQLite or PostgreSQL.

store.py       what the pages write to (`webui.records.Store`)
tallies.py     what ratings read: counts, styles, votes of one voter
archive.py     conversations with their votes, one after the other, for exports
rows.py        values of `webui.records` as rows, and back
tables.py      the tables; `migrations/` has their history
database.py    connections, transactions, errors
"""
