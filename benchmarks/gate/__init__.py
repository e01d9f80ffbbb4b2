"""`lepo bench gate`: the gate and the canary's test on simulated policies, whose true quality is known."""
