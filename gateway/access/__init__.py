"""Who may ask: keys and their limits, TLS, and what a connection may do before anybody asks anything."""
