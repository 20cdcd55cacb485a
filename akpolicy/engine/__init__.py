"""The decision engine: pure functions from verified policies and a request to a decision that explains itself.

Rules:

- No I/O, no clock, no sockets. In: policy texts, a schema, a request. Out: compiled layers and verdicts.
- Text is measured before it is parsed (`limits`, `tokens`): Cedar's parser can be crashed by nesting, and a crash
  cannot be caught. Server and sidecar apply the same limits.
- A set of policies is taken whole or not at all (`source`, `check`, `compile`). Every mistake is reported, with its
  line.
- Ids of principal and resource are built here from what the runtime states (`request`), never taken as they come.
- A matching `forbid` in any layer denies. Else a matching `permit` in any layer allows. Else: deny (`decide`).
- An evaluation error never opens a door: an erroring `forbid` denies, an erroring `permit` does not count.
- What does not fit the schema is no request: `RequestInvalid`, never a decision.
"""
