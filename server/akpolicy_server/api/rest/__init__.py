"""REST: what hosts get over gRPC, as DSSE JSON for hosts that only have HTTP. Off unless `rest_listen` is set."""
