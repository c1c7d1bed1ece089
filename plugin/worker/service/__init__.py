"""Send requests to the AI image-edit service, and understand the answers of the service."""
