"""What the server keeps: one module a concern, each a handful of functions over an open connection.

Rules:

- A function here runs statements; whoever calls it owns the transaction (`engine.Database.read` or `.write`), so that
  what belongs together commits together.
- Statements are SQLAlchemy Core over `tables`; nothing but `engine` knows which database it is.
- Digests are kept as raw bytes. Times are whole epoch seconds where a signed document has them, else epoch
  microseconds (`..._us`).
- A commit is durable: what was answered survives `kill -9` and power loss.
"""
