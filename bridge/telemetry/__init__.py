"""The log and the metrics: structlog and prometheus-client, nowhere else."""
