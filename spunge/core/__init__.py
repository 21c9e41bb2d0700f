"""The ground that everything stands on; it imports nothing else of the library."""
