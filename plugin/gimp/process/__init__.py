"""The plug-in's side of the worker process: start it, communicate with it, and repair it."""
