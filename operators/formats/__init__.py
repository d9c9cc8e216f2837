"""Who said what and when, in the files of others, as SegLST entries."""
