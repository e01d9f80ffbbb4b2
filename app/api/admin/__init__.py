"""What operators do: keys, jobs, policies, trials, learning, exports and erasure. Every route needs the scope admin."""
