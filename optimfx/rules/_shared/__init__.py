"""Mathematics that several rules share."""
