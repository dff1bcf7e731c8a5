"""What a visitor sees: one module per page, and what they share."""
