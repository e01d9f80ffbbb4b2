"""The same maths without the service: train and evaluate from files. May import what `worker` may; no database."""
