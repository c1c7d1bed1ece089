"""The side with the libraries: sends a job, checks and fits what comes back; the commands."""
