"""Delivery: durable queues and lanes, one serial worker per key. Retry loops live here only."""
