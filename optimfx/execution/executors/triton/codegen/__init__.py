"""From a rule to the source of a kernel."""
