"""Serving: answers through the champion, lets a challenger take over step by step, logs every answer.

Events in: model.declared, model.approved, model.promoted, feedback.recorded.
Events out: rollout.changed, prediction.served, feedback.recorded.
"""
