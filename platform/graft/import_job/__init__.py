"""The import of a dataset as a job: on Ray Data, part by part, resumable, and committed once."""
