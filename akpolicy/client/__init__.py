"""What programs use to ask for decisions and to reach the policy server."""
