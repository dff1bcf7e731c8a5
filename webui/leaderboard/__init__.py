"""Ratings from votes: Bradley–Terry fits with intervals, style control, categories, and the pages that show them."""
