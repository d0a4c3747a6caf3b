"""What lies in the object store: content-addressed publish, base models."""
