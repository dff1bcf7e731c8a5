"""OpenAI's Responses API: what is said goes through the same generation as chats, and comes back as items and events.

schema.py, tools.py, items.py   what requests may hold
translate.py                    a request and what was said before, as a chat
answer.py, events.py            the response, and the events of its stream
history.py                      what was said before, and what is kept for later
routes.py, stored.py            the routes
"""
