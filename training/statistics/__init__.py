"""Whether a difference is more than chance: for one look, for many looks, against everything that was ever asked."""
