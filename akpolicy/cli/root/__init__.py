"""`akpolicy root`: an org's roots, which say whose signatures hosts believe.

Rules:

- No command signs a root whose way from an anchor it did not follow, unless `--trust-server` says so; a key that signed
  an earlier root is as good as an anchor.
- What a root changes is shown before it is signed. Root keys never reach the server.
- A command that makes and publishes a root at once does so only if its keys reach the thresholds; otherwise the root
  travels as a proposal.
"""

from __future__ import annotations

import typer

from akpolicy.cli.root import init, propose, publish, revoke, rotate, show, sign

app = typer.Typer(help="Make, sign, publish and look at roots: who may sign what.", no_args_is_help=True)
for module in (init, propose, sign, publish, show, rotate, revoke):
    module.add_to(app)
