"""Policies tried out before they are published: cases with expected decisions, and recorded requests replayed.

Rules:

- The engine is the one that hosts decide by (`akpolicy.engine`): what is allowed here is allowed there, by the same
  policies in the same layers.
- Nothing is asked, signed or sent: files in, findings out.
"""
