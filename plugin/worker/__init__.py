"""The worker process, which sends jobs to the service and fits results, and its command line."""
