"""Trainer: datasets become adapters.

In:  model.declared, dataset.ready, training.requested, model.rejected; fine-tuning jobs over HTTP.
Out: training.status, model.trained.

Every wish is answered; the same wish is one run. A run is a job of `worker.py`: tokenise, train, checkpoint, publish.
Killed anywhere, it goes on from its newest whole checkpoint and ends with the same bytes.
"""
