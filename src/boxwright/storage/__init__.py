"""Where bytes live: the content store, the snapshotters, and the confined jobs that unpack and copy trees."""
