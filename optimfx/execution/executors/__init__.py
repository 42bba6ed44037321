"""What runs a rule on leaves that are alike: one file each, one interface (``base``)."""
