"""Between torch's books and the engine."""
