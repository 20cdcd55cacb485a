"""The gRPC services: they translate, log and answer.

Rules:

- A servicer authenticates, turns a message into the domain's types, calls one domain function and turns the result
  back. What may be done and what is right is decided elsewhere.
- Domain errors become status codes in `status`, and nowhere else.
- One log line a call, with its outcome; never a secret, never policy text.
"""
