"""The embedded default: chest radiographs rendered from a CT."""

from .loading import load_phantom, load_phantom_gallery

__all__ = ["load_phantom", "load_phantom_gallery"]
