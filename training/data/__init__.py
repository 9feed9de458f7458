"""From a config's data set to batches: loading, checking, streams, feature cache, augmentation, collation."""
