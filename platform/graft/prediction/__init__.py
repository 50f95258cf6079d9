"""A model version over many images, offline: on Ray Data, part by part, each committed."""
