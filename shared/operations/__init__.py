"""How people look in and mend: traces, events, dead letters, replay, lag."""
