"""The overview and the listings over millions of answers: `lepo bench store`."""
