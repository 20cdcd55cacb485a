"""Signing a proposal: what it says is shown, a person agrees, then the keys sign.

Rules:

- Nothing is signed unseen: what is to be signed goes to standard error first. A person at a terminal is asked; where
  nobody can be asked, only `--yes` lets it go on. A command that makes what it signs (`root rotate`, `root revoke`)
  goes on there without: it was told what to change, and changes nothing else.
- The root in a proposal came with the proposal. It is verified by `--anchor`, or else by the signing keys themselves,
  if one of them signed it; that nobody verified it is said.
- All keys are opened before the first one signs, and all signatures are written at once, beside those that others
  wrote in the meantime.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from akpolicy.cli.anchors import Anchors
from akpolicy.cli.output import EXIT_FAILED, OutputFormat, print_json, print_note, print_text, printable
from akpolicy.cli.proposal_files import read_proposal, rewrite
from akpolicy.errors import UsageError

if TYPE_CHECKING:
    from akpolicy.proposal import Proposal
    from akpolicy.proposal_progress import Progress
    from akpolicy.signing import Signer


@contextmanager
def open_keys(uris: Sequence[str]) -> Iterator[list[Signer]]:
    """Open the keys that signer URIs or paths name, for as long as the block runs.

    Raises `UsageError` if none is named, and what `open_signer` raises.
    """
    from akpolicy.signing import key_file_uri, looks_like_uri, open_signer

    if not uris:
        raise UsageError("no key is named; give `--key URI`, such as `--key file:root.pem`")
    with ExitStack() as stack:
        signers = []
        for uri in uris:
            signer = open_signer(uri if looks_like_uri(uri) else key_file_uri(Path(uri)))
            stack.callback(signer.close)
            signers.append(signer)
        yield signers


def sign_in_place(
    path: Path,
    proposal: Proposal,
    uris: Sequence[str],
    description: str,
    *,
    anchors: Anchors,
    yes: bool,
    output: OutputFormat,
) -> None:
    """Show a proposal, sign it with the keys, write it back and say how far it is."""
    from akpolicy.proposal import add_signature, with_signatures_of

    with open_keys(uris) as signers:
        print_note(printable(description))
        print_note(printable(vouched(proposal, anchors, signers)))
        agree(yes=yes)
        for signer in signers:
            proposal = add_signature(proposal, signer)
    # A person took a while to agree; somebody else may have signed the same file meanwhile.
    proposal = with_signatures_of(read_proposal(path), proposal)
    rewrite(path, proposal)
    print_progress(path, proposal, output)


def vouched(proposal: Proposal, anchors: Anchors, signers: Sequence[Signer]) -> str:
    """Verify the root that came with a proposal as far as can be, and say what was verified.

    Raises `TrustError` if anchors are given and do not stand behind it.
    """
    from akpolicy.cli.clock import now
    from akpolicy.errors import RootUnanchored
    from akpolicy.keys import AnchorSet, TrustAnchor
    from akpolicy.root_chain import follow

    if proposal.root is None:
        return "this is the first root: compare its root keys with what their owners say"
    name = f"root version {proposal.root.document.version} of {proposal.org}, which came with the file,"
    if anchors.given:
        follow(proposal.org, [proposal.root.envelope], anchors.parsed(), now())
        return f"{name} was verified: the anchors signed it"
    own = AnchorSet(tuple(TrustAnchor(signer.public_key) for signer in signers))
    try:
        follow(proposal.org, [proposal.root.envelope], own, now())
    except RootUnanchored:
        return f"{name} was not verified: none of these keys signed it; `--anchor ed25519:...` verifies it"
    return f"{name} was verified: one of these keys signed it"


def agree(*, yes: bool) -> None:
    """Return if the person agrees; raise `UsageError` if nobody can be asked, `typer.Exit` if the answer is no."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError("nobody can be asked here; look at what is to be signed, then give `--yes`")
    if not typer.confirm("Sign this?", err=True):
        print_note("nothing was signed")
        raise typer.Exit(EXIT_FAILED)


def sign_own(proposal: Proposal, signers: Sequence[Signer], description: str, *, yes: bool) -> Proposal:
    """Show what this very command has made, ask a person at a terminal, and return it signed.

    Raises `typer.Exit` if the answer is no.
    """
    from akpolicy.proposal import add_signature

    print_note(printable(description))
    agree(yes=yes or not sys.stdin.isatty())
    for signer in signers:
        proposal = add_signature(proposal, signer)
    return proposal


def require_complete(proposal: Proposal) -> None:
    """Raise the `TrustError` with which a host would refuse the document as it is, after saying who has to sign."""
    from akpolicy.cli.clock import now
    from akpolicy.proposal_progress import judge_proposal, progress_of

    progress = progress_of(proposal, now())
    if not progress.complete:
        print_note(printable(str(progress)))
    judge_proposal(proposal, now())


def print_progress(path: Path, proposal: Proposal, output: OutputFormat) -> Progress:
    """Say how far a proposal is, and what to do next."""
    from akpolicy.cli.clock import now
    from akpolicy.proposal_progress import progress_of

    progress = progress_of(proposal, now())
    if output == "json":
        print_json({"file": str(path), "subject": proposal.subject, **progress.to_json()})
    else:
        print_text(f"{proposal.subject}: {path}\n{progress}")
        if progress.complete:
            print_note(f"publish it: {_publish_command(proposal, path)}")
        elif not progress.signed:
            print_note(f"pass the file on; each signs with: {_sign_command(proposal, path)}")
    return progress


def _publish_command(proposal: Proposal, path: Path) -> str:
    return f"akpolicy root publish {path}" if proposal.is_root else f"akpolicy policy publish --envelope {path}"


def _sign_command(proposal: Proposal, path: Path) -> str:
    return f"akpolicy {'root' if proposal.is_root else 'policy'} sign {path} --key URI"
