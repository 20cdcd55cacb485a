"""akpolicy: signed Cedar policies for AI agent sandboxes.

This package is what both ends must agree on: documents, trust, the decision engine, the client for runtimes and the
operator's command line. The programs (`akpolicy_server`, `akpolicy_sidecar`) import it; it imports neither of them.
"""

__version__ = "0.1.0"
