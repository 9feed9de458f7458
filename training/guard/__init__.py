"""What the guard before a model is fitted on: renderings, and pictures that are no chest radiographs."""
