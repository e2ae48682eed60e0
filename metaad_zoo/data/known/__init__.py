"""Data sets known by name: each is read by a function with @register_dataset."""
