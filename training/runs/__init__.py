"""What every run needs: command lines, settings, provenance, the Trainer, files and tables."""
