"""The gRPC services of the sidecar. Domain errors become statuses here, and nowhere else."""
