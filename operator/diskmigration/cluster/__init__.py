"""The one door to the Kubernetes API: nothing outside this package imports its client.

Synchronous and thread-safe; callers on an event loop use threads. Every request has a time-out.
"""
