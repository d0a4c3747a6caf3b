"""The HTTP edge: limits, errors, authentication, pages of lists."""
