"""`graft demo`: the main job, whole, on images that need no download."""
