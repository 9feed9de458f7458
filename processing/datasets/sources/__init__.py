"""A loader for each data set, and what they share."""
