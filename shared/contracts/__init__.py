"""What travels between services: events, envelopes, policies, texts and errors."""
