"""The object store: which buckets there are and who may do what in them."""
