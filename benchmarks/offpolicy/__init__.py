"""What late grades teach: how divergence, weights and the ways of latent steps do, in one process."""
