"""Old place of the readers of a user's own files, now :mod:`metaad_zoo.data.read`."""
