"""What the HTTP API is, for people and programs: the table of its routes, OpenAPI, and pages of both."""
