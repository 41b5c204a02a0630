"""Trees of files that somebody else filled: deleted, measured and copied by descriptors, following nothing."""
