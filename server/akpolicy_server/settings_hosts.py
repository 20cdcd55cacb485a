"""`[server.host_certificates]`: listeners for hosts that show a certificate, and whom these certificates name.

What cannot be checked on one value alone stands in `mistakes()`.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Final

from pydantic import AfterValidator, Field, StrictStr
from pydantic.dataclasses import dataclass

from akpolicy.addresses import HostPort
from akpolicy.scope import is_org_name
from akpolicy.settings import Mistake
from akpolicy.settings_types import STRICT, ExistingFile, ListenAddress, OptionalAddress, TlsFiles
from akpolicy_server.host_identity import ANY_ORG, DEFAULT_PATH, ORG, TRUST_DOMAIN_PATTERN, HostNaming, check_path

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MAX_NAMED_ORGS: Final = 1024

_TRUST_DOMAIN: Final = re.compile(TRUST_DOMAIN_PATTERN)


def _trust_domain(text: str) -> str:
    if not _TRUST_DOMAIN.fullmatch(text):
        msg = "must be a name such as `hosts.example.com`: 1 to 255 of a-z, 0-9, `.`, `_`, `-`"
        raise ValueError(msg)
    return text


def _org_or_any(text: str) -> str:
    if text != ANY_ORG and not is_org_name(text):
        msg = f"must be the name of an org, or `{ANY_ORG}` for every org"
        raise ValueError(msg)
    return text


OrgOrAny = Annotated[StrictStr, AfterValidator(_org_or_any)]


@dataclass(frozen=True, config=STRICT)
class HostCertificates:
    """`[server.host_certificates]`. Its listeners, gRPC and REST, show the certificate of `[server.tls]`."""

    client_ca_file: ExistingFile
    trust_domain: Annotated[StrictStr, AfterValidator(_trust_domain)]
    orgs: Annotated[tuple[OrgOrAny, ...], Field(min_length=1, max_length=MAX_NAMED_ORGS)]
    path: Annotated[StrictStr, AfterValidator(check_path)] = DEFAULT_PATH
    listen: ListenAddress = HostPort("127.0.0.1", 8184)
    rest_listen: OptionalAddress = None

    @property
    def naming(self) -> HostNaming:
        """How certificates name hosts."""
        return HostNaming(self.trust_domain, self.path, self.orgs)

    def files_beside(self, shown: TlsFiles) -> TlsFiles:
        """Return the TLS files of these listeners; `shown`: those of `[server.tls]`."""
        return replace(shown, client_ca_file=self.client_ca_file)

    def mistakes(self, *, has_tls: bool, others: Mapping[str, HostPort | None]) -> Iterator[Mistake]:
        """Return what is wrong between keys; `others`: the addresses that are listened on besides, by their keys."""
        here = "server.host_certificates"
        if not has_tls:
            yield Mistake(f"{here}.listen", "needs [server.tls]: its certificate is shown here too", ("server.tls",))
        taken = {address: key for key, address in others.items()}
        for key, address in ((f"{here}.listen", self.listen), (f"{here}.rest_listen", self.rest_listen)):
            if address is None or address.port == 0:
                continue
            if address in taken:
                message = f"`{address}` is {taken[address]}; hosts with certificates need an address of their own"
                yield Mistake(key, message, (taken[address],))
            taken[address] = key
        if ORG not in self.path.split("/") and (len(self.orgs) != 1 or ANY_ORG in self.orgs):
            message = f"has no `{ORG}`, so that `orgs` must name the one org that all these hosts are of"
            yield Mistake(f"{here}.path", message, (f"{here}.orgs",))
