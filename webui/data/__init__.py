"""`mesh arena`: votes and conversations in and out of the store, figures on a terminal, the board as a page."""
