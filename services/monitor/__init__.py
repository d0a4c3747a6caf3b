"""Monitor: is the serving version still good, and does the traffic still look like what it was trained on?

Events in:  model.declared, prediction.served, feedback.recorded, model.promoted, rollout.changed, training.status,
            model.rejected
Events out: drift.detected
"""
