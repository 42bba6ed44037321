"""The algorithms that are chains of links, or options of another."""

CHAINS = (
    "amsgrad",
    "nadamw",
    "adamaxw",
    "acprop",
    "simplified_ademamix",
    "optimistic_gradient_descent",
    "optimistic_adam_v2",
    "signum",
    "madgrad",
    "cocob",
    "dog",
    "dowg",
)
