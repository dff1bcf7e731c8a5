"""What the gateway keeps: rows of SQLite or PostgreSQL, each of which belongs to one API key.

    store.py       what the rest of the gateway holds: opens the database when it is first needed
    database.py    engine, transactions, errors
    tables.py      the tables; `migrations/` has their history
    records.py     finding, listing and removing records; only those of the tenant that asks

SQLAlchemy is imported with the first request that needs it: `store` may be imported by anybody, the other modules only
for types, or by each other.
"""
