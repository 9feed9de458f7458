"""What a checkpoint reaches on a data set."""
