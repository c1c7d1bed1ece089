"""The worker, which sends jobs to the service and fits the results, and the command line."""
