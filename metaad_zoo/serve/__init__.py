"""A small scoring server around an adapted detector, on LitServe (extra ``serve``)."""

from metaad_zoo.serve.scoring import ScoringAPI, ServerSettings
from metaad_zoo.serve.server import serve

__all__ = ["ScoringAPI", "ServerSettings", "serve"]
