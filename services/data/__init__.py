"""Data: raw rows and served answers become versioned datasets.

In:  model.declared, prediction.served, feedback.recorded, model.promoted, drift.detected; uploads over HTTP.
Out: dataset.ready.

A dataset is built by a job: readers -> formats -> pipeline (pure generators) -> a content-addressed manifest.
A row keeps its split for life, every dropped row is counted under one reason, and one drift makes one dataset.
"""
