"""Stand-ins for the other side, with real cryptography and real sockets.

- `clock.ManualClock`: time that moves only when a test says so.
- `org.OrgSimulator`: an org's keys, and every document that they can sign, right or wrong.
- `kms.KmsSimulator`: a key service with the rules of AWS KMS; `tokens.SoftTokens`: real PKCS#11 tokens of SoftHSM.
- `tampering`: what an attacker does to bytes and envelopes.
- `policy_server.PolicyServerSimulator`: a policy server that can also lie, stall and vanish.
- `waiting.wait_until`: waits for what happens in another thread or process, with a deadline.
"""
