"""DataModules, one a modality."""
