"""The executors: each runs a rule on leaves of one device, layout and dtypes, by one interface (``base``)."""
