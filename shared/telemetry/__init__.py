"""What a process tells of itself: spans, metrics and logs. Written everywhere; knows nothing above it."""
